"""Error messages for models that cannot be traced, and a `call` that fails on symbolic tensors."""

import inspect
import textwrap
import traceback
from pathlib import Path

import keras

from tfprune import _keras


def failure(call, error):
    """Where a `call` failed, by the last line of its file, with the exception's words.

    Also the line of `call` itself, which may be another: that of a call of a function in the file.
    """
    frames = traceback.extract_tb(error.__traceback__)
    code = getattr(inspect.unwrap(call), "__code__", None)
    own = [frame for frame in frames if code is None or frame.filename == code.co_filename]
    frame = (own or frames)[-1]
    words = str(error)
    if not isinstance(error, _keras.UnreadableError):
        words = f"{type(error).__name__}: {core(words)}"
    return f"line {frame.lineno} of {Path(frame.filename).name}: {words}", (own or frames)[0].lineno


def core(words):
    """An exception's words on one line, without what Keras writes around them."""
    if words.startswith("Exception encountered when calling"):
        words = words.partition("\x1b[1m")[2].partition("\x1b[0m")[0] or words
    return textwrap.shorten(words, 240, placeholder=" ...")


def not_recorded(model):
    """Why a subclassed model has no trace whose arguments have no known shapes."""
    needed = _keras.required_arguments(model)
    return (
        "The shapes of the arguments of the model are not known: of a model without a `build` of "
        "its own, Keras keeps that of the first argument alone. "
        f"Received: model={model.name!r} ({type(model).__name__}) with the arguments {needed}. "
        f"Call it on symbolic inputs once, `model({', '.join(['keras.Input(...)'] * len(needed))})`"
        f", or give it a method `build(self, {', '.join(f'{name}_shape' for name in needed)})`."
    )


def no_graph(model, error=None):
    """Why a model has no trace, with the `NotTracedError` if its `call` was tried."""
    if isinstance(model, keras.Sequential):
        return (
            "The Sequential model is not built or has no layers, so there is no graph to follow. "
            f"Received: model={model.name!r}. Add `keras.Input(shape)` first and add layers, "
            "or call the model on data once."
        )
    if isinstance(model, keras.Model) and not _keras.has_own_call(model):
        return no_call(model)
    if error is not None:
        return (
            "The model has no graph of layers that can be read: it must be Functional or "
            "Sequential, or have a `call` that runs on symbolic tensors. "
            f"Received: model={model.name!r}. {error}."
        )
    return (
        "The model has no graph of layers that can be read: it must be Functional or Sequential, "
        "or called on data once. "
        f"Received: model={getattr(model, 'name', model)!r} ({type(model).__name__}). "
        "Call it on data, or build it as `keras.Model(inputs, model.call(inputs))` with "
        "`inputs = keras.Input(...)`, or give the models inside it one by one."
    )


def no_call(model):
    """Why a model has no trace whose class has no `call`, and what to do with it."""
    parts = [f"`model.{name}`" for name in _keras.models_inside(model)]
    name = (getattr(model, "own_class", None) or type(model)).__name__
    advice = (
        f"Give the models inside it one by one: {', '.join(parts[:5])}. `tfprune.prunable(model)` "
        f"puts masks on all of them and trains as {name} does; make a new {name} of what `strip` "
        "returns for each."
        if parts
        else f"Give {name} a `call` that says what its layers compute together."
    )
    return (
        "The model has no `call` of its own, so there is no graph of the whole: its parts are only "
        f"called by other methods, such as `train_step`. Received: model={model.name!r} ({name}). "
        + advice
    )
