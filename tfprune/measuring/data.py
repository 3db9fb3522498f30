"""Checks that data fits a model, before it is run on it."""

import contextlib
import numbers

import keras
import numpy as np
import tensorflow as tf

from tfprune import _keras

_NO_SPEC = type(tf.type_spec_from_value(None))
"""What stands for None in the `element_spec` of a dataset."""


def as_tuple(data):
    """Data for `evaluate`: inputs alone, as an array or a dict of arrays, are put in a tuple."""
    is_array = keras.ops.is_tensor(data) or hasattr(data, "__array__")
    return (data,) if is_array or isinstance(data, dict) else data


def fit_arguments(data):
    """Data as arguments of `fit` or `evaluate`: arrays as x, y, sample_weight, a dataset as x."""
    is_arrays = isinstance(data, (tuple, list))
    return dict(zip(("x", "y", "sample_weight"), data, strict=False)) if is_arrays else {"x": data}


def check_fits(model, data, argument="data"):
    """Refuses arrays or datasets that the model does not take.

    Args:
        model: Any Keras model; of one without a graph nothing is known, and nothing refused.
        data: Inputs as `(x,)`, `(x, y)` or `(x, y, sample_weight)`, or a dataset of such batches.
        argument: The name of the argument, for the error.

    Raises:
        ValueError: If the inputs have other shapes, are complex, labels are no classes of the
            model, or arrays are not equally long.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> check_fits(model, (np.ones((8, 4)), np.ones((8, 2))))
    Traceback (most recent call last):
        ...
    ValueError: Argument `data` must hold inputs of the shapes [(None, 3)]. Received: [(8, 4)].
    """
    given = _specs(data)
    if given is None:
        return
    if isinstance(data, (tuple, list)):
        _check_arrays(data, argument)
    x, y = given
    for part in (x, y):
        for each in keras.tree.flatten(part):
            if getattr(each, "dtype", None) is not None and tf.as_dtype(each.dtype).is_complex:
                raise ValueError(
                    f"Argument `{argument}` must hold real numbers, since layers drop imaginary "
                    f"parts. Received: an array of {tf.as_dtype(each.dtype).name}. Give real and "
                    "imaginary parts as features of their own."
                )
    if _keras.functional(model) is not None:
        expected = [tuple(t.shape) for t in keras.tree.flatten(_keras.input_structure(model))]
        if any(getattr(each.shape, "rank", 0) is None for each in keras.tree.flatten(x)):
            return
        shapes = [tuple(each.shape) for each in keras.tree.flatten(x)]
        if len(shapes) != len(expected) or not all(map(_agree, shapes, expected)):
            has_preprocessor = getattr(model, "preprocessor", None) is not None
            raise ValueError(
                f"Argument `{argument}` must hold inputs of the shapes {expected}. Received: "
                f"{str(shapes[:4])[:-1]}{', ...' if len(shapes) > 4 else ''}]."
                + (" `model.preprocessor` makes them of raw examples." if has_preprocessor else "")
            )
    _check_labels(model, y, argument)


def check_ends(data, argument="data"):
    """Refuses a dataset that is known to have no end, where all of it is to be gone through.

    Raises:
        ValueError: If it has none.

    Example:

    >>> check_ends(tf.data.Dataset.range(3).repeat())
    Traceback (most recent call last):
        ...
    ValueError: Argument `data` must have an end, since all of it is gone through. Received: data \
of type _RepeatDataset. Take a part of it, as by `data.take(100)`, or leave `repeat()` out.
    """
    if isinstance(data, tf.data.Dataset):
        is_endless = data.cardinality() == tf.data.INFINITE_CARDINALITY
        advice = f"Take a part of it, as by `{argument}.take(100)`, or leave `repeat()` out."
    else:
        is_endless = isinstance(data, keras.utils.PyDataset) and data.num_batches is None
        advice = "Let its `__len__` say how many batches there are."
    if is_endless:
        raise ValueError(
            f"Argument `{argument}` must have an end, since all of it is gone through. Received: "
            f"{argument} of type {type(data).__name__}. {advice}"
        )


def has_labels(data):
    """Whether data is batches of inputs and labels."""
    given = _specs(data)
    return given is not None and given[1] is not None


def sample_weights_given(data):
    """Whether data is batches with sample weights."""
    if isinstance(data, tf.data.Dataset):
        data = data.element_spec
    elif isinstance(data, keras.utils.PyDataset):
        data = data[0]
    is_triple = isinstance(data, (tuple, list)) and len(data) == 3
    return is_triple and data[2] is not None and not isinstance(data[2], _NO_SPEC)


