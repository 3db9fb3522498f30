"""Stacked networks against one network at a time, in double precision by hand and in Keras."""

import keras
import numpy as np
import pytest

from tfprune.experiments import stacked

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 5)).astype("float32")
Y = RNG.integers(0, 3, 20)
SHAPES = [(4, 5, 6), (4, 6), (4, 6, 3), (4, 3)]


def networks():
    weights = [RNG.normal(size=shape).astype("float32") for shape in SHAPES]
    covariance = [RNG.uniform(0.01, 0.1, shape).astype("float32") for shape in SHAPES]
    masks = [RNG.random(shape) < 0.7 for shape in SHAPES]
    return stacked.Networks(weights, covariance, masks)


def gradient(weights, x, y, double_softmax=False):
    """Of the mean loss, by differences in double precision."""

    def loss(flat):
        parts = np.split(flat, np.cumsum([w.size for w in weights])[:-1])
        k1, b1, k2, b2 = (p.reshape(w.shape) for p, w in zip(parts, weights, strict=True))
        logits = np.tanh(x @ k1 + b1) @ k2 + b2
        for _ in range(2 if double_softmax else 1):
            exponents = np.exp(logits)
            logits = exponents / exponents.sum(axis=1, keepdims=True)
        return -np.log(logits[np.arange(len(y)), y]).mean()

    flat = np.concatenate([w.ravel() for w in weights]).astype("float64")
    steps = 1e-5 * np.eye(len(flat))
    found = np.array([(loss(flat + s) - loss(flat - s)) / 2e-5 for s in steps])
    parts = np.split(found, np.cumsum([w.size for w in weights])[:-1])
    return [p.reshape(w.shape) for p, w in zip(parts, weights, strict=True)]


@pytest.mark.parametrize("double_softmax", [False, True])
def test_the_gradient_of_each_replica(double_softmax):
    several = networks()
    found = stacked.gradients(several, X, Y, double_softmax=double_softmax)
    for replica in (0, 3):
        expected = gradient([w[replica] for w in several.weights], X, Y, double_softmax)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours[replica], theirs, atol=1e-6)


@pytest.mark.parametrize("rule", ["preconditioned", "sgd"])
def test_steps_are_what_the_formula_says(rule):
    several = networks()
    update = stacked.Update(0.02, batch_size=4, dataset_size=20, kappa=2.0, rule=rule)
    batches = RNG.integers(0, 20, (3, 5))
    after = stacked.train(several, X, Y, batches, update)
    assert after.step == several.step + 3
    for replica in range(4):
        weights = [w[replica].astype("float64") for w in several.weights]
        covariance = [c[replica].astype("float64") for c in several.covariance]
        masks = [m[replica] for m in several.masks]
        for t, batch in zip((10, 11, 12), batches, strict=True):
            g_s = gradient(weights, X[batch[:4]], Y[batch[:4]])
            g_1 = gradient(weights, X[batch[4:]], Y[batch[4:]])
            k = 2.0 / t
            covariance = [
                (1 - k) * c + k * (a - b) ** 2 for c, a, b in zip(covariance, g_1, g_s, strict=True)
            ]
            scale = [2 * 4 / (20 * c) if rule == "preconditioned" else 1.0 for c in covariance]
            moves = [0.02 * h * g * m for h, g, m in zip(scale, g_s, masks, strict=True)]
            weights = [w - move for w, move in zip(weights, moves, strict=True)]
        for ours, theirs in zip(after.weights, weights, strict=True):
            np.testing.assert_allclose(ours[replica], theirs, rtol=1e-4, atol=1e-5)
        if rule == "preconditioned":
            for ours, theirs in zip(after.covariance, covariance, strict=True):
                np.testing.assert_allclose(ours[replica], theirs, rtol=1e-3, atol=1e-6)
    for ours, before, mask in zip(after.weights, several.weights, several.masks, strict=True):
        np.testing.assert_array_equal(ours[~mask], before[~mask])
        assert (ours[mask] != before[mask]).mean() > 0.95


def test_replicas_do_not_depend_on_their_neighbours():
    several = networks()
    update = stacked.Update(0.02, batch_size=4, dataset_size=20)
    batches = RNG.integers(0, 20, (150, 5))
    together = stacked.train(several, X, Y, batches, update)
    alone = stacked.train(several.take([2]), X, Y, batches, update)
    for ours, theirs in zip(together.weights, alone.weights, strict=True):
        np.testing.assert_allclose(ours[2], theirs[0], rtol=1e-3, atol=1e-4)
    one_by_one = stacked.together([several.take([place]) for place in range(4)])
    for ours, theirs in zip(one_by_one.masks, several.masks, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_accuracy_is_that_of_a_keras_model():
    several = networks()
    model = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(6, "tanh"), keras.layers.Dense(3)]
    )
    model.set_weights([w[1] for w in several.weights])
    expected = (model.predict(X, verbose=0).argmax(axis=1) == Y).mean()
    assert stacked.accuracy(several, X, Y)[1] == expected


def test_batches_of_another_size_are_refused():
    update = stacked.Update(0.02, batch_size=4, dataset_size=20)
    with pytest.raises(ValueError, match=r"`batches`.*\(3, 4\)"):
        stacked.train(networks(), X, Y, np.zeros((3, 4), int), update)


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="`rule`.*'adam'"):
        stacked.Update(0.02, batch_size=4, dataset_size=20, rule="adam")
