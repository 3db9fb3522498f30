"""Models that compute in half precision: every function and every format takes them."""

import keras
import numpy as np
import pytest

import tfprune
from tfprune.exporting import loading

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.random((64, 8, 8, 1)).astype("float32")
Y = RNG.integers(0, 10, 64)
ROUNDING = {"float16": 2**-11, "bfloat16": 2**-8}


def network(policy, seed=3):
    """In the policy, with the same weights in each."""
    keras.utils.set_random_seed(seed)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                L.Conv2D(8, 3, activation="relu", name="stem"),
                L.BatchNormalization(name="norm"),
                L.Flatten(),
                L.LayerNormalization(name="layer_norm"),
                L.Dense(16, activation="relu", name="wide"),
                L.Dense(10, activation="softmax", dtype="float32", name="logits"),
            ]
        )
        model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
        return model
    finally:
        keras.config.set_dtype_policy(before)


def half_pruned(policy):
    model = tfprune.prunable(network(policy))
    tfprune.prune_units(model, 0.5)
    return model


def in_float32(policy):
    """The same weights in single precision: what a half-precision model means."""
    model = network("float32")
    model.set_weights(network(policy).get_weights())
    return model


by_policy = pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])


@by_policy
@pytest.mark.parametrize("quantize", [None, "float16", "dynamic", "int8"])
def test_litert_computes_in_single_precision(policy, quantize, tmp_path):
    data = {"representative_data": X} if quantize == "int8" else {}
    path = tmp_path / "m.tflite"
    tfprune.export(network(policy), path, format="litert", quantize=quantize, **data)
    (output,) = _outputs(path)
    limit = {None: 1e-5, "float16": 3e-3, "dynamic": 0.05, "int8": 0.3}[quantize]
    truth = np.asarray(in_float32(policy)(X))
    assert np.linalg.norm(output - truth) <= limit * np.linalg.norm(truth)


@by_policy
@pytest.mark.parametrize("suffix", [".onnx", ".keras", ""])
def test_other_formats(policy, suffix, tmp_path):
    model, path = network(policy), tmp_path / f"m{suffix}"
    name = {"": "saved_model"}.get(suffix, suffix[1:])
    tfprune.export(model, path, format=name)
    (output,) = _outputs(path)
    truth = np.asarray(model(X), "float32")
    limit = 30 * ROUNDING[policy.removeprefix("mixed_")]
    assert np.linalg.norm(output - truth) <= limit * np.linalg.norm(truth)


def _outputs(path):
    exported = loading.load(path)
    return list(exported.run(dict.fromkeys(exported.shapes, X)).values())


@by_policy
def test_statistics_are_taken_in_double_precision(policy):
    model = network(policy)
    new = tfprune.recalibrate(model, (X, Y))
    stem = model.get_layer("stem")
    inputs = np.asarray(stem(X), "float64")
    norm = new.get_layer("norm")
    np.testing.assert_allclose(norm.moving_mean, inputs.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(norm.moving_variance, inputs.var((0, 1, 2)), rtol=1e-6)


CALLS = {
    "prune": lambda p: tfprune.prune(network(p), tfprune.budgets.MACs(0.5), (X, Y)),
    "prune, distilled": lambda p: tfprune.prune(
        network(p), 0.5, (X, Y), criterion="taylor", recover="distill", epochs=1
    ),
    "compensate": lambda p: tfprune.compensate(half_pruned(p), network(p), (X,)),
    "reconstruct": lambda p: tfprune.reconstruct(half_pruned(p), network(p), (X,)),
    "second order": lambda p: tfprune.prune_weights(
        tfprune.prunable(network(p)), 0.5, "second_order", data=(X, Y)
    ),
    "freeze": lambda p: tfprune.freeze_weights(tfprune.prunable(network(p)), 0.5, data=(X, Y)),
    "shrink": lambda p: tfprune.fit_and_shrink(
        network(p), X, Y, stages={1: tfprune.budgets.MACs(0.5)}, epochs=2, verbose=0
    ),
    "sensitivity": lambda p: tfprune.sensitivity(network(p), data=(X, Y)),
    "callback": lambda p: tfprune.prunable(network(p)).fit(
        X,
        Y,
        verbose=0,
        callbacks=[tfprune.callbacks.PruneUnits(0.5, "activation_contribution")],
    ),
}


@pytest.mark.slow
@by_policy
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_function(policy, call):
    assert call(policy) is not None
