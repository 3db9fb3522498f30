"""The theory against closed forms: stationary laws of linear-Gaussian SGD, and data by hand."""

import keras
import numpy as np
import pytest
import scipy.linalg

import tfprune
from tfprune import layers
from tfprune.optimizers import (
    averaging_covariance,
    gradient_noise,
    optimal_learning_rate,
    optimal_preconditioner,
)

S, N = 10, 2000


def random_matrix(seed, size=4):
    """Symmetric and positive definite, with eigenvalues from 0.5 to 3."""
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.normal(size=(size, size)))[0]
    return q @ np.diag(np.linspace(0.5, 3, size)) @ q.T


HESSIAN, NOISE = random_matrix(0), random_matrix(1)


def simulate(preconditioner, steps, chains=20_000, momentum=0.0, hessian=HESSIAN, seed=0):
    """Chains of w <- w - H (A w + noise); their last iterates and their means."""
    rng = np.random.default_rng(seed)
    factor = np.linalg.cholesky(NOISE / S)
    w = v = total = np.zeros((chains, len(hessian)))
    for _ in range(steps):
        gradient = w @ hessian + rng.normal(size=w.shape) @ factor.T
        v = momentum * v - gradient @ preconditioner.T
        w = w + v
        total = total + w
    return w, total / steps


def assert_covariance(samples, truth, bias=0.0):
    """Each element within four and a half standard errors, and what is known to be left over."""
    found = samples.T @ samples / len(samples)
    variance = np.diag(truth)
    errors = np.sqrt((np.outer(variance, variance) + truth**2) / len(samples))
    allowed = 4.5 * errors + bias * np.sqrt(np.outer(variance, variance))
    assert (abs(found - truth) < allowed).all(), (found, truth, errors)


def kl(covariance, posterior):
    """KL(N(0, covariance) || N(0, posterior))."""
    ratio = np.linalg.solve(posterior, covariance)
    return (np.trace(ratio) - len(ratio) - np.linalg.slogdet(ratio)[1]) / 2


def stationary(learning_rate, noise=NOISE):
    """Sigma A + A Sigma = (eps / S) C."""
    return scipy.linalg.solve_continuous_lyapunov(HESSIAN, learning_rate / S * noise)


@pytest.mark.parametrize("noise", [NOISE, 40 * random_matrix(7)], ids=["small", "large"])
def test_theorem_1_minimises_the_divergence_from_the_posterior(noise):
    posterior = np.linalg.inv(HESSIAN) / N
    grid = np.geomspace(1e-5, 1, 2001)
    divergences = [kl(stationary(rate, noise), posterior) for rate in grid]
    best = optimal_learning_rate(noise, batch_size=S, dataset_size=N)
    assert abs(np.log(best / grid[np.argmin(divergences)])) < np.log(grid[1] / grid[0])


def test_plain_sgd_at_the_rate_of_theorem_1_has_the_law_that_the_theorem_is_about():
    rate = optimal_learning_rate(NOISE, batch_size=S, dataset_size=N)
    step = np.eye(4) - rate * HESSIAN
    exact = scipy.linalg.solve_discrete_lyapunov(step, rate**2 / S * NOISE)
    np.testing.assert_allclose(exact, stationary(rate), rtol=0.05, atol=0.05 * exact.max())
    samples, _ = simulate(rate * np.eye(4), 1500, chains=4000)
    assert_covariance(samples, exact)


def test_momentum_divides_the_rate_of_theorem_1():
    """Where A and C commute, Sigma A + A Sigma = (eps / (mu S)) C: the same law."""
    plain = optimal_learning_rate(NOISE, batch_size=S, dataset_size=N)
    rate = optimal_learning_rate(NOISE, batch_size=S, dataset_size=N, momentum=0.75)
    assert rate == pytest.approx(plain / 4)
    hessian = NOISE
    samples, _ = simulate(rate * np.eye(4), 1500, chains=4000, momentum=0.75, hessian=hessian)
    assert_covariance(samples, plain / (2 * S) * np.eye(4), bias=0.02)


def test_theorem_2_samples_from_the_posterior():
    preconditioner = optimal_preconditioner(NOISE, batch_size=S, dataset_size=N)
    step = np.eye(4) - preconditioner @ HESSIAN
    exact = scipy.linalg.solve_discrete_lyapunov(
        step, preconditioner @ NOISE @ preconditioner.T / S
    )
    posterior = np.linalg.inv(HESSIAN) / N
    np.testing.assert_allclose(exact, posterior, rtol=0.1, atol=0.05 * posterior.max())
    samples, _ = simulate(preconditioner, 800, chains=10_000)
    assert_covariance(samples, exact)
    smaller = optimal_preconditioner(NOISE, batch_size=S, dataset_size=1000 * N)
    step = np.eye(4) - smaller @ HESSIAN
    exact = scipy.linalg.solve_discrete_lyapunov(step, smaller @ NOISE @ smaller.T / S)
    np.testing.assert_allclose(exact, posterior / 1000, rtol=1e-3, atol=1e-6 * posterior.max())


