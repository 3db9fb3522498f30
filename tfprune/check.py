"""Whether two models compute the same, by running both."""

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.rules import rule_of
from tfprune.coupling.rules.recurrent import Embedding

_TOLERANCE = {"float64": 1e-9, "float32": 1e-5, "float16": 2e-2, "bfloat16": 1e-1}


def check_equal(before, after, trace, batch_size=4):
    """Runs two models on the same random inputs.

    Args:
        before: The model.
        after: The model that should compute the same.
        trace: The trace of `before`.
        batch_size: How many examples are run. Dynamic dimensions get 16 positions.

    Returns:
        The largest absolute difference over the largest absolute output.

    Raises:
        RuntimeError: If it is larger than the precision of the model's computation allows.
    """
    inputs = [
        _random_input(trace, tensor, batch_size, seed) for seed, tensor in enumerate(trace.inputs)
    ]
    ours, theirs = _outputs(before, inputs), _outputs(after, inputs)
    errors = [_error(a, b) for a, b in zip(ours, theirs, strict=True)]
    lowest = min((layer.compute_dtype for layer in before.layers), key=_tolerance_rank)
    if not max(errors) <= _TOLERANCE.get(lowest, 1e-5):
        raise RuntimeError(
            "The stripped model does not compute what the model computes. "
            f"Received: model={before.name!r}, relative differences of the outputs={errors}, "
            f"allowed={_TOLERANCE.get(lowest, 1e-5)}. Nothing was changed. "
            "Please report it with the model's `to_json()`."
        )
    return max(errors)


def _tolerance_rank(dtype):
    return -_TOLERANCE.get(dtype, 1e-5)


def _random_input(trace, tensor, batch_size, seed):
    shape = [batch_size, *(16 if size is None else size for size in tensor.shape[1:])]
    generator = np.random.default_rng(seed)
    rows = [
        call.operation.input_dim
        for call in trace.calls
        if tensor in call.inputs and isinstance(rule_of(call.operation), Embedding)
    ]
    if rows or "int" in tensor.dtype:
        return generator.integers(0, min(rows, default=2), shape).astype(tensor.dtype)
    if tensor.dtype == "bool":
        return generator.integers(0, 2, shape).astype(bool)
    return generator.normal(size=shape).astype(tensor.dtype)


def _outputs(model, inputs):
    structure = keras.tree.pack_sequence_as(_keras.input_structure(model), inputs)
    outputs = keras.tree.flatten(model(structure, training=False))
    return [keras.ops.convert_to_numpy(keras.ops.cast(output, "float64")) for output in outputs]


def _error(ours, theirs):
    if ours.shape != theirs.shape:
        return np.inf
    scale = np.max(np.abs(ours), initial=0.0)
    difference = np.max(np.abs(ours - theirs), initial=0.0)
    return float(difference / scale) if scale > 0 else float(difference)
