"""The last stage of `prune` with `quantize="int8"`: Keras's own quantization of the small model."""

import warnings

from tfprune import _keras
from tfprune.masks.setting import is_kernel
from tfprune.masks.skipping import weights_by_holder

MODES = (None, "int8")


def check_quantize(quantize, model):
    """Refuses a mode that is not known, and models that Keras would not quantize.

    Raises:
        ValueError: If so, with the reason.
    """
    if quantize not in MODES:
        raise ValueError(
            f'Argument `quantize` must be None or "int8". Received: quantize={quantize!r}. For '
            'other modes, call `small.quantize("int4")` on what `prune` returns.'
        )
    if quantize is None:
        return
    layers = [layer for layer in _keras.all_layers(model) if _keras.can_be_quantized(layer)]
    if not layers:
        raise ValueError(
            "Keras quantizes dense layers and embeddings alone, and the model has none that is not "
            f"quantized yet. Received: quantize={quantize!r}, model={model.name!r}. Export what "
            "`prune` returns to LiteRT, with `tfprune.export(small, path, quantize='int8', "
            "representative_data=x)`, which quantizes convolutions too."
        )
    half = [layer.name for layer in layers if layer.compute_dtype == "float16"]
    if half:
        raise ValueError(
            "Keras does not quantize layers that compute in float16. "
            f"Received: quantize={quantize!r}, layers={half}. Build the model with the policy "
            "'float32' or 'mixed_bfloat16'."
        )


def quantized(model, mode):
    """Quantizes a model in place, and says what it takes.

    Args:
        model: A model that nobody else has.
        mode: "int8".

    Returns:
        A sentence: the bytes of the weights before and after, and the layers with kernels that stay
        floats because Keras does not quantize their classes.
    """
    before = _keras.weight_bytes(model)
    with warnings.catch_warnings():  # one for each layer without kernels
        warnings.filterwarnings("ignore", message=".*does not have a `quantize` method")
        model.quantize(mode)
    _keras.renew_optimizers(model)  # which had slots of the kernels
    floats = [
        name for _, name, weights in weights_by_holder(model) if any(map(_is_kernel, weights))
    ]
    left = f"; floats stay {', '.join(map(repr, floats))}" if floats else ""
    return f"{before:,} -> {_keras.weight_bytes(model):,} bytes of weights{left}"


def _is_kernel(weight):
    return is_kernel(weight.name, weight.shape)