def test_corollary_3_is_the_best_diagonal_where_the_noise_is_diagonal():
    variance = np.array([0.3, 1.0, 2.0, 5.0])
    best = optimal_preconditioner(variance, batch_size=S, dataset_size=N)
    np.testing.assert_allclose(best, 2 * S / (N * variance))

    def divergence(preconditioner):
        drift = np.diag(preconditioner) @ HESSIAN
        sigma = scipy.linalg.solve_continuous_lyapunov(
            drift, np.diag(preconditioner**2 * variance) / S
        )
        return kl(sigma, np.linalg.inv(HESSIAN) / N)

    for place in range(4):
        for factor in (0.9, 1.1):
            other = best.copy()
            other[place] *= factor
            assert divergence(best) < divergence(other)


def test_mean_of_iterates_has_the_covariance_of_averaging():
    steps = 3000
    preconditioner = optimal_preconditioner(NOISE, batch_size=S, dataset_size=200)
    _, means = simulate(preconditioner, steps, chains=3000)
    truth = averaging_covariance(HESSIAN, NOISE, batch_size=S, steps=steps)
    inverse = np.linalg.inv(HESSIAN)
    np.testing.assert_allclose(truth, inverse @ NOISE @ inverse / (steps * S))
    assert_covariance(means, truth, bias=0.03)
    with pytest.raises(ValueError, match="shape"):
        averaging_covariance(np.eye(3), NOISE, batch_size=S, steps=steps)


def linear_model(module=keras.layers, features=3):
    model = keras.Sequential([keras.Input((features,)), module.Dense(2, name="d")])
    model.compile("sgd", "mse")
    return model


def per_example_gradients(model, x, y):
    """Of the mean over 2 outputs of squared errors, by hand: kernel elements, then biases."""
    kernel, bias = (np.asarray(w, "float64") for w in model.get_weights())
    error = x @ kernel + bias - y
    kernels = x[:, :, None] * error[:, None, :]
    return np.concatenate([kernels.reshape(len(x), -1), error], axis=1)


def some_data(examples=37, features=3):
    rng = np.random.default_rng(5)
    return rng.normal(size=(examples, features)), rng.normal(size=(examples, 2))


def test_gradient_noise_is_the_covariance_over_examples():
    model, (x, y) = linear_model(), some_data()
    gradients = per_example_gradients(model, x, y)
    noise = gradient_noise(model, (x, y), full=True, batch_size=8)
    covariance = np.cov(gradients.T, bias=True)
    np.testing.assert_allclose(noise.covariance, covariance, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(noise.mean[0].ravel(), gradients.mean(0)[:6], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(noise.variance[1], np.diag(covariance)[6:], rtol=1e-4)
    assert (noise.examples, noise.parameters) == (37, 8)
    assert noise.trace == pytest.approx(np.trace(covariance), rel=1e-4)
    diagonal = gradient_noise(model, (x, y))
    assert diagonal.covariance is None
    for one, other in zip(diagonal.variance, noise.variance, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    rate = optimal_learning_rate(noise, batch_size=4)
    assert rate == pytest.approx(2 * 4 * 8 / (37 * np.trace(covariance)), rel=1e-4)
    truth = 2 * 4 / 37 * np.linalg.inv(covariance)
    found = optimal_preconditioner(noise, batch_size=4)
    np.testing.assert_allclose(found, truth, rtol=1e-2, atol=1e-2 * truth.max())


def test_masked_elements_have_no_noise_and_are_no_parameters():
    model, (x, y) = linear_model(layers), some_data()
    tfprune.set_masks(model, "d", "kernel", trainable=np.s_[1:], frozen=np.s_[2, 0])
    gradients = per_example_gradients(model, x, y)
    live = np.array([0, 0, 1, 1, 0, 1, 1, 1], bool)
    noise = gradient_noise(model, (x, y), full=True)
    truth = np.cov(gradients.T, bias=True) * np.outer(live, live)
    np.testing.assert_allclose(noise.covariance, truth, rtol=1e-4, atol=1e-5)
    assert noise.parameters == 5
    preconditioner = optimal_preconditioner(noise, batch_size=4)
    assert not preconditioner[~live].any()
    inverse = 2 * 4 / 37 * np.linalg.inv(truth[np.ix_(live, live)])
    np.testing.assert_allclose(preconditioner[np.ix_(live, live)], inverse, rtol=1e-2, atol=1e-2)


def test_bad_input_is_refused():
    model, (x, y) = linear_model(), some_data(5)
    noise = gradient_noise(model, (x, y), full=True)
    with pytest.raises(ValueError, match="cannot be inverted"):
        optimal_preconditioner(noise, batch_size=2)
    assert np.isfinite(optimal_preconditioner(noise, batch_size=2, damping=0.1)).all()
    with pytest.raises(ValueError, match="symmetric"):
        optimal_preconditioner(np.triu(np.ones((2, 2))), batch_size=2, dataset_size=4)
    with pytest.raises(ValueError, match="dataset_size"):
        optimal_learning_rate(np.eye(2), batch_size=2)
    with pytest.raises(ValueError, match="trace"):
        optimal_learning_rate(np.zeros(2), batch_size=2, dataset_size=10)
    with pytest.raises(ValueError, match="momentum"):
        optimal_learning_rate(np.eye(2), batch_size=2, dataset_size=10, momentum=1.0)
    large = keras.Sequential([keras.Input((100,)), keras.layers.Dense(50)])
    large.compile("sgd", "mse")
    with pytest.raises(ValueError, match="at most 4,096"):
        gradient_noise(large, (np.ones((2, 100)), np.ones((2, 50))), full=True)
    with pytest.raises(ValueError, match="loss"):
        gradient_noise(keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]), (x, y))
