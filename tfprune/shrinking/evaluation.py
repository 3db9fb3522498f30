"""The metric by which a target in accuracy is judged, and points on a curve are compared."""

import math
from dataclasses import dataclass

from tfprune.units.accuracy import function_name

_ROUNDING = 1e-6
"""Metrics are sums in single precision."""


@dataclass(frozen=True)
class Drop:
    """By how much a metric may get worse.

    Args:
        dense: Float, the metric of the model given.
        drop: Non-negative float.
        relative: Whether `drop` is a fraction of `dense`.
        larger_is_better: Boolean.

    Example:

    >>> drop = Drop(0.9, 0.01, relative=False, larger_is_better=True)
    >>> round(drop.limit, 6), drop.holds(0.89), drop.holds(0.889)
    (0.89, True, False)
    """

    dense: float
    drop: float
    relative: bool
    larger_is_better: bool

    @property
    def limit(self):
        """The worst value of the metric that holds the drop."""
        drop = self.drop * abs(self.dense) if self.relative else self.drop
        return self.dense - drop if self.larger_is_better else self.dense + drop

    def holds(self, value):
        """Whether a value is within the drop; one that is not a number is not."""
        slack = _ROUNDING * max(abs(self.dense), abs(self.limit))
        if self.larger_is_better:
            return value >= self.limit - slack
        return value <= self.limit + slack


class Evaluation:
    """Evaluates one metric of models.

    Args:
        metric: The name of a metric that the model is compiled with, "loss" or "error"; or a
            function from a model to a float.
        larger_is_better: Boolean.
        model: The model given.
        judge: The `Judge` with the data that is evaluated on, by name.

    Raises:
        ValueError: If the metric cannot be evaluated by its name.

    Attributes:
        name: The name of the metric.
        larger_is_better: The argument.
    """

    def __init__(self, metric, larger_is_better, model, judge):
        self.name = metric if isinstance(metric, str) else function_name(metric)
        self.larger_is_better = larger_is_better
        self._metric, self._judge = metric, judge
        if not isinstance(metric, str):
            return
        advice = (
            "Pass `data` and `validation_data` with labels and compile the model with the metric, "
            'or pass a function that takes a model and returns a float; "error" needs inputs alone.'
        )
        if not judge.measures or (metric != "error" and not (judge.has_labels and model.compiled)):
            raise ValueError(
                f"Argument `metric` must be one that can be evaluated. Received: metric={metric!r},"
                f" {'no data' if not judge.measures else 'data without labels'}"
                f"{'' if model.compiled else ', a model that is not compiled'}. {advice}"
            )

    def __call__(self, model):
        """The metric of a model, and all that were evaluated with it, a dict from name to float.

        Raises:
            ValueError: If it is no number, or not among the metrics of the model.
        """
        if self._metric == "error":
            found = self._judge.distance(model)
        elif isinstance(self._metric, str):
            found = self._judge.evaluate(model)
            if self.name not in found:
                raise ValueError(
                    "Argument `metric` must be one of those that the model is compiled with. "
                    f"Received: metric={self.name!r}, model={model.name!r} with {list(found)}."
                )
        else:
            found = {self.name: self._metric(model)}
        try:
            found = {name: float(value) for name, value in found.items()}
        except (TypeError, ValueError) as error:
            raise ValueError(
                "Argument `metric` must be a function that takes a model and returns a float. "
                f"Received: {found[self.name]!r} of {self.name!r}."
            ) from error
        return found[self.name], found

    def of_dense(self, models):
        """The metric of the best of models that are equally large.

        Returns:
            That metric, all that were evaluated with it, and the metric of the first model.

        Raises:
            ValueError: If it is not finite: nothing can be compared with it.
        """
        found = [self(model) for model in models]
        better = max if self.larger_is_better else min
        value, metrics = better(found, key=lambda each: each[0])
        if not all(math.isfinite(each) for each, _ in found):
            raise ValueError(
                "The metric of the model given must be finite. "
                f"Received: {self.name}={[each for each, _ in found]}."
            )
        return value, metrics, found[0][0]

    def best(self, values):
        """The index of the best of some values, which are not all NaN."""
        sign = 1 if self.larger_is_better else -1
        keys = [-math.inf if math.isnan(value) else sign * value for value in values]
        return keys.index(max(keys))
