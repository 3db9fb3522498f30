"""Times many small models at once, converted together, in LiteRT or ONNX Runtime."""

import collections
import functools
import json
import math
import pathlib
import re
import statistics
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf

from tfprune._tools import progress
from tfprune.exporting import litert, loading, onnx_file
from tfprune.exporting.graph import module_of, traced
from tfprune.measuring.runtimes import clock

RUNTIMES = ("litert", "onnx")
"""The runtimes in which pieces of models can be timed."""

_AT_ONCE = 40
_LEAST = 1e-7  # seconds, of what takes less than can be told
_WARM_UP, _ROUNDS = 3, 25
_LAYOUT = ("ReorderInput", "ReorderOutput", "Transpose")
"""Nodes that ONNX Runtime has at the borders of a small model, and not inside of a large one."""


def seconds_of(models, *, runtime, threads=1, quantize=None, verbose=0):
    """Times small models, all of a bundle in turns.

    The lower quartile is taken, which work of other processes disturbs less than the median.

    Args:
        models: A list of `SmallModel`.
        runtime: "litert" or "onnx".
        threads: Integer.
        quantize: As in `tfprune.export` to LiteRT.
        verbose: 1 shows progress.

    Returns:
        A list of seconds; None where a model cannot be built or converted.
    """
    found = []
    with progress.stage("Time pieces", len(models), verbose=verbose) as bar:
        for start in range(0, len(models), _AT_ONCE):
            bundle = models[start : start + _AT_ONCE]
            found += _of_bundle(bundle, runtime, threads, quantize)
            bar.add(len(bundle))
    return found


def built(models, start=0):
    """Keras models of small models, each named "piece" and its place; None where that fails."""
    made = []
    for place, model in enumerate(models, start):
        try:
            made.append(model.build(f"piece{place}x"))
        except Exception:  # a user's layer can fail in any way, and other sizes may not fit
            made.append(None)
    return made


def _of_bundle(models, runtime, threads, quantize):
    time_all = _in_litert if runtime == "litert" else _in_onnx
    made = built(models)
    places = [place for place, model in enumerate(made) if model is not None]
    found = [None] * len(models)
    try:
        times = time_all([made[place] for place in places], threads, quantize) if places else []
    except (ValueError, RuntimeError):  # a single one that cannot be converted fails them all
        if len(models) == 1:
            return found
        half = len(models) // 2
        return [
            seconds
            for part in (models[:half], models[half:])
            for seconds in _of_bundle(part, runtime, threads, quantize)
        ]
    for place, seconds in zip(places, times, strict=True):
        found[place] = seconds
    return found


# LiteRT ------------------------------------------------------------------------------------------


def _in_litert(models, threads, quantize):
    functions = [traced(model) for model in models]
    module = tf.Module()
    module.parts = [module_of(m, f) for m, f in zip(models, functions, strict=True)]
    arrays = [_inputs(function) for function in functions]
    names = [model.name for model in models]
    with tempfile.TemporaryDirectory() as directory:
        tf.saved_model.save(module, directory, dict(zip(names, functions, strict=True)))
        content = litert.of_signatures(directory, quantize, dict(zip(names, arrays, strict=True)))
    interpreter = loading.interpreter(content, threads)
    runs = [interpreter.get_signature_runner(name) for name in names]
    fixed, each = _copying()
    times = _quartiles(runs, arrays, clock("litert", threads))
    found = []
    for seconds, run, given in zip(times, runs, arrays, strict=True):
        sizes = [array.nbytes for array in given.values()]
        sizes += [4 * math.prod(out["shape"]) for out in run.get_output_details().values()]
        found.append(max(seconds - fixed - each * sum(sizes), _LEAST))
    return found


@functools.cache
def _copying():
    """The seconds that inputs and outputs of a signature take: fixed, and for each byte.

    Only the first of several signatures runs without, so this is measured on two small models.
    """
    sizes, extra = (64, 2**19), []
    for size in sizes:
        model = keras.Sequential([keras.Input((size,), batch_size=1), keras.layers.ReLU()])
        content = litert.converted(model)
        run, alone = (
            loading.interpreter(content).get_signature_runner(),
            loading.interpreter(content),
        )
        alone.allocate_tensors()
        arrays = [_inputs(traced(model)), {}]
        with_copies, without = _quartiles([run, alone.invoke], arrays)
        extra.append(with_copies - without)
    each = max(0.0, (extra[1] - extra[0]) / (8 * (sizes[1] - sizes[0])))
    return max(0.0, extra[0] - 8 * sizes[0] * each), each


def _inputs(function):
    generator = np.random.default_rng(0)
    return {
        spec.name: generator.normal(size=spec.shape).astype(spec.dtype.as_numpy_dtype)
        for spec in function.structured_input_signature[0]
    }


def _quartiles(runs, arrays, now=time.thread_time):
    """The lower quartile of the seconds of each function, given arrays by name."""
    times = [[] for _ in runs]
    order = list(zip(runs, arrays, times, strict=True))
    for round_ in range(-_WARM_UP, _ROUNDS):
        for run, given, found in order if round_ % 2 else reversed(order):
            before = now()
            run(**given)
            seconds = now() - before
            if round_ >= 0:
                found.append(seconds)
    return [_lower_quartile(found) for found in times]


def _lower_quartile(values):
    return statistics.quantiles(values, n=4)[0]


# ONNX Runtime ------------------------------------------------------------------------------------


def _in_onnx(models, threads, quantize):
    content = onnx_file.converted(bundled(models))
    with tempfile.TemporaryDirectory() as directory:
        run, end = loading.profiled_onnx(content, threads, f"{directory}/profile")
        for _ in range(_WARM_UP + _ROUNDS):
            run()
        profile = pathlib.Path(end()).read_text()
    found = seconds_in_profile(profile)
    return [found.get(model.name) for model in models]


def bundled(models):
    """One model that runs several on inputs of their own."""
    inputs = [
        [keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype) for tensor in model.inputs]
        for model in models
    ]
    outputs = [model(given) for model, given in zip(models, inputs, strict=True)]
    return keras.Model(inputs, outputs, name="bundle")


def seconds_in_profile(text):
    """The seconds of each piece of a bundle, out of a profile that ONNX Runtime wrote.

    Args:
        text: The file, which is JSON.

    Returns:
        Dict from the names of pieces to seconds: the sum over nodes of the lower quartile.

    Raises:
        ValueError: If the text is no profile of ONNX Runtime.
    """
    durations = collections.defaultdict(list)
    try:
        for event in json.loads(text):
            if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
                is_counted = event["args"]["op_name"] not in _LAYOUT
                name = re.search(r"piece\d+x", event["name"])
                if name and is_counted:
                    durations[name[0], event["name"]].append(event["dur"])
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError("it is no profile that ONNX Runtime wrote") from error
    found = collections.defaultdict(float)
    for (name, _), times in durations.items():
        kept = times[_WARM_UP:] if len(times) > 2 * _WARM_UP else times
        found[name] += 1e-6 * (_lower_quartile(kept) if len(kept) > 1 else kept[0])
    return dict(found)
