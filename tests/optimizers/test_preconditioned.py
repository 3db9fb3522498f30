import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tfprune import layers
from tfprune.optimizers import PreconditionedSGD

S, N = 4, 400


def run(optimizer, gradients, start, steps):
    """Steps of the optimizer on one variable; `gradients(step, value)` gives arrays."""
    variable = keras.Variable(start, dtype="float64")
    optimizer.build([variable])

    @tf.function
    def apply(gradient):
        optimizer.apply([gradient], [variable])

    for step in range(steps):
        apply(tf.constant(gradients(step, np.asarray(variable))))
    return variable


def assert_mean(estimates, truth, bias=0.0):
    """Within four standard errors, which must be small."""
    error = estimates.std() / np.sqrt(estimates.size)
    assert error < 0.01 * truth
    assert abs(estimates.mean() - truth) < 4 * error + bias * truth, (estimates.mean(), truth)


def pure(**options):
    """An estimate that owes nothing to its start, of weights that stand still."""
    options = {"learning_rate": 0.0, "t_start": 1, **options}
    return PreconditionedSGD(dataset_size=N, batch_size=S, **options)


def test_differences_of_batches_estimate_the_noise_of_single_examples_without_bias():
    rng, chains = np.random.default_rng(0), 4000
    optimizer = pure()

    def batch(*_):
        return 5 + 3 * rng.exponential(size=(S, chains)).mean(0)

    variable = run(optimizer, batch, np.zeros(chains), 60)
    assert_mean(optimizer.noise_of(variable), 9)


def test_variance_of_the_estimate_is_that_of_the_docstring():
    rng, chains, steps = np.random.default_rng(1), 4000, 101
    optimizer = pure()
    variable = run(optimizer, lambda *_: rng.normal(size=chains) / 2, np.zeros(chains), steps)
    variance = optimizer.noise_of(variable).var() * (steps - 1)
    assert abs(variance - 3) < 3 * 4.5 * np.sqrt(2 / chains)  # C = 1


