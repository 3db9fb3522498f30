import keras
import numpy as np
import pytest

import tfprune
from tfprune import layers
from tfprune.callbacks import CollectPosterior

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 3)).astype("float32")
Y = RNG.normal(size=(24, 2)).astype("float32")


class Trajectory(keras.callbacks.Callback):
    """All weights by step."""

    def __init__(self):
        super().__init__()
        self.found = {}

    def on_train_batch_end(self, batch, logs=None):
        self.found[int(self.model.optimizer.iterations)] = self.model.get_weights()


def small_model(**options):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(4, name="d"), layers.BatchNormalization(), layers.Dense(2)]
    )
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False, **options)
    return model


def fit(model, *callbacks, epochs=1):
    options = {"batch_size": 2, "epochs": epochs, "shuffle": False, "verbose": 0}
    return model.fit(X, Y, callbacks=list(callbacks), **options)


def assert_equal(found, truth):
    for ours, theirs in zip(found, truth, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_samples_and_moments_are_those_of_the_trajectory():
    model, all_weights = small_model(), Trajectory()
    posterior = CollectPosterior(burn_in=5, every=3)
    history = fit(model, all_weights, posterior, epochs=2)
    steps = range(8, 25, 3)
    assert history.history["posterior_samples"] == [2, 6]
    assert (posterior.count, len(posterior.samples)) == (6, 6)
    for sample, step in zip(posterior.samples, steps, strict=True):
        assert_equal(sample, all_weights.found[step])
    for place, (mean, deviation) in enumerate(
        zip(posterior.mean, posterior.deviation, strict=True)
    ):
        stack = np.stack([all_weights.found[step][place] for step in steps]).astype("float64")
        np.testing.assert_allclose(mean, stack.mean(0), rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(deviation, stack.std(0, ddof=1), rtol=1e-6, atol=1e-12)
        assert mean.dtype == "float32"


@pytest.mark.parametrize("most", [1, 2, 4, 7])
def test_what_is_kept_is_spread_over_the_trajectory(most):
    model, all_weights = small_model(), Trajectory()
    posterior = CollectPosterior(max_samples=most)
    fit(model, all_weights, posterior, epochs=2)
    assert posterior.count == 24
    stride = next(2**power for power in range(6) if 2**power * most >= 24)
    kept = range(1, 25, stride)
    assert len(kept) <= most
    for sample, step in zip(posterior.samples, kept, strict=True):
        assert_equal(sample, all_weights.found[step])


def test_a_second_fit_goes_on_and_another_model_begins_anew():
    model, all_weights = small_model(), Trajectory()
    posterior = CollectPosterior(every=5)
    fit(model, all_weights, posterior)
    fit(model, all_weights, posterior)
    assert posterior.count == 4
    for sample, step in zip(posterior.samples, (5, 10, 15, 20), strict=True):
        assert_equal(sample, all_weights.found[step])
    fit(small_model(), posterior)
    assert posterior.count == 2


def test_hooks_that_come_seldom_collect_at_the_first_after():
    model, all_weights = small_model(steps_per_execution=4), Trajectory()
    posterior = CollectPosterior(burn_in=1, every=5)
    fit(model, all_weights, posterior, epochs=2)  # due at 6, 11, 16, 21
    for sample, step in zip(posterior.samples, (8, 12, 16, 24), strict=True):
        assert_equal(sample, all_weights.found[step])


def forward(weights, x):
    kernel, bias, gamma, beta, mean, variance, last, last_bias = weights
    hidden = (x @ kernel + bias - mean) / np.sqrt(variance + 1e-3) * gamma + beta
    return hidden @ last + last_bias


def test_predictions_are_those_of_the_samples_and_weights_come_back():
    model = small_model()
    posterior = CollectPosterior(burn_in=3, every=2)
    fit(model, posterior)
    before = [w.tobytes() for w in model.get_weights()]
    slots = [np.asarray(v) for v in model.optimizer.variables]
    found = posterior.predict(X[:5])
    assert found.shape == (4, 5, 2)
    assert found.std(0).min() > 0
    for sample, predicted in zip(posterior.samples, found, strict=True):
        np.testing.assert_allclose(predicted, forward(sample, X[:5]), rtol=1e-4, atol=1e-5)
    with posterior.at_mean() as averaged:
        truth = forward(posterior.mean, X[:5])
        np.testing.assert_allclose(averaged.predict(X[:5], verbose=0), truth, rtol=1e-4, atol=1e-5)
    assert [w.tobytes() for w in model.get_weights()] == before
    assert_equal([np.asarray(v) for v in model.optimizer.variables], slots)


def test_weights_come_back_after_an_error():
    model, posterior = small_model(), CollectPosterior()
    fit(model, posterior)
    before = [w.tobytes() for w in model.get_weights()]
    with pytest.raises(ValueError, match="incompatible|expected"):
        posterior.predict(np.ones((2, 7)))
    assert [w.tobytes() for w in model.get_weights()] == before


def test_several_outputs_keep_their_structure():
    inputs = keras.Input((3,))
    hidden = layers.Dense(2)(inputs)
    model = keras.Model(inputs, {"a": hidden, "b": layers.Dense(1)(hidden)})
    model.compile("sgd", {"a": "mse", "b": "mse"}, jit_compile=False)
    posterior = CollectPosterior()
    model.fit(X, {"a": Y, "b": Y[:, :1]}, batch_size=8, verbose=0, callbacks=[posterior])
    found = posterior.predict(X[:4])
    assert {name: array.shape for name, array in found.items()} == {
        "a": (3, 4, 2),
        "b": (3, 4, 1),
    }


def test_masks_hold_in_every_sample():
    model, posterior = small_model(), CollectPosterior()
    tfprune.set_masks(model, "d", "kernel", trainable=np.s_[:, 1:], frozen=np.s_[0])
    fit(model, posterior)
    for kernel in (posterior.mean[0], *(sample[0] for sample in posterior.samples)):
        assert not kernel[:, 0].any()
    assert not posterior.deviation[0][0].any()
    assert posterior.deviation[0][1:, 1:].all()
    tfprune.set_masks(model, "d", "kernel", trainable=np.s_[:, 2:])
    before = [w.tobytes() for w in model.get_weights()]
    predicted = posterior.predict(X[:5])[-1]
    weights = [w.copy() for w in posterior.samples[-1]]
    weights[0][:, 1] = 0
    np.testing.assert_allclose(predicted, forward(weights, X[:5]), rtol=1e-4, atol=1e-5)
    assert [w.tobytes() for w in model.get_weights()] == before
    fit(model, posterior)
    assert posterior.count == 12  # anew: the masks are others
    assert not posterior.mean[0][:, 1].any()


def test_a_custom_loop_calls_it_once_a_step():
    model, posterior = small_model(), CollectPosterior(burn_in=2, every=2, max_samples=0)
    for _ in range(6):
        model.train_on_batch(X[:4], Y[:4])
        posterior.after_step(model)
    assert (posterior.count, posterior.samples) == (2, [])
    assert len(posterior.deviation) == 8
    with pytest.raises(ValueError, match="max_samples=0"):
        posterior.predict(X)


def test_too_few_samples_and_bad_arguments_are_refused():
    for name, value in (("burn_in", -1), ("every", 0), ("max_samples", 1.5), ("every", True)):
        with pytest.raises(ValueError, match=name):
            CollectPosterior(**{name: value})
    posterior = CollectPosterior(burn_in=100)
    fit(small_model(), posterior)
    for use in (lambda: posterior.mean, lambda: posterior.deviation, lambda: posterior.predict(X)):
        with pytest.raises(ValueError, match="Train for more steps"):
            use()
    posterior = CollectPosterior()
    fit(small_model(), posterior)
    with pytest.raises(ValueError, match="gone through once"):
        posterior.predict(batch for batch in [X])
    config = CollectPosterior(3, 2, max_samples=5).get_config()
    assert CollectPosterior.from_config(config).get_config() == config
