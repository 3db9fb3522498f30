"""The command: exit codes, one line for what is wrong, and nothing written then."""

import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tfprune.exporting.loading import load
from tfprune_cli import main

ROOT = Path(tfprune.__file__).parents[1]


class Unknown(keras.layers.Layer):
    """A layer of the user's own, which the command cannot know."""

    def call(self, inputs):
        return inputs


def run(*arguments):
    """The command in a process of its own, with nothing set that keeps TensorFlow quiet."""
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-m", "tfprune_cli", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def masked_model():
    model = keras.Sequential(
        [
            keras.Input((4,), name="x"),
            tfprune.layers.Dense(8, activation="relu", name="hidden"),
            tfprune.layers.Dense(2, name="logits"),
        ]
    )
    tfprune.prune_units(model, 0.5)
    return model


@pytest.fixture
def saved(tmp_path):
    """A masked model and its file."""
    model = masked_model()
    model.save(tmp_path / "model.keras")
    return model, tmp_path / "model.keras"


# What cannot be loaded --------------------------------------------------------------------------


def no_file(directory):
    return directory / "none.keras", "there is no file"


def a_directory(directory):
    tfprune.export(tfprune.strip(masked_model()), directory / "exported")
    return directory / "exported", "is a directory"


def text(directory):
    (directory / "text.keras").write_text("no model")
    return directory / "text.keras", "not a model"


def empty(directory):
    (directory / "empty.keras").touch()
    return directory / "empty.keras", "not a model"


def another_name(directory):
    (directory / "model.txt").write_text("no model")
    return directory / "model.txt", "not a model"


