"""Exports a model as a `.keras` file without its compile state."""

import zipfile

from tfprune import _keras

SUFFIX = ".keras"


def write(model, place):
    """Writes the file and reads it back; see `export`."""
    _keras.without_compile_state(model).save(place)
    with zipfile.ZipFile(place) as archive:
        broken = archive.testzip()
    if broken is not None:
        raise RuntimeError(f"The `.keras` file cannot be read back. Received: {broken!r} in it.")
