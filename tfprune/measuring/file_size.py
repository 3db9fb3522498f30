"""The size of saved models in bytes, as they are and in a zip archive."""

import pathlib
import tempfile
import zipfile
from dataclasses import dataclass

from tfprune.exporting.export import export


@dataclass(frozen=True)
class FileSize:
    """The size of a saved model in bytes, plain and zipped.

    Attributes:
        bytes: The size of the file, or of all files of the directory.
        zipped: The size of a zip archive of it (deflate), in which zeros take almost no space.
    """

    bytes: int
    zipped: int


def file_size(path):
    """Measures the size of a saved model in bytes, plain and zipped.

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
    if not path.exists():
        raise FileNotFoundError(f"There is no file or directory at {str(path)!r} to measure.")
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file())
    with tempfile.TemporaryFile() as archive:
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
            for file in files:
                zipped.write(file, file.relative_to(path.parent))
        return FileSize(sum(file.stat().st_size for file in files), zipped=archive.tell())


def size_on_disk(model, format="saved_model"):
    """Exports a model to a temporary place and measures its size in bytes, plain and zipped.

    Args:
        model: A model without masks.
        format: `"saved_model"` (all files of the directory) or `"keras"`.

    Returns:
        A `FileSize`.

    Raises:
        ValueError: If the model cannot be exported.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((100,)), keras.layers.Dense(1000)])
    >>> 404_000 <= size_on_disk(model).bytes <= 440_000
    True
    """
    with tempfile.TemporaryDirectory() as directory:
        name = "model.keras" if format == "keras" else "model"
        return file_size(export(model, pathlib.Path(directory) / name, format=format))