def truncated(directory):
    masked_model().save(directory / "whole.keras")
    data = (directory / "whole.keras").read_bytes()
    (directory / "cut.keras").write_bytes(data[: len(data) // 2])
    return directory / "cut.keras", "not a model"


def another_archive(directory):
    with zipfile.ZipFile(directory / "archive.keras", "w") as archive:
        archive.writestr("readme.txt", "no model")
    return directory / "archive.keras", "not a model"


def garbled_config(directory):
    masked_model().save(directory / "whole.keras")
    with zipfile.ZipFile(directory / "whole.keras") as whole:
        parts = {name: whole.read(name) for name in whole.namelist()}
    parts["config.json"] = parts["config.json"].replace(b'"units": 8', b'"units": "many"')
    with zipfile.ZipFile(directory / "garbled.keras", "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return directory / "garbled.keras", "not a model"


def weights_alone(directory):
    masked_model().save_weights(directory / "model.weights.h5")
    return directory / "model.weights.h5", "not a model"


def with_lambda(directory):
    layers = [keras.Input((4,)), keras.layers.Lambda(lambda x: 2 * x), keras.layers.Dense(2)]
    keras.Sequential(layers).save(directory / "lambda.keras")
    return directory / "lambda.keras", "--unsafe"


def with_unknown_layer(directory):
    model = keras.Sequential([keras.Input((4,)), Unknown(), keras.layers.Dense(2)])
    model.save(directory / "unknown.keras")
    return directory / "unknown.keras", "Unknown"


BAD = [
    no_file,
    a_directory,
    text,
    empty,
    another_name,
    truncated,
    another_archive,
    garbled_config,
    weights_alone,
    with_lambda,
    with_unknown_layer,
]


@pytest.mark.parametrize("command", ["explain", "inspect", "strip"])
@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_bad_models_are_refused_in_one_line(make, command, tmp_path, capsys):
    path, why = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    output = ["-o", str(tmp_path / "out")] if command == "strip" else []
    capsys.readouterr()
    assert main([command, str(path), *output]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"tfprune {command}: ")
    assert printed.err.count("\n") == 1 and str(path) in printed.err and why in printed.err
    assert len(printed.err) < 400
    assert sorted(tmp_path.rglob("*")) == before


def test_a_lambda_is_loaded_where_that_is_asked_for(tmp_path, capsys):
    path, _ = with_lambda(tmp_path)
    assert main(["inspect", str(path), "--unsafe"]) == 0
    assert "lambda" in capsys.readouterr().out


# Output -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".keras"])
def test_an_existing_output_stays(saved, suffix, tmp_path, capsys):
    out = tmp_path / f"out{suffix}"
    out.write_text("mine")
    assert main(["strip", str(saved[1]), "-o", str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert out.read_text() == "mine"


def test_overwriting_spares_what_is_no_model(saved, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.png").write_text("mine")
    assert main(["strip", str(saved[1]), "-o", str(tmp_path / "photos"), "--overwrite"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert (tmp_path / "photos/cat.png").read_text() == "mine"


def test_an_output_that_cannot_be_made_is_refused(saved, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert main(["strip", str(saved[1]), "-o", str(tmp_path / "file/out")]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and "-o" in printed.err


@pytest.mark.parametrize(
    "name, format, suffix",
    [
        ("out.keras", "saved_model", ".keras"),
        ("out.tflite", "saved_model", ".tflite"),
        ("out", "keras", ".keras"),
        ("out.keras", "litert", ".tflite"),
        ("out.tflite", "onnx", ".onnx"),
    ],
)
def test_a_name_that_does_not_fit_the_format_is_refused(
    saved, name, format, suffix, tmp_path, capsys
):
    out = tmp_path / name
    assert main(["strip", str(saved[1]), "-o", str(out), "--format", format]) == 2
    assert f"end with {suffix} for --format {format}" in capsys.readouterr().err
    assert not out.exists()


def test_strip_writes_a_smaller_saved_model(saved, tmp_path, capsys):
    model, path = saved
    assert main(["strip", str(path), "-o", str(tmp_path / "small")]) == 0
    assert "hidden: 8 -> 4 units" in capsys.readouterr().out
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    serve = tf.saved_model.load(tmp_path / "small").signatures["serving_default"]
    (outputs,) = serve(x=tf.constant(x)).values()
    np.testing.assert_allclose(outputs, model(x), rtol=1e-5, atol=1e-6)


def test_strip_writes_keras_files_and_overwrites_them(saved, tmp_path):
    out = tmp_path / "small.keras"
    for _ in range(2):
        assert main(["strip", str(saved[1]), "-o", str(out), "--overwrite"]) == 0
    small = keras.models.load_model(out)
    assert small.get_layer("hidden").units == 4
    assert type(small.get_layer("hidden")) is keras.layers.Dense


@pytest.mark.parametrize("suffix", [".tflite", ".onnx"])
def test_the_end_of_the_name_says_the_format(saved, suffix, tmp_path):
    if suffix == ".onnx":
        pytest.importorskip("tf2onnx", reason="the extra onnx is not installed")
    model, path = saved
    out = tmp_path / f"small{suffix}"
    assert main(["strip", str(path), "-o", str(out)]) == 0
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    (outputs,) = load(out).run({"x": x}).values()
    np.testing.assert_allclose(outputs, model(x), rtol=1e-5, atol=1e-6)


def test_recurrent_layers_need_a_batch_size_for_litert(tmp_path, capfd):
    model = keras.Sequential([keras.Input((4, 3), name="x"), keras.layers.GRU(2, name="y")])
    model.save(tmp_path / "model.keras")
    out = tmp_path / "small.tflite"
    command = ["strip", str(tmp_path / "model.keras"), "-o", str(out)]
    assert main(command) == 2
    printed = capfd.readouterr()  # what the converter writes past Python included
    assert "fixed batch" in printed.err and printed.err.count("\n") == 1
    assert not out.exists()
    assert main([*command, "--batch-size", "2"]) == 0
    assert load(out).shapes == {"x": (2, 4, 3)}
    assert main([*command[:-1], f"{out}.keras", "--batch-size", "2"]) == 2
    assert "--batch-size is for .tflite files" in capfd.readouterr().err


def test_explain_prints_the_coupled_units_and_draws_them(saved, tmp_path, capsys):
    picture = tmp_path / "model.svg"
    assert main(["explain", str(saved[1]), "--plot", str(picture)]) == 0
    assert "logits kernel[0]" in capsys.readouterr().out
    assert "hidden" in picture.read_text()


def test_explain_says_what_it_cannot_draw(saved, tmp_path, capsys):
    assert main(["explain", str(saved[1]), "--plot", str(tmp_path / "model.doc")]) == 2
    assert "Give another file" in capsys.readouterr().err
    assert not (tmp_path / "model.doc").exists()


def test_inspect_prints_the_layers(saved, capsys):
    assert main(["inspect", str(saved[1])]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("hidden", "logits", "40", "18"))


# Arguments --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["unknown"],
        ["strip", "model.keras"],
        ["strip", "model.keras", "-o", "out", "--format", "h5"],
        ["strip", "model.keras", "-o", "out", "--batch-size", "0"],
        ["demo", "--target", "1"],
        ["demo", "--target", "half"],
        ["demo", "--seed", "-1"],
    ],
    ids=" ".join,
)
def test_bad_arguments_are_refused_in_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and "--help" in printed.err


def test_without_a_command_help_is_printed(capsys):
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code == 2
    assert "inspect" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["sklearn", "matplotlib"])
def test_the_demo_says_what_to_install(missing, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, missing, None)  # Python's way to make an import fail
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert "python -m pip install 'tfprune[demo]'" in printed.err
    assert not (tmp_path / "demo").exists()


def test_the_demo_finds_out_at_once_that_it_cannot_write(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    started = time.perf_counter()
    assert main(["demo", "--out", str(tmp_path / "file")]) == 2
    assert time.perf_counter() - started < 5
    assert "--out" in capsys.readouterr().err


# The process ------------------------------------------------------------------------------------


def test_help_does_not_wait_for_tensorflow():
    code = (
        "import sys, tfprune_cli\n"
        "try:\n    tfprune_cli.main(['--help'])\n"
        "except SystemExit as left:\n    assert left.code == 0\n"
        "print('tensorflow' in sys.modules, 'tfprune' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("usage: tfprune")
    assert done.stdout.endswith("False False\n")


def test_the_process_leaves_with_its_exit_code_and_without_chatter(saved, tmp_path):
    refused = run("inspect", tmp_path / "none.keras")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("tfprune inspect: ") and refused.stderr.count("\n") == 1
    done = run("strip", saved[1], "-o", tmp_path / "small")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "small/saved_model.pb").is_file()
