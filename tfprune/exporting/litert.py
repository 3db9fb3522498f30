"""Exports a model as a `.tflite` file for LiteRT (TensorFlow Lite)."""

import pathlib
import re
import tempfile

import keras
import numpy as np
import tensorflow as tf

from tfprune import _keras
from tfprune._tools.checks import check_integer
from tfprune.exporting import loading
from tfprune.exporting.checks import batches_of, check_outputs, check_repeatable, samples
from tfprune.exporting.graph import module_of, operation_types, save, traced

SUFFIX = ".tflite"
BREAK_EVEN = 0.8
"""The sparsity in blocks from which LiteRT's sparse kernels are faster than its dense ones for
single samples: `benchmarks/sparse_litert.py`."""

_TOLERANCES = {None: 1e-4, "float16": 3e-2, "dynamic": 0.2, "int8": 0.3}
_BETWEEN_STEPS = 3e-2  # with fake quantisation, what is between two numbers becomes either
_TOLERANCES_OF_MODELS = {"float16": 2e-2, "bfloat16": 1e-1}  # that compute in half precision


def is_model(path):
    """Whether there is a LiteRT file at a path."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(8)[4:] == b"TFL3"


def write(
    model,
    place,
    *,
    quantize=None,
    representative_data=None,
    sparse=False,
    batch_size=None,
    tolerance=None,
):
    """Converts, writes the file and compares its outputs with the model's; see `export`."""
    _check_not_quantized(model)
    given, model = model, _runnable(model)
    arrays = samples(model, representative_data, batch_size)
    content = converted(model, quantize, representative_data, sparse, batch_size)
    if sparse:
        _check_sparse(content, speed=sparse is True)
    pathlib.Path(place).write_bytes(content)
    limit = _TOLERANCES[quantize] if tolerance is None else tolerance
    if tolerance is None and _keras.has_fake_quantization(model):
        limit = max(limit, _BETWEEN_STEPS)
    _check(model, content, arrays, limit, quantize)
    half = _keras.half_precision(given)
    if half:
        _check(given, content, arrays, max(limit, _TOLERANCES_OF_MODELS[half]), quantize)


# Arguments ---------------------------------------------------------------------------------------


def check(quantize=None, representative_data=None, sparse=False, batch_size=None, tolerance=None):
    """Refuses options that do not fit, before any work; see `export`."""
    if quantize not in _TOLERANCES:
        raise ValueError(
            "Argument `quantize` must be None, 'float16', 'dynamic' or 'int8'. "
            f"Received: quantize={quantize!r}."
        )
    if quantize == "int8" and representative_data is None:
        raise ValueError(
            "Argument `representative_data` must be given for `quantize='int8'`, because the "
            "ranges of activations are measured on it. Received: representative_data=None. Pass a "
            "hundred or more of the inputs the model was trained on."
        )
    if sparse not in (False, True, "size"):
        raise ValueError(
            "Argument `sparse` must be False, True or 'size', which asks for the smaller file "
            f"whatever its speed. Received: sparse={sparse!r}."
        )
    if sparse and quantize in ("float16", "dynamic"):
        raise ValueError(
            f"Cannot store sparse weights with `quantize={quantize!r}`, because LiteRT then fails "
            "or computes something else. Received: sparse=True. Leave one of them out, or use "
            "`quantize='int8'` with `sparse='size'`."
        )
    if sparse is True and quantize == "int8":
        raise ValueError(
            "Cannot make a model faster with `sparse=True` and `quantize='int8'`, because LiteRT's "
            "int8 kernels are slower sparse than dense at any sparsity. Pass `sparse='size'` for "
            "the smaller file, or leave one of them out."
        )
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"Argument `tolerance` must be above 0. Received: tolerance={tolerance}.")
    if batch_size is not None:
        check_integer("batch_size", batch_size)


def _check_not_quantized(model):
    kind = keras.dtype_policies.QuantizedDTypePolicy
    layers = [layer for layer in _keras.all_layers(model) if isinstance(layer.dtype_policy, kind)]
    if layers:
        raise ValueError(
            "Cannot convert a model that `model.quantize` changed to LiteRT. Received: "
            f"model={model.name!r}, layer={layers[0].name!r} with the policy "
            f"{layers[0].dtype_policy.name!r}. Export the model as it was before with "
            "`quantize='int8'`, or this one as a SavedModel."
        )


