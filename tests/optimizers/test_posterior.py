"""Logistic regressions sampled by `fit`, compared with their Laplace approximations."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfprune.callbacks import CollectPosterior
from tfprune.optimizers import (
    FullPreconditionedSGD,
    PreconditionedSGD,
    gradient_noise,
    independent_batches,
    optimal_learning_rate,
)

N, S, EVERY = 400, 5, 40
"""SGD forgets over N / (2 S) = 40 steps."""


def regressions(count, correlation, seed=0):
    """`count` data sets side by side, with the optima and inverse Hessians / N by Newton's method.

    Two features and a constant each. One model holds them all, so one `fit` makes many chains.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, count, 3))
    x[..., 1] = correlation * x[..., 0] + np.sqrt(1 - correlation**2) * x[..., 1]
    x[..., 2] = 1
    truth = np.array([0.5, -0.4, 0.2])
    y = rng.random((N, count)) < 1 / (1 + np.exp(-x @ truth))
    w = np.zeros((count, 3))
    for _ in range(15):
        p = 1 / (1 + np.exp(-np.einsum("nrd,rd->nr", x, w)))
        gradient = np.einsum("nrd,nr->rd", x, p - y) / N
        hessian = np.einsum("nrd,nre,nr->rde", x, x, p * (1 - p)) / N
        w = w - np.linalg.solve(hessian, gradient[..., None])[..., 0]
    return x.astype("float32"), y.astype("float32"), w, np.linalg.inv(hessian) / N


@keras.saving.register_keras_serializable("tfprune tests")
class Regressions(keras.layers.Layer):
    def build(self, shape):
        self.kernel = self.add_weight(shape=shape[1:], name="kernel")

    def call(self, x):
        return keras.ops.sum(x * self.kernel, axis=-1)


def log_loss(y, logits):
    """Summed over the regressions, so each has the gradient that it has alone."""
    return keras.ops.sum(keras.ops.softplus(logits) - y * logits, axis=-1)


def sample(data, optimizer, steps=8000, batches=None):
    x, y, optimum, _ = data
    model = keras.Sequential([keras.Input(x.shape[1:]), Regressions()])
    model.set_weights([optimum])
    model.compile("sgd", log_loss)
    model.compile(optimizer(model), log_loss, steps_per_execution=EVERY, jit_compile=False)
    posterior = CollectPosterior(burn_in=400, every=EVERY, max_samples=steps // EVERY)
    batches = independent_batches((x, y), S, steps=steps, seed=1) if batches is None else batches
    model.fit(batches, verbose=0, callbacks=[posterior])
    assert posterior.count == (steps - 400) // EVERY
    return posterior, np.stack([sample[0] for sample in posterior.samples]) - optimum


def whitened(samples, covariance):
    """Samples in which the posterior would be standard normal: (samples, regressions, 3)."""
    roots = np.linalg.cholesky(np.linalg.inv(covariance))
    return np.einsum("red,sre->srd", roots, samples)


def allowed(samples):
    """Four standard errors of a relative variance, of samples of correlation exp(-1) or so."""
    independent = samples.shape[0] * samples.shape[1] * (1 - np.exp(-2)) / (1 + np.exp(-2))
    return 4 * np.sqrt(2 / independent)


def diagonal(model):
    return PreconditionedSGD(dataset_size=N, batch_size=S)


@pytest.mark.slow
def test_full_preconditioner_samples_from_the_laplace_approximation():
    data = regressions(10, correlation=0.7)

    def optimizer(model):
        noise = gradient_noise(model, data[:2], full=True)
        return FullPreconditionedSGD(noise, dataset_size=N, batch_size=S)

    posterior, samples = sample(data, optimizer)
    found = whitened(samples, data[3])
    covariance = np.einsum("srd,sre->de", found, found) / found[..., 0].size
    np.testing.assert_allclose(covariance, np.eye(3), atol=allowed(samples) + S / N)
    assert abs(posterior.deviation[0] - samples.std(0, ddof=1)).max() < 1e-4
    # What is predicted is spread as the linear model says: var(x w) = x Sigma x.
    posterior.samples = posterior.samples[::10]
    x, spread = data[0][:50], posterior.predict(data[0][:50]).std(0)
    truth = np.sqrt(np.einsum("nrd,rde,nre->nr", x, data[3], x))
    assert abs((spread / truth).mean() - 1) < allowed(samples[::10]) / 2


@pytest.mark.slow
def test_diagonal_preconditioner_does_so_where_the_noise_is_nearly_diagonal():
    data = regressions(40, correlation=0.0)
    _, samples = sample(data, diagonal, 4000)
    ratio = (samples**2).mean(0) / np.einsum("rdd->rd", data[3])
    np.testing.assert_allclose(ratio.mean(0), 1, atol=allowed(samples) + 2 * S / N)


@pytest.mark.slow
def test_plain_sgd_does_so_at_the_optimal_learning_rate_where_all_directions_are_alike():
    data = regressions(40, correlation=0.0)

    def optimizer(model):
        rate = optimal_learning_rate(gradient_noise(model, data[:2]), batch_size=S)
        return keras.optimizers.SGD(rate)

    _, samples = sample(data, optimizer, 4000)
    ratio = (samples**2).mean(0) / np.einsum("rdd->rd", data[3])
    np.testing.assert_allclose(ratio.mean(), 1, atol=allowed(samples) + S / N)


@pytest.mark.slow
def test_batches_without_replacement_leave_less_than_half_of_the_variance():
    """Samples are taken in the middle and at the end of epochs, of 80 steps."""
    data = regressions(40, correlation=0.0)
    shuffled = tf.data.Dataset.from_tensor_slices(data[:2]).shuffle(N, seed=1).repeat(50).batch(S)
    _, samples = sample(data, diagonal, 4000, shuffled)
    ratio = (samples**2).mean(0) / np.einsum("rdd->rd", data[3])
    assert 0.25 < ratio.mean() < 0.45
