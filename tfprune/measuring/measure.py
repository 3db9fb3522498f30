"""What a model takes and gives, measured: bytes on disk, latency, metrics."""

import contextlib
import pathlib
import tempfile
import zipfile
from dataclasses import dataclass

import keras
import tensorflow as tf

from tfprune import _keras
from tfprune.exporting.export import export
from tfprune.masks.setting import masked_layers
from tfprune.measuring.latency import latency
from tfprune.rebuild import convert

__all__ = [
    "FileSize",
    "bytes_on_disk",
    "check_data",
    "evaluate",
    "evaluator",
    "file_size",
    "latency",
    "shapes_in",
    "size_on_disk",
    "without_masks",
]


def without_masks(model):
    """The model made of stock layers with the same weights, zeros included; itself if it is so.

    Example:

    >>> import tfprune
    >>> model = keras.Sequential([keras.Input((3,)), tfprune.layers.Dense(2, name="d")])
    >>> type(without_masks(model).get_layer("d")) is keras.layers.Dense
    True
    """
    if not masked_layers(model):
        return model
    stock = convert.rebuilt(model, lambda config, _: convert.to_stock(config))
    convert.copy_weights(model, stock)
    return stock


@dataclass(frozen=True)
class FileSize:
    """How many bytes a saved model takes, as it is and compressed.

    Attributes:
        bytes: The size of the file, or of all files of the directory.
        zipped: The size of a zip archive of it (deflate), in which zeros take next to nothing.
    """

    bytes: int
    zipped: int


def file_size(path):
    """How many bytes a saved model takes, as it is and zipped.

    Sparse weights are stored with their zeros, so the files of a pruned model shrink when they are
    compressed, as for sending or archiving, and not before.

    Args:
        path: A file or a directory.

    Returns:
        A `FileSize`.

    Raises:
        FileNotFoundError: If there is nothing at the path.

    Example:

    >>> path = pathlib.Path(tempfile.mkdtemp()) / "zeros"
    >>> path.write_bytes(bytes(1_000_000))
    1000000
    >>> size = file_size(path)
    >>> size.bytes, size.zipped < 2000
    (1000000, True)
    """
    path = pathlib.Path(path)
    with tempfile.TemporaryFile() as archive:
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
            for file in _files(path):
                zipped.write(file, file.relative_to(path.parent))
        return FileSize(bytes=_bytes(path), zipped=archive.tell())


def _files(path):
    if not path.exists():
        raise FileNotFoundError(f"There is no file or directory at {str(path)!r} to measure.")
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def _bytes(path):
    return sum(file.stat().st_size for file in _files(path))


def bytes_on_disk(model, format="saved_model"):
    """How many bytes a model takes when it is exported.

    Args:
        model: A model without masks.
        format: `"saved_model"` (all files of the directory) or `"keras"`.

    Returns:
        The size in bytes.

    Raises:
        ValueError: If the model cannot be exported.

    Example:

    >>> model = keras.Sequential([keras.Input((100,)), keras.layers.Dense(1000)])
    >>> 404_000 <= bytes_on_disk(model) <= 440_000
    True
    """
    with _exported(model, format) as path:
        return _bytes(path)


def size_on_disk(model, format="saved_model"):
    """How many bytes a model takes when it is exported, as it is and zipped.

    Args:
        model, format: As in `bytes_on_disk`.

    Returns:
        A `FileSize`.

    Raises:
        ValueError: If the model cannot be exported.
    """
    with _exported(model, format) as path:
        return file_size(path)


@contextlib.contextmanager
def _exported(model, format):
    with tempfile.TemporaryDirectory() as directory:
        name = "model.keras" if format == "keras" else "model"
        yield export(model, pathlib.Path(directory) / name, format=format)


def evaluate(model, data, metrics=None):
    """The metrics of a model on data.

    Args:
        model: A Functional or built Sequential model.
        data: `(x, y)`, or a `tf.data.Dataset` or `keras.utils.PyDataset` of batches.
        metrics: What `compile` takes as `metrics`; by default what the model was compiled with,
            the loss included.

    Returns:
        A dict from name to float.

    Raises:
        ValueError: If `metrics` is not given and the model is not compiled, or `data` is of
            another kind.

    Example:

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Rescaling(2.0)])
    >>> evaluate(model, (keras.ops.ones((4, 1)), keras.ops.ones((4, 1))), metrics=["mae"])
    {'mae': 1.0}
    """
    check_data(data)
    return evaluator(model, metrics)(data)


def evaluator(model, metrics=None):
    """A function of data which gives the metrics of a model; the model is compiled once.

    Args:
        model, metrics: As in `evaluate`, which says what is raised.

    Example:

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Rescaling(2.0)])
    >>> evaluator(model, ["mae"])((keras.ops.ones((4, 1)), keras.ops.zeros((4, 1))))
    {'mae': 2.0}
    """
    if metrics is None and not model.compiled:
        raise ValueError(
            "Argument `metrics` must be given, because the model is not compiled. "
            f"Received: model={model.name!r}, metrics=None. Pass `metrics=['accuracy']`, say."
        )
    if metrics is not None:
        graph = _keras.functional(model)
        model = WithoutLoss(graph.input, graph.output)
        model.compile(metrics=metrics)

    def evaluated(data):
        is_pair = check_data(data)
        found = model.evaluate(*(data if is_pair else (data,)), return_dict=True, verbose=0)
        return {name: float(v) for name, v in found.items() if name != "loss" or not metrics}

    return evaluated


def check_data(data):
    """Refuses data that cannot be gone through twice; gives whether it is a pair of arrays."""
    is_pair = isinstance(data, (tuple, list)) and len(data) == 2
    if not is_pair and not isinstance(data, (tf.data.Dataset, keras.utils.PyDataset)):
        raise ValueError(
            "Argument `data` must be `(x, y)`, a `tf.data.Dataset` or a `keras.utils.PyDataset`, "
            f"which can be gone through more than once. Received: data of type "
            f"{type(data).__name__}."
        )
    return is_pair


class WithoutLoss(keras.Model):
    """A second model over the layers of a model, so that its own compile state stays."""

    def compute_loss(self, *args, **kwargs):
        """Nothing, since metrics need no loss."""
        return keras.ops.zeros(())


def shapes_in(data):
    """The shapes of the inputs in data, without the batch axis, in the structure they come in."""
    if isinstance(data, tf.data.Dataset):
        inputs = data.element_spec
        inputs = inputs[0] if isinstance(inputs, tuple) else inputs
    else:
        inputs = data[0][0] if isinstance(data, keras.utils.PyDataset) else data[0]
    return keras.tree.map_structure(lambda array: tuple(array.shape)[1:], inputs)
