"""Pruned and frozen elements hold under every optimizer, whatever it does."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tests.layers.masked_training import (
    OPTIMIZERS,
    OPTIONS,
    STEPS,
    assert_held,
    assert_holds_while_training,
    assert_moved,
    data,
    mask_model,
    small_model,
)
from tfprune import layers
from tfprune.masks.setting import masked_layers


@pytest.mark.slow
@pytest.mark.parametrize("jit", [False, True], ids=["graph", "jit"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_masks_hold_after_every_step(optimizer, options, jit):
    model = small_model()
    model.compile(optimizer(**options), "mse", jit_compile=jit)
    assert_holds_while_training(model, mask_model(model))


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_masks_hold_when_run_eagerly(optimizer):
    model = small_model()
    model.compile(optimizer(weight_decay=0.1), "mse", run_eagerly=True)
    assert_holds_while_training(model, mask_model(model))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_masks_set_in_mid_training_hold_through_the_final_write_back_of_averages(optimizer):
    """Averages and slots are full by then, and `fit` writes the averages back at its end."""
    model = small_model()
    model.compile(optimizer(use_ema=True, weight_decay=0.1), "mse", jit_compile=False)
    x, y = data()
    model.fit(x, y, epochs=2, verbose=0)
    marks = mask_model(model)
    model.fit(x, y, epochs=2, verbose=0)
    assert_held(marks)
    assert_moved(marks)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_fresh_masks_train_as_the_stock_layers_bit_for_bit(optimizer):
    x, y = data()
    trained = []
    for module in (keras.layers, layers):
        model = small_model(module)
        model.compile(optimizer(weight_decay=0.1, clipnorm=1.0), "mse", jit_compile=False)
        for _ in range(3):
            model.train_on_batch(x, y)
        trained.append(model.get_weights())
    for stock, masked in zip(*trained, strict=True):
        np.testing.assert_array_equal(masked, stock)


class Spy(keras.optimizers.SGD):
    """Keeps the gradients it is given, and those it steps by, after clipping."""

    def apply(self, grads, trainable_variables=None):
        self.given = [np.asarray(gradient) for gradient in grads]
        self.stepped = []
        return super().apply(grads, trainable_variables)

    def update_step(self, gradient, variable, learning_rate):
        self.stepped.append(np.asarray(gradient))
        super().update_step(gradient, variable, learning_rate)


def stock_gradients(model, marks, x, y):
    """The truth: gradients of a stock model with the same weights, where elements are live."""
    stock = small_model(keras.layers)
    stock.set_weights(model.get_weights())
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((stock(x, training=True) - y) ** 2) + sum(stock.losses)
    gradients = tape.gradient(loss, [v.value for v in stock.trainable_variables])
    dead = [pruned | frozen for _, pruned, frozen, _ in marks]
    return [np.where(d, 0, np.asarray(g)) for d, g in zip(dead, gradients, strict=True)]


def spied_step(**options):
    model = small_model()
    spy = Spy(0.1, **options)
    model.compile(spy, "mse", run_eagerly=True)
    marks = mask_model(model)
    x, y = data()
    truth = stock_gradients(model, marks, x, y)
    model.train_on_batch(x, y)
    return spy, marks, truth


def test_optimizer_is_given_zero_for_masked_elements_and_the_stock_gradient_for_live_ones():
    spy, marks, truth = spied_step()
    for (weight, pruned, frozen, _), given, theirs in zip(marks, spy.given, truth, strict=True):
        assert not given[pruned | frozen].any(), weight.path
        np.testing.assert_allclose(given, theirs, rtol=1e-5, atol=1e-7)


def test_global_clipnorm_is_of_the_live_elements():
    spy, _, truth = spied_step(global_clipnorm=0.01)
    norm = np.sqrt(sum((gradient**2).sum() for gradient in truth))
    for stepped, theirs in zip(spy.stepped, truth, strict=True):
        np.testing.assert_allclose(stepped, theirs * 0.01 / norm, rtol=1e-4, atol=1e-9)


def test_clipnorm_is_of_the_live_elements():
    spy, _, truth = spied_step(clipnorm=0.01)
    for stepped, theirs in zip(spy.stepped, truth, strict=True):
        shrink = min(1, 0.01 / max(np.sqrt((theirs**2).sum()), 1e-30))
        np.testing.assert_allclose(stepped, theirs * shrink, rtol=1e-4, atol=1e-9)


def test_adafactor_with_a_pruned_row_and_column_steps_live_elements_as_without_underflow():
    """A larger `epsilon_1` keeps the stock optimizer's second moment from underflowing."""
    kernels = []
    for epsilon, module in ((1e-30, layers), (1e-15, keras.layers)):
        model = small_model(module, penalty=False)
        model.compile(keras.optimizers.Adafactor(0.1, epsilon_1=epsilon), "mse", run_eagerly=True)
        kernel = model.get_layer("first").kernel
        kept = np.ones(kernel.shape, bool)
        kept[1], kept[:, 3] = False, False
        x, y = data()
        x[:, 1] = 0  # The row's gradient is 0 in the stock model too, and so is the column's:
        second = np.asarray(model.get_layer("second").kernel).copy()
        second[3] = 0
        model.get_layer("second").kernel.assign(second)
        kernel.assign(np.where(kept, np.asarray(kernel), 0))
        if module is layers:
            tfprune.set_masks(model, "first", "kernel", trainable=kept)
            tfprune.set_masks(model, "second", "kernel", trainable=[0, 1, 2])
        model.train_on_batch(x, y)
        kernels.append(np.asarray(kernel)[kept])
    assert np.isfinite(kernels[0]).all()
    np.testing.assert_allclose(kernels[0], kernels[1], rtol=1e-3)


