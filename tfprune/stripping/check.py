"""Equivalence check: runs two models on the same inputs and compares their outputs."""

import contextlib

import keras
import numpy as np
import tensorflow as tf

from tfprune import _keras
from tfprune.coupling.rules import rule_of
from tfprune.coupling.rules.embedding import Embedding
from tfprune.coupling.trace import call_arguments
from tfprune.rebuild.copying import in_double_precision

TOLERANCE = {"float64": 1e-9, "float32": 1e-5, "float16": 2e-2, "bfloat16": 1e-1}
"""The relative difference that is allowed, by the lowest precision in which a model computes."""

_LENGTHS = (16, 8, 4, 2)
"""What dynamic dimensions are tried with."""

IN_DOUBLE_PRECISION = 1e-6
"""The relative difference allowed in float64: folded constants are stored as float32."""


def check_equal(before, after, trace, batch_size=4):
    """Checks that two models compute the same on random inputs; returns the relative difference.

    If the check fails in single precision, where large numbers may cancel, both models are compared
    once more in double precision.

    Args:
        before: The model.
        after: The model that should compute the same.
        trace: The trace of `before`.
        batch_size: How many examples are run. Dynamic dimensions get 16 positions, or fewer where
            the model takes no more.

    Returns:
        The largest absolute difference over the largest absolute output. Outputs that differ from
        call to call are not compared; None if all do.

    Raises:
        RuntimeError: If it is larger than the precision of the model's computation allows.
    """
    inputs, outputs = accepted_inputs(before, trace, batch_size)
    precision = lowest_precision(before)
    allowed = TOLERANCE[precision]
    difference = _largest_error(outputs, outputs_of(after, inputs))
    compared = None
    if difference > allowed:
        compared = _deterministic(before, inputs, allowed)
        if not compared:
            return None
        difference = relative_error(before, after, inputs, compared)
    if difference > allowed and precision == "float32":
        # A model whose own code cannot compute in float64 is judged by its float32 outputs.
        with contextlib.suppress(Exception):
            copies = [in_double_precision(model).model for model in (before, after)]
            difference = relative_error(*copies, inputs, compared)
            allowed = IN_DOUBLE_PRECISION
    if not difference <= allowed:
        raise RuntimeError(
            "The stripped model does not compute what the model computes. "
            f"Received: model={before.name!r}, relative difference={difference:.3g}, "
            f"allowed={allowed:.3g}. Nothing was changed. Please report it with the model's "
            "`to_json()`."
        )
    return difference


def _deterministic(model, inputs, allowed):
    """The places of the outputs that are the same each time that a model is called."""
    pairs = zip(outputs_of(model, inputs), outputs_of(model, inputs), strict=True)
    return [place for place, pair in enumerate(pairs) if error(*pair) <= allowed]


def relative_error(before, after, inputs, compared=None):
    """Returns the largest difference between the outputs of two models over the largest output.

    Args:
        before, after: Models with the same inputs and outputs.
        inputs: A list of arrays, in the order of the models' inputs.
        compared: The places of the outputs that are compared; by default all are.
    """
    return _largest_error(outputs_of(before, inputs), outputs_of(after, inputs), compared)


def _largest_error(ours, theirs, compared=None):
    pairs = list(zip(ours, theirs, strict=True))
    places = range(len(pairs)) if compared is None else compared
    return max(error(*pairs[place]) for place in places)


def lowest_precision(model):
    """Returns the least precise dtype in which layers of a model compute."""
    found = {layer.compute_dtype for layer in _keras.all_layers(model)} & set(TOLERANCE)
    return max(found, key=TOLERANCE.get, default="float32")


def accepted_inputs(model, trace, batch_size=4):
    """Returns random inputs that a model can run on, and its outputs.

    Dynamic dimensions get fewer positions where the model does not take 16: position embeddings
    have an end.
    """
    for length in _LENGTHS[:-1]:
        inputs = random_inputs(trace, batch_size, length)
        with contextlib.suppress(tf.errors.InvalidArgumentError, ValueError):
            return inputs, outputs_of(model, inputs)
    inputs = random_inputs(trace, batch_size, _LENGTHS[-1])
    return inputs, outputs_of(model, inputs)


def random_inputs(trace, batch_size=4, length=_LENGTHS[0]):
    """Returns an array for each input of a model, with a fixed seed.

    Args:
        trace: The trace of the model.
        batch_size: How many examples, where the model does not fix it.
        length: What dynamic dimensions get.
    """
    return [
        _random_input(trace, tensor, batch_size, length, seed)
        for seed, tensor in enumerate(trace.inputs)
    ]


def _random_input(trace, tensor, batch_size, length, seed):
    shape = [
        tensor.shape[0] or batch_size,
        *(length if size is None else size for size in tensor.shape[1:]),
    ]
    generator = np.random.default_rng(seed)
    rows = [
        user.input_dim for user in trace.users_of(tensor) if isinstance(rule_of(user), Embedding)
    ]
    known = None if tensor.dtype == "string" else trace.looked_up(tensor)
    if known is not None:
        return generator.choice(known, shape).astype(tensor.dtype)
    if rows or "int" in tensor.dtype:
        return generator.integers(0, min(rows, default=2), shape).astype(tensor.dtype)
    if tensor.dtype == "string":
        return _random_text(trace, tensor, shape, generator)
    if tensor.dtype == "bool":
        return generator.integers(0, 2, shape).astype(bool)
    return generator.normal(size=shape).astype(tensor.dtype)


def _random_text(trace, tensor, shape, generator):
    """Strings of one word, or of two for layers that split them."""
    known = trace.looked_up(tensor)
    words = ["word", "another"] if known is None else known.astype(str)
    texts = generator.choice(words, shape)
    if any(isinstance(reader, keras.layers.TextVectorization) for reader in trace.users_of(tensor)):
        texts = np.char.add(np.char.add(texts, " "), generator.choice(words, shape))
    return keras.ops.convert_to_tensor(texts, "string")


def outputs_of(model, inputs):
    """Returns the outputs of a model in inference, as a list of arrays in float64."""
    inputs = [keras.ops.convert_to_tensor(value) for value in inputs]  # strings are tensors
    if _keras.functional(model) is None:
        args, kwargs = keras.tree.pack_sequence_as(call_arguments(model), inputs)
    else:
        args, kwargs = [keras.tree.pack_sequence_as(_keras.input_structure(model), inputs)], {}
    states = [(state, np.array(state)) for state in _keras.recurrent_states(model)]
    outputs = keras.tree.flatten(model(*args, **kwargs, training=False))
    for state, value in states:
        state.assign(value)
    return [keras.ops.convert_to_numpy(keras.ops.cast(output, "float64")) for output in outputs]


def error(ours, theirs):
    """Returns the largest difference between two arrays over the largest element of the first."""
    if ours.shape != theirs.shape:
        return np.inf
    same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    scale = np.max(np.abs(ours), initial=0.0, where=np.isfinite(ours))
    difference = np.max(np.abs(np.where(same, 0.0, ours - theirs)), initial=0.0)
    return float(difference / scale) if scale > 0 else float(difference)
