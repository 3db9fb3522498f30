"""Exports a model as a `.keras` file without its compile state."""

import zipfile

import keras

from tfprune import _keras
from tfprune.coupling.failures import core

SUFFIX = ".keras"


def is_model(path):
    """Whether there is a `.keras` file at a path."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return {"config.json", "metadata.json"} <= set(archive.namelist())


def write(model, place, compiled=False):
    """Writes the file and reads it back; see `export`.

    Args:
        model: The model.
        place: The path to write to.
        compiled: Whether the compile state and the optimizer are written too.
    """
    resized = _keras.not_from_config(model)
    if resized:
        raise ValueError(
            "Cannot export a `.keras` file, because Keras makes layers from their configs when it "
            "loads one, and the config of a layer that was shrunk in place makes what it was. "
            f"Received: layer={resized[0].name!r} ({type(resized[0]).__name__}). Export it as "
            "SavedModel, LiteRT or ONNX, save its weights (`.weights.h5`), or let `get_config` "
            "return its sizes and its epsilon."
        )
    try:
        (model if compiled else _keras.without_compile_state(model)).save(place)
    except Exception as error:  # a user's `get_config` may fail in any way
        layer = next((each for each in _keras.all_layers(model)[::-1] if _no_config(each)), None)
        if layer is None:
            raise
        raise ValueError(
            "Cannot export a `.keras` file, because Keras can write no config of a layer, or of "
            f"what is among its arguments. Received: layer={layer.name!r} "
            f"({type(layer).__name__}). Export it as SavedModel, LiteRT or ONNX, save its weights "
            "(`.weights.h5`), or give the class a `get_config` that "
            f"works: {type(error).__name__}: {core(str(error))}"
        ) from error
    with zipfile.ZipFile(place) as archive:
        broken = archive.testzip()
    if broken is not None:
        raise RuntimeError(f"The `.keras` file cannot be read back. Received: {broken!r} in it.")


def _no_config(layer):
    try:
        keras.saving.serialize_keras_object(layer)
    except Exception:  # a user's `get_config` may fail in any way
        return True
    return False