def test_a_stock_model_still_gets_the_stock_adafactor_result():
    """What stands in for an underflowed moment changes nothing else, for anybody."""
    small_model()  # masks exist in this process
    keras.utils.set_random_seed(0)
    variable, gradient = keras.Variable(keras.random.normal((4, 3))), keras.random.normal((4, 3))
    before = np.asarray(variable, "float64")
    keras.optimizers.Adafactor(0.1).apply([gradient], [variable])
    squared = np.asarray(gradient, "float64") ** 2 + 1e-30
    row, column = squared.mean(axis=1), squared.mean(axis=0)
    step = np.asarray(gradient) / np.sqrt(np.outer(row / row.mean(), column))
    step /= max(1, np.sqrt((step**2).mean()))
    rate = max(1e-3, np.sqrt((before**2).mean())) * 0.1
    np.testing.assert_allclose(np.asarray(variable), before - rate * step, rtol=1e-4)


def test_changing_masks_retraces_nothing():
    model = small_model()
    model.compile("adam", "mse", jit_compile=False)
    x, y = data()
    model.fit(x, y, verbose=0)
    model.evaluate(x, y, verbose=0)
    model.predict(x, verbose=0)
    functions = (model.train_function, model.test_function, model.predict_function)
    graphs = [
        f.experimental_get_tracing_count() for f in functions if hasattr(f, "python_function")
    ]
    assert graphs
    for unit in range(3):
        tfprune.set_masks(model, "first", "kernel", trainable=np.s_[:, unit:], frozen=np.s_[unit])
        model.fit(x, y, verbose=0)
        model.evaluate(x, y, verbose=0)
        model.predict(x, verbose=0)
    assert [
        f.experimental_get_tracing_count() for f in functions if hasattr(f, "python_function")
    ] == graphs


def test_masks_hold_with_several_steps_in_one_execution():
    model = small_model()
    model.compile("adamw", "mse", steps_per_execution=3, jit_compile=False)
    marks = mask_model(model)
    x, y = data(24)
    model.fit(x, y, batch_size=4, epochs=2, verbose=0)
    assert_held(marks)
    assert_moved(marks)


@pytest.mark.parametrize("jit", [False, True])
def test_masks_hold_in_mixed_precision(jit):
    keras.config.set_dtype_policy("mixed_float16")
    model = small_model()
    model.compile("adamw", "mse", jit_compile=jit)
    assert_holds_while_training(model, mask_model(model))
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert model.get_layer("first").kernel.dtype == "float32"


def test_masks_hold_when_loss_scaling_skips_a_step():
    model = small_model(penalty=False)
    inner = keras.optimizers.SGD(0.1, weight_decay=0.1)
    model.compile(keras.optimizers.LossScaleOptimizer(inner, initial_scale=1e38), "mse")
    marks = mask_model(model)
    x, y = data()
    for _ in range(3):
        model.train_on_batch(x * 1e4, y)
        assert_held(marks)


@pytest.mark.parametrize("jit", [False, True])
def test_masks_hold_in_a_custom_training_loop(jit):
    model, optimizer = small_model(), keras.optimizers.AdamW(0.01, weight_decay=0.1)
    optimizer.build(model.trainable_variables)
    x, y = data()

    @tf.function(jit_compile=jit)
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2) + sum(model.losses)
        gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
        optimizer.apply(gradients, model.trainable_variables)

    step()
    marks = mask_model(model)
    for mask, (_, pruned, frozen, _) in zip(
        (m for layer in masked_layers(model) for m in layer.masks_by_name.values()),
        marks,
        strict=True,
    ):
        np.testing.assert_array_equal(np.asarray(mask.live), ~(pruned | frozen))
    for _ in range(STEPS):
        step()
        assert_held(marks)
    assert_moved(marks)
    assert step.experimental_get_tracing_count() == 1


