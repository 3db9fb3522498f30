import keras
import ml_dtypes
import numpy as np
import pytest

import tfprune
from tests.small_mlp import counting_traces
from tfprune import layers
from tfprune.masks.rewinding import Snapshot

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 6)).astype("float32")
Y = RNG.normal(size=(24, 2)).astype("float32")


def mlp(optimizer="adam", units=10, **kwargs):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(units, activation="relu", name="first"),
            layers.BatchNormalization(name="norm"),
            keras.layers.Dropout(0.5, name="drop"),
            layers.Dense(2, name="last"),
        ]
    )
    if optimizer is not None:
        model.compile(optimizer, "mse", **kwargs)
    return model


def fit(model, epochs=1):
    return model.fit(X, Y, batch_size=4, epochs=epochs, verbose=0, shuffle=False)


def state(model):
    variables = [*model.variables, *model.optimizer.variables]
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def assert_same(arrays, others):
    assert len(arrays) == len(others)
    for array, other in zip(arrays, others, strict=True):
        np.testing.assert_array_equal(array, other)


OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.01),
    "average": lambda: keras.optimizers.AdamW(0.01, use_ema=True, ema_overwrite_frequency=4),
    "momentum": lambda: keras.optimizers.SGD(0.01, momentum=0.9),
    "adafactor": lambda: keras.optimizers.Adafactor(0.01),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)),
    "accumulated": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=4),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("way", ["memory", "file"])
def test_training_on_from_a_rewind_is_training_on_from_that_step(optimizer, way, tmp_path):
    model = mlp(OPTIMIZERS[optimizer]())
    fit(model)
    at_step = state(model)
    snapshot = tfprune.capture(model)
    if way == "file":
        snapshot = Snapshot.load(snapshot.save(tmp_path / "six.npz"))
    fit(model, epochs=2)
    truth = state(model)
    tfprune.rewind(model, snapshot)
    assert_same(state(model), at_step)
    fit(model, epochs=2)
    assert_same(state(model), truth)


def test_a_snapshot_before_the_first_step_is_that_of_a_fresh_model():
    model = mlp()
    weights = model.get_weights()
    snapshot = tfprune.capture(model)
    assert snapshot.step == 0
    fit(model)
    first = state(model)
    tfprune.rewind(model, snapshot)
    assert_same(model.get_weights(), weights)
    assert int(model.optimizer.iterations) == 0
    fit(model)
    assert_same(state(model), first)


def test_masks_of_now_stay_and_slots_of_masked_elements_are_zero():
    model = mlp()
    fit(model)
    snapshot = tfprune.capture(model)
    fit(model)
    tfprune.prune_weights(model, 0.5)
    tfprune.set_masks(model, "last", "bias", frozen=[0])
    layer, last = model.get_layer("first"), model.get_layer("last")
    kept = np.array(layer.trainable_masks["kernel"])
    frozen = float(last.bias.numpy()[0])
    tfprune.rewind(model, snapshot)
    np.testing.assert_array_equal(layer.trainable_masks["kernel"], kept)
    kernel = snapshot.weights["first/kernel"]
    np.testing.assert_array_equal(layer.kernel, np.where(kept, kernel, 0))
    bias = snapshot.weights["last/bias"]
    np.testing.assert_array_equal(last.bias, [frozen, bias[1]])
    assert frozen != bias[0]
    for slot in ("momentum", "velocity"):
        name = f"first_kernel_{slot}"
        variable = next(v for v in model.optimizer.variables if v.path.endswith(name))
        np.testing.assert_array_equal(variable, np.where(kept, snapshot.optimizer[name], 0))
        assert snapshot.optimizer[name][~kept].any()
    fit(model)
    assert not np.array(layer.kernel)[~kept].any()


def test_a_model_made_prunable_rewinds_to_the_stock_model_it_was():
    stock = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2, name="d")])
    snapshot = tfprune.capture(stock)
    model = tfprune.prunable(stock)
    model.get_layer("d").kernel.assign(np.ones((6, 2)))
    tfprune.rewind(model, snapshot)
    np.testing.assert_array_equal(model.get_layer("d").kernel, stock.get_layer("d").kernel)


