"""Compares an exported model with the model it was made from."""

import itertools

import keras
import numpy as np
import tensorflow as tf

from tfprune._tools.finite import check_finite_data
from tfprune.coupling.shapes import random_inputs, sized_inputs
from tfprune.exporting.graph import changing_operations, flat_inputs
from tfprune.exporting.loading import inference_function

_SAMPLES = 32
_STAND_IN = 32  # for dynamic sizes other than the batch


def check_repeatable(model, function, format):
    """Refuses a model that cannot be compared with what is made of it.

    Raises:
        ValueError: If it draws random numbers or updates a state.
    """
    changes = changing_operations(function)
    if changes:
        raise ValueError(
            "Cannot export a model that draws random numbers or updates a state when it is "
            f"called, because the format has no state. Received: model={model.name!r} with "
            f"operations {changes}, format={format!r}. Build its layers with `stateful=False`, or "
            "export a SavedModel."
        )


def batches_of(model, data, batch_size=None):
    """Representative inputs as arrays by input name, a batch at a time.

    Args:
        model: A Functional or built Sequential model.
        data: Arrays in the structure in which the model takes its inputs, a `tf.data.Dataset` or a
            `keras.utils.PyDataset` of batches.
        batch_size: The batch that was fixed, in which samples come then; what is left over is
            dropped.

    Yields:
        A dict of arrays.

    Raises:
        ValueError: If the data does not fit the model's inputs.
    """
    fixed = flat_inputs(model)[0].shape[0] or batch_size
    is_batched = isinstance(data, (tf.data.Dataset, keras.utils.PyDataset))
    for batch in unpacked_batches(data) if is_batched else [(data,)]:
        arrays = _checked_arrays(model, batch[0])
        step = fixed or _SAMPLES
        count = len(next(iter(arrays.values())))
        for start in range(0, count - (fixed or 1) + 1, step):
            yield {name: array[start : start + step] for name, array in arrays.items()}


def unpacked_batches(data):
    """The batches of a `tf.data.Dataset` or `keras.utils.PyDataset`, as (x, y, sample_weight)."""
    batches = data if isinstance(data, tf.data.Dataset) else (data[i] for i in range(len(data)))
    return map(keras.utils.unpack_x_y_sample_weight, batches)


def named_arrays(model, arrays):
    """Arrays for the inputs of a model, in order, as a dict by name with the inputs' types."""
    return {
        tensor.name: np.asarray(array, None if tensor.dtype == "string" else tensor.dtype)
        for tensor, array in zip(flat_inputs(model), arrays, strict=True)
    }


def have_shapes_of(arrays, tensors):
    """Whether arrays of one batch have the shapes of symbolic tensors, and all the same length."""
    return len(arrays) == len(tensors) and all(
        array.ndim == len(tensor.shape)
        and len(array) == len(arrays[0])
        and all(s in (None, n) for s, n in zip(tensor.shape[1:], array.shape[1:], strict=True))
        for array, tensor in zip(arrays, tensors, strict=True)
    )


def _checked_arrays(model, batch):
    inputs = flat_inputs(model)
    arrays = [np.asarray(array) for array in keras.tree.flatten(batch)]
    if not have_shapes_of(arrays, inputs):
        raise ValueError(
            "Argument `representative_data` must hold inputs as the model takes them, of the "
            f"shapes {[tuple(tensor.shape) for tensor in inputs]}. Received: arrays of the shapes "
            f"{[array.shape for array in arrays]}."
        )
    check_finite_data("representative_data", arrays)
    return named_arrays(model, arrays)


def samples(model, data=None, batch_size=None):
    """The inputs to compare on, as arrays by name: the first of the data, else random ones.

    Raises:
        ValueError: If there is no data, or the model does not run on sizes that were made up.
    """
    if data is not None:
        first = next(itertools.islice(batches_of(model, data, batch_size), 1), None)
        if first is None:
            raise ValueError(
                "Argument `representative_data` must hold at least one batch of the model. "
                f"Received: too few samples for model={model.name!r}, batch_size={batch_size}."
            )
        return first
    sizes = sized_inputs(model)
    made_up = [tuple(_STAND_IN if n is None else n for n in size) for size in sizes]
    drawn = keras.tree.flatten(random_inputs(model, made_up, batch_size or 4))
    arrays = named_arrays(model, drawn)
    if tuple(made_up) == tuple(sizes):
        return arrays
    try:
        inference_function(model, compiled=False)(arrays)
    except Exception as error:  # whatever a layer raises for a size that it cannot take
        raise ValueError(
            "Argument `representative_data` must be given for a model with dynamic sizes which "
            f"does not run on {made_up}. Received: model={model.name!r} ({error})."
        ) from error
    return arrays


def check_outputs(model, exported, arrays, tolerance, advice):
    """Compares an exported model with the model.

    Args:
        model: The model.
        exported: What `loading` gives.
        arrays: Inputs by name.
        tolerance: The largest error that passes.
        advice: What can be done, for the message.

    Raises:
        RuntimeError: If an output is missing or another.
    """
    expected = inference_function(model, compiled=False)(arrays)
    outputs = exported.run({name: arrays[name] for name in exported.shapes})
    if set(outputs) != set(expected):
        raise RuntimeError(
            f"The {exported.format} file must have the outputs {list(expected)} of the model. "
            f"Received: {list(outputs)}."
        )
    for name, ours in expected.items():
        error = relative_error(ours, outputs[name])
        if not error <= tolerance:
            raise RuntimeError(
                f"The {exported.format} file does not compute what the model computes. Received: "
                f"model={model.name!r}, output={name!r} with an error of {error:.3g}, more than "
                f"{tolerance:.3g}. {advice}"
            )


def relative_error(ours, theirs):
    r"""The size of a difference over the size of what it should be, rms(a - b) / rms(a).

    Args:
        ours: Array.
        theirs: Array of the same shape. Elements that are infinite or NaN must be so in both. Of
            integers the share of those that differ.

    Returns:
        A float; infinite if shapes or the kinds of elements do not match.

    Example:

    >>> relative_error(np.array([3.0, 4.0]), np.array([3.0, 4.5]))
    0.1
    """
    ours, theirs = (np.asarray(a) for a in (ours, theirs))
    if ours.shape != theirs.shape:
        return float("inf")
    if not keras.backend.is_float_dtype(ours.dtype.name):
        return float(np.mean(ours != theirs)) if ours.size else 0.0
    ours, theirs = ours.astype("float64"), theirs.astype("float64")
    finite = np.isfinite(ours)
    if not np.array_equal(ours[~finite], theirs[~finite], equal_nan=True):
        return float("inf")
    difference, size = (np.linalg.norm(a[finite]) for a in (ours - theirs, ours))
    if difference == 0:
        return 0.0
    return float(difference / size) if np.isfinite(difference) and size else float("inf")
