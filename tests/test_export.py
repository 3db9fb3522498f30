import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tfprune.export import export

L = keras.layers


def chain(inputs, *layers, **kwargs):
    x = inputs
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x, **kwargs)


def list_inputs():
    a, b = keras.Input((3,), name="a"), keras.Input((4,), name="b")
    return keras.Model([a, b], L.Concatenate(name="joined")([L.Dense(2)(a), b]))


def dict_inputs_and_outputs():
    # Not in alphabetical order: what goes by position would be exchanged.
    z, b = keras.Input((3,), name="z"), keras.Input((3,), name="b", dtype="int32")
    outputs = {"y": L.Dense(2, name="y")(z), "c": L.Embedding(9, 2, name="c")(b)}
    return keras.Model({"z": z, "b": b}, outputs)


def nested_outputs():
    x = keras.Input((3,), name="x")
    first, second = L.Dense(2, name="first")(x), L.Dense(3, name="second")(x)
    return keras.Model(x, [first, [second, x]])


def one_output_twice():
    x = keras.Input((4, 3), name="x")
    return keras.Model(x, L.LSTM(2, return_state=True, name="states")(x))


def odd_names():
    x = keras.Input((3,), name="2-in.put")
    return chain(x, L.Dense(2, name="out.2-b"))


def batch_normalised():
    model = chain(
        keras.Input((6, 6, 2), name="x"),
        L.Conv2D(3, 3, use_bias=False),
        L.BatchNormalization(),
        L.Dropout(0.9),
        L.GaussianNoise(1.0),
        L.Flatten(),
        L.Dense(2, name="y"),
    )
    model.layers[2].moving_mean.assign([1.0, -2.0, 3.0])
    return model


def attention():
    x = keras.Input((None, 4), name="x")
    return keras.Model(x, L.MultiHeadAttention(2, 3, dropout=0.5, name="y")(x, x))


def mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    return chain(keras.Input((8,), name="x"), L.Dense(4), L.Dense(2, name="y"))


def nested_model_called_twice():
    inner = chain(keras.Input((3,)), L.Dense(3), name="inner")
    x = keras.Input((3,), name="x")
    return keras.Model(x, L.Add(name="y")([inner(x), inner(inner(x))]))


def string_lookup():
    lookup = L.StringLookup(vocabulary=["b", "a", "c"])
    return chain(keras.Input((2,), name="x", dtype="string"), lookup, L.Embedding(4, 2, name="y"))


def vectorised_text():
    vectorize = L.TextVectorization(output_sequence_length=4)
    vectorize.adapt(["b a", "c a"])
    return chain(keras.Input((), name="x", dtype="string"), vectorize, L.Embedding(6, 2, name="y"))


def quantized():
    model = chain(keras.Input((8,), name="x"), L.Dense(4), L.Dense(2, name="y"))
    model.quantize("int8")
    return model


def sequential():
    return keras.Sequential([keras.Input((3,), name="x"), L.Dense(2, name="y")])


def dynamic_sizes():
    x = keras.Input((None, None, 3), name="x")
    return chain(x, L.Conv2D(4, 3, strides=2), L.GlobalAveragePooling2D(), L.Dense(2, name="y"))


def integers():
    x = keras.Input((None,), name="x", dtype="int32")
    return chain(x, L.Embedding(9, 4, mask_zero=True), L.GRU(3), L.Dense(2, name="y"))


def static_batch():
    return chain(keras.Input(batch_shape=(2, 3), name="x"), L.Dense(2, name="y"))


def floats(*shape):
    return np.random.default_rng(7).normal(size=shape).astype("float32")


ids = np.array([[1, 8, 0], [5, 2, 3]], "int32")

ZOO = {
    "sequential": (sequential, {"x": floats(5, 3)}),
    "list of inputs": (list_inputs, {"a": floats(5, 3), "b": floats(5, 4)}),
    "dicts": (dict_inputs_and_outputs, {"z": floats(2, 3), "b": ids}),
    "nested outputs": (nested_outputs, {"x": floats(5, 3)}),
    "one output twice": (one_output_twice, {"x": floats(5, 4, 3)}),
    "odd names": (odd_names, {"2-in.put": floats(5, 3)}),
    "batch norm, dropout": (batch_normalised, {"x": floats(5, 6, 6, 2)}),
    "attention": (attention, {"x": floats(2, 7, 4)}),
    "mixed precision": (mixed_precision, {"x": floats(5, 8)}),
    "nested twice": (nested_model_called_twice, {"x": floats(5, 3)}),
    "string lookup": (string_lookup, {"x": np.array([["a", "?"], ["c", "b"]])}),
    "text": (vectorised_text, {"x": np.array(["a b c", "d"])}),
    "quantized": (quantized, {"x": floats(5, 8)}),
    "dynamic sizes": (dynamic_sizes, {"x": floats(2, 9, 11, 3)}),
    "integers": (integers, {"x": ids}),
    "static batch": (static_batch, {"x": floats(2, 3)}),
}

