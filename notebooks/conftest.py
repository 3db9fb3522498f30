"""Lets the notebooks' kernels import the package of this checkout, and take the fast way."""

import os
from pathlib import Path

_paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]
os.environ["PYTHONPATH"] = os.pathsep.join(path for path in _paths if path)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TFPRUNE_FAST", "1")