def labels_given(data):
    """Whether data is batches of inputs and labels; of other types than these it is not known.

    Raises:
        ValueError: If `data` is neither arrays nor a dataset.
    """
    check_kind(data)
    return has_labels(data)


def check_kind(data, argument="data"):
    """Raises a `ValueError` for what is neither arrays nor a dataset."""
    is_array = keras.ops.is_tensor(data) or hasattr(data, "__array__")
    if not is_array and _specs(data) is None:
        raise ValueError(
            f"Argument `{argument}` must be `(x, y)`, `(x,)`, a `tf.data.Dataset` or a "
            f"`keras.utils.PyDataset`. Received: {argument} of type {type(data).__name__}."
        )


def _specs(data):
    """What has the shapes of the inputs and of the labels; None where that is not known."""
    if isinstance(data, tf.data.Dataset):
        data = data.element_spec
        data = data if isinstance(data, tuple) else (data,)
    elif isinstance(data, keras.utils.PyDataset):
        data = data[0]
    if not isinstance(data, (tuple, list)) or not data:
        return None
    parts = [None if isinstance(part, _NO_SPEC) else part for part in (*data, None)]
    arrays = [
        None if part is None else keras.tree.map_structure(_with_shape, part) for part in parts[:2]
    ]
    return tuple(arrays)


def _with_shape(value):
    return value if hasattr(value, "shape") and hasattr(value, "dtype") else np.asarray(value)


def _check_arrays(arrays, argument):
    if len(arrays) > 3:
        raise ValueError(
            f"Argument `{argument}` must be `(x,)`, `(x, y)` or `(x, y, sample_weight)`. Received: "
            f"{len(arrays)} parts. Several inputs are one part: `([x1, x2], y)`."
        )
    leaves = [each for each in keras.tree.flatten(list(arrays)) if each is not None]
    if any(isinstance(each, numbers.Number) for each in leaves):
        raise ValueError(
            f"Argument `{argument}` must hold arrays. Received: lists of numbers. Make arrays of "
            "them, by `np.array(...)`."
        )
    shapes = [tuple(getattr(each, "shape", ())) for each in leaves]
    lengths = [shape[0] for shape in shapes if shape]
    if len(set(lengths)) > 1:
        raise ValueError(
            f"Argument `{argument}` must hold arrays with equally many examples. Received: arrays "
            f"with {', '.join(map(str, lengths[:4]))}{', ...' if len(lengths) > 4 else ''} "
            "examples."
        )


def _agree(shape, expected):
    if any(not isinstance(n, (int, type(None))) for n in shape) or len(shape) == 0:
        return True
    if len(shape) != len(expected):
        return len(shape) == 1 and len(expected) == 2 and expected[1] in (None, 1)
    return all(
        ours is None or theirs is None or ours == theirs
        for ours, theirs in zip(shape[1:], expected[1:], strict=True)
    )


def _check_labels(model, y, argument):
    classes = _classes(model)
    if classes is None or not isinstance(y, (np.ndarray, tf.Tensor)) or not np.size(y):
        return
    labels = np.asarray(y)
    if labels.dtype.kind in "iuf":
        least, most = labels.min(), labels.max()
        if least < 0 or most >= classes:
            received = f"labels from {least} to {most}"
            raise ValueError(_wrong_labels(model, classes, received, argument))


def _classes(model):
    """How many classes the labels of a model are of, where its loss takes them as integers."""
    compiled = _keras.compile_arguments(model) if getattr(model, "compiled", False) else {}
    loss = compiled.get("loss")
    try:
        loss = keras.losses.get(loss) if isinstance(loss, str) else loss
    except ValueError:
        return None
    is_sparse = loss is keras.losses.sparse_categorical_crossentropy or isinstance(
        loss, keras.losses.SparseCategoricalCrossentropy
    )
    graph = _keras.functional(model)
    if not is_sparse or graph is None or len(graph.outputs) != 1:
        return None
    if getattr(loss, "ignore_class", None) is not None:
        return None
    return graph.outputs[0].shape[-1]


def _wrong_labels(model, classes, received, argument="data"):
    return (
        f"Argument `{argument}` must hold labels from 0 to {classes - 1}, as model={model.name!r} "
        f"has {classes} outputs. Received: {received}."
    )


@contextlib.contextmanager
def running(model):
    """While open, a model runs on data that a user gave.

    What TensorFlow says of a label of a dataset that is no class is turned into one sentence, and
    the custom gradients of what is traced go with it.
    """
    try:
        with _keras.gradients_kept_by_graphs():
            yield
    except tf.errors.InvalidArgumentError as error:
        classes = _classes(model)
        if classes is None or "label" not in str(error):
            raise
        raise ValueError(_wrong_labels(model, classes, "others among them")) from error
