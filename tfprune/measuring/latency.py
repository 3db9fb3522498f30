"""Measures the latency of models on this machine."""

import statistics
import time

import keras
import tensorflow as tf

from tfprune import _keras
from tfprune.coupling.shapes import random_inputs, sized_inputs

_WARM_UP_CALLS = 5
_LEAST_ROUNDS, _MOST_ROUNDS = 15, 300
_SECONDS = 1.0


def latency(models, batch_size=1, input_shapes=None):
    """Measures the median latency of each model, all of them alternating in one run.

    Each model is called at inference through a `tf.function` of its own on random inputs, a few
    times to warm up and then for about a second. A latency depends on the machine and what
    else runs on it; the ratio of two that were measured together depends on it much less.

    Args:
        models: A list of built Keras models that take the same inputs.
        batch_size: How many samples one call takes.
        input_shapes: Sizes for dynamic dimensions, as in `tfprune.coupling.costs`.

    Returns:
        A list of seconds, one a model.

    Raises:
        ValueError: If an input has a dynamic size which `input_shapes` does not give, or the model
            fixes another batch size.

    Example:

    >>> small, large = (
    ...     keras.Sequential([keras.Input((n,)), keras.layers.Dense(n)]) for n in (8, 2048)
    ... )
    >>> quick, slow = [latency([model], batch_size=32)[0] for model in (small, large)]
    >>> quick < slow
    True
    """
    return medians([_call(model, batch_size, input_shapes) for model in models])


def medians(calls):
    """The median seconds of each of several functions, all of them alternating in one run."""
    for call in calls * _WARM_UP_CALLS:
        call()
    times = [[] for _ in calls]
    started = time.perf_counter()
    order = list(zip(calls, times, strict=True))
    for round_ in range(_MOST_ROUNDS):
        for call, found in order if round_ % 2 else reversed(order):
            before = time.perf_counter()
            call()
            found.append(time.perf_counter() - before)
        if round_ >= _LEAST_ROUNDS and time.perf_counter() - started > _SECONDS:
            break
    return [statistics.median(found) for found in times]


def _call(model, batch_size, input_shapes):
    """A function without arguments that calls the model and waits for its outputs."""
    sizes = sized_inputs(model, input_shapes)
    if any(None in size for size in sizes):
        raise ValueError(
            "Argument `input_shapes` must be given for a model whose inputs have dynamic sizes. "
            f"Received: model={model.name!r}, inputs of the sizes {sizes}."
        )
    inputs = random_inputs(model, sizes, batch_size)
    if any(len(tensor) != batch_size for tensor in keras.tree.flatten(inputs)):
        raise ValueError(
            "Argument `batch_size` must be the one that the model fixes. "
            f"Received: batch_size={batch_size}, model={model.name!r} of the input shapes "
            f"{[tuple(tensor.shape) for tensor in model.inputs]}."
        )
    function = tf.function(lambda given: model(given, training=False), autograph=False)

    def call():
        with _keras.gradients_kept_by_graphs():
            outputs = keras.tree.flatten(function(inputs))
        for output in outputs:
            output.numpy()

    return call