def test_batches_of_one_epoch_without_replacement_do_so_too():
    rng, chains, examples = np.random.default_rng(2), 3000, 24
    data = rng.normal(size=examples) ** 2
    order = np.argsort(rng.random((chains, examples)), axis=1)
    batches = data[order].reshape(chains, -1, S).mean(2)
    optimizer = pure()
    variable = run(optimizer, lambda step, _: batches[:, step], np.zeros(chains), examples // S)
    estimates, truth = optimizer.noise_of(variable), data.var(ddof=1)
    assert abs(estimates.mean() - truth) < 4 * estimates.std() / np.sqrt(chains)
    assert estimates.std() / np.sqrt(chains) < 0.05 * truth


@pytest.mark.parametrize("in_batch", [True, False])
def test_observed_single_examples_are_corrected(in_batch):
    rng, chains = np.random.default_rng(3), 4000
    optimizer = pure(noise="observed")
    variable = keras.Variable(np.zeros(chains), dtype="float64")
    optimizer.build([variable])

    @tf.function
    def observe(one, mean):
        optimizer.observe([one], [mean], [variable], in_batch=in_batch)

    for _ in range(60):
        examples = 7 + 3 * rng.exponential(size=(S + 1, chains))
        one = examples[0] if in_batch else examples[S]
        observe(tf.constant(one), tf.constant(examples[:S].mean(0)))
    assert_mean(optimizer.noise_of(variable), 9)  # uncorrected: 25% off
    np.testing.assert_allclose(
        optimizer.preconditioner_of(variable),
        2 * S / (N * (optimizer.noise_of(variable) + 1e-8)),
    )


def test_drift_raises_the_estimate_as_the_docstring_says():
    """A = 6 C and S / N = 0.05, so h (2 + h) / (2 - h) = 0.6: far larger than in practice."""
    rng, chains, curvature, noise = np.random.default_rng(4), 3000, 1.2, 0.2
    optimizer = PreconditionedSGD(dataset_size=80, batch_size=S, k=3)

    def gradients(step, w):
        return curvature * w + rng.normal(size=chains) * np.sqrt(noise / S)

    variable = run(optimizer, gradients, np.zeros(chains), 800)
    h = np.roots([1, 2 + 0.6, -2 * 0.6]).max()
    assert_mean(optimizer.noise_of(variable), noise * (2 + h) / (2 - h), bias=0.01)


def test_iterates_have_the_covariance_of_the_posterior_where_the_noise_is_diagonal():
    rng, chains = np.random.default_rng(5), 5000
    curvature, noise = np.array([[0.5], [1.0], [3.0]]), np.array([[2.0], [0.5], [2.0]])
    variables = []
    for a, c in zip(curvature[:, 0], noise[:, 0], strict=True):
        optimizer = PreconditionedSGD(dataset_size=N, batch_size=S, k=1)

        def gradients(step, w, a=a, c=c):
            return a * w + rng.normal(size=chains) * np.sqrt(c / S)

        steps = int(4 * N * c / (2 * S * a))
        variables.append(np.asarray(run(optimizer, gradients, np.zeros(chains), steps)))
    for a, c, w in zip(curvature[:, 0], noise[:, 0], variables, strict=True):
        h, posterior = 2 * S * a / (N * c), 1 / (N * a)
        allowed = 4 * np.sqrt(2 / chains) + h
        assert abs(w.var() / posterior - 1) < allowed


def by_hand(gradients, k, t_start):
    """The recursion as it is written, and the weight that C_0 has in it."""
    estimate, weight = np.zeros(gradients.shape[1]), 1.0
    for t, (last, gradient) in enumerate(zip(gradients, gradients[1:], strict=False), t_start):
        estimate = (1 - k / t) * estimate + k / t * S / 2 * (gradient - last) ** 2
        weight *= 1 - k / t
    return estimate, weight


@pytest.mark.parametrize(("k", "t_start"), [(1, 10), (3, 10), (2, 2), (1, 1), (5, 7)])
def test_the_start_is_the_mean_of_the_tensor_with_the_weight_of_the_recursion(k, t_start):
    gradients = np.random.default_rng(6).normal(size=(9, 5))
    optimizer = PreconditionedSGD(
        0.0, dataset_size=N, batch_size=S, k=k, t_start=t_start, epsilon=0.5
    )
    variable = run(optimizer, lambda step, _: gradients[step], np.zeros(5), 9)
    estimate, weight = by_hand(gradients, k, t_start)
    truth = estimate + weight * estimate.mean() / (1 - weight)
    np.testing.assert_allclose(optimizer.noise_of(variable), truth, rtol=1e-6)
    np.testing.assert_allclose(optimizer.preconditioner_of(variable), 2 * S / N / (truth + 0.5))


def test_nothing_moves_before_there_is_an_estimate_and_then_by_the_preconditioned_gradient():
    gradients = np.array([[1.0, 2.0], [3.0, 1.0]])
    optimizer = PreconditionedSGD(0.3, dataset_size=N, batch_size=S, t_start=1, epsilon=0.0)
    assert not np.asarray(run(optimizer, lambda step, _: gradients[step], np.zeros(2), 1)).any()
    optimizer = PreconditionedSGD(0.3, dataset_size=N, batch_size=S, t_start=1, epsilon=0.0)
    moved = np.asarray(run(optimizer, lambda step, _: gradients[step], np.zeros(2), 2))
    noise = S / 2 * np.array([4.0, 1.0])
    np.testing.assert_allclose(moved, -0.3 * 2 * S / (N * noise) * gradients[1])


def test_without_noise_the_step_is_bounded_by_epsilon():
    optimizer = PreconditionedSGD(0.1, dataset_size=N, batch_size=S, epsilon=0.01)
    moved = np.asarray(run(optimizer, lambda *_: np.ones(3), np.zeros(3), 3))
    np.testing.assert_allclose(moved, -2 * 0.1 * 2 * S / (N * 0.01))


def test_gradients_of_embeddings_count_where_they_are_zero():
    optimizer = pure()
    table = keras.Variable(np.zeros((3, 1)), dtype="float32")
    rows = ([0], [1], [0])
    for row in rows:
        gradient = tf.IndexedSlices(tf.ones((1, 1)), tf.constant(row), tf.constant([3, 1]))
        optimizer.apply([gradient], [table])
    np.testing.assert_allclose(optimizer.noise_of(table)[:, 0], [S / 2, S / 2, 0])


def small_model(**compile_options):
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(8, activation="tanh", name="first"),
            layers.Dense(2, name="last"),
        ]
    )
    options = {"dataset_size": 48, "batch_size": 8, "k": 2, "global_clipnorm": 1.0}
    optimizer = PreconditionedSGD(0.1, **{**options, **compile_options.pop("optimizer", {})})
    model.compile(optimizer, "mse", **compile_options)
    return model


