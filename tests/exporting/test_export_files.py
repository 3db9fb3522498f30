"""What export refuses, and what happens to the files around it."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import keras
import pytest
import tensorflow as tf

import tfprune
from tests.export_models import (
    chain,
    dict_inputs_and_outputs,
    floats,
    list_inputs,
    sequential,
)
from tfprune.exporting.export import export

L = keras.layers


def masked():
    return tfprune.layers.Dense(2, name="masked")


class CallsPython(L.Layer):
    def call(self, inputs):
        return tf.ensure_shape(tf.numpy_function(lambda x: x * 2, [inputs], tf.float32), (None, 3))

    def compute_output_shape(self, shape):
        return shape


class HidesTable(L.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        initializer = tf.lookup.KeyValueTensorInitializer(["a"], [1.0])
        tables = [tf.lookup.StaticHashTable(initializer, 0.0)]
        self.look_up = lambda inputs: tables[0].lookup(inputs)

    def call(self, inputs):
        return self.look_up(inputs)

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, "float32")


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


def subclassed():
    model = Subclassed()
    model(tf.ones((1, 3)))
    return model


REFUSED = {
    "masks": (lambda: chain(keras.Input((3,)), masked()), {}, r"tfprune.strip\(model\)"),
    "masks in a nested model": (
        lambda: chain(keras.Input((3,)), chain(keras.Input((3,)), masked())),
        {},
        r"tfprune.strip\(model\)",
    ),
    "masks, keras": (
        lambda: chain(keras.Input((3,)), masked()),
        {"format": "keras", "path": "m.keras"},
        r"tfprune.strip\(model\)",
    ),
    "unknown format": (
        sequential,
        {"format": "h5"},
        r"\['keras', 'litert', 'onnx', 'saved_model'\]",
    ),
    "no suffix": (sequential, {"format": "keras"}, "must end in `.keras`"),
    "suffix of a file": (
        sequential,
        {"path": "m.keras", "format": "saved_model"},
        "must be a directory",
    ),
    "suffix of no format": (sequential, {"path": "m.h5"}, "must end in `.keras`"),
    "another suffix": (sequential, {"path": "m.keras", "format": "tflite"}, "end in `.tflite`"),
    "remote": (sequential, {"path": "gs://bucket/m"}, "local file system"),
    "subclassed": (subclassed, {}, "Functional or built Sequential"),
    "not built": (
        lambda: keras.Sequential([L.Dense(2)]),
        {"format": "keras", "path": "m.keras"},
        "must be built",
    ),
    "sparse": (
        lambda: chain(keras.Input((3,), sparse=True), L.Dense(2)),
        {},
        "must take dense inputs",
    ),
    "python": (lambda: chain(keras.Input((3,)), CallsPython()), {}, "calls back into Python"),
    "hidden table": (
        lambda: chain(keras.Input((3,), dtype="string"), HidesTable()),
        {},
        "no attribute of one of its layers",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_and_nothing_is_written(tmp_path, monkeypatch, case):
    make, arguments, message = REFUSED[case]
    monkeypatch.chdir(tmp_path)
    arguments = {"path": "new/m", **arguments}
    with pytest.raises(ValueError, match=message):
        export(make(), **arguments)
    assert list(tmp_path.iterdir()) == []


def test_the_ending_of_the_path_says_the_format(tmp_path):
    for name in ("m.keras", "m.tflite", "m"):
        assert export(sequential(), tmp_path / name) == tmp_path / name
    assert keras.models.load_model(tmp_path / "m.keras").output_shape == (None, 2)
    assert (tmp_path / "m.tflite").read_bytes()[4:8] == b"TFL3"
    assert (tmp_path / "m/saved_model.pb").is_file()
    alias = export(sequential(), tmp_path / "alias.tflite", format="tflite", quantize="float16")
    assert alias.stat().st_size > 0


def test_what_is_there_is_not_overwritten_unless_told(tmp_path):
    path = export(sequential(), tmp_path / "m")
    before = (path / "saved_model.pb").read_bytes()
    with pytest.raises(ValueError, match="overwrite=True"):
        export(dict_inputs_and_outputs(), path)
    assert (path / "saved_model.pb").read_bytes() == before
    export(dict_inputs_and_outputs(), path, overwrite=True)
    signature = tf.saved_model.load(path).signatures["serving_default"]
    assert set(signature.structured_input_signature[1]) == {"z", "b"}
    assert list(tmp_path.iterdir()) == [path]


def test_keras_file_is_not_overwritten_unless_told(tmp_path):
    path = export(sequential(), tmp_path / "m.keras", format="keras")
    with pytest.raises(ValueError, match="overwrite=True"):
        export(list_inputs(), path, format="keras")
    export(list_inputs(), path, format="keras", overwrite=True)
    assert len(keras.models.load_model(path).inputs) == 2
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_that_is_no_model_is_never_overwritten(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("one")
    with pytest.raises(ValueError, match="no model of that format"):
        export(sequential(), tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter").read_text() == "one"


# Crashes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("format", "name"), [("saved_model", "m"), ("keras", "m.keras")])
@pytest.mark.parametrize("is_there", [False, True])
def test_a_failing_disk_leaves_what_was_there(tmp_path, monkeypatch, format, name, is_there):
    path = tmp_path / "new" / name
    if is_there:
        export(sequential(), path, format=format)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def fails(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr("tensorflow.saved_model.load", fails)
    monkeypatch.setattr("zipfile.ZipFile.testzip", fails)
    with pytest.raises(OSError, match="No space left"):
        export(list_inputs(), path, format=format, overwrite=True)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert is_there or list(tmp_path.iterdir()) == []


def test_old_model_comes_back_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    path = export(sequential(), tmp_path / "m")
    rename = pathlib.Path.rename

    def fails_for_the_new_one(self, target):
        if self.name == "m" and target == path and ".partial" in str(self):
            raise OSError("Permission denied")
        return rename(self, target)

    monkeypatch.setattr(pathlib.Path, "rename", fails_for_the_new_one)
    with pytest.raises(OSError, match="Permission denied"):
        export(list_inputs(), path, overwrite=True)
    loaded = tf.saved_model.load(path)
    assert loaded.serve(floats(5, 3)).shape == (5, 2)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("change", ["value", "output"])
def test_a_saved_model_that_is_not_the_model_is_not_left_behind(tmp_path, monkeypatch, change):
    load = tf.saved_model.load

    def loads_something_else(path):
        loaded = load(path)
        if change == "value":
            loaded.values[0].assign_add(tf.ones_like(loaded.values[0]))
        else:
            serve = loaded.serve
            loaded.serve = lambda inputs: serve(inputs) + 1
        return loaded

    monkeypatch.setattr("tensorflow.saved_model.load", loads_something_else)
    with pytest.raises(RuntimeError, match="The SavedModel"):
        export(sequential(), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


EXPORT_FOR_EVER = """
import sys, keras
from tfprune.exporting.export import export
def model(units):
    return keras.Sequential([keras.Input((units,), name="x"), keras.layers.Dense(units)])
