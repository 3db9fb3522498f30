import json
import pathlib
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.export_models import OUTPUT_NAMES, ZOO, chain, floats, sequential, vectorised_text
from tfprune.exporting.export import export

L = keras.layers

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