RNG = np.random.default_rng(7)
X = RNG.normal(size=(48, 5)).astype("float32")
Y = np.stack([X[:, 0] * X[:, 1], X[:, 2]], 1) + RNG.normal(size=(48, 2)).astype("float32") / 10


def fit(model, epochs=1, **kwargs):
    return model.fit(X, Y, batch_size=8, epochs=epochs, shuffle=False, verbose=0, **kwargs)


def assert_same(one, other, **tolerance):
    pairs = zip(
        [*one.get_weights(), *map(np.asarray, one.optimizer.variables)],
        [*other.get_weights(), *map(np.asarray, other.optimizer.variables)],
        strict=True,
    )
    for ours, theirs in pairs:
        if tolerance:
            np.testing.assert_allclose(ours, theirs, **tolerance)
        else:
            np.testing.assert_array_equal(ours, theirs)


def test_it_learns_under_plain_fit():
    model = small_model(jit_compile=False)
    before = model.evaluate(X, Y, verbose=0)
    model.fit(np.tile(X, (60, 1)), np.tile(Y, (60, 1)), batch_size=8, verbose=0)
    assert model.evaluate(X, Y, verbose=0) < before / 5


def test_what_is_loaded_goes_on_as_if_nothing_had_been(tmp_path):
    model = small_model(jit_compile=False)
    tfprune.set_masks(model, "first", "kernel", trainable=np.s_[:, 2:])
    fit(model, 2)
    model.save(tmp_path / "m.keras")
    other = keras.saving.load_model(tmp_path / "m.keras")
    assert_same(model, other)
    assert other.optimizer.get_config() == model.optimizer.get_config()
    fit(model, 2)
    fit(other, 2)
    assert_same(model, other)


class StoppedError(Exception):
    pass


def test_backup_and_restore_goes_on_too(tmp_path):
    def stop(epoch, logs):
        if epoch == 1:
            raise StoppedError

    whole, model = small_model(jit_compile=False), small_model(jit_compile=False)
    fit(whole, 3)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(StoppedError):
        fit(model, 3, callbacks=[backup, keras.callbacks.LambdaCallback(on_epoch_begin=stop)])
    model = small_model(jit_compile=False)
    fit(model, 3, callbacks=[keras.callbacks.BackupAndRestore(tmp_path / "backup")])
    assert_same(model, whole)


@pytest.mark.slow
def test_compiled_steps_are_the_same():
    models = [small_model(jit_compile=jit) for jit in (False, True)]
    for model in models:
        fit(model, 3)
    assert_same(*models, rtol=1e-3, atol=1e-5)


