"""Models of `tf_keras`, wrapped by tfmot and not, and their masks beside ours."""

import functools

import keras
import numpy as np
import tf_keras
from tensorflow_model_optimization.sparsity import keras as tfmot

import tfprune

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


def boxed():
    box = tf_keras.Sequential([K.Dense(5, activation="relu"), K.Dense(4)], name="box")
    return tf_keras.Sequential([K.Dense(3, input_shape=(4,)), box, K.Dense(2)], name="boxed")


WRAPPABLE = [mlp, cnn, recurrent, nested, attention]


def randomised(model):
    """Random values in every variable, so that nothing is the same by chance."""
    generator = np.random.default_rng(0)
    values = [generator.uniform(0.1, 1, w.shape) - 0.4 * (w.shape.rank > 1) for w in model.weights]
    model.set_weights(values)
    return model


def zeroed(model):
    """Every second column of each kernel 0, in a model without wrappers."""
    model = randomised(model)
    for weight in model.weights:
        if weight.name.endswith(("kernel:0", "embeddings:0")):
            value = weight.numpy()
            value[..., ::2] = 0
            weight.assign(value)
    return model


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