def test_learning_rate_schedule_and_plain_fit_reach_the_same_weights_as_stock_with_zeros():
    """A stock model that starts with the zeros, trained on by hand where it is live."""
    model = small_model(penalty=False)
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    marks = mask_model(model)
    x, y = data()
    truth = small_model(keras.layers, penalty=False)
    truth.set_weights(model.get_weights())
    for _ in range(3):
        model.train_on_batch(x, y)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((truth(x, training=True) - y) ** 2)
        gradients = tape.gradient(loss, [v.value for v in truth.trainable_variables])
        for variable, gradient, (_, pruned, frozen, _) in zip(
            truth.trainable_variables, gradients, marks, strict=True
        ):
            variable.assign_sub(np.where(pruned | frozen, 0, 0.1 * np.asarray(gradient)))
    for ours, theirs in zip(model.get_weights(), truth.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "lion", "adagrad", "rmsprop"])
def test_embedding_with_sparse_gradients_holds(optimizer, jit):
    model = keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            layers.Embedding(9, 3, name="table"),
            keras.layers.Flatten(),
            layers.Dense(1),
        ]
    )
    model.compile(optimizer, "mse", jit_compile=jit)
    table = model.get_layer("table").embeddings
    pruned, frozen = np.zeros((9, 3), bool), np.zeros((9, 3), bool)
    pruned[:, 2], frozen[4], pruned[5], pruned[4] = True, True, True, False
    tfprune.set_masks(model, "table", "embeddings", trainable=~pruned, frozen=frozen)
    marks = [(table, pruned, frozen, np.asarray(table).copy())]
    tokens = np.random.default_rng(0).integers(0, 9, (8, 4))
    for _ in range(3):
        model.train_on_batch(tokens, np.ones((8, 1)))
        assert_held(marks)
    assert_moved(marks)


def test_gradient_of_an_embedding_stays_sparse():
    layer = layers.Embedding(9, 3)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(np.array([[1, 1, 5]])))
    gradient = tape.gradient(loss, layer.embeddings.value)
    assert isinstance(gradient, tf.IndexedSlices)
    tfprune.set_masks(layer, layer, "embeddings", trainable=np.s_[:, 1:])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(np.array([[1, 1, 5]])))
    gradient = tf.convert_to_tensor(tape.gradient(loss, layer.embeddings.value))
    truth = np.zeros((9, 3))
    truth[1], truth[5], truth[:, 0] = 2, 1, 0
    np.testing.assert_array_equal(gradient, truth)


MIRRORED = """
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras
from tests.layers.masked_training import (
    OPTIMIZERS, assert_held, assert_moved, data, mask_model, small_model
)

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    model = small_model()
    optimizer = OPTIMIZERS["{optimizer}"](weight_decay=0.1, global_clipnorm=1.0)
    model.compile(optimizer, "mse", jit_compile=False)
assert strategy.num_replicas_in_sync == 2
x, y = data(16)
model.fit(x, y, batch_size=8, verbose=0)
marks = mask_model(model)
model.fit(x, y, batch_size=8, epochs=2, verbose=0)
assert_held(marks)
assert_moved(marks)
for weight, pruned, frozen, before in marks:
    for replica in strategy.experimental_local_results(weight.value):
        assert not replica.numpy()[pruned].any()
        assert (replica.numpy()[frozen] == before[frozen]).all()
        np.testing.assert_array_equal(replica.numpy(), np.asarray(weight))
model.save("{path}")
again = keras.saving.load_model("{path}")
np.testing.assert_array_equal(again.get_layer("first").trainable_masks["kernel"],
                              model.get_layer("first").trainable_masks["kernel"])
print("held on both replicas")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer", ["AdamW", "Ftrl", "Muon", "Preconditioned", "FullPreconditioned"]
)
def test_masks_hold_in_each_replica_of_a_mirrored_strategy(optimizer, tmp_path):
    code = MIRRORED.format(optimizer=optimizer, path=tmp_path / "model.keras")
    for _ in range(2):
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        if run.returncode >= 0:  # else a signal ended it, in TensorFlow's own threads
            break
    assert "held on both replicas" in run.stdout, (run.returncode, run.stderr[-3000:])
