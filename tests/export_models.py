"""Models of many kinds, with inputs for them, to export."""

import keras
import numpy as np

L = keras.layers


def chain(inputs, *layers, **kwargs):
    x = inputs
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x, **kwargs)


def list_inputs():
    a, b = keras.Input((3,), name="a"), keras.Input((4,), name="b")
    return keras.Model([a, b], L.Concatenate(name="joined")([L.Dense(2)(a), b]))


def dict_inputs_and_outputs():
    # Not in alphabetical order: what goes by position would be exchanged.
    z, b = keras.Input((3,), name="z"), keras.Input((3,), name="b", dtype="int32")
    outputs = {"y": L.Dense(2, name="y")(z), "c": L.Embedding(9, 2, name="c")(b)}
    return keras.Model({"z": z, "b": b}, outputs)


def nested_outputs():
    x = keras.Input((3,), name="x")
    first, second = L.Dense(2, name="first")(x), L.Dense(3, name="second")(x)
    return keras.Model(x, [first, [second, x]])


def one_output_twice():
    x = keras.Input((4, 3), name="x")
    return keras.Model(x, L.LSTM(2, return_state=True, name="states")(x))


def odd_names():
    x = keras.Input((3,), name="2-in.put")
    return chain(x, L.Dense(2, name="out.2-b"))


def batch_normalised():
    model = chain(
        keras.Input((6, 6, 2), name="x"),
        L.Conv2D(3, 3, use_bias=False),
        L.BatchNormalization(),
        L.Dropout(0.9),
        L.GaussianNoise(1.0),
        L.Flatten(),
        L.Dense(2, name="y"),
    )
    model.layers[2].moving_mean.assign([1.0, -2.0, 3.0])
    return model


def attention():
    x = keras.Input((None, 4), name="x")
    return keras.Model(x, L.MultiHeadAttention(2, 3, dropout=0.5, name="y")(x, x))


def mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    return chain(keras.Input((8,), name="x"), L.Dense(4), L.Dense(2, name="y"))


def nested_model_called_twice():
    inner = chain(keras.Input((3,)), L.Dense(3), name="inner")
    x = keras.Input((3,), name="x")
    return keras.Model(x, L.Add(name="y")([inner(x), inner(inner(x))]))


def string_lookup():
    lookup = L.StringLookup(vocabulary=["b", "a", "c"])
    return chain(keras.Input((2,), name="x", dtype="string"), lookup, L.Embedding(4, 2, name="y"))


def vectorised_text():
    vectorize = L.TextVectorization(output_sequence_length=4)
    vectorize.adapt(["b a", "c a"])
    return chain(keras.Input((), name="x", dtype="string"), vectorize, L.Embedding(6, 2, name="y"))


def quantized():
    model = chain(keras.Input((8,), name="x"), L.Dense(4), L.Dense(2, name="y"))
    model.quantize("int8")
    return model


def sequential():
    return keras.Sequential([keras.Input((3,), name="x"), L.Dense(2, name="y")])


def dynamic_sizes():
    x = keras.Input((None, None, 3), name="x")
    return chain(x, L.Conv2D(4, 3, strides=2), L.GlobalAveragePooling2D(), L.Dense(2, name="y"))


def integers():
    x = keras.Input((None,), name="x", dtype="int32")
    return chain(x, L.Embedding(9, 4, mask_zero=True), L.GRU(3), L.Dense(2, name="y"))


def static_batch():
    return chain(keras.Input(batch_shape=(2, 3), name="x"), L.Dense(2, name="y"))


def floats(*shape):
    return np.random.default_rng(7).normal(size=shape).astype("float32")


ids = np.array([[1, 8, 0], [5, 2, 3]], "int32")

ZOO = {
    "sequential": (sequential, {"x": floats(5, 3)}),
    "list of inputs": (list_inputs, {"a": floats(5, 3), "b": floats(5, 4)}),
    "dicts": (dict_inputs_and_outputs, {"z": floats(2, 3), "b": ids}),
    "nested outputs": (nested_outputs, {"x": floats(5, 3)}),
    "one output twice": (one_output_twice, {"x": floats(5, 4, 3)}),
    "odd names": (odd_names, {"2-in.put": floats(5, 3)}),
    "batch norm, dropout": (batch_normalised, {"x": floats(5, 6, 6, 2)}),
    "attention": (attention, {"x": floats(2, 7, 4)}),
    "mixed precision": (mixed_precision, {"x": floats(5, 8)}),
    "nested twice": (nested_model_called_twice, {"x": floats(5, 3)}),
    "string lookup": (string_lookup, {"x": np.array([["a", "?"], ["c", "b"]])}),
    "text": (vectorised_text, {"x": np.array(["a b c", "d"])}),
    "quantized": (quantized, {"x": floats(5, 8)}),
    "dynamic sizes": (dynamic_sizes, {"x": floats(2, 9, 11, 3)}),
    "integers": (integers, {"x": ids}),
    "static batch": (static_batch, {"x": floats(2, 3)}),
}

# In the order of `model.outputs`; the others have one output, "y".
OUTPUT_NAMES = {
    "list of inputs": ["joined"],
    "dicts": ["c", "y"],
    "nested outputs": ["first", "second", "x"],
    "one output twice": ["states", "states_1", "states_2"],
    "odd names": ["out.2-b"],
}
