"""The target `Accuracy`: the smallest model within a drop of accuracy, or of another metric."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

import keras

from tfprune._tools.checks import is_number
from tfprune.measuring.metrics import checked_metric
from tfprune.units.budget_kinds import Budget, cost_name, with_share


@keras.saving.register_keras_serializable("tfprune")
@dataclass(frozen=True)
class Accuracy:
    """Target of `tfprune.prune`: the smallest model within a drop of accuracy, or another metric.

    Budgets of one kind are bisected. For each the model given is pruned, recovered and, with
    `epochs`, trained, and the model that results is evaluated. Accuracy need not fall evenly with
    the budget, so a still smaller model may hold the drop too; `report.tries` has all that were
    tried.

    The metric is compared with that of the model given, or with that of the model after its batch
    statistics were put right (see `tfprune.prune`), if that is better. By name it is evaluated on
    `validation_data`, or on the part of the data that `prune` holds out. Give enough of it: among
    100 examples one is a point of accuracy.

    Args:
        drop: Non-negative float, by how much the metric may get worse, in its own units: 0.01 is
            one point of accuracy.
        metric: The name of a metric that the model is compiled with, "loss", or "error", how far
            the outputs are from those of the model given, relative, which needs no labels; or a
            function that takes a model and returns a float.
        larger_is_better: Whether a larger metric is better; by default it depends on the name, as
            "accuracy". For a function it must be given.
        relative: Whether the drop is a fraction of the metric of the model given.
        cost: What is to be small: "macs", "parameters", "bytes", "units" or "latency", or a budget
            of all of it, with its other arguments: `Latency(fraction=1.0, batch_size=32)`.
        tolerance: Float above 0 and up to 0.5, how near, as a share of the cost, the smallest
            budget that holds the drop and a smaller one that does not are in the end. There are
            at most log2(1 / tolerance) tries, rounded up.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> print(Accuracy(0.01)), print(Accuracy(0.05, "loss", relative=True, cost="latency"))
    accuracy at most 0.01 worse, with the least MACs
    loss at most 5 % worse, with the least latency
    (None, None)
    """

    drop: float
    metric: str | Callable = "accuracy"
    _: KW_ONLY
    larger_is_better: bool | None = None
    relative: bool = False
    cost: str | Budget = "macs"
    tolerance: float = 0.02

    def __post_init__(self):
        if not is_number(self.drop) or not 0 <= self.drop < math.inf:
            raise ValueError(
                "Argument `drop` must be a number of at least 0, by how much the metric may get "
                f"worse. Received: drop={self.drop!r}."
            )
        if not is_number(self.tolerance) or not 0 < self.tolerance <= 0.5:
            raise ValueError(
                "Argument `tolerance` must be a number above 0 and at most 0.5. "
                f"Received: tolerance={self.tolerance!r}."
            )
        if not isinstance(self.relative, bool):
            raise ValueError(
                f"Argument `relative` must be True or False. Received: relative={self.relative!r}."
            )
        object.__setattr__(
            self, "larger_is_better", checked_metric(self.metric, self.larger_is_better)
        )
        with_share(self.cost, 1.0)

    def get_config(self):
        """The arguments that make this target again."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def from_config(cls, config):
        """A target out of its `get_config()`."""
        parts = {name: part for name, part in config.items() if isinstance(part, dict)}
        return cls(**{**config, **keras.saving.deserialize_keras_object(parts)})

    def __str__(self):
        name = self.metric if isinstance(self.metric, str) else function_name(self.metric)
        drop = f"{100 * self.drop:.4g} %" if self.relative else f"{self.drop:.4g}"
        return f"{name} at most {drop} worse, with the least {cost_name(self.cost)}"


def function_name(function):
    """The name of a function, or of the class of an object that is called."""
    return getattr(function, "__name__", type(function).__name__)


def check_target(target):
    """Raises a `ValueError` for what is neither a fraction of units nor a budget."""
    check_says_how_much(target)
    if not (isinstance(target, Budget) or is_number(target) and 0 <= target <= 1):
        raise ValueError(
            "Argument `target` must be a number from 0 to 1, the fraction of units to prune, or a "
            f"budget of `tfprune.budgets`. Received: target={target!r}."
        )


def check_says_how_much(target):
    """Raises a `ValueError` for an `Accuracy`, where a target must say how much goes or remains."""
    if isinstance(target, Accuracy):
        raise ValueError(
            "A target in accuracy must be searched for, which `tfprune.prune` alone does; here the "
            f"target must say how much goes or remains. Received: target={target!r}. Call "
            "`tfprune.prune(model, target, data, return_report=True)`: `report.budget` is the "
            "budget that it finds."
        )
