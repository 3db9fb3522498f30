"""Metrics of a model on data, without touching its compile state."""

import math

import keras
import numpy as np
import tensorflow as tf

from tfprune import _keras
from tfprune._tools.finite import NotFiniteError, check_finite_data
from tfprune.coupling.model_inputs import input_structure
from tfprune.measuring.data import check_ends, check_fits, fit_arguments, running
from tfprune.measuring.data_pass import DataPass, Untracked
from tfprune.measuring.replicas import here, outside_scope, replicas_of
from tfprune.rebuild.copied_state import copied_metric

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
    evaluate_on = _evaluator(model, metrics)

    def evaluated(data):
        check_data(data)
        check_fits(model, data)
        found = evaluate_on(data)
        if not math.isfinite(found.get("loss", 0.0)):
            raise NotFiniteError(
                "The loss of the model is not finite on the data. "
                f"Received: model={model.name!r}, loss={found['loss']}."
            )
        return {name: float(v) for name, v in found.items() if name != "loss" or not metrics}

    return evaluated


def metrics_of(model, data):
    """The metrics that a model is compiled with, on data, as `model.evaluate` gives them.

    Under a strategy they are those of a single device, and the same in all processes.

    Raises:
        ValueError: If the model evaluates in its own way, and there are several processes.
    """
    return _evaluator(model)(data)


def _evaluator(model, metrics=None):
    """A function from data to metrics, by Keras's `evaluate` or shared by replicas."""
    replicas = replicas_of(model)
    if metrics is None and _keras.has_own_steps(model):
        replicas.check_one_process(
            f"the `test_step` or loss of {type(model).__name__!r}",
            "Evaluate it under `MirroredStrategy`, where Keras's `evaluate` does it.",
        )
    elif replicas.count > 1:
        return outside_scope(lambda: _SharedMetrics(model, metrics)).found
    if metrics is not None:
        model = _over_same_layers(model, WithoutLoss)
        model.compile(metrics=metrics)

    def evaluated(data):
        with running(model):
            return model.evaluate(**fit_arguments(data), return_dict=True, verbose=0)

    return evaluated


class _SharedMetrics(DataPass):
    """Metrics and loss of a model on each replica, which are added up at the end."""

    def __init__(self, model, metrics):
        super().__init__(model, needs_loss=False)
        self._models = Untracked([])
        for place in range(len(self.replicas.devices)):
            with self.replicas.on(place):
                self._models.items.append(_compiled_alike(model, metrics))

    def begin(self, batch):
        """Makes the variables of metrics, also where there are too few batches for all."""
        for place, each in enumerate(self._models.items):
            with self.replicas.on(place):
                each.test_step(batch)
                each.reset_metrics()

    def run(self, data, verbose=0, batch_size=None):
        """Runs the model over the data once."""
        for each in self._models.items:
            each.reset_metrics()
        super().run(data, verbose, batch_size)

    def add_batch(self, x, y, sample_weight, size):
        """One batch."""
        data = keras.utils.pack_x_y_sample_weight(x, y, sample_weight)
        self._models.items[here()[0]].test_step(data)

    def found(self, data):
        """The metrics on data, a dict from name to float."""
        self.run(data)
        variables = [each.metrics_variables for each in self._models.items]
        for variable in variables[0]:
            if variable.aggregation != "sum":
                raise ValueError(
                    "A metric can be shared by replicas if its variables are sums. Received: a "
                    f"variable {variable.path!r} with aggregation={variable.aggregation!r}."
                )
        sums = [sum(np.asarray(each) for each in one) for one in zip(*variables, strict=True)]
        for variable, total in zip(variables[0], self.replicas.summed(sums), strict=True):
            variable.assign(total)
        found = self._models.items[0].get_metrics_result()
        return keras.tree.map_structure(float, found)


def _compiled_alike(model, metrics):
    """A second model over the layers of a model, with copies of its metrics, or with others."""
    compiled = {"metrics": metrics} if metrics is not None else _keras.compile_arguments(model)
    copies = {
        name: keras.tree.map_structure(copied_metric, compiled.get(name))
        for name in ("metrics", "weighted_metrics")
    }
    second = _over_same_layers(model, keras.Model if metrics is None else WithoutLoss)
    losses = {name: compiled.get(name) for name in ("loss", "loss_weights")}
    second.compile(optimizer=None, **losses, **copies, jit_compile=False)
    return second


def _over_same_layers(model, kind):
    """A Functional model, of a subclass of `keras.Model`, that computes what a model does."""
    graph = _keras.functional(model)
    if graph is not None:
        return kind(graph.input, graph.output)
    return kind(*_called(model))


def _called(model):
    """Inputs and outputs of a subclassed model, as one call of it."""
    inputs = keras.tree.map_structure(
        lambda tensor: keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype),
        input_structure(model),
    )
    return inputs, model(inputs)


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


def shapes_in(data):
    """The shapes of the inputs in data without the batch axis, in the structure of the inputs."""
    if isinstance(data, tf.data.Dataset):
        inputs = data.element_spec
        inputs = inputs[0] if isinstance(inputs, tuple) else inputs
    else:
        inputs = data[0][0] if isinstance(data, keras.utils.PyDataset) else data[0]
    return keras.tree.map_structure(lambda array: tuple(array.shape)[1:], inputs)
