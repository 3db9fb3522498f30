"""Tables of latencies: what is measured is kept, and what cannot be read does no harm."""

import json
import os

import keras
import numpy as np
import pytest

from tfprune.coupling import couple
from tfprune.measuring import latency_table
from tfprune.measuring.latency_table import LatencyTable
from tfprune.measuring.piece_timing import seconds_in_profile, seconds_of
from tfprune.measuring.pieces import Pieces

L = keras.layers
HERE = {"machine": "here"}


@pytest.fixture(scope="module")
def models():
    inputs = keras.Input((8,))
    model = keras.Model(inputs, L.Dense(3)(L.Dense(5, activation="relu")(inputs)))
    coupling = couple(model)
    pieces = Pieces(model, coupling)
    return [pieces.small_model(piece, np.ones(coupling.size, bool)) for piece in pieces.all]


class Counting:
    def __init__(self):
        self.asked = []

    def __call__(self, models):
        self.asked.append([model.digest for model in models])
        return [0.25 * (1 + place) for place in range(len(models))]


def test_each_piece_is_measured_once(models, tmp_path):
    path, measure = tmp_path / "deep" / "table.json", Counting()
    table = LatencyTable(HERE, path=path, measure=measure)
    assert table.of([models[0], None, models[1], models[0]]) == [0.25, None, 0.5, 0.25]
    assert table.of(models) == [0.25, 0.5]
    assert measure.asked == [[model.digest for model in models]]
    assert latency_table.read(path, HERE).of(models) == [0.25, 0.5]


def test_a_piece_that_cannot_be_measured_is_asked_for_again(models, tmp_path):
    table = LatencyTable(HERE, path=tmp_path / "t.json", measure=lambda given: [None] * len(given))
    assert table.of(models) == [None, None]
    assert latency_table.read(table.path).seconds == {}


def test_two_processes_keep_what_both_measured(models, tmp_path):
    path = tmp_path / "table.json"
    first, second = (LatencyTable(HERE, path=path, measure=Counting()) for _ in range(2))
    first.of(models[:1])
    second.of(models[1:])
    assert latency_table.read(path).seconds.keys() == {model.digest for model in models}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        '{"environment": {}}',
        '{"environment": {"machine": "here"}, "seconds": {"a": "fast"}}',
        '{"environment": {"machine": "here"}, "seconds": {"a": -1}}',
        '{"environment": {"machine": "there"}, "seconds": {"a": 1}}',
    ],
)
def test_a_broken_cache_is_measured_anew(models, tmp_path, monkeypatch, content):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = latency_table.of_this_machine("litert").path
    assert path.parent == tmp_path / "tfprune" / "latency"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    table = latency_table.of_this_machine("litert")
    assert table.seconds == {}
    table._measure = Counting()
    table.of(models)
    assert latency_table.of_this_machine("litert").of(models) == [0.25, 0.5]


def test_a_cache_that_cannot_be_written_does_no_harm(models, tmp_path):
    (tmp_path / "file").write_text("")
    table = LatencyTable(HERE, path=tmp_path / "file" / "table.json", measure=Counting())
    assert table.of(models) == [0.25, 0.5]


def test_conditions_have_tables_of_their_own(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    conditions = [("litert", 1), ("litert", 2), ("onnx", 1), ("litert", 1, "int8")]
    tables = [latency_table.of_this_machine(*each) for each in conditions]
    assert len({table.path for table in tables}) == 4
    assert latency_table.of_this_machine("litert").path == tables[0].path
    assert tables[0].environment["cores"] == os.cpu_count()


def test_a_table_of_another_device_is_refused_where_it_lacks_a_piece(models):
    table = LatencyTable({"machine": "phone"}, {models[0].digest: 1.0})
    assert table.of(models[:1]) == [1.0]
    with pytest.raises(ValueError, match=r"lacks 1 of the pieces.*`tfprune latency-table write`"):
        table.of(models)


def test_a_file_that_is_no_table_is_refused_by_name(tmp_path):
    path = tmp_path / "table.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"must be a file that tfprune wrote.*table\.json"):
        latency_table.read(path)
    LatencyTable(HERE).write(path)
    with pytest.raises(ValueError, match="under other conditions"):
        latency_table.read(path, {"machine": "there"})


@pytest.mark.parametrize("runtime", ["litert", "onnx"])
def test_pieces_are_measured_in_the_runtime(models, runtime):
    found = seconds_of(models, runtime=runtime)
    assert len(found) == 2
    assert all(0 < seconds < 1 for seconds in found)


class Unbuildable:
    digest = "x"

    def build(self, name):
        raise ValueError("as a user's layer may")


def test_a_piece_that_cannot_be_built_is_none_beside_others(models):
    found = seconds_of([models[0], Unbuildable(), models[1]], runtime="onnx")
    assert [seconds is None for seconds in found] == [False, True, False]


def event(name, duration, kind="Conv", category="Node"):
    return {"cat": category, "name": name, "dur": duration, "args": {"op_name": kind}}


def test_a_profile_adds_up_the_nodes_of_each_piece():
    rounds = [
        [
            event("bundle/piece0x_1/conv/Relu_kernel_time", 40 + jitter),
            event("bundle/piece0x_1/conv/Mul_kernel_time", 10),
            event("bundle/piece0x_1/Transpose_kernel_time", 500, "Transpose"),
            event("ReorderInput_kernel_time", 500, "ReorderInput"),
            event("bundle/piece12x_1/Add_kernel_time", 7),
            event("bundle/piece12x_1/Add_fence_before", 900),
            event("model_loading", 900, category="Session"),
        ]
        for jitter in (90, 80, 70, 0, 0, 0, 0, 0, 0, 50)
    ]
    found = seconds_in_profile(json.dumps([each for part in rounds for each in part]))
    assert found == pytest.approx({"piece0x": 50e-6, "piece12x": 7e-6})


@pytest.mark.parametrize("text", ["", '{"a": 1}', "[1]", '[{"cat": "Node"}]'])
def test_what_is_no_profile_is_refused(text):
    with pytest.raises(ValueError, match="no profile"):
        seconds_in_profile(text)
