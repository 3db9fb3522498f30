"""The step at which the training of a model is."""

import keras


def current_step(model, optimizer=None):
    """`optimizer.iterations` as an integer; by default of `model.optimizer`."""
    optimizer = model.optimizer if optimizer is None else optimizer
    return int(keras.ops.convert_to_numpy(optimizer.iterations))
