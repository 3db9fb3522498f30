"""Measures the latency of models on this machine."""

import statistics
import time

from tfprune.measuring import runtimes

_WARM_UP_CALLS = 5
_LEAST_ROUNDS, _MOST_ROUNDS = 15, 300
_SECONDS = 1.0


def latency(
    models, batch_size=1, input_shapes=None, *, runtime="keras", threads=None, quantize=None
):
    """Measures the median latency of each model, all of them alternating in one run.

    Each model is called at inference on random inputs, a few times to warm up and then for about
    a second: through a `tf.function`, or converted to the runtime that it is shipped to. A latency
    depends on the machine and what else runs on it; the ratio of two that were measured together
    depends on it much less. One thread of LiteRT or ONNX Runtime is timed by the time that the
    processor gives it, so that it does not count how long others had it.

    Args:
        models: A list of built Keras models that take the same inputs.
        batch_size: How many samples one call takes.
        input_shapes: Sizes for dynamic dimensions, as in `tfprune.coupling.costs`.
        runtime: "keras", "saved_model", "litert" or "onnx".
        threads: How many threads LiteRT or ONNX Runtime take, one by default.
        quantize: "float16", "dynamic" or "int8" for LiteRT, as in `tfprune.export`.

    Returns:
        A list of seconds, one a model.

    Raises:
        ValueError: If an input has a dynamic size which `input_shapes` does not give, or the model
            fixes another batch size, or it cannot be converted.
        ImportError: If the runtime is not installed.

    Example:

    >>> import keras
    >>> small, large = (
    ...     keras.Sequential([keras.Input((n,)), keras.layers.Dense(n)]) for n in (8, 2048)
    ... )
    >>> quick, slow = [latency([model], batch_size=32)[0] for model in (small, large)]
    >>> quick < slow
    True
    """
    how = {"runtime": runtime, "threads": threads, "quantize": quantize}
    calls = [runtimes.inference(model, batch_size, input_shapes, **how) for model in models]
    return medians(calls, runtimes.clock(runtime, threads))


def medians(calls, clock=time.perf_counter):
    """The median seconds of each of several functions, all of them alternating in one run.

    Args:
        calls: A list of functions without arguments.
        clock: A function that tells the time in seconds.
    """
    for call in calls * _WARM_UP_CALLS:
        call()
    times = [[] for _ in calls]
    started = time.perf_counter()
    order = list(zip(calls, times, strict=True))
    for round_ in range(_MOST_ROUNDS):
        for call, found in order if round_ % 2 else reversed(order):
            before = clock()
            call()
            found.append(clock() - before)
        if round_ >= _LEAST_ROUNDS and time.perf_counter() - started > _SECONDS:
            break
    return [statistics.median(found) for found in times]
