"""Random weights and inputs for models under surgery."""

import numpy as np


def drawn(model):
    """The model with random weights, biases and statistics, without zeros."""
    draw = np.random.default_rng(0)
    for weight in model.weights:
        value = draw.normal(size=weight.shape)
        weight.assign(np.abs(value) + 0.5 if "variance" in weight.name else value)
    return model


def example(model, batch=3):
    (tensor,) = model.inputs
    draw = np.random.default_rng(1)
    return draw.normal(size=(batch, *tensor.shape[1:])).astype("float32")