def _checked_batch(model, batch_size):
    if batch_size is None:
        return None
    graph = _keras.functional(model)
    fixed = {tensor.shape[0] for tensor in graph.inputs} if graph is not None else set()
    if fixed - {None, batch_size}:
        raise ValueError(
            "Argument `batch_size` must be the one that the model fixes. "
            f"Received: batch_size={batch_size}, model={model.name!r} of the input shapes "
            f"{[tuple(tensor.shape) for tensor in graph.inputs]}."
        )
    return int(batch_size)


def _check_no_loops(model, function):
    if operation_types(function) & {"While", "StatelessWhile"}:
        raise ValueError(
            "Cannot quantize a model with loops to int8, because LiteRT's calibration crashes on "
            f"them. Received: model={model.name!r}, quantize='int8'. Build its recurrent layers "
            "with `unroll=True`, or use `quantize='dynamic'`."
        )


# Conversion --------------------------------------------------------------------------------------


def converted(model, quantize=None, representative_data=None, sparse=False, batch_size=None):
    """The bytes of a LiteRT file of a model; see `export`."""
    _check_not_quantized(model)
    model = _runnable(model)
    function = traced(model, _checked_batch(model, batch_size))
    check_repeatable(model, function, "litert")
    if quantize == "int8":
        _check_no_loops(model, function)
    with tempfile.TemporaryDirectory() as directory:
        save(module_of(model, function), model, function, directory)
        converter = tf.lite.TFLiteConverter.from_saved_model(directory)
        _configure(converter, quantize, sparse)
        if quantize == "int8":
            converter.representative_dataset = lambda: batches_of(
                model, representative_data, batch_size
            )
        return _converted(converter, model, function)


def of_signatures(directory, quantize, arrays):
    """The bytes of a LiteRT file of a SavedModel with several signatures.

    Args:
        directory: Its path.
        quantize: As in `export`.
        arrays: For each signature by name a dict of inputs, which "int8" is calibrated on.

    Raises:
        RuntimeError, ValueError: What the converter raises where it cannot convert one.
    """
    converter = tf.lite.TFLiteConverter.from_saved_model(directory, signature_keys=list(arrays))
    _configure(converter, quantize, sparse=False)
    if quantize == "int8":
        converter.representative_dataset = lambda: iter(arrays.items())
    with loading.without_advice():
        return converter.convert()


def _runnable(model):
    """The model, or its copy in float32: LiteRT has next to no operations in half precision."""
    if _keras.half_precision(model):
        model, _ = _keras.in_precision(model, "float32")
    return model


def _configure(converter, quantize, sparse):
    converter.optimizations = [tf.lite.Optimize.DEFAULT] if quantize else []
    if sparse:
        converter.optimizations.append(tf.lite.Optimize.EXPERIMENTAL_SPARSITY)
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantize == "int8":
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]


def _converted(converter, model, function):
    try:
        with loading.without_advice():
            return converter.convert()
    except (MemoryError, OSError):
        raise
    except Exception as error:  # the converter's own, ValueError, RuntimeError: all say "cannot"
        raise ValueError(_why_not(str(error), model, function)) from error


def _why_not(message, model, function):
    select = re.search(r"TF Select ops: (.*)", message)
    is_dynamic = any(spec.shape[0] is None for spec in function.structured_input_signature[0])
    if "tensor list" in message and is_dynamic:
        reason = "its recurrent layers need a fixed batch. Pass `batch_size=1`"
    elif select:
        reason = (
            f"LiteRT does not have the operations {select[1].strip()}. Leave those layers out, "
            "build the model with the policy 'float32' if it has another, or export a SavedModel"
        )
    else:
        lines = [line for line in message.splitlines() if line.strip()]
        reason = f"its converter says: {lines[0][:300] if lines else 'nothing'}"
    return f"Cannot convert the model to LiteRT: {reason}. Received: model={model.name!r}."


