"""Penalties on coupled units, against NumPy by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tfprune import unit_regularizers
from tfprune.callbacks import PruneUnits, RegularizeUnits
from tfprune.units.regularizers import BatchNormL1, GroupLasso, Growing


@pytest.fixture
def residual():
    """Units 0-3 of `stem` and `branch` are one by the sum; `norm` goes along, `out` listens."""
    inputs = keras.Input((5, 2))
    x = keras.layers.Conv1D(4, 3, padding="same", name="stem")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    y = keras.layers.Conv1D(4, 1, use_bias=False, name="branch")(x)
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Add()([x, y]))
    model = tfprune.prunable(keras.Model(inputs, keras.layers.Dense(3, name="out")(x)))
    draw = np.random.default_rng(0)
    for weight in model.weights:
        value = draw.normal(size=weight.shape)
        weight.assign(abs(value) if weight.name == "moving_variance" else value)
    model.compile(keras.optimizers.Adam(0.02), "mse")
    return model


def data():
    x = np.random.default_rng(1).normal(size=(16, 5, 2)).astype("f")
    return x, x[:, :3, 0]


def values(model):
    get = model.get_layer
    return [
        np.array(v, "float64")
        for v in (
            get("stem").kernel,
            get("stem").bias,
            get("norm").gamma,
            get("norm").beta,
            get("branch").kernel,
            get("out").kernel,
        )
    ]


def by_hand(model):
    """For each unit the norm over all its elements, and how many they are."""
    kernel, bias, gamma, beta, branch, out = values(model)
    squares = (kernel**2).sum((0, 1)) + bias**2 + gamma**2 + beta**2
    squares += (branch**2).sum((0, 1)) + (branch**2).sum((0, 2)) + (out**2).sum(1)
    return np.sqrt(squares), 6 + 1 + 1 + 1 + 4 + 4 + 3


def test_group_lasso_by_hand(residual):
    regularizer = GroupLasso(0.3)
    regularizer.attach(residual)
    norms, size = by_hand(residual)
    np.testing.assert_allclose(sum(residual.losses), 0.3 * size**0.5 * norms.sum(), rtol=1e-6)


def test_the_gradient_of_group_lasso_by_hand(residual):
    mask = np.ones((1, 4, 4), bool)
    mask[0, 2, 1] = False
    tfprune.set_masks(residual, "branch", "kernel", trainable=mask, frozen=np.s_[0, 0, 3])
    branch = residual.get_layer("branch").kernel
    regularizer = GroupLasso(0.3)
    regularizer.attach(residual)
    with tf.GradientTape() as tape:
        loss = sum(residual.losses)
    gradients = tape.gradient(loss, [branch.value, residual.get_layer("norm").gamma.value])
    norms, size = by_hand(residual)
    _, _, gamma, _, kernel, _ = values(residual)
    expected = 0.3 * size**0.5 * kernel * (1 / norms[:, None] + 1 / norms[None, :])
    expected[0, 2, 1] = expected[0, 0, 3] = 0
    np.testing.assert_allclose(gradients[0], expected, rtol=1e-5)
    np.testing.assert_allclose(gradients[1], 0.3 * size**0.5 * gamma / norms, rtol=1e-5)


def test_a_pruned_unit_has_no_gradient_that_is_not_a_number(residual):
    tfprune.prune_units(residual, 0.5)
    regularizer = GroupLasso(0.3)
    regularizer.attach(residual)
    with tf.GradientTape() as tape:
        loss = sum(residual.losses)
    gradient = tape.gradient(loss, residual.get_layer("stem").kernel.value)
    gone = ~np.asarray(residual.get_layer("stem").trainable_masks["bias"])
    assert gone.sum() == 2 and not np.asarray(gradient)[..., gone].any()
    assert np.all(np.asarray(gradient)[..., ~gone])


def test_batch_norm_scales_by_hand(residual):
    regularizer = BatchNormL1(0.5)
    regularizer.attach(residual)
    with tf.GradientTape() as tape:
        loss = sum(residual.losses)
    gamma = residual.get_layer("norm").gamma
    np.testing.assert_allclose(loss, 0.5 * np.abs(values(residual)[2]).sum(), rtol=1e-6)
    np.testing.assert_allclose(tape.gradient(loss, gamma.value), 0.5 * np.sign(gamma))


def test_growing_by_hand(residual):
    norms, _ = by_hand(residual)
    regularizer = Growing(0.5, increment=0.1, every=5, ceiling=0.25, begin_step=3)
    regularizer.attach(residual)
    kernel, bias, _, _, branch, _ = values(residual)
    magnitude = np.sqrt((kernel**2).sum((0, 1)) + bias**2) + np.sqrt((branch**2).sum((0, 1)))
    assert len(magnitude) == 4
    copy = tfprune.prunable(residual)
    tfprune.prune_units(copy, 0.5)
    chosen = ~np.asarray(copy.get_layer("stem").trainable_masks["bias"])
    for step, strength in ((0, 0.0), (3, 0.1), (7, 0.1), (8, 0.2), (13, 0.25), (99, 0.25)):
        regularizer.update(step)
        expected = strength / 2 * (norms[chosen] ** 2).sum()
        np.testing.assert_allclose(sum(residual.losses), expected, rtol=1e-5, atol=1e-9)


def test_units_of_grouped_convolutions_by_hand():
    model = keras.Sequential(
        [
            keras.Input((4, 4)),
            keras.layers.Conv1D(4, 1, use_bias=False, name="a"),
            keras.layers.Conv1D(4, 1, groups=2, use_bias=False, name="b"),
            keras.layers.Dense(1, use_bias=False),
        ]
    )
    regularizer = GroupLasso(1.0)
    regularizer.attach(model, only=["a"])
    a, b = (np.asarray(model.get_layer(name).kernel)[0] for name in "ab")
    rows = np.concatenate([b[:, :2], b[:, 2:]])  # unit 2 is row 0 of the second group
    norms = np.sqrt((a**2).sum(0) + (rows**2).sum(1))
    np.testing.assert_allclose(sum(model.losses), np.sqrt(4 + 2) * norms.sum(), rtol=1e-5)


def test_training_with_group_lasso_makes_units_small_and_removes_it_at_the_end(residual):
    plain = tfprune.prunable(residual)
    callback = RegularizeUnits(GroupLasso(0.5))
    history = residual.fit(*data(), epochs=10, verbose=0, callbacks=[callback])
    plain.fit(*data(), epochs=10, verbose=0)
    assert by_hand(residual)[0].sum() < 0.9 * by_hand(plain)[0].sum()
    penalties = history.history["unit_penalty"]
    assert penalties[-1] < penalties[0]
    assert not residual.losses and callback.regularizer.model is None
    loss = residual.evaluate(*data(), verbose=0)
    np.testing.assert_allclose(loss, np.mean((residual(data()[0]) - data()[1]) ** 2), rtol=1e-5)


def test_a_strength_that_changes_retraces_nothing(residual):
    class Change(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            regularizer.strength = 0.1 * epoch

    traced = []
    regularizer = GroupLasso(0.0)
    penalty_of = regularizer.penalty_of
    regularizer.penalty_of = lambda *args: traced.append(1) or penalty_of(*args)
    residual.compile(keras.optimizers.SGD(0.0), "mse")
    once = residual.fit(
        *data(), epochs=1, verbose=0, callbacks=[RegularizeUnits(regularizer), Change()]
    )
    count = len(traced)
    traced.clear()
    history = residual.fit(
        *data(), epochs=3, verbose=0, callbacks=[RegularizeUnits(regularizer), Change()]
    )
    assert len(traced) == count + 2  # `unit_penalty` is computed once an epoch
    penalties = history.history["unit_penalty"]
    np.testing.assert_allclose(penalties[2], 2 * penalties[1], rtol=1e-5)
    assert once.history["unit_penalty"] == [0.0]


def test_two_at_once_and_either_goes_first(residual):
    lasso, slimming = GroupLasso(0.1), BatchNormL1(0.2)
    for first, second in ((lasso, slimming), (slimming, lasso)):
        first.attach(residual)
        alone = float(sum(residual.losses))
        second.attach(residual)
        first.detach()
        left = float(sum(residual.losses))
        first.attach(residual)
        np.testing.assert_allclose(float(sum(residual.losses)), left + alone, rtol=1e-5)
        first.detach()
        second.detach()
        assert not residual.losses


def test_a_weights_own_regularizer_stays():
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4, kernel_regularizer="l2"), keras.layers.Dense(1)]
    )
    before = float(sum(model.losses))
    regularizer = GroupLasso(0.1)
    regularizer.attach(model)
    expected = before + float(regularizer.penalty())
    np.testing.assert_allclose(float(sum(model.losses)), expected, rtol=1e-6)
    regularizer.detach()
    assert float(sum(model.losses)) == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["group_lasso", "batch_norm_l1", "growing"])
def test_prune_units_with_a_regularizer(residual, name, tmp_path):
    callback = PruneUnits(0.5, regularizer=name)
    residual.fit(*data(), epochs=4, verbose=0, callbacks=[callback])
    assert not residual.losses and callback.regularizer.strength > 0
    residual.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert not again.losses
    assert tfprune.strip(residual).get_layer("stem").filters == 2


@pytest.mark.slow
def test_a_rebuilt_model_is_penalised_on(residual):
    callback = RegularizeUnits(Growing(0.5, increment=1.0, every=1, ceiling=2.0))
    result = tfprune.fit_and_shrink(
        residual, *data(), stages={2: 0.5}, epochs=4, verbose=0, callbacks=[callback]
    )
    assert result.model.get_layer("stem").filters == 2
    assert all(penalty > 0 for penalty in result.history.history["unit_penalty"])
    assert not result.model.losses and not residual.losses


@pytest.mark.parametrize(
    "made",
    [
        GroupLasso(0.2),
        BatchNormL1(0.3),
        Growing(0.5, increment=0.1, every=3, ceiling=0.4, begin_step=2),
    ],
)
def test_config_round_trip(made):
    callback = RegularizeUnits(made, only=["a"])
    config = keras.saving.serialize_keras_object(callback)
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == callback.get_config()
    assert again.regularizer.get_config() == made.get_config()
    assert type(again.regularizer) is type(made)
    pruning = PruneUnits(0.5, regularizer=made)
    config = keras.saving.serialize_keras_object(pruning)
    assert keras.saving.deserialize_keras_object(config).get_config() == pruning.get_config()


def test_what_cannot_be_done_is_refused(residual):
    for strength in (-1, float("nan"), float("inf"), True):
        with pytest.raises(ValueError, match="non-negative number. Received: strength="):
            GroupLasso(strength)
    with pytest.raises(ValueError, match="one of"):
        unit_regularizers.get("ridge")
    with pytest.raises(ValueError, match="must be positive"):
        Growing(0.5, every=0)
    with pytest.raises(ValueError, match="must say how much"):
        Growing().attach(residual)
    with pytest.raises(ValueError, match="not attached"):
        GroupLasso(0.1).penalty()
    plain = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="scale of a batch norm"):
        BatchNormL1().attach(plain)
    with pytest.raises(ValueError, match="no units"):
        GroupLasso().attach(residual, exclude=["stem"])
    with pytest.raises(ValueError, match=r"regularizer.attach"):
        PruneUnits(tfprune.schedules.OneShot(0.5, step=1), regularizer="group_lasso").after_step(
            residual
        )
    assert not residual.losses and not plain.losses


@pytest.mark.slow
def test_compiled_steps_have_the_penalty(residual):
    residual.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=True)
    history = residual.fit(
        *data(),
        epochs=1,
        batch_size=16,
        verbose=0,
        validation_data=data(),
        callbacks=[RegularizeUnits(GroupLasso(0.3))],
    )
    norms, size = by_hand(residual)
    with_penalty = history.history["val_loss"][0]
    plain = residual.evaluate(*data(), verbose=0)
    np.testing.assert_allclose(with_penalty - plain, 0.3 * size**0.5 * norms.sum(), rtol=1e-3)
