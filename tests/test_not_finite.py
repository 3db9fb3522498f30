"""NaN and infinity in data, weights and results: errors that say where; nothing is written."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tfprune._tools.finite import NotFiniteError

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.random((64, 6, 6, 1)).astype("float32")
Y = RNG.integers(0, 4, 64)


def network():
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            L.Conv2D(6, 3, activation="relu", name="stem"),
            L.BatchNormalization(name="norm"),
            L.Flatten(),
            L.Dense(8, activation="relu", name="wide"),
            L.Dense(4, activation="softmax", name="logits"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    return model


def masked(model=None):
    model = tfprune.prunable(network() if model is None else model)
    tfprune.prune_units(model, 0.5)
    return model


def with_bad_weight(value, layer="wide", weight="kernel"):
    model = network()
    variable = getattr(model.get_layer(layer), weight)
    array = np.array(variable)
    array[(1,) * array.ndim] = value
    variable.assign(array)
    return model


def bad(array, value):
    array = np.array(array)
    array[3, 2, 2, 0] = value
    return array


WITH_DATA = {
    "prune_units": lambda m, d: tfprune.prune_units(tfprune.prunable(m), 0.5, "taylor", data=d),
    "apoz": lambda m, d: tfprune.prune_units(tfprune.prunable(m), 0.5, "apoz", data=d),
    "prune_weights": lambda m, d: tfprune.prune_weights(tfprune.prunable(m), 0.5, "wanda", data=d),
    "sparsegpt": lambda m, d: tfprune.prune_weights(tfprune.prunable(m), 0.5, "sparsegpt", data=d),
    "obc": lambda m, d: tfprune.prune_weights(tfprune.prunable(m), 0.5, "obc", data=d),
    "freeze_weights": lambda m, d: tfprune.freeze_weights(tfprune.prunable(m), 0.5, data=d),
    "recalibrate": lambda m, d: tfprune.recalibrate(m, d),
    "reconstruct": lambda m, d: tfprune.reconstruct(masked(), m, d),
    "compensate": lambda m, d: tfprune.compensate(masked(), m, d),
    "distill": lambda m, d: tfprune.distill(masked(), m, d, epochs=1, verbose=0),
    "prune": lambda m, d: tfprune.prune(m, 0.5, d),
    "prune with epochs": lambda m, d: tfprune.prune(m, 0.5, d, recover=None, epochs=1),
    "sensitivity": lambda m, d: tfprune.sensitivity(m, data=d),
    "fit_and_shrink": lambda m, d: tfprune.fit_and_shrink(
        m, *d, stages={0: 0.5}, epochs=1, verbose=0
    ),
}
by_call = pytest.mark.parametrize("call", WITH_DATA.values(), ids=WITH_DATA)


@by_call
def test_data(call):
    with pytest.raises(NotFiniteError, match=r"nan at index \(3, 2, 2, 0\)"):
        call(network(), (bad(X, np.nan), Y))


@by_call
def test_weights(call):
    with pytest.raises(ValueError, match="finite") as caught:
        call(with_bad_weight(np.nan), (X, Y))
    assert "wide" in str(caught.value)


@pytest.mark.parametrize("name", ["apoz", "recalibrate"])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_batches_of_a_dataset(name, value):
    data = tf.data.Dataset.from_tensor_slices((bad(X, value), Y)).batch(3)
    with pytest.raises(NotFiniteError, match=r"in 1 batches, the first in batch 1\b"):
        WITH_DATA[name](network(), data)
    assert WITH_DATA[name](network(), tf.data.Dataset.from_tensor_slices((X, Y)).batch(3))


@pytest.mark.parametrize(
    ("value", "layer", "weight"),
    [(np.nan, "wide", "kernel"), (np.inf, "stem", "bias"), (np.nan, "norm", "moving_variance")],
)
def test_strip_and_export_name_the_weight(value, layer, weight, tmp_path):
    model = with_bad_weight(value, layer, weight)
    index = r"\(1, 1\)" if weight == "kernel" else r"\(1,\)"
    message = rf"{layer}/{weight}', {value} at index {index}"
    with pytest.raises(NotFiniteError, match=rf"{layer}/{weight}'"):
        tfprune.strip(model)
    for suffix in ("", ".keras", ".tflite"):
        name = {"": "saved_model", ".tflite": "litert"}.get(suffix, suffix[1:])
        with pytest.raises(NotFiniteError, match=message):
            tfprune.export(model, tmp_path / f"m{suffix}", format=name)
    assert not list(tmp_path.iterdir())


def test_representative_data(tmp_path):
    with pytest.raises(NotFiniteError, match="`representative_data`"):
        tfprune.export(
            network(),
            tmp_path / "m.tflite",
            format="litert",
            quantize="int8",
            representative_data=bad(X, np.inf),
        )
    assert not list(tmp_path.iterdir())


def test_training_that_diverges():
    model = network()
    model.compile(keras.optimizers.SGD(1e30), "mse", jit_compile=False)
    y = np.eye(4, dtype="float32")[Y]
    with pytest.raises(NotFiniteError, match="not finite"):
        tfprune.fit_and_shrink(model, X, y, stages={0: 0.5}, epochs=2, verbose=0)


def test_the_command_exits_with_1_and_writes_nothing(tmp_path, capsys):
    import tfprune_cli
    from tfprune.cli import commands

    network().save(tmp_path / "m.keras")
    with_bad_weight(np.nan).save(tmp_path / "w.keras")
    np.savez(tmp_path / "x.npz", x=bad(X, np.nan), y=Y)
    before = sorted(tmp_path.iterdir())
    out = ["-o", str(tmp_path / "out.keras")]
    data = ["--data", str(tmp_path / "x.npz"), "--budget", "macs=0.5"]
    for arguments in (["prune", "m.keras", *data, *out], ["strip", "w.keras", *out]):
        arguments[1] = str(tmp_path / arguments[1])
        assert commands.run(tfprune_cli.parse(arguments)) == 1
        message = capsys.readouterr().err.strip().splitlines()[-1]
        assert "nan at index" in message or "wide/kernel" in message
    assert sorted(tmp_path.iterdir()) == before
