"""Exports a model as an `.onnx` file."""

import contextlib
import logging
import pathlib

import tensorflow as tf

from tfprune import _keras
from tfprune.exporting import loading
from tfprune.exporting.checks import check_outputs, check_repeatable, samples
from tfprune.exporting.graph import traced

SUFFIX = ".onnx"

_OPSET = 18  # the last one that tf2onnx knows
_TOLERANCES = {None: 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""By the precision, below single precision, in which the model itself computes."""
_MOST_BYTES = 2**31 - 1  # of a protocol buffer


def is_model(path):
    """Whether there is an ONNX file at a path."""
    import onnx

    if not path.is_file():
        return False
    try:
        found = onnx.load(path, load_external_data=False)
    except Exception:  # protobuf's own, of a private module
        return False
    return bool(found.ir_version and found.graph.output)


def write(model, place, *, representative_data=None):
    """Converts, writes the file and compares its outputs with the model's; see `export`."""
    given, model = model, _runnable(model)
    arrays = samples(model, representative_data)
    content = converted(model)
    pathlib.Path(place).write_bytes(content)
    limit = _TOLERANCES[_keras.half_precision(given)]
    check_outputs(given, _loaded(content, model), arrays, limit, "Export a SavedModel instead.")


def check(representative_data=None):
    """Refuses to begin where packages are missing; see `export`."""
    check_installed("`export` to ONNX")


def check_installed(what):
    """Raises an `ImportError` that says what needs the packages, if one is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import tf2onnx  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{what} needs tf2onnx, onnx and onnxruntime. Install them with "
            "`pip install 'tfprune[onnx]'`."
        ) from error


def _check_no_fake_quantization(model):
    if _keras.has_fake_quantization(model):
        raise ValueError(
            "Cannot export a model with fake quantisation to ONNX, because tf2onnx rounds to other "
            f"numbers. Received: model={model.name!r}. Export a LiteRT file with "
            "`quantize='int8'`, or a SavedModel."
        )


def _check_names(model, function):
    inputs = {spec.name for spec in function.structured_input_signature[0]}
    shared = inputs & set(function.structured_outputs)
    if shared:
        raise ValueError(
            "Cannot export to ONNX a model that has an output of the name of an input. Received: "
            f"model={model.name!r}, names={sorted(shared)}. Rename one, or leave out the output "
            "if it is the input itself."
        )


def _check_size(model):
    size = sum(variable.value.dtype.size * tf.size(variable.value) for variable in model.weights)
    if size > _MOST_BYTES:
        raise ValueError(
            "Cannot export to ONNX a model of more than 2 GB of weights in one file. Received: "
            f"model={model.name!r} of {int(size):,} bytes. Export a SavedModel."
        )


def converted(model):
    """The bytes of an ONNX file of a model; see `export`."""
    _check_no_fake_quantization(model)
    model = _runnable(model)
    function = traced(model)
    check_repeatable(model, function, "onnx")
    _check_names(model, function)
    _check_size(model)
    return _converted(model, function)


def _runnable(model):
    """The model, or its copy in float32: onnxruntime has next to no operations in bfloat16."""
    if _keras.half_precision(model) == "bfloat16":
        model, _ = _keras.in_precision(model, "float32")
    return model


def _converted(model, function):
    import tf2onnx

    specs = list(function.structured_input_signature[0])
    try:
        with _quiet("tf2onnx", "tensorflow"):
            proto, _ = tf2onnx.convert.from_function(_Ready(function), specs, opset=_OPSET)
    except (MemoryError, OSError):
        raise
    except Exception as error:  # whatever it stumbles over
        raise ValueError(
            f"Cannot convert the model to ONNX: tf2onnx says {str(error)[:300]!r}. Received: "
            f"model={model.name!r}. Export a SavedModel."
        ) from error
    unknown = sorted({node.op_type for node in proto.graph.node if not _is_known(node)})
    if unknown:
        raise ValueError(
            f"Cannot convert the model to ONNX, which does not have the operations {unknown}. "
            f"Received: model={model.name!r}. Leave those layers out, or export a SavedModel."
        )
    _store_constants(proto.graph, function)
    return proto.SerializeToString()


def _store_constants(graph, function):
    """Puts tensors which the graph captured, as the mean of a Normalization, into the file.

    tf2onnx makes inputs of them, which nobody could feed.
    """
    from onnx import numpy_helper

    captured = function.captured_inputs
    placeholders = function.inputs[len(function.inputs) - len(captured) :]
    values = {
        placeholder.name: value.numpy()
        for placeholder, value in zip(placeholders, captured, strict=True)
        if value.dtype != tf.resource
    }
    used = _used_names(graph)
    for given in [given for given in graph.input if given.name in values]:
        graph.input.remove(given)
        if given.name in used:
            graph.initializer.append(numpy_helper.from_array(values[given.name], given.name))


def _used_names(graph):
    """The names of all tensors that nodes read, those in bodies of loops and branches included."""
    names = {output.name for output in graph.output}
    for node in graph.node:
        names.update(node.input)
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                names |= _used_names(body)
    return names


class _Ready:
    """Looks like a `tf.function` to tf2onnx, and returns an existing concrete function."""

    def __init__(self, function):
        self.function = function

    def get_concrete_function(self, *_):
        """The one there is."""
        return self.function


def _is_known(node):
    import onnx

    return bool(node.domain) or onnx.defs.has(node.op_type)


@contextlib.contextmanager
def _quiet(*names):
    """Holds back warnings of loggers: what matters of them is checked afterwards."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _loaded(content, model):
    try:
        return loading.onnx(content)
    except Exception as error:  # onnxruntime's own, of a private module
        raise RuntimeError(
            f"onnxruntime cannot load the ONNX file. Received: model={model.name!r} ({error})."
        ) from error