# In the order of `model.outputs`; the others have one output, "y".
OUTPUT_NAMES = {
    "list of inputs": ["joined"],
    "dicts": ["c", "y"],
    "nested outputs": ["first", "second", "x"],
    "one output twice": ["states", "states_1", "states_2"],
    "odd names": ["out.2-b"],
}

LOAD_WITHOUT_KERAS = """
import importlib, json, pathlib, pickle, sys
sys.modules["keras"] = sys.modules["tfprune"] = None
for name in ("keras", "tfprune"):
    try:
        importlib.import_module(name)
    except ImportError:
        continue
    raise SystemExit(f"{name} can be imported")
import tensorflow as tf
answers = {}
for name, (path, inputs) in pickle.loads(pathlib.Path(sys.argv[1]).read_bytes()).items():
    loaded = tf.saved_model.load(path)
    signature = loaded.signatures["serving_default"]
    given = {key: tf.constant(value) for key, value in inputs.items()}
    answers[name] = {key: value.numpy() for key, value in signature(**given).items()}
pathlib.Path(sys.argv[2]).write_bytes(pickle.dumps(answers))
"""


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """Every model of the zoo, exported, with what it gives in a process without Keras."""
    import pickle

    directory = tmp_path_factory.mktemp("zoo")
    models, jobs = {}, {}
    for name, (make, inputs) in ZOO.items():
        policy = keras.config.dtype_policy()
        models[name] = make()
        keras.config.set_dtype_policy(policy)
        jobs[name] = (str(export(models[name], directory / name)), inputs)
    (directory / "jobs").write_bytes(pickle.dumps(jobs))
    subprocess.run(
        [sys.executable, "-c", LOAD_WITHOUT_KERAS, directory / "jobs", directory / "answers"],
        check=True,
        cwd=directory,
    )
    answers = pickle.loads((directory / "answers").read_bytes())
    return {name: (models[name], jobs[name][0], jobs[name][1], answers[name]) for name in ZOO}


def structured(model, inputs):
    """Inputs by name in the structure in which the model takes them."""
    inputs = {name: tf.constant(value) for name, value in inputs.items()}
    if isinstance(model, keras.Sequential) or len(inputs) == 1:
        return next(iter(inputs.values()))
    return inputs if isinstance(model.input, dict) else [inputs[t.name] for t in model.inputs]


def assert_close(given, expected):
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ZOO)
def test_signature_computes_the_model_where_keras_cannot_be_imported(zoo, name):
    model, _, inputs, answers = zoo[name]
    expected = keras.tree.flatten(model(structured(model, inputs), training=False))
    by_name = dict(zip(OUTPUT_NAMES.get(name, ["y"]), expected, strict=True))
    assert answers.keys() == by_name.keys()
    for key, value in by_name.items():
        assert answers[key].dtype == value.numpy().dtype
        assert_close(answers[key], value)


@pytest.mark.parametrize("name", ZOO)
def test_serve_takes_and_gives_the_structure_of_the_model(zoo, name):
    model, path, inputs, _ = zoo[name]
    given = structured(model, inputs)
    expected = model(given, training=False)
    loaded = tf.saved_model.load(path)
    outputs = loaded.serve(given)
    keras.tree.assert_same_structure(_tuples_to_lists(outputs), _tuples_to_lists(expected))
    for ours, theirs in zip(keras.tree.flatten(outputs), keras.tree.flatten(expected), strict=True):
        assert_close(ours, theirs)


def _tuples_to_lists(structure):
    return keras.tree.map_structure(np.asarray, keras.tree.lists_to_tuples(structure))


def test_names_of_inputs_and_outputs_are_the_models(zoo):
    _, path, _, _ = zoo["dicts"]
    signature = tf.saved_model.load(path).signatures["serving_default"]
    assert set(signature.structured_input_signature[1]) == {"z", "b"}
    assert set(signature.structured_outputs) == {"y", "c"}


