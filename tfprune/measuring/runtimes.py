"""The runtimes that a latency is measured in: Keras itself, and those that users ship.

Each converts a model as `tfprune.export` does, but compares no outputs, as only time is measured.
"""

import importlib.metadata
import tempfile
import time

import keras
import tensorflow as tf

from tfprune import _keras
from tfprune._tools.checks import check_integer, one_of
from tfprune.coupling.shapes import random_inputs, sized_inputs
from tfprune.exporting import litert, loading, onnx_file
from tfprune.exporting.checks import named_arrays
from tfprune.exporting.graph import module_of, save, traced

NAMES = {
    "keras": "Keras",
    "saved_model": "a SavedModel",
    "litert": "LiteRT",
    "onnx": "ONNX Runtime",
}
"""What the runtimes are called in messages."""

_OF_TENSORFLOW = ("keras", "saved_model")


def check(runtime, threads=None, quantize=None):
    """Raises a `ValueError` unless a model can be run so; whatever is not installed is not seen."""
    one_of("runtime", runtime, tuple(NAMES))
    if threads is not None:
        check_integer("threads", threads)
        if runtime in _OF_TENSORFLOW:
            raise ValueError(
                "Argument `threads` must be None for a runtime of TensorFlow, which has one pool "
                f"of threads in a process. Received: threads={threads}, runtime={runtime!r}. Call "
                "`tf.config.threading.set_intra_op_parallelism_threads` before anything else, or "
                "take 'litert' or 'onnx'."
            )
    one_of("quantize", quantize, (None, "float16", "dynamic", "int8"))
    if quantize is not None and runtime != "litert":
        raise ValueError(
            "Argument `quantize` must be None but for LiteRT, the one format that "
            f"`tfprune.export` quantizes. Received: quantize={quantize!r}, runtime={runtime!r}."
        )


def check_installed(runtime):
    """Raises an `ImportError` with the command that helps if a runtime is not installed."""
    if runtime == "onnx":
        onnx_file.check_installed("`runtime='onnx'`")


def version(runtime):
    """The version of a runtime, a string.

    >>> version("litert") == tf.__version__
    True
    """
    return importlib.metadata.version("onnxruntime") if runtime == "onnx" else tf.__version__


def clock(runtime, threads=None):
    """The function that tells the time of a call in a runtime, in seconds.

    One thread of LiteRT or ONNX Runtime is the one that calls, whose processor time is what the
    call takes where nothing else runs. All others are timed by the clock on the wall.
    """
    is_alone = runtime not in _OF_TENSORFLOW and threads in (None, 1)
    return time.thread_time if is_alone else time.perf_counter


def inference(
    model, batch_size=1, input_shapes=None, *, runtime="keras", threads=None, quantize=None
):
    """A function without arguments that runs a model once on random inputs, to its last output.

    Args:
        model: A built Keras model; for other runtimes than "keras" a Functional or Sequential one.
        batch_size: How many samples it is run on.
        input_shapes: Sizes for dynamic dimensions, as in `tfprune.coupling.costs`.
        runtime: "keras", a `tf.function` of the model; "saved_model", its signature; "litert",
            TensorFlow Lite's interpreter; or "onnx", ONNX Runtime.
        threads: Integer, the threads of LiteRT and ONNX Runtime, one by default; TensorFlow's are
            set once in a process.
        quantize: "float16", "dynamic" or "int8" for LiteRT, as in `tfprune.export`; "int8" is
            calibrated on random inputs.

    Returns:
        The function.

    Raises:
        ValueError: If an input has a dynamic size which `input_shapes` does not give, the model
            fixes another batch size, or it cannot be converted.
        ImportError: If the runtime is not installed.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
    >>> run = inference(model, batch_size=4, runtime="litert")
    >>> run()
    """
    check(runtime, threads, quantize)
    check_installed(runtime)
    inputs = _inputs(model, batch_size, input_shapes)
    if runtime == "keras":
        return _keras_call(model, inputs)
    exported = _exported(model, inputs, batch_size, runtime, threads or 1, quantize)
    arrays = named_arrays(model, keras.tree.flatten(inputs))
    given = {name: arrays[name] for name in exported.shapes}

    def call():
        exported.run(given)

    return call


def _inputs(model, batch_size, input_shapes):
    sizes = sized_inputs(model, input_shapes)
    if any(None in size for size in sizes):
        raise ValueError(
            "Argument `input_shapes` must be given for a model whose inputs have dynamic sizes. "
            f"Received: model={model.name!r}, inputs of the sizes {sizes}."
        )
    inputs = random_inputs(model, sizes, batch_size)
    if any(len(tensor) != batch_size for tensor in keras.tree.flatten(inputs)):
        raise ValueError(
            "Argument `batch_size` must be the one that the model fixes. "
            f"Received: batch_size={batch_size}, model={model.name!r} of the input shapes "
            f"{[tuple(tensor.shape) for tensor in model.inputs]}."
        )
    return inputs


def _keras_call(model, inputs):
    function = tf.function(lambda given: model(given, training=False), autograph=False)

    def call():
        with _keras.gradients_kept_by_graphs():
            outputs = keras.tree.flatten(function(inputs))
        for output in outputs:
            output.numpy()

    return call


def _exported(model, inputs, batch_size, runtime, threads, quantize):
    """The model in a runtime, an `Exported`."""
    if runtime == "litert":
        is_calibrated = quantize == "int8"
        content = litert.converted(
            model, quantize, inputs if is_calibrated else None, batch_size=batch_size
        )
        return loading.litert(content, threads)
    if runtime == "onnx":
        return loading.onnx(onnx_file.converted(model), threads)
    function = traced(model)
    with tempfile.TemporaryDirectory() as directory:
        save(module_of(model, function), model, function, directory)
        return loading.saved_model(directory)
