"""The demonstration shows what it claims, and says so where it does not."""

import dataclasses
import math
from pathlib import Path

import keras
import pytest
import tensorflow as tf

from tfprune.cli import demo
from tfprune_cli import main

RESULT = demo.DemoResult(
    out=Path(),
    target=0.5,
    widths=(("conv", 32, 16), ("hidden", 65, 33)),
    accuracy_dense=0.98,
    accuracy_masked=0.97,
    accuracy_small=0.975,
    parameters_dense=1000,
    parameters_small=260,
    bytes_dense=5000,
    bytes_small=1400,
    error=1e-6,
    seconds=1.0,
)


def test_claims_hold_where_the_numbers_do():
    assert RESULT.holds
    assert len(RESULT.claims) == 4


@pytest.mark.parametrize(
    "change",
    [
        {"widths": (("conv", 32, 20), ("hidden", 65, 33))},
        {"accuracy_small": 0.969},
        {"bytes_small": 1600},
        {"error": 2e-5},
        {"error": math.nan},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_claim_can_fail(change):
    result = dataclasses.replace(RESULT, **change)
    assert sum(not claim.holds for claim in result.claims) == 1
    assert "FAILED" in "".join(map(str, result.claims))
    assert not result.holds


@pytest.mark.slow
def test_half_of_the_units_go_and_accuracy_stays(tmp_path):
    keras.Sequential([keras.Input((1,))]).save(tmp_path / "small.keras")  # of an earlier run
    (tmp_path / "notes.txt").write_text("mine")
    result = demo.run(tmp_path, seed=1)

    assert result.holds
    assert result.seconds < 120
    assert result.accuracy_dense > 0.95
    assert result.accuracy_small >= result.accuracy_dense - 0.01
    assert result.error <= 1e-5
    small = keras.models.load_model(tmp_path / "small.keras")
    assert [small.get_layer(name).bias.shape[0] for name, *_ in result.widths] == [16, 32, 64, 128]
    assert small.count_params() == result.parameters_small
    assert result.bytes_small < 1.1 * 4 * result.parameters_small
    assert result.bytes_dense < 1.1 * 4 * result.parameters_dense
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {
        "dense.keras",
        "dense_saved_model",
        "notes.txt",
        "plot.png",
        "small.keras",
        "small_saved_model",
    }
    assert tf.io.decode_png((tmp_path / "plot.png").read_bytes()).shape[1] > 1000


@pytest.mark.slow
def test_a_claim_that_fails_is_said_and_ends_with_1(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "_DENSE_EPOCHS", 4)
    monkeypatch.setattr(demo, "_PRUNED_EPOCHS", 2)  # too few to recover from losing nearly all
    assert main(["demo", "--out", str(tmp_path), "--target", "0.99"]) == 1
    assert "✗ FAILED: accuracy" in capsys.readouterr().out
