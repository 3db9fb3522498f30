"""The folder that commands work in."""

import pathlib
import shutil
import tempfile

import numpy as np
import pytest

from tests.cli.places import X, compiled_model


@pytest.fixture
def folder():
    """A folder that other users can enter, with a model and data."""
    place = pathlib.Path(tempfile.mkdtemp())
    place.chmod(0o755)
    compiled_model().save(place / "model.keras")
    np.savez(place / "data.npz", x=X, y=X[:, :2])
    yield place
    shutil.rmtree(place)
