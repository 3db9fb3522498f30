"""Metrics of a model on data, without touching its compile state."""

import math

import keras
import tensorflow as tf

from tfprune import _keras
from tfprune._tools.finite import NotFiniteError, check_finite_data
from tfprune.coupling.model_inputs import input_structure
from tfprune.measuring.data import check_ends, check_fits, running

_LARGER = (
    *("acc", "auc", "f1", "iou", "io_u", "precision", "recall", "r2", "similarity"),
    *("true_", "specificity", "sensitivity", "dice", "bleu", "rouge"),
)
_SMALLER = (
    *("error", "mae", "mse", "mape", "msle", "entropy", "divergence", "hinge", "cosh"),
    *("poisson", "perplexity", "false_", "distance"),
)
"""Parts of the names of metrics that are better when they are larger, or smaller."""


def is_larger_better(name):
    """Whether a larger value of a metric is better, by its name; None where that is not known.

    >>> [is_larger_better(name) for name in ("sparse_categorical_accuracy", "val_loss", "score")]
    [True, False, None]
    """
    name = name.lower()
    if name.endswith("loss"):
        return False
    is_larger, is_smaller = (any(each in name for each in parts) for parts in (_LARGER, _SMALLER))
    return None if is_larger == is_smaller else is_larger


def checked_metric(metric, larger_is_better=None):
    """Whether a larger value of the argument `metric` is better.

    Args:
        metric: The name of a metric, or a function from a model to a float.
        larger_is_better: What the user said of it, or None.

    Raises:
        ValueError: If that is not known, or the metric is neither.
    """
    is_name = isinstance(metric, str)
    if not is_name and (not callable(metric) or isinstance(metric, (type, keras.Metric))):
        raise ValueError(
            "Argument `metric` must be the name of a metric that the model is compiled with, "
            '"loss", or a function that takes a model and returns a float. '
            f"Received: metric={metric!r}."
        )
    if larger_is_better is None and is_name:
        larger_is_better = is_larger_better(metric)
    if not isinstance(larger_is_better, bool):
        raise ValueError(
            "Argument `larger_is_better` must be True or False for a function, and for a metric "
            "whose name does not say it. "
            f"Received: larger_is_better={larger_is_better!r}, metric={metric!r}."
        )
    return larger_is_better


def evaluate(model, data, metrics=None):
    """Evaluates metrics of a model on data.

    Args:
        model: Any Keras model that is built and compiled.
        data: `(x, y)`, or a `tf.data.Dataset` or `keras.utils.PyDataset` of batches.
        metrics: What `compile` takes as `metrics`; by default what the model was compiled with,
            the loss included.

    Returns:
        A dict from name to float.

    Raises:
        ValueError: If `metrics` is not given and the model is not compiled, or `data` is of
            another kind.

    Example:

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Rescaling(2.0)])
    >>> evaluate(model, (keras.ops.ones((4, 1)), keras.ops.ones((4, 1))), metrics=["mae"])
    {'mae': 1.0}
    """
    check_data(data)
    return evaluator(model, metrics)(data)


def evaluator(model, metrics=None):
    """Returns a function from data to the metrics of a model, compiled only once.

    Args:
        model, metrics: As in `evaluate`, which says what is raised.

    Example:

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Rescaling(2.0)])
    >>> evaluator(model, ["mae"])((keras.ops.ones((4, 1)), keras.ops.zeros((4, 1))))
    {'mae': 2.0}
    """
    if metrics is None and not model.compiled:
        raise ValueError(
            "Argument `metrics` must be given, because the model is not compiled. "
            f"Received: model={model.name!r}, metrics=None. Pass `metrics=['accuracy']`, say."
        )
    if metrics is not None:
        graph = _keras.functional(model)
        model = _called(model) if graph is None else WithoutLoss(graph.input, graph.output)
        model.compile(metrics=metrics)

    def evaluated(data):
        is_pair = check_data(data)
        check_fits(model, data)
        with running(model):
            found = model.evaluate(*(data if is_pair else (data,)), return_dict=True, verbose=0)
        if not math.isfinite(found.get("loss", 0.0)):
            raise NotFiniteError(
                "The loss of the model is not finite on the data. "
                f"Received: model={model.name!r}, loss={found['loss']}."
            )
        return {name: float(v) for name, v in found.items() if name != "loss" or not metrics}

    return evaluated


def _called(model):
    """A subclassed model as a Functional one that calls it."""
    inputs = keras.tree.map_structure(
        lambda tensor: keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype),
        input_structure(model),
    )
    return WithoutLoss(inputs, model(inputs))


def check_data(data):
    """Refuses data that cannot be iterated twice or has no end, and arrays that are not finite.

    Returns:
        Whether it is a pair of arrays.
    """
    is_pair = isinstance(data, (tuple, list)) and len(data) == 2
    if not is_pair and not isinstance(data, (tf.data.Dataset, keras.utils.PyDataset)):
        raise ValueError(
            "Argument `data` must be `(x, y)`, a `tf.data.Dataset` or a `keras.utils.PyDataset`, "
            f"which can be gone through more than once. Received: data of type "
            f"{type(data).__name__}."
        )
    check_finite_data("data", data)
    check_ends(data)
    return is_pair


class WithoutLoss(keras.Model):
    """A second model over the layers of a model, so that its own compile state stays."""

    def compute_loss(self, *args, **kwargs):
        """Nothing, since metrics need no loss."""
        return keras.ops.zeros(())


def fit_arguments(data):
    """Data as arguments of `fit` or `evaluate`: arrays as x, y, sample_weight, a dataset as x."""
    is_arrays = isinstance(data, (tuple, list))
    return dict(zip(("x", "y", "sample_weight"), data, strict=False)) if is_arrays else {"x": data}


def shapes_in(data):
    """The shapes of the inputs in data without the batch axis, in the structure of the inputs."""
    if isinstance(data, tf.data.Dataset):
        inputs = data.element_spec
        inputs = inputs[0] if isinstance(inputs, tuple) else inputs
    else:
        inputs = data[0][0] if isinstance(data, keras.utils.PyDataset) else data[0]
    return keras.tree.map_structure(lambda array: tuple(array.shape)[1:], inputs)