def test_accumulated_gradients_are_those_of_the_larger_batch():
    whole = small_model(jit_compile=False, optimizer={"batch_size": 16})
    parts = small_model(jit_compile=False, optimizer={"gradient_accumulation_steps": 2})
    whole.fit(X, Y, batch_size=16, epochs=3, shuffle=False, verbose=0)
    fit(parts, 3)
    for ours, theirs in zip(parts.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    noises = [m.optimizer.noise_of(m.get_layer("last").kernel) for m in (parts, whole)]
    np.testing.assert_allclose(*noises, rtol=1e-3)


def test_regrown_elements_begin_with_the_mean_of_their_tensor():
    model = small_model(jit_compile=False)
    fit(model, 5)
    kernel = model.get_layer("first").kernel
    for columns in (np.s_[:, 2:], True):
        before = model.optimizer.noise_of(kernel)
        tfprune.set_masks(model, "first", "kernel", trainable=columns)
        after = model.optimizer.noise_of(kernel)
        np.testing.assert_allclose(after[:, 2:], before[:, 2:], rtol=0.1)
        if columns is not True:
            fit(model)
    t = 10 + 5 * 6 + 6 - 2
    weight = 9 * 8 / (t * (t - 1))  # of the mean of the tensor, in each element
    own = after[:, 2:].mean()
    np.testing.assert_allclose(after[:, :2], own, rtol=2 * weight + 1e-5)
    assert (after[:, :2] > 0).all()


def test_strip_takes_the_slots_along():
    model = small_model(jit_compile=False)
    fit(model, 2)
    tfprune.set_masks(model, "first", "kernel", trainable=np.s_[:, 3:])
    tfprune.set_masks(model, "first", "bias", trainable=np.s_[3:])
    small = tfprune.strip(model)
    noise = model.optimizer.noise_of(model.get_layer("last").kernel)
    cut = small.optimizer.noise_of(small.get_layer("last").kernel)
    assert cut.shape == (5, 2)
    np.testing.assert_allclose(cut, noise[3:], rtol=0.1)
    assert small.fit(X, Y, batch_size=8, verbose=0).history["loss"]


def test_mixed_precision_is_trained_in_single():
    keras.config.set_dtype_policy("mixed_float16")
    model = small_model(jit_compile=False)
    fit(model, 3)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    inner = model.optimizer.inner_optimizer
    assert (inner.noise_of(model.get_layer("first").kernel) > 0).all()
    noise = inner.noise_of(model.get_layer("first").kernel).mean()
    keras.config.set_dtype_policy("float32")
    truth = small_model(jit_compile=False)
    fit(truth, 3)
    assert noise == pytest.approx(
        truth.optimizer.noise_of(truth.get_layer("first").kernel).mean(), rel=0.05
    )


BAD = {
    "dataset_size": {"dataset_size": 0},
    "fewer examples than the data set": {"batch_size": 48},
    "batch_size": {"batch_size": 2.5},
    "fewer examples": {"batch_size": 24, "gradient_accumulation_steps": 2},
    "at most `t_start`": {"k": 11},
    "t_start": {"t_start": 0},
    "epsilon": {"epsilon": -1.0},
    "'differences' or 'observed'": {"noise": "paper"},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arguments_are_refused(message):
    with pytest.raises(ValueError, match=message):
        PreconditionedSGD(**{"dataset_size": 48, "batch_size": 8, **BAD[message]})


def test_what_cannot_be_done_is_refused():
    with pytest.raises(ValueError, match="mixed_float16"):
        pure().build([keras.Variable(np.zeros(2), dtype="float16")])
    variable = keras.Variable(np.zeros(2))
    with pytest.raises(ValueError, match="noise='observed'"):
        pure().observe([np.zeros(2)], [np.zeros(2)], [variable], in_batch=True)
    single = PreconditionedSGD(dataset_size=N, batch_size=1, noise="observed")
    with pytest.raises(ValueError, match="do not differ"):
        single.observe([np.zeros(2)], [np.zeros(2)], [variable], in_batch=True)
    with pytest.raises(ValueError, match="built with"):
        pure().noise_of(variable)


MIRRORED = """
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tests.optimizers.test_preconditioned import X, assert_same, fit, small_model
from tfprune.callbacks import CollectPosterior

unclipped = {"global_clipnorm": None}  # Keras clips the share of each replica by itself
alone = small_model(jit_compile=False, optimizer=unclipped)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    model = small_model(jit_compile=False, optimizer=unclipped)
assert strategy.num_replicas_in_sync == 2
posteriors = [CollectPosterior(every=5) for _ in range(2)]
fit(alone, 3, callbacks=posteriors[:1])
fit(model, 3, callbacks=posteriors[1:])
for ours, theirs in zip(posteriors[0].mean, posteriors[1].mean):
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
predicted = [posterior.predict(X[:8], batch_size=8) for posterior in posteriors]
np.testing.assert_allclose(*predicted, rtol=1e-3, atol=1e-4)
assert_same(model, alone, rtol=1e-3, atol=1e-5)
for weight in model.trainable_variables:
    first, second = (r.numpy() for r in strategy.experimental_local_results(weight.value))
    np.testing.assert_array_equal(first, second)
print("the same on both replicas")
"""


@pytest.mark.slow
def test_two_replicas_train_as_one_device():
    command = [sys.executable, "-c", MIRRORED]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "the same on both replicas" in done.stdout, done.stderr[-3000:]
