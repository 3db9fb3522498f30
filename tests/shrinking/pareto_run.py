"""A run of `pareto` with training, which can be killed and goes on, also in another process."""

import os
import sys

import keras
import numpy as np
import tensorflow as tf

import tfprune

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 6)).astype("float32")
Y = np.argmax(X[:, :3] * X[:, 3:], axis=1)
DATA = X[:150], Y[:150]
BUDGETS = (0.75, 0.5, 0.3)


def network(units=16):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(units, "relu", name="hidden"),
            keras.layers.Dropout(0.2, seed=3, name="dropout"),
            keras.layers.Dense(3, name="logits"),
        ],
        name="network",
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(5e-3), loss, metrics=["accuracy"])
    model.fit(*DATA, epochs=3, verbose=0)
    return model


def run(folder, dies_at=None, **arguments):
    """The `ParetoFront`, and the models that were evaluated, unless the process dies there."""
    tf.config.experimental.enable_op_determinism()
    seen = []

    def quality(model):
        seen.append(model)
        if len(seen) == dies_at:
            os._exit(9)
        return float((model.predict(X[150:], verbose=0).argmax(1) == Y[150:]).mean())

    options = {"metric": quality, "larger_is_better": True, "folder": folder, "remaining": BUDGETS}
    options |= {"criterion": "random", "recover": (), "epochs": 1, "batch_size": 25}
    return tfprune.pareto(network(), DATA, **{**options, **arguments}), seen


if __name__ == "__main__":
    _, evaluated = run(sys.argv[1], int(sys.argv[2]))
    print(len(evaluated))
