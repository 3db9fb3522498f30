import functools
import subprocess
import sys
import textwrap
import warnings

import keras
import numpy as np
import pytest
import tf_keras
from tensorflow_model_optimization.sparsity import keras as tfmot

import tfprune
from tfprune import schedules
from tfprune.interop.tfmot import CountedFromOne, TfmotSchedule, from_tfmot, from_tfmot_schedule

pytestmark = pytest.mark.slow  # together; each builds and runs models of two Keras

K = tf_keras.layers


def mlp():
    inputs = tf_keras.Input((12,), name="features")
    x = K.Dense(16, name="hidden", kernel_regularizer="l2")(inputs)
    x = K.BatchNormalization(name="norm")(x)
    x = K.Activation("relu", name="relu")(x)
    x = K.Dense(8, activation="gelu", name="narrow")(x)
    return tf_keras.Model(inputs, K.Dense(3, activation="softmax", name="out")(x), name="mlp")


def cnn():
    inputs = tf_keras.Input((8, 8, 3), name="image")
    x = K.Conv2D(6, 3, padding="same", name="stem/conv")(inputs)
    x = K.LeakyReLU(0.1, name="leaky")(x)
    y = K.SeparableConv2D(6, 3, padding="same", activation="relu", name="separable")(x)
    y = K.DepthwiseConv2D(3, padding="same", name="depthwise")(y)
    x = K.Add(name="add")([x, y])
    x = K.Concatenate(name="concat")([x, K.Conv2D(4, 1, name="conv")(x)])
    x = K.GlobalAveragePooling2D(name="pool")(x)
    return tf_keras.Model(inputs, K.Dense(3, name="out")(x), name="cnn")


def recurrent():
    return tf_keras.Sequential(
        [
            K.LSTM(8, return_sequences=True, input_shape=(6, 5), name="lstm"),
            K.GRU(6, name="gru"),
            K.Dense(3, name="out"),
        ],
        name="recurrent",
    )


def words():
    inputs = tf_keras.Input((7,), dtype="int32", name="words")
    x = K.Embedding(11, 6, mask_zero=True, input_length=7, name="embedding")(inputs)
    x = K.Bidirectional(K.LSTM(4, return_sequences=True), name="both")(x)
    x = K.TimeDistributed(K.Dense(5, activation="relu"), name="each")(x)
    cells = [K.GRUCell(4), K.LSTMCell(3), K.SimpleRNNCell(2)]
    return tf_keras.Model(inputs, K.RNN(cells, name="stacked")(x), name="words")


def nested():
    body = tf_keras.Sequential(
        [K.Dense(9, activation="relu", input_shape=(4,), name="wide"), K.Dense(4, name="back")],
        name="body",
    )
    inner = tf_keras.Input((4,))
    scaled = tf_keras.Model(inner, K.LayerNormalization(name="ln")(body(inner)), name="scaled")
    one, two = tf_keras.Input((4,), name="one"), tf_keras.Input((4,), name="two")
    x = K.Dense(4, name="first")(one)
    return tf_keras.Model([one, two], [scaled(x), K.Add(name="add")([body(x), scaled(two)])])


def attention():
    x, y = tf_keras.Input((5, 8), name="x"), tf_keras.Input((4, 8), name="y")
    z = K.MultiHeadAttention(2, 4, name="attention")(x, y)
    z, h, c = K.LSTM(4, return_sequences=True, return_state=True, name="encoder")(z)
    z = K.LSTM(4, name="decoder")(x, initial_state=[h, c])
    return tf_keras.Model({"x": x, "y": y}, {"z": z}, name="attention_model")


def randomised(model):
    """Random values in every variable, so that nothing is the same by chance."""
    generator = np.random.default_rng(0)
    values = [generator.uniform(0.1, 1, w.shape) - 0.4 * (w.shape.rank > 1) for w in model.weights]
    model.set_weights(values)
    return model


def boxed():
    box = tf_keras.Sequential([K.Dense(5, activation="relu"), K.Dense(4)], name="box")
    return tf_keras.Sequential([K.Dense(3, input_shape=(4,)), box, K.Dense(2)], name="boxed")


