"""Where the benchmarks of this folder write what they measure, and how they print it."""

import json
import os
import platform
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

RESULTS = Path(__file__).parents[1] / "results"


def write(path, content):
    """Writes a dict as JSON, with what it was measured on."""
    machine = {
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine, **content}, indent=1) + "\n")


def mean_and_deviation(values):
    """Those over seeds, in words.

    >>> mean_and_deviation([1.0, 2.0])
    '1.50 (0.71)'
    """
    deviation = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return f"{np.mean(values):.2f} ({deviation:.2f})"
