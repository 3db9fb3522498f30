"""Weights, heads and inputs for the backbones of KerasHub."""

import keras
import numpy as np

from tests.kerashub_models.images import IMAGE


def randomise(model):
    """Gives all trainable weights values at random, so that each has a part in the outputs."""
    draw = np.random.default_rng(0)
    for weight in model.trainable_weights:
        scale = max(1.0, np.sqrt(np.prod(weight.shape[:-1])))
        weight.assign((draw.normal(size=weight.shape) / scale).astype("float32"))
    return model


def headed(model):
    """The backbone with a dense layer on each of its outputs, so that their width is none of them.

    Tasks are made so, such as a classifier.
    """
    outputs = [
        tensor
        if len(tensor.shape) < 2 or tensor.shape[-1] is None
        else keras.layers.Dense(3, name=f"head_{number}")(tensor)
        for number, tensor in enumerate(keras.tree.flatten(model.outputs))
    ]
    return keras.Model(model.input, outputs)


def count_beside_vocabulary(model):
    """The number of parameters without the embeddings of tokens."""
    tables = ("token_embedding", "word_embedding", "embeddings/")
    return sum(
        int(np.prod(weight.shape))
        for weight in model.weights
        if "float" in weight.dtype
        and not (len(weight.shape) == 2 and any(name in weight.path for name in tables))
    )


def inputs_of(model, length=8, batch=2):
    """Two examples for a backbone: tokens, images, all of every sequence to be seen."""
    if type(model).__name__ == "SAMBackbone":
        draw = np.random.default_rng(0)
        return {
            "images": draw.normal(size=(batch, *IMAGE)).astype("float32"),
            "points": (draw.random((batch, 1, 2)) * 32).astype("float32"),
            "labels": np.ones((batch, 1), "float32"),
            "boxes": (draw.random((batch, 1, 2, 2)) * 32).astype("float32"),
            "masks": draw.normal(size=(batch, 1, 32, 32, 1)).astype("float32"),
        }
    draw = np.random.default_rng(1)

    def example(tensor):
        shape = (batch, *(size or length for size in tensor.shape[1:]))
        if "mask" in tensor.name:
            return np.ones(shape, tensor.dtype)
        if "int" in tensor.dtype or "bool" in tensor.dtype:
            return draw.integers(0, 2, shape).astype(tensor.dtype)
        return draw.normal(size=shape).astype(tensor.dtype)

    return keras.tree.map_structure(example, model.input)
