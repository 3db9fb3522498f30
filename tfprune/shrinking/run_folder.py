"""A folder with the models of a run and what was measured of them, so that a killed run goes on."""

import hashlib
import json
import pathlib

from tfprune._tools.files import all_written_whole, written_whole
from tfprune.exporting import keras_file

_FORMAT = "tfprune run 1"
_HEADER = "run.json"


class RunFolder:
    """The folder of a run, new or with what was done of it.

    Each model takes its place as a whole with its measurements, or not at all: the measurements
    come last, and a model counts only with them.

    Args:
        path: The folder; it is made when something is written.
        identity: A dict from what the run depends on ("model", "data", ...) to a string; see
            `tfprune.shrinking.fingerprints`.

    Raises:
        ValueError: If the folder holds something else, or a run of something else.

    Attributes:
        path: The `pathlib.Path` of the folder, absolute.
        begun: What was given to `begin`, a dict; None if nothing is there yet.
    """

    def __init__(self, path, identity):
        self.path, self._identity = pathlib.Path(path).absolute(), identity
        self.begun = None
        header = self.path / _HEADER
        if not header.is_file():
            if self.path.exists() and (not self.path.is_dir() or _visible(self.path)):
                raise ValueError(
                    "Argument `folder` must be a new or empty folder, or one of a run that goes "
                    f"on. Received: folder={str(path)!r}, in which there is something else."
                )
            return
        found = _read(header)
        if found is None or found.get("format") != _FORMAT:
            raise ValueError(
                "Argument `folder` must hold a run of this version of tfprune. "
                f"Received: folder={str(path)!r}, whose {_HEADER} is none."
            )
        theirs = found["identity"]
        others = [name for name in {**theirs, **identity} if theirs.get(name) != identity.get(name)]
        if others:
            raise ValueError(
                "The folder holds a run of something else, so this one cannot go on in it. "
                f"Received: folder={str(path)!r}, of which other are: {', '.join(others)}. Give "
                "another folder, or delete it."
            )
        self.begun = found["begun"]

    def begin(self, begun):
        """Writes what is measured once, a dict of plain data."""
        content = {"format": _FORMAT, "identity": self._identity, "begun": begun}
        with written_whole(self.path / _HEADER) as place:
            place.write_text(json.dumps(content, indent=1))
        self.begun = begun

    def model_path(self, name):
        """The file of a model."""
        return self.path / f"{name}{keras_file.SUFFIX}"

    def measured(self, name):
        """What was written with a model, a dict; None if it is not there, or not as written."""
        found = _read(self.path / f"{name}.json")
        if found is None or not self.model_path(name).is_file():
            return None
        return found["measured"] if found["sha256"] == _hash(self.model_path(name)) else None

    def write(self, name, model, measured):
        """Writes a model with what was measured of it, a dict of plain data.

        Raises:
            ValueError: If Keras cannot write the model.
        """
        paths = [self.model_path(name), self.path / f"{name}.json"]
        with all_written_whole(paths) as (model_place, measured_place):
            keras_file.write(model, model_place, compiled=True)
            content = {"measured": measured, "sha256": _hash(model_place)}
            measured_place.write_text(json.dumps(content, indent=1))


def _visible(folder):
    """Whether there is anything in a folder but what an interrupted writing left."""
    return any(not each.name.startswith(".") for each in folder.iterdir())


def _read(path):
    """The content of a JSON file, a dict; None if there is none."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _hash(path):
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()
