"""Small compiled models, with data to train them."""

import keras
import numpy as np


def data(count=48):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(count, 6, 6, 2)).astype("f")
    y = (x[:, :3].mean((1, 2, 3)) > x[:, 3:].mean((1, 2, 3))).astype("int32")
    return x, y


def residual(optimizer="adam", **compile_arguments):
    keras.utils.set_random_seed(3)
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Activation("relu")(x)
    y = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="branch")(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Add()([x, y]))
    x = keras.layers.Dense(12, activation="gelu", kernel_regularizer="l2", name="hidden")(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="out")(x), name="residual")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], **compile_arguments)
    return model


def mlp(optimizer="adam", **compile_arguments):
    keras.utils.set_random_seed(3)
    made = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Flatten(),
            keras.layers.Dense(8, activation="relu", name="a"),
            keras.layers.Dense(2, name="out"),
        ]
    )
    made.compile(optimizer, "mse", **compile_arguments)
    return made


def mlp_data():
    x, y = data()
    return x, np.stack([y, 1 - y], 1).astype("f")
