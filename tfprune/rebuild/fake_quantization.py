"""Models trained with fake quantisation, with stock layers and operations in its place.

The rounded numbers become the weights first, so that constants are folded with them and both models
that `strip` compares hold the same; Keras's operation takes the place of the layers last.
"""

from tfprune import _keras
from tfprune.layers import FakeQuantize
from tfprune.masks.setting import masked_layers
from tfprune.rebuild import convert, copied_state
from tfprune.rebuild.copying import copy_model


def with_rounded_weights(model):
    """The model with the values that its layers compute with as its weights; itself if they are.

    Args:
        model: A model, whose weights are rounded as they are read where `quantize_aware` says so.

    Returns:
        A copy that computes the same, without that.
    """
    if not _has_rounded_weights(model):
        return model
    copy = copy_model(model).model
    for mask in _masks(copy):
        if mask.quantizer is not None:
            rounded, mask.quantizer = mask.quantizer(_keras.uncast(mask.weight)), None
            with _keras.unguarded():
                mask.weight.assign(rounded)
    return copy


def with_operations(model):
    """The model with operations of Keras in place of its layers `FakeQuantize`; itself without any.

    A Sequential model that has such layers becomes a Functional one, since it holds layers alone.
    """
    if not fake_quantizers(model):
        return model

    def edit(config, operation):
        if not isinstance(operation, FakeQuantize):
            return config
        if operation.range is None:
            names = {"module": "keras.layers", "class_name": "Identity", "registered_name": None}
            return {**config, **names, "config": {"name": f"{operation.name}_unknown"}}
        nodes = config["inbound_nodes"]
        return _keras.fake_quantization_config(operation.name, nodes, *operation.range)

    new = convert.rebuilt(model, edit, as_graph=True)
    replaced = {id(layer) for layer in fake_quantizers(model)}
    pairs = list(_keras.variable_pairs(model, new, replaced))
    copied_state.copy_weights(model, new, pairs=pairs)
    copied_state.copy_compile_state(model, new, pairs=pairs)
    return new


def is_quantize_aware(model):
    """Whether a model rounds weights or activations while it trains."""
    return _has_rounded_weights(model) or bool(fake_quantizers(model))


def fake_quantizers(model):
    """The layers `FakeQuantize` of a model, those of models and layers inside too."""
    return [layer for layer in _keras.all_layers(model) if isinstance(layer, FakeQuantize)]


def _has_rounded_weights(model):
    return any(mask.quantizer is not None for mask in _masks(model))


def _masks(model):
    return [mask for layer in masked_layers(model) for mask in layer.masks_by_name.values()]