# Checks ------------------------------------------------------------------------------------------


def _check(model, content, arrays, limit, quantize):
    advice = ""
    if quantize:
        advice = (
            f"If the loss by `quantize={quantize!r}` is what you accept, pass a larger `tolerance`."
        )
        if quantize == "int8":
            advice += " More of `representative_data` may help."
    try:
        check_outputs(model, loading.litert(content), arrays, limit, advice)
    except ValueError as error:  # what the interpreter raises for a file that it cannot run
        raise RuntimeError(
            f"The LiteRT file does not run. Received: model={model.name!r} ({error})."
        ) from error


def _check_sparse(content, *, speed):
    """Whether the weights which LiteRT stores sparse are read right, and faster than dense ones."""
    tensors = loading.interpreter(content).get_tensor_details()
    sparse = [tensor for tensor in tensors if tensor["sparsity_parameters"]]
    blocks = [t for t in sparse if len(t["sparsity_parameters"]["block_map"])]
    for tensor in blocks:
        axes = tensor["sparsity_parameters"]["block_map"]
        sizes = [
            m["dense_size"] for m in tensor["sparsity_parameters"]["dim_metadata"][-len(axes) :]
        ]
        if any(tensor["shape"][axis] % size for axis, size in zip(axes, sizes, strict=True)):
            raise ValueError(
                "Cannot store a kernel in blocks that do not divide its input axis, because LiteRT "
                f"reads it wrongly. Received: weight={_name(tensor)!r} with "
                f"{tensor['shape'][-1]} inputs in blocks of {sizes[-1]}. Leave `sparse` out, or "
                "build the layer before it with a multiple of that."
            )
    pointwise = [t for t in sparse if len(t["shape"]) == 4 and tuple(t["shape"][1:3]) == (1, 1)]
    if speed and pointwise and not blocks:
        raise ValueError(
            "Cannot make a model faster by zeros in 1x1 convolutions: LiteRT leaves them out on "
            "ARM, and with AVX, as on x86, it computes with them, which takes as long as "
            f"without `sparse`. Received: {len(pointwise)} such kernels with many zeros, as "
            f"{_name(pointwise[0])!r}. For ARM pass `sparse='size'` and measure there; else remove "
            "whole units, as by `tfprune.prune`."
        )
    if not sparse or (speed and not blocks):
        raise ValueError(
            "Cannot make a model sparse of which no Dense kernel has its zeros in blocks of 4 "
            f"inputs. Received: {len(sparse)} weights with many zeros elsewhere. Prune with "
            "`pattern=tfprune.patterns.Block((4, 1))`"
            f"{', or pass `sparse=' + repr('size') + '` for a smaller file' if sparse else ''}."
        )
    dense = sum(int(np.prod(tensor["shape"])) for tensor in blocks)
    stored = sum(_stored(tensor) for tensor in blocks)
    if speed and stored > (1 - BREAK_EVEN) * dense + 0.005 * dense:
        each = ", ".join(
            f"{_name(t)!r} {100 * (1 - _stored(t) / np.prod(t['shape'])):.0f} %" for t in blocks[:5]
        )
        raise ValueError(
            "Cannot make a model faster by sparse Dense kernels of which too little is zero: "
            f"LiteRT is slower below about {100 * BREAK_EVEN:.0f} %. Received: "
            f"{100 * (1 - stored / dense):.0f} % in blocks of 4 inputs ({each}). Prune more, or "
            "pass `sparse='size'` for the smaller file."
        )


def _stored(tensor):
    """How many elements of a sparse tensor are stored, those of the blocks included."""
    metadata = tensor["sparsity_parameters"]["dim_metadata"]
    kept = sum(len(level["array_indices"]) for level in metadata if level["format"] == 1)
    axes = len(tensor["sparsity_parameters"]["block_map"])
    return kept * int(np.prod([level["dense_size"] for level in metadata[-axes:]]))


def _name(tensor):
    """The layer of a weight, from names such as `model_1/dense_1/MatMul;model_1/dense_1/Relu`."""
    return re.sub(r"/(MatMul|BiasAdd|convolution)$", "", tensor["name"].split(";")[0])
