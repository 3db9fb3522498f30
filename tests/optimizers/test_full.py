import keras
import numpy as np
import pytest

import tfprune
from tfprune import layers
from tfprune.optimizers import FullPreconditionedSGD, gradient_noise

N, S = 200, 10
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 3)).astype("float32")
Y = (X @ RNG.normal(size=(3, 2)) + RNG.normal(size=(N, 2))).astype("float32")
NOISE = np.cov(RNG.normal(size=(8, 50)))


def small_model(noise=NOISE, **options):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="d")])
    optimizer = FullPreconditionedSGD(noise, dataset_size=N, batch_size=S, **options)
    model.compile(optimizer, "mse", jit_compile=False)
    return model


def flat(model):
    return np.concatenate([w.ravel() for w in model.get_weights()]).astype("float64")


def gradient(model, x, y):
    """Of the mean squared error over two outputs, by hand."""
    kernel, bias = model.get_weights()
    error = (x @ kernel + bias - y) / len(x)
    return np.concatenate([(x.T @ error).ravel(), error.sum(0)])


def step_by_hand(model, noise, live=None, damping=0.0):
    step, live = np.zeros(8), np.ones(8, bool) if live is None else live
    kept = noise[np.ix_(live, live)] + damping * np.eye(live.sum())
    step[live] = np.linalg.solve(kept, gradient(model, X[:S], Y[:S])[live])
    return 2 * S / N * step


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_steps_are_by_the_inverse_of_the_covariance(damping, jit):
    model = small_model(damping=damping, learning_rate=0.5)
    model.jit_compile = jit
    before, step = flat(model), step_by_hand(model, NOISE, damping=damping)
    model.train_on_batch(X[:S], Y[:S])
    np.testing.assert_allclose(flat(model), before - 0.5 * step, rtol=1e-4, atol=1e-6)


def test_with_masks_the_covariance_of_live_elements_is_inverted_alone():
    model = small_model()
    model.train_on_batch(X[:S], Y[:S])
    for trainable, frozen in ((np.s_[1:], np.s_[2, 0]), (True, np.s_[0, 1])):
        tfprune.set_masks(model, "d", "kernel", trainable=trainable, frozen=frozen)
        masks = model.get_layer("d").masks_by_name.values()
        live = np.concatenate([np.asarray(mask.live).ravel() for mask in masks])
        before, step = flat(model), step_by_hand(model, NOISE, live)
        model.train_on_batch(X[:S], Y[:S])
        np.testing.assert_allclose(flat(model), before - step, rtol=1e-4, atol=1e-6)
        assert not step[~live].any()
        assert step[live].all()


def test_elements_without_measured_noise_stay():
    model = small_model()
    tfprune.set_masks(model, "d", "kernel", trainable=np.s_[1:])
    noise = gradient_noise(model, (X, Y), full=True)
    optimizer = FullPreconditionedSGD(noise, dataset_size=N, batch_size=S)
    model.compile(optimizer, "mse", jit_compile=False)
    tfprune.set_masks(model, "d", "kernel", trainable=True)
    live = np.arange(8) >= 2
    before, step = flat(model), step_by_hand(model, noise.covariance, live)
    model.train_on_batch(X[:S], Y[:S])
    np.testing.assert_allclose(flat(model), before - step, rtol=1e-3, atol=1e-6)


def test_it_is_saved_with_its_matrix(tmp_path):
    model = small_model(weight_decay=0.01, damping=0.1)
    model.train_on_batch(X[:S], Y[:S])
    model.save(tmp_path / "m.keras")
    other = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(other.optimizer.noise, NOISE)
    for each in (model, other):
        each.fit(X, Y, batch_size=S, shuffle=False, verbose=0)
    np.testing.assert_array_equal(flat(model), flat(other))
    again = FullPreconditionedSGD.from_config(model.optimizer.get_config())
    np.testing.assert_array_equal(again.noise, NOISE)


def test_a_weight_without_gradient_is_left_alone():
    variables = [keras.Variable(np.zeros(2)), keras.Variable(np.zeros(1))]
    noise = np.array([[2.0, 1.0, 0.5], [1.0, 2.0, 0.0], [0.5, 0.0, 1.0]])
    optimizer = FullPreconditionedSGD(noise, dataset_size=N, batch_size=S)
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply([np.array([1.0, 3.0], "float32"), None], variables)
    truth = -2 * S / N * np.linalg.solve(noise[:2, :2], [1, 3])
    np.testing.assert_allclose(np.asarray(variables[0]), truth, rtol=1e-5)
    assert not np.asarray(variables[1]).any()


def test_strip_asks_for_another_optimizer_and_leaves_the_model():
    hidden = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="h"), layers.Dense(2)])
    optimizer = FullPreconditionedSGD(np.eye(14), dataset_size=N, batch_size=S)
    hidden.compile(optimizer, "mse", jit_compile=False)
    hidden.train_on_batch(X[:S], Y[:S])
    tfprune.set_masks(hidden, "h", "kernel", trainable=np.s_[:, 1:])
    tfprune.set_masks(hidden, "h", "bias", trainable=[1])
    before = flat(hidden)
    with pytest.raises(ValueError, match="another optimizer first"):
        tfprune.strip(hidden)
    np.testing.assert_array_equal(flat(hidden), before)
    hidden.compile("sgd", "mse")
    assert tfprune.strip(hidden).count_params() == 4 + 4


def test_bad_input_is_refused():
    sizes = {"dataset_size": N, "batch_size": S}
    with pytest.raises(ValueError, match="at most 512"):
        FullPreconditionedSGD(np.eye(513), **sizes)
    with pytest.raises(ValueError, match="cannot be inverted"):
        FullPreconditionedSGD(np.ones((3, 3)), **sizes)
    with pytest.raises(ValueError, match="symmetric"):
        FullPreconditionedSGD(np.ones(3), **sizes)
    with pytest.raises(ValueError, match="damping"):
        FullPreconditionedSGD(np.eye(3), damping=-1, **sizes)
    with pytest.raises(ValueError, match="fewer examples"):
        FullPreconditionedSGD(np.eye(3), dataset_size=10, batch_size=10)
    model = small_model(np.eye(7))
    with pytest.raises(ValueError, match="trainable weights of the model"):
        model.train_on_batch(X[:S], Y[:S])
    with pytest.raises(ValueError, match="full=True"):
        FullPreconditionedSGD(gradient_noise(model, (X, Y)), **sizes)
