"""Loads exported models of any format as functions from arrays by name to arrays by name."""

import contextlib
import pathlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from tfprune import _keras
from tfprune.exporting.graph import flat_inputs, output_names

_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


@dataclass(frozen=True)
class Exported:
    """An exported model, ready to run.

    Attributes:
        format: As `export` names it.
        shapes: The shape of each input by name, with the batch axis; None where it is dynamic.
        run: A function from arrays by input name to arrays by output name.
    """

    format: str
    shapes: dict
    run: Callable

    @property
    def fixed_batch(self):
        """The batch size that it fixes, None if it takes any."""
        return next((shape[0] for shape in self.shapes.values() if shape[0]), None)


def load(path):
    """Loads an exported model.

    Args:
        path: What `export` wrote, or another file or directory of these formats.

    Returns:
        An `Exported`.

    Raises:
        ValueError: If there is no model of a format that is known.
        ImportError: If its runtime is not installed.
    """
    path = pathlib.Path(path)
    if path.suffix == ".keras" and path.is_file():
        return of_model(keras.models.load_model(path, compile=False))
    if path.suffix in (".onnx", ".tflite") and path.is_file():
        return (onnx if path.suffix == ".onnx" else litert)(path.read_bytes())
    if (path / "saved_model.pb").is_file():
        return saved_model(path)
    raise ValueError(
        "Argument `path` must be a SavedModel or end in `.keras`, `.tflite` or `.onnx`, and be "
        f"there. Received: path={str(path)!r}."
    )


def of_model(model, format="keras"):
    """A Keras model as an `Exported`."""
    shapes = {tensor.name: tuple(tensor.shape) for tensor in flat_inputs(model)}
    return Exported(format, shapes, inference_function(model))


def inference_function(model, compiled=True):
    """A function from arrays by input name to arrays by output name: the model at inference.

    Args:
        model: A Functional or built Sequential model.
        compiled: Whether it runs as a `tf.function`, which pays from the second call on.
    """
    structure, inputs = _keras.input_structure(model), flat_inputs(model)
    names = output_names(model)

    def function(given):
        return model(given, training=False)

    if compiled:
        function = tf.function(function, autograph=False)

    def run(arrays):
        tensors = [tf.convert_to_tensor(arrays[tensor.name]) for tensor in inputs]
        outputs = keras.tree.flatten(function(keras.tree.pack_sequence_as(structure, tensors)))
        return {name: value.numpy() for name, value in zip(names, outputs, strict=True)}

    return run


def saved_model(path):
    """A SavedModel from its directory, run by its signature `serving_default`."""
    loaded = tf.saved_model.load(path)
    signature = loaded.signatures["serving_default"]

    def run(arrays):
        outputs = signature(**{name: tf.convert_to_tensor(a) for name, a in arrays.items()})
        return {name: value.numpy() for name, value in outputs.items()}

    run.keep = loaded  # the signature alone does not keep the variables
    specs = signature.structured_input_signature[1]
    return Exported("saved_model", {n: tuple(spec.shape) for n, spec in specs.items()}, run)


@contextlib.contextmanager
def without_advice():
    """Holds back TensorFlow's advice to get the interpreter from another package."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*Warning: tf\.lite\.Interpreter")
        yield


def interpreter(content, threads=None):
    """A LiteRT interpreter of the bytes of a file."""
    with without_advice():
        return tf.lite.Interpreter(model_content=content, num_threads=threads)


def litert(content, threads=None):
    """A LiteRT model from the bytes of its file.

    The buffers are laid out anew only where a shape changes, so that equal calls cost what they
    cost in production.
    """
    model = interpreter(content, threads)
    signature = model.get_signature_runner()
    inputs, outputs = signature.get_input_details(), signature.get_output_details()
    laid_out = {}

    def run(arrays):
        shapes = {name: np.shape(arrays[name]) for name in inputs}
        if shapes != laid_out:
            laid_out.clear()
            for name, shape in shapes.items():
                model.resize_tensor_input(inputs[name]["index"], shape, strict=True)
            model.allocate_tensors()
            laid_out.update(shapes)
        for name, details in inputs.items():
            model.set_tensor(details["index"], np.asarray(arrays[name], details["dtype"]))
        model.invoke()
        return {name: model.get_tensor(details["index"]) for name, details in outputs.items()}

    shapes = {
        name: tuple(None if size < 0 else int(size) for size in details["shape_signature"])
        for name, details in inputs.items()
    }
    return Exported("litert", shapes, run)


def onnx(content, threads=0):
    """An ONNX model from the bytes of its file, on the CPU; by default on all of its cores."""
    session = _session(content, threads)
    names = [output.name for output in session.get_outputs()]
    shapes = {
        given.name: tuple(size if isinstance(size, int) else None for size in given.shape)
        for given in session.get_inputs()
    }

    def run(arrays):
        given = {name: np.asarray(arrays[name]) for name in shapes}
        return dict(zip(names, session.run(names, given), strict=True))

    return Exported("onnx", shapes, run)


def profiled_onnx(content, threads, prefix):
    """An ONNX model on random inputs, with a profile of its nodes.

    Args:
        content: The bytes of its file.
        threads: Integer.
        prefix: How the path of the profile begins.

    Returns:
        A function without arguments that runs it once, and one that ends the profile and returns
        its path.
    """
    session = _session(content, threads, prefix)
    generator = np.random.default_rng(0)
    given = {
        each.name: generator.normal(size=each.shape).astype(_TYPES[each.type])
        for each in session.get_inputs()
    }
    return (lambda: session.run(None, given)), session.end_profiling


def _session(content, threads, profile=None):
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            "An ONNX model needs onnxruntime. Install it with `pip install 'tfprune[onnx]'`."
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    options.intra_op_num_threads = threads
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