def test_the_same_model_made_again_goes_on_from_the_snapshot_of_the_first():
    first, again = mlp(), mlp()
    assert first.name != again.name
    fit(first)
    tfprune.rewind(again, tfprune.capture(first))
    for model in (first, again):
        fit(model)
    assert_same(state(again), state(first))


def test_nothing_is_traced_anew():
    model, traces = counting_traces(2, "adam")
    snapshot = tfprune.capture(model)
    fit(model)
    traces.clear()
    tfprune.rewind(model, snapshot)
    fit(model)
    assert not traces


def test_a_snapshot_does_not_follow_the_model():
    model = mlp()
    snapshot = tfprune.capture(model)
    before = {name: array.copy() for name, array in snapshot.weights.items()}
    fit(model)
    for name, array in snapshot.weights.items():
        np.testing.assert_array_equal(array, before[name])
    with pytest.raises(ValueError, match="read-only"):
        array[...] = 0


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: mlp(units=9), "'first/kernel' is another.*shape=\\(6, 10\\).*shape=\\(6, 9\\)"),
        (
            lambda: mlp(None),
            "both have an optimizer or neither",
        ),
        (lambda: mlp("sgd"), "no variable of the optimizer 'first_kernel_momentum'"),
    ],
    ids=["shape", "optimizer missing", "optimizer"],
)
def test_another_model_is_refused_and_nothing_changes(other, message):
    snapshot = tfprune.capture(mlp())
    model = other()
    before = model.get_weights()
    with pytest.raises(ValueError, match=f"(?s){message}"):
        tfprune.rewind(model, snapshot)
    assert_same(model.get_weights(), before)


def test_a_weight_that_is_missing_is_named():
    snapshot = tfprune.capture(mlp(None))
    model = keras.Sequential([keras.Input((6,)), layers.Dense(10, name="first")])
    with pytest.raises(ValueError, match="the model has no weight 'norm/gamma'"):
        tfprune.rewind(model, snapshot)


@pytest.mark.parametrize("snapshot", [3, "start.npz", None])
def test_what_is_no_snapshot_is_refused(snapshot):
    with pytest.raises(ValueError, match="`snapshot` must be a `Snapshot`.*load"):
        tfprune.rewind(keras.Sequential([keras.Input((2,)), layers.Dense(2)]), snapshot)


def test_a_model_that_is_not_built_is_refused():
    with pytest.raises(ValueError, match="must be built"):
        tfprune.capture(keras.Sequential([layers.Dense(2)]))


def test_files_keep_every_dtype(tmp_path):
    weights = {
        "a/b:0": RNG.normal(size=(3, 2)).astype(ml_dtypes.bfloat16),
        "c": RNG.normal(size=4).astype("float16"),
        "d": np.array(7, "int64"),
        "e": np.array([True, False]),
    }
    path = Snapshot(3, weights, (np.array([1, 2], "uint32"),), None).save(tmp_path / "s.npz")
    found = Snapshot.load(path)
    assert (found.step, found.optimizer, list(found.weights)) == (3, None, list(weights))
    for name, array in weights.items():
        assert found.weights[name].dtype == array.dtype
        np.testing.assert_array_equal(found.weights[name], array)
    np.testing.assert_array_equal(found.seeds[0], [1, 2])
    assert [file.name for file in tmp_path.iterdir()] == ["s.npz"]


def test_files_that_are_no_snapshots_are_refused(tmp_path):
    (tmp_path / "text.npz").write_text("nothing")
    np.savez(tmp_path / "other.npz", a=np.ones(2))
    for name in ("text.npz", "other.npz"):
        with pytest.raises(ValueError, match="must be a file that `Snapshot.save` wrote"):
            Snapshot.load(tmp_path / name)
    with pytest.raises(ValueError, match="must end in '.npz'"):
        tfprune.capture(mlp()).save(tmp_path / "snapshot.zip")
