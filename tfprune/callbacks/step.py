"""The current training step of a model."""

import keras


def current_step(model, optimizer=None):
    """`optimizer.iterations` as an integer; by default of `model.optimizer`."""
    optimizer = model.optimizer if optimizer is None else optimizer
    return int(keras.ops.convert_to_numpy(optimizer.iterations))
