"""`tfprune prune`: a user's compiled model and data, a budget, and what is written."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tfprune.coupling.costs import costs
from tfprune_cli import main

ROOT = Path(tfprune.__file__).parents[1]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 6)).astype("float32")
Y = (X.sum(axis=1) > 0).astype("int64")


def macs(model):
    return sum(call.macs for call in costs(model))


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A directory with a compiled model, one that is not, and data."""
    place = tmp_path_factory.mktemp("given")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6,), name="x"),
            keras.layers.Dense(16, activation="relu", name="hidden"),
            keras.layers.Dense(2, name="logits"),
        ]
    )
    model.save(place / "plain.keras")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    model.fit(X, Y, epochs=3, verbose=0)
    model.save(place / "model.keras")
    np.savez(place / "data.npz", x=X, y=Y)
    np.savez(place / "validated.npz", x=X, y=Y, x_val=X[:8], y_val=Y[:8])
    np.savez(place / "no_y.npz", x=X)
    np.savez(place / "uneven.npz", x=X, y=Y[:-1])
    np.savez(place / "wide.npz", x=X[:, :3], y=Y)
    np.savez(place / "half.npz", x=X, y=Y, x_val=X)
    np.savez(place / "objects.npz", x=np.array([{}, []], dtype=object), y=Y[:2])
    (place / "text.npz").write_text("no data")
    return place


def prune(given, out, *arguments, data="data.npz", model="model.keras", budget="macs=0.5"):
    command = ["prune", given / model, "--data", given / data, "--budget", budget, "-o", out]
    return main([str(part) for part in (*command, *arguments)])


def test_a_process_prunes_trains_writes_and_reports(given, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    command = [sys.executable, "-m", "tfprune_cli", "prune", given / "model.keras"]
    command += ["--data", given / "validated.npz", "--budget", "macs=0.5", "--epochs", "2"]
    command += ["-o", tmp_path / "small.keras", "-o", tmp_path / "small"]
    done = subprocess.run(
        [str(part) for part in command],
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    small = keras.models.load_model(tmp_path / "small.keras")
    assert macs(small) <= macs(keras.models.load_model(given / "model.keras")) / 2
    loaded = tf.saved_model.load(tmp_path / "small")
    np.testing.assert_allclose(small(X), loaded.serve(tf.constant(X)), atol=1e-5)
    for part in ("hidden", "at most 50 %", "fine-tuned", "wrote"):
        assert part in done.stdout
    assert done.stderr == "" and "Epoch" not in done.stdout


@pytest.mark.parametrize(
    ("budget", "holds"),
    [
        ("units=4", lambda small, dense: small.get_layer("hidden").units == 4),
        ("parameters=80", lambda small, dense: small.count_params() <= 80),
        ("bytes=0.5", lambda small, dense: small.count_params() <= dense.count_params() / 2),
    ],
)
def test_every_kind_of_budget(given, tmp_path, budget, holds):
    assert prune(given, tmp_path / "small.keras", budget=budget) == 0
    small = keras.models.load_model(tmp_path / "small.keras")
    assert holds(small, keras.models.load_model(given / "model.keras"))


def test_a_drop_of_accuracy(given, tmp_path, capsys):
    options = ["--criterion", "magnitude", "--no-recovery"]
    assert prune(given, tmp_path / "small.keras", *options, budget="drop=0.2") == 0
    assert "within the drop" in capsys.readouterr().out
    small, dense = (
        keras.models.load_model(path) for path in (tmp_path / "small.keras", given / "model.keras")
    )
    assert macs(small) < macs(dense)
    right = [each.predict(X, verbose=0).argmax(1) == Y for each in (small, dense)]
    assert right[0].mean() >= right[1].mean() - 0.2  # of so little data nothing is held out


def test_a_curve_goes_on_in_its_directory(given, tmp_path, capsys):
    out, plot = tmp_path / "sizes", tmp_path / "curve.png"
    command = ["pareto", given / "model.keras", "--data", given / "data.npz", "-o", out]
    command += ["--remaining", "0.75,0.5", "--criterion", "magnitude", "--no-recovery"]
    command = [str(part) for part in command]
    assert main([*command, "--plot", str(plot)]) == 0
    printed = capsys.readouterr().out
    for part in ("MACs 75 %", "accuracy", "front", f"wrote 2 models to {out}"):
        assert part in printed
    assert plot.stat().st_size > 1000
    small = keras.models.load_model(out / "macs_0.5.keras")
    assert macs(small) <= macs(keras.models.load_model(given / "model.keras")) / 2
    files = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == files
    assert main([*command, "--criterion", "l2"]) == 2
    error = capsys.readouterr().err.strip()
    assert "run of something else" in error and len(error.splitlines()) == 1
    with pytest.raises(SystemExit):
        main([*command, "--remaining", "0.5,2"])


def test_options_reach_the_pruning(given, tmp_path, capsys):
    options = ["--criterion", "taylor", "--selection", "greedy", "--round-to", "4", "--no-recovery"]
    assert prune(given, tmp_path / "small.keras", *options) == 0
    assert keras.models.load_model(tmp_path / "small.keras").get_layer("hidden").units % 4 == 0
    assert "reconstruct" not in capsys.readouterr().out


def test_the_same_seed_writes_the_same_model(given, tmp_path):
    for name in ("a.keras", "b.keras"):
        prune(given, tmp_path / name, "--criterion", "random", "--seed", "3", "--epochs", "1")
    one, two = (keras.models.load_model(tmp_path / name) for name in ("a.keras", "b.keras"))
    for ours, theirs in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": "none.npz"}, "there is no file"),
        ({"data": "text.npz"}, "no .npz file"),
        ({"data": "objects.npz"}, "can run any code"),
        ({"data": "no_y.npz"}, "must hold x and y"),
        ({"data": "half.npz"}, "x_val with y_val"),
        ({"data": "uneven.npz"}, "one row a sample"),
        ({"data": "wide.npz"}, "shape"),
        ({"model": "plain.keras"}, "without its loss"),
        ({"model": "none.keras"}, "there is no file"),
        ({"budget": "macs=1"}, "least that can remain"),
    ],
)
def test_bad_input_gets_one_line_and_writes_nothing(given, tmp_path, capsys, arguments, message):
    assert prune(given, tmp_path / "small.keras", **arguments) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert error.startswith("tfprune prune: ")
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_an_unknown_criterion_or_layer_is_named(given, tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        prune(given, tmp_path / "small.keras", "--criterion", "magic")
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert "magic" in error and "layerwise_obs" in error and error.count("\n") == 1
    assert prune(given, tmp_path / "small.keras", "--exclude", "nowhere") == 2
    assert "nowhere" in capsys.readouterr().err


def test_a_path_that_is_taken_is_refused_before_anything_is_done(given, tmp_path, capsys):
    (tmp_path / "small.keras").write_text("mine")
    assert prune(given, tmp_path / "small.keras", data="none.npz") == 2
    assert "exists" in capsys.readouterr().err
    assert (tmp_path / "small.keras").read_text() == "mine"


@pytest.mark.parametrize(
    "budget",
    ["half", "macs", "flops=0.5", "macs=0", "macs=1.5", "macs=-3", "latency=nan", "drop=2"],
)
def test_a_budget_that_is_none_is_refused_by_the_parser(given, tmp_path, capsys, budget):
    with pytest.raises(SystemExit) as left:
        prune(given, tmp_path / "small.keras", budget=budget)
    assert left.value.code == 2
    assert "--budget" in capsys.readouterr().err
