"""Checks that data fits a model, before it is run on it."""

import contextlib

import keras
import numpy as np
import tensorflow as tf

from tfprune import _keras


def check_fits(model, data):
    """Refuses arrays or datasets that the model does not take.

    Args:
        model: Any Keras model; of one without a graph nothing is known, and nothing refused.
        data: Inputs as `(x,)`, `(x, y)` or `(x, y, sample_weight)`, or a dataset of such batches.

    Raises:
        ValueError: If the inputs have other shapes, are complex, or labels are no classes of the
            model.

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
    x, y = given
    for part in (x, y):
        for each in keras.tree.flatten(part):
            if getattr(each, "dtype", None) is not None and tf.as_dtype(each.dtype).is_complex:
                raise ValueError(
                    "Argument `data` must hold real numbers, since layers drop imaginary parts. "
                    f"Received: an array of {tf.as_dtype(each.dtype).name}. Give real and "
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
                f"Argument `data` must hold inputs of the shapes {expected}. Received: "
                f"{str(shapes[:4])[:-1]}{', ...' if len(shapes) > 4 else ''}]."
                + (" `model.preprocessor` makes them of raw examples." if has_preprocessor else "")
            )
    _check_labels(model, y)


def has_labels(data):
    """Whether data is batches of inputs and labels."""
    given = _specs(data)
    return given is not None and given[1] is not None


def labels_given(data):
    """Whether data is batches of inputs and labels; of other types than these it is not known.

    Raises:
        ValueError: If `data` is neither arrays nor a dataset.
    """
    is_array = keras.ops.is_tensor(data) or hasattr(data, "__array__")
    if not is_array and _specs(data) is None:
        raise ValueError(
            "Argument `data` must be `(x, y)`, `(x,)`, a `tf.data.Dataset` or a "
            f"`keras.utils.PyDataset`. Received: data of type {type(data).__name__}."
        )
    return has_labels(data)


def _specs(data):
    """What has the shapes of the inputs and of the labels; None where that is not known."""
    if isinstance(data, tf.data.Dataset):
        data = data.element_spec
        data = data if isinstance(data, tuple) else (data,)
    elif isinstance(data, keras.utils.PyDataset):
        data = data[0]
    if not isinstance(data, (tuple, list)) or not data:
        return None
    parts = [*data, None]
    arrays = [
        None if part is None else keras.tree.map_structure(_with_shape, part) for part in parts[:2]
    ]
    return tuple(arrays)


def _with_shape(value):
    return value if hasattr(value, "shape") and hasattr(value, "dtype") else np.asarray(value)


def _agree(shape, expected):
    if any(not isinstance(n, (int, type(None))) for n in shape) or len(shape) == 0:
        return True
    if len(shape) != len(expected):
        return len(shape) == 1 and len(expected) == 2 and expected[1] in (None, 1)
    return all(
        ours is None or theirs is None or ours == theirs
        for ours, theirs in zip(shape[1:], expected[1:], strict=True)
    )


def _check_labels(model, y):
    classes = _classes(model)
    if classes is None or not isinstance(y, (np.ndarray, tf.Tensor)) or not np.size(y):
        return
    labels = np.asarray(y)
    if labels.dtype.kind in "iuf":
        least, most = labels.min(), labels.max()
        if least < 0 or most >= classes:
            raise ValueError(_wrong_labels(model, classes, f"labels from {least} to {most}"))


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


def _wrong_labels(model, classes, received):
    return (
        f"Argument `data` must hold labels from 0 to {classes - 1}, as model={model.name!r} has "
        f"{classes} outputs. Received: {received}."
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
