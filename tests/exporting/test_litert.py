import pickle
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tests.export_models import ZOO, chain, floats, quantized, sequential
from tests.exported_models import block_sparse, cnn, lstm, mlp
from tfprune.exporting import litert, loading
from tfprune.exporting.checks import relative_error
from tfprune.exporting.export import export

L = keras.layers

RUN_WITHOUT_KERAS = """
import importlib, pathlib, pickle, sys
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
    run = tf.lite.Interpreter(model_path=path).get_signature_runner("serving_default")
    answers[name] = run(**inputs)
pathlib.Path(sys.argv[2]).write_bytes(pickle.dumps(answers))
"""
# What rounding may cost: 2**-11 for a float16 and 1 / 254 of the range for an int8 weight, times
# a few for the layers in a row.
ERRORS = {None: 1e-5, "float16": 3e-3, "dynamic": 0.03, "int8": 0.1}
MODELS = {
    "cnn": (cnn, floats(64, 12, 12, 3), None),
    "mlp": (mlp, floats(64, 64), None),
    "lstm": (lstm, floats(64, 6, 8), 1),
    "lstm of 2": (lstm, floats(64, 6, 8), 2),
    "unrolled lstm": (lambda: lstm(unroll=True), floats(64, 6, 8), 1),
}
CASES = [
    *((name, quantize) for name in ("cnn", "mlp") for quantize in ERRORS),
    ("lstm", None),
    ("lstm", "dynamic"),
    ("lstm of 2", "float16"),
    ("unrolled lstm", "int8"),
]
NAMES = [f"{name}, {quantize or 'float32'}" for name, quantize in CASES]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Each case exported, with what it gives in a process without Keras and what it should."""
    keras.utils.set_random_seed(0)
    directory = tmp_path_factory.mktemp("litert")
    models = {name: make() for name, (make, _, _) in MODELS.items()}
    jobs, expected = {}, {}
    for name, (model, quantize) in zip(NAMES, CASES, strict=True):
        _, data, batch_size = MODELS[model]
        path = export(
            models[model],
            directory / f"{name}.tflite",
            format="litert",
            quantize=quantize,
            representative_data=data if quantize == "int8" else None,
            batch_size=batch_size,
        )
        inputs = data[: batch_size or 5]
        jobs[name] = (str(path), {"x": inputs})
        expected[name] = models[model](inputs, training=False).numpy()
    (directory / "jobs").write_bytes(pickle.dumps(jobs))
    subprocess.run(
        [sys.executable, "-c", RUN_WITHOUT_KERAS, directory / "jobs", directory / "answers"],
        check=True,
        cwd=directory,
        capture_output=True,
    )
    answers = pickle.loads((directory / "answers").read_bytes())
    return {name: (directory / f"{name}.tflite", answers[name], expected[name]) for name in NAMES}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "quantize"), list(zip(NAMES, (q for _, q in CASES), strict=True)))
def test_another_process_gets_what_the_model_computes(files, name, quantize):
    _, answers, expected = files[name]
    assert list(answers) == ["y"]
    assert answers["y"].dtype == np.float32
    error = np.sqrt(np.mean((answers["y"] - expected) ** 2) / np.mean(expected**2))
    assert error < ERRORS[quantize]


def test_files_shrink_with_the_precision(files):
    sizes = {q: files[f"mlp, {q}"][0].stat().st_size for q in ("float32", "float16", "dynamic")}
    full = files["mlp, int8"][0].stat().st_size
    weights = 64 * 64 + 64 * 64 + 64 * 10 + 64 + 64 + 10
    assert 4 * weights < sizes["float32"] < 4 * weights + 4000
    assert 2 * weights < sizes["float16"] < 2 * weights + 4000
    assert weights < sizes["dynamic"] < 2 * weights + 4000
    assert weights < full < sizes["float16"]


def test_int8_computes_in_int8_alone(files):
    details = loading.interpreter(files["cnn, int8"][0].read_bytes()).get_tensor_details()
    floating = [tensor["name"] for tensor in details if tensor["dtype"] is np.float32]
    assert len(floating) == 2  # what goes in and what comes out


@pytest.mark.parametrize("name", ["list of inputs", "dicts", "dynamic sizes", "attention"])
def test_names_and_structures_of_inputs_and_outputs(tmp_path, name):
    make, inputs = ZOO[name]
    model = make()
    run = loading.load(export(model, tmp_path / "m.tflite", format="litert")).run
    given = inputs if isinstance(model.input, dict) else [inputs[t.name] for t in model.inputs]
    given = given if len(inputs) > 1 else given[0]
    expected = model(given, training=False)
    outputs = run(inputs)
    if isinstance(expected, dict):
        assert outputs.keys() == expected.keys()
    else:
        expected = {next(iter(outputs)): expected}
    for key, value in expected.items():
        np.testing.assert_allclose(outputs[key], value, rtol=1e-5, atol=1e-6)


def test_the_batch_stays_dynamic(tmp_path):
    file = loading.load(export(sequential(), tmp_path / "m.tflite", format="litert"))
    assert file.shapes == {"x": (None, 3)}
    for count in (1, 7, 2):
        assert file.run({"x": floats(count, 3)})["y"].shape == (count, 2)


def test_datasets_calibrate_as_arrays_do(tmp_path):
    model, data = mlp(), MODELS["mlp"][1]
    dataset = tf.data.Dataset.from_tensor_slices((data, np.zeros(64))).batch(32)
    contents = [
        export(
            model,
            tmp_path / f"{i}.tflite",
            format="litert",
            quantize="int8",
            representative_data=given,
        ).read_bytes()
        for i, given in enumerate((data, dataset, 100 * data))
    ]
    outputs = [loading.litert(content).run({"x": data})["y"] for content in contents]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert np.abs(outputs[0] - outputs[2]).max() > 0.01


# Sparse ------------------------------------------------------------------------------------------


def test_blocks_of_zeros_are_not_stored_and_outputs_stay(tmp_path):
    model = block_sparse(0.9)
    dense, sparse = (
        export(model, tmp_path / f"{flag}.tflite", format="litert", sparse=flag)
        for flag in (False, True)
    )
    saved = 0.9 * 2 * 64 * 64 * 4
    assert 0.7 * saved < dense.stat().st_size - sparse.stat().st_size < saved
    x = floats(5, 64)
    np.testing.assert_allclose(loading.load(sparse).run({"x": x})["y"], model(x), atol=1e-5)


def test_int8_is_sparse_for_its_size(tmp_path):
    model, data = block_sparse(0.9), floats(100, 64)
    options = {"format": "litert", "quantize": "int8", "representative_data": data}
    dense, sparse = (
        export(model, tmp_path / f"{flag}.tflite", sparse=flag, **options)
        for flag in (False, "size")
    )
    assert sparse.stat().st_size < dense.stat().st_size
    outputs = [loading.load(path).run({"x": data})["y"] for path in (dense, sparse)]
    np.testing.assert_array_equal(*outputs)


def test_single_zeros_make_a_smaller_file_that_computes_the_same(tmp_path):
    model = mlp()
    for layer in model.layers:
        kernel = layer.kernel.numpy()
        layer.kernel.assign(np.where(np.abs(kernel) > np.quantile(np.abs(kernel), 0.8), kernel, 0))
    dense, sparse = (
        export(model, tmp_path / f"{flag}.tflite", format="litert", sparse=flag)
        for flag in (False, "size")
    )
    assert sparse.stat().st_size < 0.7 * dense.stat().st_size


def sparse_convolutions():
    """1x1 convolutions with nine zeros in ten."""
    layers = [L.Conv2D(64, 1, activation="relu", name="pointwise"), L.Conv2D(64, 1, name="y")]
    model = chain(keras.Input((4, 4, 32), name="x"), *layers)
    for layer in layers:
        kernel = layer.kernel.numpy()
        layer.kernel.assign(kernel * (np.abs(kernel) > np.quantile(np.abs(kernel), 0.9)))
    return model


def test_zeros_of_convolutions_are_left_out_of_the_file(tmp_path):
    model, x = sparse_convolutions(), floats(2, 4, 4, 32)
    dense, sparse = (
        export(model, tmp_path / f"{flag}.tflite", format="litert", sparse=flag)
        for flag in (False, "size")
    )
    assert sparse.stat().st_size < 0.5 * dense.stat().st_size
    np.testing.assert_allclose(loading.load(sparse).run({"x": x})["y"], model(x), atol=1e-5)


# What is refused ---------------------------------------------------------------------------------


def masked():
    return chain(keras.Input((3,)), tfprune.layers.Dense(2, name="masked"))


def recurrent():
    return chain(keras.Input((4, 3)), L.GRU(4))


def stateful():
    return chain(keras.Input(batch_shape=(1, 4, 3)), L.GRU(4, stateful=True))


def few_zeros():
    return block_sparse(0.6)


DATA = {"representative_data": floats(32, 3)}
REFUSED = {
    "masks": (masked, {}, r"carries masks.*'masked'.*tfprune.strip\(model\)"),
    "suffix": (sequential, {"path": "m.lite"}, "must end in `.tflite`"),
    "precision": (sequential, {"quantize": "int4"}, "'float16', 'dynamic' or 'int8'"),
    "no data": (sequential, {"quantize": "int8"}, "`representative_data` must be given"),
    "other data": (
        sequential,
        {"quantize": "int8", "representative_data": floats(9, 4)},
        r"shapes \[\(None, 3\)\].*\[\(9, 4\)\]",
    ),
    "no samples": (sequential, {"representative_data": floats(0, 3)}, "at least one batch"),
    "too few samples": (sequential, {"batch_size": 64, **DATA}, "at least one batch"),
    "dynamic and sparse": (
        lambda: block_sparse(0.9),
        {"quantize": "dynamic", "sparse": True},
        "computes something else",
    ),
    "float16 and sparse": (
        lambda: block_sparse(0.9),
        {"quantize": "float16", "sparse": "size"},
        "computes something else",
    ),
    "int8 and sparse": (sequential, {"quantize": "int8", "sparse": True, **DATA}, "'size'"),
    "unknown sparse": (sequential, {"sparse": "small"}, "False, True or 'size'"),
    "too few zeros": (few_zeros, {"sparse": True}, r"60 % in blocks of 4 inputs \(.*hidden"),
    "zeros in 1x1 convolutions": (
        sparse_convolutions,
        {"sparse": True},
        "on ARM, .*2 such kernels .*pointwise",
    ),
    "no zeros": (sequential, {"sparse": "size"}, r"Block\(\(4, 1\)\)"),
    "inputs that blocks do not divide": (
        lambda: block_sparse(0.9, inputs=62),
        {"sparse": True},
        "hidden.* with 62 inputs in blocks of 4",
    ),
    "recurrent": (recurrent, {}, "`batch_size=1`"),
    "recurrent, int8": (
        recurrent,
        {"quantize": "int8", "batch_size": 1, "representative_data": floats(9, 4, 3)},
        "unroll=True",
    ),
    "other batch": (
        lambda: chain(keras.Input(batch_shape=(2, 3)), L.Dense(2)),
        {"batch_size": 1},
        "the one that the model fixes",
    ),
    "no batch": (sequential, {"batch_size": 0}, "at least 1"),
    "quantized by Keras": (quantized, {}, "`model.quantize`.*layer='dense"),
    "state": (stateful, {}, "stateful=False"),
    "tolerance": (sequential, {"tolerance": -1}, "must be above 0"),
    "option of no format": (sequential, {"opset": 3}, r"\['opset'\] with format='litert'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_and_nothing_is_written(tmp_path, monkeypatch, case):
    make, arguments, message = REFUSED[case]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        export(make(), **{"path": "new/m.tflite", "format": "litert", **arguments})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ["saved_model", "keras"])
def test_other_formats_take_no_options_of_litert(tmp_path, format):
    path = tmp_path / ("m.keras" if format == "keras" else "m")
    with pytest.raises(ValueError, match=r"\['quantize'\] with format.*`overwrite` alone"):
        export(sequential(), path, format=format, quantize="int8")


def test_a_file_that_computes_something_else_is_not_left_behind(tmp_path, monkeypatch):
    path = export(sequential(), tmp_path / "m.tflite", format="litert")
    before = path.read_bytes()
    monkeypatch.setattr(litert, "_converted", lambda *_: before)
    with pytest.raises(RuntimeError, match="does not compute what the model computes.*'y'"):
        export(sequential(), path, format="litert", overwrite=True)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_loss_of_precision_beyond_the_tolerance_is_refused(tmp_path):
    model = sequential()
    model.layers[0].kernel.assign(np.full((3, 2), 1e6))  # no float16 is above 65504
    with pytest.raises(RuntimeError, match="larger `tolerance`"):
        export(model, tmp_path / "m.tflite", format="litert", quantize="float16")
    with pytest.raises(RuntimeError, match=r"more than 1e-05"):
        export(mlp(), tmp_path / "m.tflite", format="litert", quantize="dynamic", tolerance=1e-5)
    assert list(tmp_path.iterdir()) == []


def test_the_error_is_that_of_the_whole_output():
    a = np.array([[3.0, 0.0], [0.0, 4.0]])
    assert relative_error(a, a + [[0.0, 0.0], [0.5, 0.0]]) == pytest.approx(0.1)
    assert relative_error(a, a[:1]) == float("inf")
    assert relative_error(a, np.where(a == 4, np.nan, a)) == float("inf")
    assert relative_error(np.array([np.nan, 1]), np.array([np.nan, 1])) == 0
    assert relative_error(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])) == 0.25
    assert relative_error(np.zeros(3), np.full(3, 1e-30)) == float("inf")
