"""NaN and infinity, in data and in the weights of a model, named by where they are."""

import keras
import numpy as np


class NotFiniteError(ValueError):
    """Data, weights or a result hold NaN or infinity."""


def check_finite_data(argument, data):
    """Raises a `NotFiniteError` if arrays hold NaN or infinity.

    Args:
        argument: The name of the argument, for the error.
        data: Arrays and tensors in any structure. Whatever else there is, as datasets, is left.

    Example:

    >>> check_finite_data("data", (np.ones((2, 3)), ["words"], None))
    >>> check_finite_data("data", (np.array([[1.0, np.nan]]),))
    Traceback (most recent call last):
    tfprune._tools.finite.NotFiniteError: Argument `data` must hold finite numbers. Received: nan \
at index (0, 1) of an array of shape (1, 2).
    """
    for leaf in keras.tree.flatten(data):
        is_array = isinstance(leaf, np.ndarray) or keras.ops.is_tensor(leaf)
        found = _first(leaf) if is_array else None
        if found is not None:
            raise NotFiniteError(
                f"Argument `{argument}` must hold finite numbers. Received: {found} of an array of "
                f"shape {tuple(leaf.shape)}."
            )


def check_finite_weights(model, when=""):
    """Raises a `NotFiniteError` if a weight of a model holds NaN or infinity.

    In weights that are not trained -inf may be meant, to mask something out, and passes.

    Args:
        model: A model.
        when: What was done before, as " after training", for the error.

    Example:

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, name="d")])
    >>> check_finite_weights(model)
    """
    for weight in model.weights:
        found = _first(weight, is_mask=not weight.trainable)
        if found is not None:
            raise NotFiniteError(
                f"A weight of the model is not finite{when}. Received: model={model.name!r}, "
                f"weight={weight.path!r}, {found}."
            )


def _first(value, is_mask=False):
    """The first number of an array that is not finite, and its index, in words; or None."""
    dtype = keras.backend.standardize_dtype(value.dtype)
    if not keras.backend.is_float_dtype(dtype):
        return None
    value = np.asarray(keras.ops.convert_to_numpy(value))
    if value.dtype.kind != "f":  # bfloat16
        value = value.astype("float32")
    bad = ~np.isfinite(value)
    bad &= value != -np.inf if is_mask else True
    if not bad.any():
        return None
    index = tuple(int(i) for i in np.argwhere(bad)[0])
    more = int(bad.sum()) - 1
    return f"{value[index]} at index {index}" + (f" and {more} more" if more else "")