def test_batch_is_dynamic_unless_the_model_fixes_it(zoo):
    def shape(name):
        signature = tf.saved_model.load(zoo[name][1]).signatures["serving_default"]
        return signature.structured_input_signature[1]["x"].shape.as_list()

    assert shape("sequential") == [None, 3]
    assert shape("dynamic sizes") == [None, None, None, 3]
    assert shape("static batch") == [2, 3]


# Size --------------------------------------------------------------------------------------------


def bytes_in(path):
    return sum(file.stat().st_size for file in pathlib.Path(path).rglob("*") if file.is_file())


def compiled_and_trained():
    model = keras.Sequential([keras.Input((256,)), L.Dense(1024, "relu"), L.Dense(10)])
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(np.zeros((2, 256)), np.zeros((2, 10)), verbose=0)
    return model


@pytest.mark.parametrize(("format", "name"), [("saved_model", "m"), ("keras", "m.keras")])
def test_no_weight_is_stored_twice_and_no_optimizer_at_all(tmp_path, format, name):
    model = compiled_and_trained()
    path = export(model, tmp_path / name, format=format)
    weights = 4 * model.count_params()
    assert weights > 1e6
    size = bytes_in(path) if path.is_dir() else path.stat().st_size
    assert weights <= size <= 1.1 * weights


def test_weights_of_a_convolutional_network_are_stored_once(tmp_path):
    model = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), alpha=0.35)
    path = export(model, tmp_path / "m")
    weights = 4 * model.count_params()
    assert weights <= bytes_in(path / "variables") <= 1.1 * weights


# What stays as it is -----------------------------------------------------------------------------


@pytest.mark.parametrize(("format", "name"), [("saved_model", "m"), ("keras", "m.keras")])
def test_the_model_exported_is_untouched(tmp_path, format, name):
    model = compiled_and_trained()
    optimizer, before = model.optimizer, [v.numpy() for v in model.variables]
    slots = [v.numpy() for v in optimizer.variables]
    export(model, tmp_path / name, format=format)
    assert model.compiled
    assert model.optimizer is optimizer
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, new.numpy())
    for old, new in zip(slots, optimizer.variables, strict=True):
        np.testing.assert_array_equal(old, new.numpy())
    assert "mae" in model.evaluate(np.zeros((2, 256)), np.zeros((2, 10)), 2, 0, return_dict=True)


def test_keras_file_gives_the_same_outputs_and_is_not_compiled(tmp_path):
    model = compiled_and_trained()
    path = export(model, tmp_path / "m.keras", format="keras")
    loaded = keras.models.load_model(path)
    assert not loaded.compiled
    x = floats(4, 256)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
    assert not config.get("compile_config")


def test_keras_file_keeps_adapted_vocabularies(tmp_path):
    model = vectorised_text()
    loaded = keras.models.load_model(export(model, tmp_path / "m.keras", format="keras"))
    texts = tf.constant(["a b c", "d"])
    np.testing.assert_array_equal(loaded(texts), model(texts))


def test_state_of_a_recurrent_layer_is_kept_between_calls(tmp_path):
    x = keras.Input(batch_shape=(1, 2, 3), name="x")
    model = chain(x, L.GRU(2, stateful=True, name="y"))
    loaded = tf.saved_model.load(export(model, tmp_path / "m"))
    first, second = loaded.serve(floats(1, 2, 3)), loaded.serve(floats(1, 2, 3))
    assert np.abs(first - second).max() > 1e-3
    assert_close(first, model(floats(1, 2, 3)))
    assert_close(second, model(floats(1, 2, 3)))


def test_model_that_draws_random_numbers_is_exported(tmp_path):
    class Sample(L.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.seeds = keras.random.SeedGenerator(1)

        def call(self, inputs):
            return inputs + keras.random.normal(keras.ops.shape(inputs), seed=self.seeds)

    loaded = tf.saved_model.load(export(chain(keras.Input((3,)), Sample()), tmp_path / "m"))
    zeros = tf.zeros((1, 3))
    assert np.abs(loaded.serve(zeros) - loaded.serve(zeros)).max() > 1e-3


def test_returns_the_path_and_makes_missing_directories(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert export(sequential(), "a/b/small") == pathlib.Path("a/b/small")
    assert (tmp_path / "a/b/small/saved_model.pb").is_file()


# Refusals: nothing is written --------------------------------------------------------------------


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
    "unknown format": (sequential, {"format": "onnx"}, r"\['keras', 'saved_model'\]"),
    "no suffix": (sequential, {"format": "keras"}, "must end in `.keras`"),
    "suffix of a file": (sequential, {"path": "m.keras"}, "must be a directory"),
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
from tfprune.export import export
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