WRAPPABLE = [mlp, cnn, recurrent, nested, attention]
EVERY = [*WRAPPABLE, words]


@functools.cache
def pruned(make):
    """The model wrapped by tfmot, its masks made by one training step."""
    schedule = tfmot.ConstantSparsity(0.5, begin_step=1, frequency=1)
    model = tfmot.prune_low_magnitude(randomised(make()), schedule)
    inputs = arrays(model)
    outputs = [np.zeros(o.shape) for o in keras.tree.flatten(call(model, inputs))]
    model.compile("sgd", "mse")
    targets = outputs[0] if len(outputs) == 1 else outputs
    if isinstance(model.output, dict):
        targets = dict(zip(model.output, outputs, strict=True))
    step = tfmot.UpdatePruningStep()
    model.fit(inputs, targets, verbose=0, callbacks=[step])
    return model


def arrays(model, seed=3):
    generator = np.random.default_rng(seed)

    def array(tensor):
        shape = (8, *tensor.shape[1:])
        if "int" in tensor.dtype.name:
            return generator.integers(0, 11, shape).astype("int32")
        return generator.normal(size=shape).astype("float32")

    return keras.tree.map_structure(array, model.input)


def call(model, inputs):
    outputs = keras.tree.flatten(model(inputs, training=False))
    return [np.asarray(output) for output in outputs]


def assert_same_outputs(theirs, ours, atol=1e-5):
    inputs = arrays(theirs)
    for a, b in zip(call(theirs, inputs), call(ours, inputs), strict=True):
        assert np.ptp(a) > 1e-3
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=atol * np.abs(a).max())


def tfmot_masks(model):
    """The masks of tfmot by the name of the wrapped layer."""
    wrappers = [part for part in model.submodules if hasattr(part, "pruning_vars")]
    return {w.layer.name: [mask.numpy() != 0 for _, mask, _ in w.pruning_vars] for w in wrappers}


def our_masks(model):
    """The masks which are not fresh, by layer."""
    found = {}
    for layer in tfprune.masks.masked_layers(model):
        masks = [np.asarray(mask) for mask in layer.trainable_masks.values()]
        found[layer.name] = [mask for mask in masks if not mask.all()]
    return {name: masks for name, masks in found.items() if masks}


