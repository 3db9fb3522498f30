"""`tfprune latency-table`: small models out, the output of benchmark tools in."""

import json
import re

import keras
import numpy as np
import pytest

import tfprune
from tfprune import budgets
from tfprune.exporting import loading
from tfprune.measuring import latency_table
from tfprune.measuring.device_protocol import seconds_printed
from tfprune.units.prunable import PrunableUnits
from tfprune_cli import main

# As in the documentation of LiteRT's tool, with the prefix that newer versions print.
PRINTED = """\
INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Min num runs: [30]
INFO: Graph: [{file}]
INFO: Loaded model {file}
INFO: Running benchmark for at least 3 iterations and at least 0.5 seconds but terminate if \
exceeding 150 seconds.
INFO: count=3 first=900 curr=900 min=900 max=900 avg=900 std=0 p5=900 median=900 p95=900

INFO: Running benchmark for at least 30 iterations and at least 1 seconds but terminate if \
exceeding 150 seconds.
INFO: count=30 first=90 curr=80 min=70 max=900 avg=120 std=9 p5=71 median={median} p95=700

INFO: Inference timings in us: Init: 5579, First inference: 900, Warmup (avg): 900, \
Inference (avg): 120
INFO: Memory footprint delta from the start of the tool (MB): init=6.36328 overall=109.832
"""
OLDER = """\
I native  : Graph: [/data/local/tmp/{file}]
I native  : count=50 first=2990 curr=2913 min=2727 max=3189 avg=2.95034e+03 std=109

I native  : Inference timings in us: Init: 17187, First inference: 3512, Warmup (avg): \
3.51239e+03, Inference (avg): 2.95034e+03
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.Conv2D(16, 3, padding="same", activation="relu", name="conv")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    path = tmp_path_factory.mktemp("model") / "model.keras"
    model.save(path)
    return path


def written(saved, folder, *more):
    assert main(["latency-table", "write", str(saved), "-o", str(folder), *more]) == 0
    return json.loads((folder / "pieces.json").read_text())["pieces"]


def read(folder, *outputs, out="table.json", device="Phone 3"):
    command = ["latency-table", "read", folder, *outputs, "--device", device, "-o", folder / out]
    return main([str(part) for part in command])


def prune_for(saved, table, runtime, fraction):
    model = tfprune.prunable(keras.models.load_model(saved))
    budget = budgets.Latency(fraction=fraction, runtime=runtime, table=table)
    tfprune.prune_units(model, budget, selection=tfprune.Selection("greedy", round_to="auto"))
    return int((~PrunableUnits(model).pruned()).sum())


@pytest.fixture(scope="module")
def litert(saved, tmp_path_factory):
    folder = tmp_path_factory.mktemp("litert") / "pieces"
    return folder, written(saved, folder)


def test_each_file_runs_and_has_its_command(litert):
    folder, pieces = litert
    text = (folder / "PROTOCOL.txt").read_text()
    files = re.findall(r"^benchmark_model --graph=(\S+) --num_threads=1", text, re.MULTILINE)
    assert sorted(files) == sorted(path.name for path in folder.glob("*.tflite"))
    assert {file.removesuffix(".tflite") for file in files} == set(pieces)
    for file in files:
        runner = loading.load(folder / file)
        arrays = {name: np.zeros(shape, "float32") for name, shape in runner.shapes.items()}
        assert runner.run(arrays)


def test_a_model_is_pruned_by_what_the_tool_printed_on_the_device(saved, litert):
    folder, pieces = litert
    blocks = []
    for name in pieces:
        (shape,) = loading.load(folder / f"{name}.tflite").shapes.values()
        file = f"{name}.tflite"
        blocks.append(PRINTED.format(file=file, median=10 + int(np.prod(shape))))
    (folder / "output.txt").write_text("\n".join(blocks))
    assert read(folder, folder / "output.txt") == 0
    table = latency_table.read(folder / "table.json")
    assert table.environment["machine"] == "Phone 3"
    assert set(table.seconds) == set(pieces.values())
    first = next(iter(pieces))
    (shape,) = loading.load(folder / f"{first}.tflite").shapes.values()
    assert table.seconds[pieces[first]] == pytest.approx(1e-6 * (10 + np.prod(shape)))
    dense, small = (prune_for(saved, folder / "table.json", "litert", f) for f in (1.0, 0.8))
    assert small < dense


def test_a_model_is_pruned_by_a_profile_of_onnx_runtime(saved, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    folder = tmp_path / "pieces"
    written(saved, folder, "--runtime", "onnx")
    text = (folder / "PROTOCOL.txt").read_text()
    (name,) = re.findall(r"^onnxruntime_perf_test .* -x 1 .* -p (\S+) \S+\.onnx", text, re.M)
    options = onnxruntime.SessionOptions()  # as the tool does
    options.enable_profiling, options.profile_file_prefix = True, str(folder / name)
    session = onnxruntime.InferenceSession((folder / f"{name}.onnx").read_bytes(), options)
    given = {each.name: np.zeros(each.shape, "float32") for each in session.get_inputs()}
    for _ in range(30):
        session.run(None, given)
    assert read(folder, session.end_profiling()) == 0
    assert prune_for(saved, folder / "table.json", "onnx", 1.0) > 0


def test_the_median_is_taken_of_the_timed_runs_or_the_mean_where_there_is_none():
    text = PRINTED.format(file="piece3x.tflite", median=85) + OLDER.format(file="piece12x.tflite")
    assert seconds_printed(text) == pytest.approx({"piece3x": 85e-6, "piece12x": 2950.34e-6})


@pytest.mark.parametrize("text", ["", "Graph: [piece0x.tflite]\n", "Inference (avg): 12"])
def test_what_the_tool_did_not_finish_is_no_time(text):
    with pytest.raises(ValueError, match="nothing that benchmark_model printed"):
        seconds_printed(text)


def test_refused_in_one_line(saved, litert, tmp_path, capsys):
    folder, pieces = litert

    def refused(code, *words):
        printed = capsys.readouterr()
        assert code == 2
        assert printed.err.count("\n") == 1 and all(word in printed.err for word in words)

    again = main(["latency-table", "write", str(saved), "-o", str(folder)])
    refused(again, "exists", "another folder")
    one = tmp_path / "one.txt"
    one.write_text(PRINTED.format(file=f"{next(iter(pieces))}.tflite", median=5))
    refused(read(folder, one, out="t.json"), f"lacks {len(pieces) - 1} of {len(pieces)} pieces")
    nothing = tmp_path / "nothing.txt"
    nothing.write_text("adb: no devices\n")
    refused(read(folder, nothing, out="t.json"), "nothing.txt", "benchmark_model")
    refused(read(folder, tmp_path / "none.txt", out="t.json"), "none.txt", "No such file")
    refused(read(tmp_path, one, out="t.json"), "pieces.json", "No such file")
    (tmp_path / "pieces.json").write_text("[]")
    refused(read(tmp_path, one, out="t.json"), "no list of pieces")
    assert not (folder / "t.json").exists()
    whole = tmp_path / "whole.txt"
    whole.write_text("".join(PRINTED.format(file=f"{n}.tflite", median=5) for n in pieces))
    assert read(folder, whole, out="t.json") == 0
    capsys.readouterr()
    refused(read(folder, whole, out="t.json", device="Phone 4"), "other conditions")
    (folder / "t.json").unlink()


def test_a_table_that_is_no_table_is_refused_before_anything_changes(saved, tmp_path):
    (tmp_path / "table.json").write_text("{}")
    with pytest.raises(ValueError, match="must be a file that tfprune wrote"):
        prune_for(saved, tmp_path / "table.json", "litert", 0.5)


def test_prune_takes_a_table_for_a_latency_alone(saved, litert, tmp_path, capsys):
    folder, pieces = litert
    whole = tmp_path / "whole.txt"
    whole.write_text("".join(PRINTED.format(file=f"{n}.tflite", median=5) for n in pieces))
    assert read(folder, whole, out=tmp_path / "t.json") == 0
    rng = np.random.default_rng(0)
    data = tmp_path / "data.npz"
    np.savez(data, x=rng.normal(size=(64, 4, 4, 3)).astype("float32"), y=rng.normal(size=(64, 2)))
    model = keras.models.load_model(saved)
    model.compile("sgd", "mse", metrics=["mae"])
    model.save(tmp_path / "model.keras")
    command = ["prune", tmp_path / "model.keras", "--data", data, "--round-to", "auto"]
    command += ["--runtime", "litert", "--table", tmp_path / "t.json", "-o", tmp_path / "s.keras"]
    command += ["--selection", "greedy", "--criterion", "magnitude", "--budget"]
    capsys.readouterr()
    assert main([*map(str, command), "macs=0.5"]) == 2
    assert "for --budget latency=MILLISECONDS alone" in capsys.readouterr().err
    assert main([*map(str, command), "latency=1"]) == 0
    assert (tmp_path / "s.keras").exists()
