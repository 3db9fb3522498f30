"""Progress: one bar for each stage on a terminal, by name; nothing where there is none."""

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import keras
import numpy as np
import pytest

import tfprune
from tfprune._tools import progress

ROOT = Path(tfprune.__file__).parents[1]
X = np.random.default_rng(0).normal(size=(96, 6)).astype("float32")
Y = (X.sum(axis=1) > 0).astype("int64")


@contextlib.contextmanager
def terminal(monkeypatch):
    """A terminal as stderr; yields a list, which has what was written to it in the end."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    ours, theirs = os.openpty()
    written = []
    reader = threading.Thread(target=lambda: written.append(read(ours)))
    reader.start()
    try:
        with os.fdopen(theirs, "w") as stream, contextlib.redirect_stderr(stream):
            yield written
    finally:
        reader.join()
        os.close(ours)


def read(terminal):
    found = b""
    with contextlib.suppress(OSError):  # nobody writes to it any more
        while piece := os.read(terminal, 4096):
            found += piece
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", found.decode())


def last_bars(written):
    """The lines of the last picture of the bars, by what they begin with."""
    lines = re.split(r"[\r\n]+", written)
    return {line[:28].strip(): line[28:].strip() for line in lines if "━" in line}


def model():
    keras.utils.set_random_seed(0)
    made = keras.Sequential(
        [
            keras.Input((6,), name="x"),
            keras.layers.Dense(16, activation="relu", name="hidden"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(2, name="logits"),
        ]
    )
    made.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return made


def test_stages_of_prune_have_bars_by_name(monkeypatch, capsys):
    with terminal(monkeypatch) as written:
        tfprune.prune(model(), 0.5, (X, Y), epochs=2, quantize="int8", verbose=1)
    bars = last_bars(written[0])
    names = ["Recalibrate the dense model", "Prune units", "Reconstruct", "Recalibrate", "Strip"]
    assert list(bars) == [*names, "Fine-tune", "Quantize"]
    assert re.search(r"epoch 2/2: loss [\d.]+, val_loss [\d.]+", bars["Fine-tune"])
    assert capsys.readouterr().out == ""


def test_a_stage_that_comes_again_keeps_its_bar(monkeypatch):
    options = {"remaining": (0.75, 0.5), "metric": "loss", "recover": ("reconstruct",)}
    with terminal(monkeypatch) as written:
        tfprune.pareto(model(), (X, Y), **options, verbose=1)
    assert list(last_bars(written[0])) == ["Budgets", "Prune units", "Reconstruct", "Strip"]


def test_bars_end_where_the_work_fails(monkeypatch):
    with (
        terminal(monkeypatch) as written,
        pytest.raises(RuntimeError, match="broke"),
        progress.shown(verbose=1),
        progress.stage("Measure", 4) as bar,
    ):
        bar.add(1)
        raise RuntimeError("broke")
    assert "Measure" in written[0]
    with progress.shown(verbose=1) as verbose:
        assert verbose == 1  # there is no terminal, and no display is left


def test_passes_advance_the_bar_of_their_stage(monkeypatch):
    with terminal(monkeypatch) as written, progress.shown(verbose=1):
        with progress.stage("Measure") as bar:
            tfprune.recalibrate(model(), (X,), batch_size=32)
            assert (bar._done, bar._total) == (3, 3)
            with progress.stage("Steps", 2) as steps:
                steps.add(2)
                assert progress.of_pass(3) == []  # steps are counted, not batches
        assert progress.of_pass(3) == []
    assert list(last_bars(written[0])) == ["Measure", "Steps"]


def test_without_a_terminal_stages_are_named_above_keras_bars(capsys):
    tfprune.prune(model(), 0.5, (X, Y), epochs=1, verbose=1)
    printed = capsys.readouterr()
    assert printed.err == ""
    for name in ("Prune units", "Reconstruct", "Strip", "Fine-tune", "val_loss"):
        assert name in printed.out
    tfprune.prune(model(), 0.5, (X, Y), epochs=1)
    assert capsys.readouterr().out == ""


def test_the_command_shows_bars_on_stderr_alone(tmp_path):
    model().save(tmp_path / "m.keras")
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    command = ["prune", "m.keras", "--data", "d.npz", "--budget", "macs=0.5", "--json"]
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "tfprune", *command, "-o", "s.keras"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    bars = last_bars(read(ours))
    os.close(ours)
    out, _ = process.communicate()
    assert process.returncode == 0
    assert {"Prune units", "Reconstruct", "Strip", "Write"} <= set(bars)
    assert json.loads(out)["written"] == ["s.keras"]
