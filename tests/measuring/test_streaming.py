"""Every public function that takes data reads a dataset batch by batch, and keeps none of it."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from tests import streaming
from tests.test_imports import public_callables

MOST = 400
"""Megabytes, about half of the data: what is held for its graphs and batches."""

OTHERS = {
    "PruneUnits": "hands its data to `prune_units`",
    "PruneWeights": "hands its data to `prune_weights`",
    "FreezeWeights": "hands its data to `freeze_weights`",
    "fit_and_shrink": "hands its data to `PruneUnits`, and to `fit`",
    "prune_experts": "goes through data by the pass that `recalibrate` takes",
    "independent_batches": "takes arrays alone, to draw from all of them",
}


def test_all_functions_that_take_data_are_here():
    taking = {
        name
        for name, each in public_callables()
        if not (isinstance(each, type) and issubclass(each, keras.Layer))
        if "data" in inspect.signature(each).parameters
    }
    called = {name.split()[0] for name in streaming.calls(streaming.make_model())}
    assert taking == called | set(OTHERS)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data(tmp_path):
    out = tmp_path / "megabytes.json"
    command = [sys.executable, "-m", "tests.streaming", str(out)]
    found = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=900
    )
    assert found.returncode == 0, found.stderr[-3000:]
    grown = json.loads(out.read_text())
    assert sum(streaming.size_in_megabytes() > 1.5 * MOST for _ in grown) == len(grown) > 20
    assert {name: size for name, size in grown.items() if size > MOST} == {}