def assert_masks_are(model, expected):
    masks = our_masks(model)
    expected = {name.replace("/", "_"): found for name, found in expected.items() if found}
    assert masks.keys() == expected.keys()
    for name, found in expected.items():
        for ours, theirs in zip(masks[name], found, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("make", WRAPPABLE)
def test_a_wrapped_model_has_the_same_outputs_and_masks(make):
    theirs = pruned(make)
    ours = from_tfmot(theirs)
    assert_same_outputs(theirs, ours)
    assert_masks_are(ours, tfmot_masks(theirs))


@pytest.mark.parametrize("make", WRAPPABLE)
def test_a_stripped_model_has_the_same_masks_as_the_wrapped_one(make):
    wrapped = pruned(make)
    masks = tfmot_masks(wrapped)
    theirs = tfmot.strip_pruning(wrapped)
    ours = from_tfmot(theirs)
    assert_same_outputs(theirs, ours)
    assert_masks_are(ours, masks)


def zeroed(model):
    """Every second column of each kernel 0, in a model without wrappers."""
    model = randomised(model)
    for weight in model.weights:
        if weight.name.endswith(("kernel:0", "embeddings:0")):
            value = weight.numpy()
            value[..., ::2] = 0
            weight.assign(value)
    return model


def test_what_tfmot_cannot_wrap_is_taken_over_by_its_zeros():
    theirs = zeroed(words())
    ours = from_tfmot(theirs)
    assert_same_outputs(theirs, ours)
    kernels = [w.numpy() for w in theirs.weights if not w.name.endswith("bias:0")]
    masks = [mask for found in our_masks(ours).values() for mask in found]
    assert len(masks) == len(kernels) == 12
    for mask, kernel in zip(masks, kernels, strict=True):
        np.testing.assert_array_equal(mask, kernel != 0)


def test_only_wrapped_layers_carry_masks_where_some_are_wrapped():
    theirs = tf_keras.Sequential(
        [
            tfmot.prune_low_magnitude(K.Dense(6, name="wrapped"), input_shape=(4,)),
            K.Dense(5, name="plain"),
        ]
    )
    theirs.layers[1].kernel[0, 0].assign(0.0)
    theirs.layers[0].pruning_vars[0][1][1, 2].assign(0.0)  # a mask not yet applied to the kernel
    ours = from_tfmot(theirs)
    expected = np.ones((4, 6), bool)
    expected[1, 2] = False
    assert_masks_are(ours, {"wrapped": [expected]})
    assert_same_outputs(theirs, ours)


def test_a_kernel_of_zeros_alone_is_not_taken_for_pruned():
    theirs = tf_keras.Sequential([K.Dense(2, input_shape=(3,), kernel_initializer="zeros")])
    assert our_masks(from_tfmot(theirs)) == {}


# Files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["h5", "keras"])
@pytest.mark.parametrize("make", [mlp, cnn, boxed])
@pytest.mark.parametrize("is_wrapped", [True, False], ids=["wrapped", "stripped"])
@pytest.mark.filterwarnings("ignore:.*HDF5 file")
def test_a_file_is_taken_over_as_its_model(make, ending, is_wrapped, tmp_path):
    theirs = pruned(make)
    masks = tfmot_masks(theirs)
    theirs = theirs if is_wrapped else tfmot.strip_pruning(theirs)
    theirs.save(tmp_path / f"model.{ending}")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*without comparing")
        ours = from_tfmot(tmp_path / f"model.{ending}")
    assert_same_outputs(theirs, ours)
    assert_masks_are(ours, masks)


@pytest.mark.parametrize("ending", ["h5", "keras"])
@pytest.mark.filterwarnings("ignore:.*HDF5 file")
def test_files_of_cells_and_of_layers_in_layers(ending, tmp_path):
    theirs = zeroed(words())
    theirs.save(tmp_path / f"model.{ending}")
    assert_same_outputs(theirs, from_tfmot(str(tmp_path / f"model.{ending}")))


def test_a_keras_file_of_wrapped_recurrent_layers(tmp_path):
    theirs = pruned(recurrent)
    theirs.save(tmp_path / "model.keras")
    assert_masks_are(from_tfmot(tmp_path / "model.keras"), tfmot_masks(theirs))


BLOCKED = """
    import sys, warnings
    for name in ("tf_keras", "tensorflow_model_optimization"):
        sys.modules[name] = None  # importing them fails
    import numpy as np, keras
    from tfprune.interop.tfmot import from_tfmot
    directory = sys.argv[1]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = from_tfmot(directory + "/model.h5")
    assert any("without comparing" in str(w.message) for w in caught), caught
    stored = np.load(directory + "/arrays.npz")
    np.testing.assert_allclose(model(stored["x"]), stored["y"], rtol=1e-5, atol=1e-6)
    mask = np.asarray(model.get_layer("hidden").trainable_masks["kernel"])
    np.testing.assert_array_equal(mask, stored["mask"])
    try:
        from_tfmot(directory + "/model.keras")
    except ModuleNotFoundError as error:
        assert "pip install 'tfprune[tfmot]'" in str(error)
    else:
        raise AssertionError("the .keras file was read")
"""


@pytest.mark.filterwarnings("ignore:.*HDF5 file")
def test_an_h5_file_is_read_without_tf_keras(tmp_path):
    theirs = pruned(mlp)
    theirs.save(tmp_path / "model.h5")
    theirs.save(tmp_path / "model.keras")
    x = arrays(theirs)
    [mask] = tfmot_masks(theirs)["hidden"]
    np.savez(tmp_path / "arrays.npz", x=x, y=call(theirs, x)[0], mask=mask)
    code = [sys.executable, "-c", textwrap.dedent(BLOCKED), str(tmp_path)]
    done = subprocess.run(code, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Strip --------------------------------------------------------------------------------------------


def test_strip_removes_what_strip_pruning_leaves():
    theirs = pruned(mlp)
    kernel = theirs.layers[1].layer.kernel
    value = kernel.numpy()
    value[:, [0, 3, 4]] = 0
    kernel.assign(value)
    theirs.layers[1].pruning_vars[0][1].assign(value != 0)
    theirs = tfmot.strip_pruning(theirs)
    small = tfprune.strip(from_tfmot(theirs))
    assert small.get_layer("hidden").units == 13
    assert small.get_layer("norm").gamma.shape == (13,)
    assert small.count_params() < theirs.count_params()
    assert_same_outputs(theirs, small)


def test_strip_of_recurrent_units():
    theirs = randomised(recurrent())
    for weight in (theirs.get_layer("gru").weights[0], theirs.get_layer("lstm").weights[1]):
        value = weight.numpy()
        value[[1, 4, 6]] = 0  # what the GRU and the other units read of three units of the LSTM
        weight.assign(value)
    small = tfprune.strip(from_tfmot(theirs))
    assert [layer.units for layer in small.layers] == [5, 6, 3]
    assert_same_outputs(theirs, small)


# What cannot be taken over ------------------------------------------------------------------------


@tf_keras.utils.register_keras_serializable("test_tfmot")
class Scale(K.Layer):
    def build(self, shape):
        self.scale = self.add_weight("scale", shape=shape[-1:], initializer="ones")

    def call(self, inputs):
        return inputs * self.scale


class Scale3(keras.layers.Layer):
    def build(self, shape):
        self.scale = self.add_weight(name="scale", shape=shape[-1:], initializer="ones")

    def call(self, inputs):
        return inputs * self.scale


def test_a_layer_of_ones_own_is_opened_or_taken_from_custom_objects():
    theirs = randomised(tf_keras.Sequential([K.Dense(3, input_shape=(2,)), Scale(name="mine")]))
    assert_same_outputs(theirs, from_tfmot(theirs))
    ours = from_tfmot(theirs, custom_objects={"Scale": Scale3})
    assert isinstance(ours.get_layer("mine"), Scale3)
    assert_same_outputs(theirs, ours)


def test_what_would_compute_something_else_is_refused():
    theirs = tf_keras.Sequential([K.Dense(2, "hard_sigmoid", input_shape=(3,), name="d")])
    with pytest.raises(ValueError, match="layer='d'"):
        from_tfmot(theirs)
    theirs = tf_keras.Sequential([K.LSTM(2, time_major=True, input_shape=(3, 2), name="r")])
    with pytest.raises(ValueError, match="layer='r'.*time_major=True"):
        from_tfmot(theirs)


@pytest.mark.parametrize("wrong", ["missing.h5", "missing.txt", keras.Sequential()])
def test_what_is_no_model_of_tf_keras(wrong):
    with pytest.raises(ValueError, match="Argument `model_or_path`"):
        from_tfmot(wrong)


def test_a_model_that_is_not_built_or_subclassed():
    with pytest.raises(ValueError, match="not built"):
        from_tfmot(tf_keras.Sequential([K.Dense(2)]))

    class Mine(tf_keras.Model):
        pass

    with pytest.raises(ValueError, match="subclassed"):
        from_tfmot(Mine())


def test_a_difference_is_an_error():
    class Twice(Scale3):
        def call(self, inputs):
            return 2 * super().call(inputs)

    theirs = randomised(tf_keras.Sequential([K.Dense(3, input_shape=(2,)), Scale(name="mine")]))
    with pytest.raises(RuntimeError, match="does not compute"):
        from_tfmot(theirs, custom_objects={"Scale": Twice})


# Schedules ----------------------------------------------------------------------------------------


THEIRS = [
    tfmot.ConstantSparsity(0.5, begin_step=0, frequency=7),
    tfmot.ConstantSparsity(0.5, begin_step=5, end_step=26, frequency=7),
    tfmot.PolynomialDecay(0.1, 0.8, begin_step=0, end_step=40, frequency=10),
    tfmot.PolynomialDecay(0.0, 0.8, begin_step=1, end_step=31, power=2, frequency=5),
    tfmot.PolynomialDecay(0.2, 0.9, begin_step=12, end_step=48, frequency=1),
]


@pytest.mark.parametrize("theirs", THEIRS, ids=lambda s: str(s.get_config()))
def test_the_same_updates_at_the_same_steps(theirs):
    ours = schedules.get(theirs)
    assert isinstance(ours, CountedFromOne)
    for step in range(1, 60):  # tfmot's: before its update of the weights there were step - 1
        is_due, sparsity = theirs(step)
        assert ours.is_due(step - 1) == bool(is_due)
        if is_due:
            assert ours(step - 1) == pytest.approx(float(sparsity), abs=1e-6)


def test_tfmot_trains_with_the_steps_that_are_said():
    schedule = tfmot.PolynomialDecay(0.0, 0.75, begin_step=0, end_step=6, frequency=2)
    layer = tf_keras.Sequential([K.Dense(4, input_shape=(4,))])
    theirs = tfmot.prune_low_magnitude(randomised(layer), schedule)
    theirs.compile("sgd", "mse")
    callback, found = tfmot.UpdatePruningStep(), []
    for _ in range(8):
        theirs.fit(np.ones((1, 4)), np.ones((1, 4)), verbose=0, callbacks=[callback])
        found.append(1 - np.mean(tfmot_masks(theirs)[theirs.layers[0].layer.name][0]))
    model = keras.Sequential([keras.Input((4,)), tfprune.layers.Dense(4)])
    model.compile("sgd", "mse")
    ours = schedules.get(schedule)
    # A step has the mask that is set before it: after `iterations` updates, tfmot's step + 1.
    due = [ours.last_due(iterations) for iterations in range(8)]
    expected = [0 if step is None else round(16 * ours(step)) / 16 for step in due]
    assert found == expected


def test_the_final_sparsity_is_reached_where_tfmot_misses_it():
    theirs = tfmot.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=25, frequency=10)
    ours = from_tfmot_schedule(theirs)
    assert not theirs(25)[0] and ours.last_due(100) == 24 and ours(24) == 0.8
    at_once = from_tfmot_schedule(tfmot.PolynomialDecay(0.0, 0.8, begin_step=3, end_step=3))
    assert at_once.last_due(9) == 2 and at_once(2) == 0.8


@keras.saving.register_keras_serializable("test_tfmot")
class Steps(tfmot.PruningSchedule):
    def __init__(self, steps):
        self.steps = steps

    def __call__(self, step):
        return step in self.steps, step / 100

    def get_config(self):
        return {"class_name": type(self).__name__, "config": {"steps": self.steps}}


@pytest.mark.parametrize(
    "theirs", [THEIRS[1], THEIRS[2], Steps([3, 9])], ids=lambda s: type(s).__name__
)
def test_a_callback_with_one_round_trips(theirs):
    callback = tfprune.callbacks.PruneWeights(theirs)
    again = type(callback).from_config(callback.get_config())
    for step in range(50):
        assert again.schedule.last_due(step) == callback.schedule.last_due(step)
        assert again.schedule(step) == callback.schedule(step)


def test_a_schedule_of_ones_own_is_asked_backwards_until_it_answers():
    schedule = schedules.get(Steps([3, 9]))
    assert isinstance(schedule, TfmotSchedule)
    assert [schedule.last_due(step) for step in (50, 1, 2, 7, 8, 60)] == [8, None, 2, 2, 8, 8]


def test_a_callback_follows_it_in_training():
    model = keras.Sequential([keras.Input((4,)), tfprune.layers.Dense(4)])
    model.compile("sgd", "mse")
    callback = tfprune.callbacks.PruneWeights(tfmot.PolynomialDecay(0.0, 0.75, 0, 6, frequency=2))
    x = np.ones((8, 4))
    history = model.fit(x, x, batch_size=1, callbacks=[callback], verbose=0).history
    assert history["sparsity"] == [0.75]
