"""Pruned and frozen elements hold under every optimizer, whatever it does."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tfprune import layers, optimizers
from tfprune.masks.setting import masked_layers

STEPS = 4


OPTIMIZERS = {
    "SGD": lambda **o: keras.optimizers.SGD(0.1, **o),
    "momentum": lambda **o: keras.optimizers.SGD(0.1, momentum=0.9, **o),
    "nesterov": lambda **o: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True, **o),
    "RMSprop": lambda **o: keras.optimizers.RMSprop(0.01, **o),
    "centered": lambda **o: keras.optimizers.RMSprop(0.01, momentum=0.9, centered=True, **o),
    "Adam": lambda **o: keras.optimizers.Adam(0.01, **o),
    "amsgrad": lambda **o: keras.optimizers.Adam(0.01, amsgrad=True, **o),
    "AdamW": lambda **o: keras.optimizers.AdamW(0.01, **o),
    "Adadelta": lambda **o: keras.optimizers.Adadelta(1.0, **o),
    "Adagrad": lambda **o: keras.optimizers.Adagrad(0.1, **o),
    "Adamax": lambda **o: keras.optimizers.Adamax(0.01, **o),
    "Adafactor": lambda **o: keras.optimizers.Adafactor(0.1, **o),
    "Nadam": lambda **o: keras.optimizers.Nadam(0.01, **o),
    "Ftrl": lambda **o: keras.optimizers.Ftrl(
        0.1, l1_regularization_strength=0.01, l2_regularization_strength=0.01, beta=0.1, **o
    ),
    "Lion": lambda **o: keras.optimizers.Lion(0.01, **o),
    "Lamb": lambda **o: keras.optimizers.Lamb(0.01, **o),
    "Muon": lambda **o: keras.optimizers.Muon(0.01, **o),
    "ScheduleFreeAdamW": lambda **o: keras.optimizers.ScheduleFreeAdamW(0.01, **o),
    "Preconditioned": lambda **o: optimizers.PreconditionedSGD(
        0.1, dataset_size=600, batch_size=6, epsilon=0.01, **o
    ),
    "FullPreconditioned": lambda **o: optimizers.FullPreconditionedSGD(
        np.diag(np.linspace(0.02, 0.1, 47)) + 0.01, dataset_size=600, batch_size=6, **o
    ),
    "LossScale": lambda **o: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.AdamW(0.01, **o), initial_scale=8.0
    ),
    "Multi": lambda **o: keras.optimizers.MultiOptimizer(two_optimizers(o)),
}


def two_optimizers(options):
    first = keras.optimizers.AdamW(0.01, **options)
    second = keras.optimizers.Muon(0.01, **options)
    return lambda variable: first if "bias" in variable.path else second


OPTIONS = {
    "decay and average": {
        "weight_decay": 0.1,
        "global_clipnorm": 0.5,
        "use_ema": True,
        "ema_momentum": 0.5,
        "ema_overwrite_frequency": 2,
    },
    "accumulate": {"gradient_accumulation_steps": 2, "weight_decay": 0.1, "clipvalue": 0.1},
}


def small_model(module=layers, penalty=True):
    """Dense, BatchNormalization, Dense, with penalties and constraints that pull at them."""
    keras.utils.set_random_seed(2)
    options = {}
    if penalty:
        options = {
            "kernel_regularizer": keras.regularizers.L1L2(0.1, 0.1),
            "bias_regularizer": keras.regularizers.L2(0.1),
            "kernel_constraint": keras.constraints.MaxNorm(0.5),
            "bias_initializer": "ones",
        }
    return keras.Sequential(
        [
            keras.Input((5,)),
            module.Dense(4, activation="tanh", name="first", **options),
            module.BatchNormalization(name="norm", gamma_regularizer="l2" if penalty else None),
            module.Dense(3, name="second", **options),
        ]
    )


def data(batch=6, seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(batch, 5)).astype("float32"),
        rng.normal(size=(batch, 3)).astype("float32"),
    )


def mask_model(model):
    """Prunes a row, a column and single elements, freezes others; gives what must hold."""
    marks = []
    for layer in masked_layers(model):
        for name, weight in layer.masked_weights.items():
            pruned, frozen = np.zeros(weight.shape, bool), np.zeros(weight.shape, bool)
            pruned[1], frozen[0] = True, True
            if pruned.ndim == 2:
                pruned[:, -1], frozen[0, -1] = True, False
                pruned[2, 0], frozen[2, 1] = True, True
            tfprune.set_masks(model, layer, name, trainable=~pruned, frozen=frozen)
            marks.append((weight, pruned, frozen, np.asarray(weight).copy()))
    return marks


def assert_held(marks):
    for weight, pruned, frozen, before in marks:
        value = np.asarray(weight)
        assert np.isfinite(value).all(), weight.path
        assert not value[pruned].any(), weight.path
        assert value[frozen].tobytes() == before[frozen].tobytes(), weight.path


def assert_moved(marks):
    for weight, pruned, frozen, before in marks:
        live = ~(pruned | frozen)
        assert (np.asarray(weight)[live] != before[live]).any(), weight.path


def assert_holds_while_training(model, marks):
    x, y = data()
    for _ in range(STEPS):
        model.train_on_batch(x, y)
        assert_held(marks)
    assert_moved(marks)


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


def slots_of(optimizer, weight):
    """The slots of a weight by the name that Keras gives them, inner optimizers included."""
    prefix = weight.path.replace("/", "_") + "_"
    return {
        v.path.split("/")[-1]: np.asarray(v)
        for v in optimizer.variables
        if v.path.split("/")[-1].startswith(prefix) and v.shape == weight.shape
    }


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_slots_start_anew_where_masks_change_and_only_there(optimizer):
    model = small_model(penalty=False)
    options = {"use_ema": True}
    model.compile(optimizer(**options), "mse", run_eagerly=True)
    x, y = data()
    model.train_on_batch(x, y)
    weight = model.get_layer("first").kernel
    before = slots_of(model.optimizer, weight)
    pruned, frozen = np.zeros(weight.shape, bool), np.zeros(weight.shape, bool)
    pruned[:, 0], frozen[:, 1] = True, True
    tfprune.set_masks(model, "first", "kernel", trainable=~pruned, frozen=frozen)
    changed, after = pruned | frozen, slots_of(model.optimizer, weight)
    adafactor = isinstance(model.optimizer, keras.optimizers.Adafactor)
    assert after
    for name, slot in after.items():
        if adafactor and name.endswith("velocity"):
            continue  # made from its row and column factors at every step
        np.testing.assert_array_equal(slot[~changed], before[name][~changed])
        schedule_free = isinstance(model.optimizer, keras.optimizers.ScheduleFreeAdamW)
        if name.endswith("average") or (schedule_free and name.endswith("momentum")):
            start = np.asarray(weight)[changed]
        elif name.endswith("accumulator"):
            start = np.full(changed.sum(), 0.1, "float32")
        else:
            start = np.zeros(changed.sum(), "float32")
        np.testing.assert_array_equal(slot[changed], start, err_msg=name)


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_regrown_elements_start_at_zero_and_move(optimizer):
    model = small_model(penalty=False)
    model.compile(optimizer(use_ema=True), "mse", run_eagerly=True)
    x, y = data()
    weight = model.get_layer("first").kernel
    model.train_on_batch(x, y)
    tfprune.set_masks(model, "first", "kernel", trainable=np.s_[:, 1:])
    model.train_on_batch(x, y)
    tfprune.set_masks(model, "first", "kernel", trainable=True)
    assert not np.asarray(weight)[:, 0].any()
    slots = slots_of(model.optimizer, weight)
    for name, slot in slots.items():
        adafactor = isinstance(model.optimizer, keras.optimizers.Adafactor)
        if not name.endswith("accumulator") and not (adafactor and name.endswith("velocity")):
            assert not slot[:, 0].any(), name
    model.train_on_batch(x, y)
    assert np.asarray(weight)[:, 0].all()


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


def test_optimizer_of_a_custom_loop_has_its_slots_reset():
    model, optimizer = small_model(penalty=False), keras.optimizers.Adam(0.01)
    kernel = model.get_layer("first").kernel
    optimizer.apply(
        [tf.ones(v.shape) for v in model.trainable_variables], model.trainable_variables
    )
    tfprune.set_masks(model, "first", "kernel", trainable=np.s_[1:], optimizer=optimizer)
    for slot in slots_of(optimizer, kernel).values():
        assert not slot[0].any()
        assert slot[1:].all()


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
from tests.layers.test_training import (
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