models = [model(64), model(512)]
print("ready", flush=True)
while True:
    for model in models:
        export(model, sys.argv[1], format=sys.argv[2], overwrite=True)
        print("done", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("format", "name"), [("saved_model", "m"), ("keras", "m.keras")])
def test_a_killed_process_leaves_a_whole_model_and_the_next_export_no_leftovers(
    tmp_path, format, name
):
    path = tmp_path / name
    delays = random.Random(3)
    left_over, was_there = 0, False
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", EXPORT_FOR_EVER, path, format],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(pathlib.Path(tfprune.__file__).parents[1])},
        )
        assert process.stdout.readline() == "ready\n"
        time.sleep(delays.uniform(0, 1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        left_over += any(".partial" in entry.name for entry in tmp_path.iterdir())
        was_there = was_there or path.exists()
        assert not was_there or _load(path, format) in (64, 512)
    assert was_there
    assert left_over, "no process was killed while it wrote"
    export(sequential(), path, format=format, overwrite=True)
    assert list(tmp_path.iterdir()) == [path]


def _load(path, format):
    if format == "keras":
        return keras.models.load_model(path).output_shape[-1]
    signature = tf.saved_model.load(path).signatures["serving_default"]
    return next(iter(signature.structured_outputs.values())).shape[-1]


class NoConfig(keras.layers.Layer):
    """Keras can write no config of an argument that is an object."""

    def __init__(self, kept, **kwargs):
        super().__init__(**kwargs)
        self.kept = kept

    def call(self, inputs):
        return inputs * 2.0


class NoConfigRegularizer(keras.regularizers.Regularizer):
    def __call__(self, x):
        return 0.01 * keras.ops.sum(keras.ops.abs(x))


@pytest.mark.parametrize(
    "layer",
    [
        lambda: NoConfig(object(), name="odd"),
        lambda: keras.layers.Dense(3, kernel_regularizer=NoConfigRegularizer(), name="odd"),
    ],
)
def test_a_keras_file_of_a_layer_without_a_config_is_refused_by_name(layer, tmp_path):
    model = keras.Sequential([keras.Input((3,)), layer(), keras.layers.Dense(2, name="logits")])
    with pytest.raises(ValueError, match="Keras can write no config of a layer.*layer='odd'"):
        export(model, tmp_path / "m.keras")
    assert not list(tmp_path.iterdir())
    export(model, tmp_path / "m", format="saved_model")
