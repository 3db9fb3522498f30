"""`pareto`: models of several budgets, which of them are on the front, and runs that go on."""

import json
import os
import pathlib
import subprocess
import sys
import types

import keras
import numpy as np
import pytest

import tfprune
from tests.shrinking import pareto_run
from tests.shrinking.pareto_run import BUDGETS, DATA, X, Y, network, run
from tfprune import budgets
from tfprune.coupling.costs import total_macs
from tfprune.shrinking.pareto_front import on_front

ROOT = pathlib.Path(__file__).parents[2]
SEEN = X[150:], Y[150:]
PLAIN = {"criterion": "magnitude", "recover": (), "validation_data": SEEN}


@pytest.fixture(scope="module")
def dense():
    return network()


@pytest.fixture(scope="module")
def front(dense):
    return tfprune.pareto(dense, DATA, remaining=(0.3, 0.75, 0.5), **PLAIN)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of a run that was not interrupted."""
    path = tmp_path_factory.mktemp("pareto") / "whole"
    run(path)
    return path


def test_each_point_is_what_prune_makes_of_its_budget(dense, front):
    assert [point.budget.remaining for point in front.points] == [0.75, 0.5, 0.3]
    for index, point in enumerate(front.points):
        small = tfprune.prune(dense, point.budget, DATA, **PLAIN)
        kept = front.model(point)
        assert kept is front.model(index)
        for ours, theirs in zip(kept.get_weights(), small.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert point.cost == point.macs == total_macs(small)
        assert point.ratio == total_macs(small) / total_macs(dense) <= point.budget.remaining
        assert point.parameters == small.count_params()
        loss, accuracy = small.evaluate(*SEEN, verbose=0)
        assert (point.value, point.metrics["loss"]) == pytest.approx((accuracy, loss))
    assert front.dense.value == pytest.approx(dense.evaluate(*SEEN, verbose=0)[1])
    assert (front.dense.ratio, front.dense.budget) == (1.0, None)


def test_the_best_is_the_smallest_within_the_drop(dense):
    quality = iter([0.9, 0.9, 0.88, 0.89, 0.5])  # of the dense model, then as budgets are listed
    front = tfprune.pareto(
        dense,
        None,
        remaining=(0.9, 0.75, 0.5, 0.3),
        metric=lambda model: next(quality),
        larger_is_better=True,
    )
    ratios = [0.9, 0.75, 0.5, 0.3]
    for drop, expected in ((0, 0.9), (0.01, 0.5), (0.1, 0.5), (0.4, 0.3), (10, 0.3)):
        assert front.best(drop).budget.remaining == expected
    assert front.best(0.02, relative=True).budget.remaining == 0.5
    assert [point.budget.remaining for point in front.points if point.on_front] == [0.9, 0.5, 0.3]
    assert not front.dense.on_front  # 0.9 of it is as good
    assert [point.budget.remaining for point in front.points] == ratios


def test_where_no_point_is_within_the_drop_it_says_which_is_nearest(dense):
    quality = iter([0.9, 0.8, 0.7])
    front = tfprune.pareto(
        dense,
        None,
        remaining=(0.75, 0.5),
        cost="parameters",
        metric=lambda model: next(quality),
        larger_is_better=True,
    )
    with pytest.raises(ValueError, match=r"best point 0.8 \(parameters 75 %\)"):
        front.best(0.05)
    with pytest.raises(ValueError, match="`which` must be"):
        front.model(2)
    with pytest.raises(ValueError, match="`drop` must not"):
        front.best(-1)


@pytest.mark.parametrize("larger_is_better", [True, False])
def test_the_front_is_what_no_other_is_better_than(larger_is_better):
    rng = np.random.default_rng(1)
    for _ in range(50):
        ratios, values = rng.integers(0, 6, (2, 8)).astype(float)
        values[rng.random(8) < 0.1] = np.nan
        marks = on_front(list(ratios), list(values), larger_is_better)
        better = np.greater if larger_is_better else np.less
        for i in range(8):
            beaten = np.isnan(values[i])
            for j in range(8):
                as_good = better(values[j], values[i]) or values[j] == values[i]
                differs = better(values[j], values[i]) or ratios[j] < ratios[i]
                beaten |= ratios[j] <= ratios[i] and as_good and differs
            assert marks[i] != beaten


class Counted(keras.utils.PyDataset):
    """Batches that count how often they are read."""

    reads = 0

    def __len__(self):
        return 5

    def __getitem__(self, index):
        self.reads += 1
        return DATA[0][30 * index : 30 * index + 30], DATA[1][30 * index : 30 * index + 30]


def test_the_dense_model_is_recalibrated_once():
    norm = keras.layers.BatchNormalization(momentum=0.9999, name="norm")
    layers = [keras.layers.Dense(8, name="hidden"), norm, keras.layers.ReLU()]
    model = keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(3, name="logits")])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    options = {**PLAIN, "recover": "recalibrate", "metric": "loss"}
    reads = []
    for given in ((0.5,), (0.75, 0.5, 0.25)):
        data = Counted()
        tfprune.pareto(model, data, remaining=given, **options)
        reads.append(data.reads)
    assert reads[0] > 10  # of the dense model, and of the small one
    assert reads[1] == pytest.approx(2 * reads[0], abs=4)  # and not three times as often


def test_what_cannot_be_met_is_listed(dense, tmp_path):
    given = (0.5, budgets.Parameters(60), budgets.Units(0.25), 1e-4)
    front = tfprune.pareto(dense, DATA, remaining=given, cost="bytes", **PLAIN)
    assert [point.budget for point in front.points] == [budgets.Bytes(0.5), *given[1:3]]
    assert "bytes 0.01 % cannot be met: the least that can remain is" in str(front)
    assert list(front.unmet) == [budgets.Bytes(1e-4)]
    assert json.loads(json.dumps(front.to_dict()))["points"][1]["budget"] == "parameters 60"
    with pytest.raises(budgets.UnmetError, match="least that can remain"):
        tfprune.pareto(dense, DATA, remaining=1e-4, **PLAIN)


def test_it_prints_and_draws(front, tmp_path):
    printed = str(front)
    for part in ("MACs 75 %", "the model given", "accuracy", "front", "parameters"):
        assert part in printed
    assert front.plot(tmp_path / "front.png").stat().st_size > 1000


def measured(folder, name):
    return json.loads((folder / f"{name}.json").read_text())["measured"]


def test_a_killed_run_goes_on_and_ends_as_it_would_have(folder, tmp_path):
    killed = tmp_path / "killed"
    command = [sys.executable, pareto_run.__file__, str(killed)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    options = {"env": environment, "capture_output": True, "text": True, "check": False}
    done = subprocess.run([*command, "3"], **options)  # the model given, the first, the second
    assert done.returncode == 9, done.stderr
    names = [f"macs_{budget}" for budget in BUDGETS]
    assert {each.name for each in killed.iterdir()} == {
        *("run.json", f"{names[0]}.json", f"{names[0]}.keras")
    }
    before = (killed / f"{names[0]}.keras").stat().st_mtime_ns
    done = subprocess.run([*command, "-1"], **options)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 3  # the model given, the second, the third
    assert (killed / f"{names[0]}.keras").stat().st_mtime_ns == before
    for name in names:
        ours, theirs = (keras.models.load_model(f / f"{name}.keras") for f in (killed, folder))
        for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
        one, other = (measured(each, name) for each in (killed, folder))
        del one["seconds"], other["seconds"]
        assert one == other


def test_a_run_that_is_done_only_reads(folder):
    again, seen = run(folder)
    assert len(seen) == 1  # the model given, to see that it is the same evaluation
    assert [point.file.name for point in again.points] == [f"macs_{b}.keras" for b in BUDGETS]
    small = again.model(-1)
    assert small.compiled and small.count_params() == again.points[-1].parameters
    assert json.loads(json.dumps(again.to_dict()))["points"][0]["file"].endswith("macs_0.75.keras")


def test_other_budgets_add_points(folder):
    front, seen = run(folder, remaining=(0.75, 0.6, budgets.MACs(0.5, input_shapes=(6,))))
    assert len(seen) == 3
    assert front.points[0].seconds == measured(folder, "macs_0.75")["seconds"]
    assert len({point.file for point in front.points}) == 3


@pytest.mark.parametrize("torn", ["macs_0.5.keras", "macs_0.5.json"])
def test_what_is_not_whole_is_made_again(folder, torn):
    path = folder / torn
    path.write_bytes(path.read_bytes()[:-20])
    front, seen = run(folder)
    assert len(seen) == 2
    assert front.model(1).count_params() == front.points[1].parameters


def other_weights(model):
    model.get_layer("logits").bias.assign_add(np.ones(3))


def other_activation(model):
    model.get_layer("hidden").activation = keras.activations.tanh


@pytest.mark.parametrize(
    ("change", "arguments", "named"),
    [
        (other_weights, {}, "model"),
        (other_activation, {}, "model"),
        (lambda model: model.optimizer.learning_rate.assign(0.1), {}, "optimizer"),
        (None, {"data": (DATA[0], DATA[1][::-1])}, "data"),
        (None, {"epochs": 2}, "epochs"),
        (None, {"criterion": "l2"}, "criterion"),
        (None, {"batch_size": 50}, "batch_size"),
        (None, {"cost": "parameters"}, "cost"),
        (None, {"metric": "accuracy"}, "metric"),
        (None, {"validation_data": SEEN}, "validation_data"),
    ],
)
def test_a_folder_of_something_else_is_refused(folder, monkeypatch, change, arguments, named):
    files = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    model = network()
    if change is not None:
        change(model)
    monkeypatch.setattr(pareto_run, "network", lambda: model)
    if "data" in arguments:
        monkeypatch.setattr(pareto_run, "DATA", arguments.pop("data"))
    with pytest.raises(ValueError, match=f"holds a run of something else.* other are: .*{named}"):
        run(folder, **arguments)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == files


class Opaque(keras.layers.Layer):
    """A layer of which Keras can write no config."""

    def __init__(self, settings):
        super().__init__(name="opaque")
        self.scale = settings.scale

    def call(self, inputs):
        return inputs * self.scale


def test_a_model_that_keras_cannot_write_is_refused(tmp_path):
    inputs = keras.Input((6,))
    hidden = Opaque(types.SimpleNamespace(scale=2.0))(
        keras.layers.Dense(8, "relu", name="hidden")(inputs)
    )
    model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(hidden))
    options = {"remaining": 0.5, "cost": "parameters", "metric": "error", **PLAIN}
    with pytest.raises(ValueError, match="'opaque'.*get_config"):
        tfprune.pareto(model, DATA, folder=tmp_path / "run", **options)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]
    assert tfprune.pareto(model, DATA, **options).model(0).get_layer("hidden").units < 8


@pytest.mark.slow
def test_latencies_are_told_by_their_ratio():
    layers = [keras.layers.Dense(1024, name=f"wide_{index}") for index in range(3)]
    model = keras.Sequential([keras.Input((64,)), *layers, keras.layers.Dense(2, name="out")])
    cost = budgets.Latency(fraction=1.0, batch_size=64)
    small = budgets.MACs(0.1)
    front = tfprune.pareto(
        model, None, remaining=[small], cost=cost, metric=lambda model: 1.0, larger_is_better=True
    )
    (point,) = front.points
    assert point.ratio < 0.8 and point.on_front and not front.dense.on_front
    assert point.cost == pytest.approx(point.ratio * front.dense.cost)
    assert " ms " in str(front)


def test_the_same_function_that_gives_other_values_is_refused(dense, tmp_path):
    def constant(value):
        return lambda model: value

    options = {"remaining": 0.5, "folder": tmp_path / "run", "larger_is_better": True}
    tfprune.pareto(dense, None, metric=constant(0.9), **options)
    with pytest.raises(ValueError, match="another evaluation.* is 0.8 .* was 0.9"):
        tfprune.pareto(dense, None, metric=constant(0.8), **options)


def test_a_folder_that_holds_something_else_is_refused(dense, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="new or empty folder"):
        tfprune.pareto(dense, DATA, folder=tmp_path, **PLAIN)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ValueError, match="of this version"):
        tfprune.pareto(dense, DATA, folder=tmp_path, **PLAIN)
    assert (tmp_path / "run.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"remaining": ()}, "must hold a budget"),
        ({"remaining": (0.5, 2)}, "Received: 2 in"),
        ({"remaining": (0.5, 0.5)}, "each once"),
        ({"remaining": None}, "Received: None in"),
        ({"remaining": True}, "Received: True in"),
        ({"remaining": budgets.Accuracy(0.1)}, "must say how much"),
        ({"seed": "1"}, "`seed` must be an integer"),
        ({"seed": -1}, "`seed` must be an integer"),
        ({"folder": 3}, "`folder` must be the path"),
        ({"cost": "units"}, "`cost` must be"),
        ({"metric": "auc"}, "compiled with"),
        ({"metric": "score"}, "`larger_is_better`"),
        ({"epochs": -1}, "epochs"),
    ],
)
def test_bad_arguments_are_refused(dense, arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        tfprune.pareto(dense, DATA, **{"folder": tmp_path / "run", **arguments})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["target", "return_report", "nonsense"])
def test_an_unknown_argument_is_named(dense, name):
    with pytest.raises(TypeError, match=name):
        tfprune.pareto(dense, DATA, **{name: 1})
