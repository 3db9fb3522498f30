"""Checks of arguments; a bool is neither an integer nor a number here."""

import math
import numbers

import keras


def is_integer(value):
    """Whether a value is an integer, of Python or NumPy."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value):
    """Whether a value is a real number, of Python or NumPy.

    >>> is_number(0.5), is_number(True), is_integer(3), is_integer(3.0)
    (True, False, True, False)
    """
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_integer(argument, value, least=1):
    """Raises a `ValueError` unless a value is an integer of at least `least`."""
    if not is_integer(value) or value < least:
        raise ValueError(
            f"Argument `{argument}` must be an integer of at least {least}. "
            f"Received: {argument}={value!r}."
        )


def check_positive(argument, value):
    """Raises a `ValueError` unless a value is a finite number above 0."""
    if not is_number(value) or not 0 < value < math.inf:
        raise ValueError(
            f"Argument `{argument}` must be a number above 0. Received: {argument}={value!r}."
        )


def check_batch_sizes(value):
    """Raises a `ValueError` unless a value is a sequence of batch sizes."""
    is_sequence = isinstance(value, (list, tuple, set, range))
    if not is_sequence or not all(is_integer(size) and size >= 1 for size in value):
        raise ValueError(
            "Argument `batch_sizes` must be a tuple of integers of at least 1. "
            f"Received: batch_sizes={value!r}."
        )


def one_of(argument, value, known):
    """The value, if it is among those that are known.

    Raises:
        ValueError: If it is not.
    """
    if value not in known:
        raise ValueError(
            f"Argument `{argument}` must be one of {list(known)}. Received: {argument}={value!r}."
        )
    return value


def check_model(model, argument="model", or_layer=False):
    """Raises a `ValueError` unless a value is a model of Keras 3; names what helps.

    With `or_layer`, a layer by itself will do.

    >>> check_model(None)
    Traceback (most recent call last):
        ...
    ValueError: Argument `model` must be a Keras model. Received: an object of type NoneType.
    """
    if isinstance(model, keras.layers.Layer if or_layer else keras.Model):
        return
    modules = {kind.__module__.split(".")[0] for kind in type(model).__mro__}
    start = f"Argument `{argument}` must be a Keras model. Received: "
    if "tf_keras" in modules or "tensorflow_model_optimization" in modules:
        raise ValueError(
            f"{start}a model of `tf_keras` ({type(model).__name__}), which is Keras 2. Convert it "
            "with `tfprune.interop.tfmot.from_tfmot(model)`."
        )
    if isinstance(model, (str, bytes)) or hasattr(model, "__fspath__"):
        raise ValueError(f"{start}{model!r}. Load it with `keras.models.load_model(path)` first.")
    if isinstance(model, type):
        raise ValueError(f"{start}the class {model.__name__}. Make an object of it.")
    advice = ""
    if isinstance(model, keras.layers.Layer):
        advice = " Put the layer into a model, as `keras.Sequential([keras.Input(...), layer])`."
    elif isinstance(model, tuple) and any(isinstance(each, keras.Model) for each in model):
        advice = " Take the model out of the tuple that `return_report=True` gives."
    raise ValueError(f"{start}an object of type {type(model).__name__}.{advice}")
