"""The result of `pareto`: models of several sizes, and which of them are on the Pareto front."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import keras

from tfprune._tools import plots
from tfprune._tools.checks import is_integer, is_number
from tfprune._tools.tables import Printable, count, milliseconds, number, plain, share, table
from tfprune.shrinking.evaluation import Drop
from tfprune.units.budget_kinds import Budget, in_short


@dataclass(frozen=True, eq=False)
class ParetoPoint:
    """A model on the curve.

    Attributes:
        budget: What it was pruned to, a budget of `tfprune.budgets`; None of the model given.
        cost: What it costs, an integer; of latency seconds.
        ratio: That, as a share of the cost of the model given.
        value: The metric.
        metrics: All that was evaluated with it, a dict from name to float.
        parameters, macs: How many it has; MACs are None where they are not known.
        seconds: How long pruning, recovering, training and measuring took.
        file: The path of the model; None where there is no folder.
        on_front: Whether no other, the model given among them, is as small or smaller and has a
            better metric, or is smaller and has one as good: whether it is on the Pareto front.
    """

    budget: Budget | None
    cost: float
    ratio: float
    value: float
    metrics: dict
    parameters: int
    macs: int | None
    seconds: float
    file: Path | None = None
    on_front: bool = True


@dataclass(frozen=True, eq=False)
class ParetoFront(Printable, plots.Plottable):
    """The result of `pareto`; prints as a table, and `plot(path)` draws the curve.

    Attributes:
        metric: The name of the metric.
        larger_is_better: Whether a larger one is better.
        cost: What was to be small: "MACs", "parameters", "bytes" or "latency".
        dense: The `ParetoPoint` of the model given.
        points: A `ParetoPoint` for each budget that can be met, from the largest model to the
            smallest.
        unmet: A dict from the budgets that cannot be met to what can, in words.
        models: The models, in the order of `points`; None where they are in files.
    """

    metric: str
    larger_is_better: bool
    cost: str
    dense: ParetoPoint
    points: tuple
    unmet: dict
    models: tuple | None = field(default=None, repr=False)

    def model(self, which):
        """The model of a point, read from its file if there is one.

        Args:
            which: A `ParetoPoint` of `points`, or its index.

        Raises:
            ValueError: If there is no such point.
        """
        places = [place for place, point in enumerate(self.points) if point is which]
        if is_integer(which) and -len(self.points) <= which < len(self.points):
            places = [which]
        if not places:
            raise ValueError(
                f"Argument `which` must be one of the points or an index below {len(self.points)}. "
                f"Received: which={which!r}."
            )
        if self.models is not None:
            return self.models[places[0]]
        return keras.models.load_model(self.points[places[0]].file)

    def best(self, drop=0.01, relative=False):
        """The point of the least cost whose metric is within a drop of that of the model given.

        Args:
            drop: Non-negative float, by how much the metric may be worse, in its own units.
            relative: Whether that is a fraction of the metric of the model given.

        Returns:
            A `ParetoPoint` of `points`.

        Raises:
            ValueError: If no point is.
        """
        if not is_number(drop) or not drop >= 0:
            raise ValueError(f"Argument `drop` must not be negative. Received: drop={drop!r}.")
        limit = Drop(self.dense.value, drop, relative, self.larger_is_better)
        within = [point for point in self.points if limit.holds(point.value)]
        if not within:
            choose = max if self.larger_is_better else min
            nearest = choose(self.points, key=lambda point: point.value)
            raise ValueError(
                f"No point is within the drop. Received: drop={drop!r}, relative={relative}, where "
                f"the model given has {self.metric}={self.dense.value:.6g}, and the best point "
                f"{nearest.value:.6g} ({_budget(nearest)}). Allow more."
            )
        return min(within, key=lambda point: point.ratio)

    def tables(self):
        """The rich table that is printed, a row for each point."""
        notes = [
            f"{in_short(budget)} cannot be met: {lowest}" for budget, lowest in self.unmet.items()
        ]
        counted = [name for name in ("parameters", "MACs") if name != self.cost]
        columns = (self.cost, "ratio", self.metric, "front", *counted, "s")
        rows = table(("budget",), columns, notes=notes)
        for point in (self.dense, *self.points):
            show = milliseconds if self.cost == "latency" else count
            numbers = {"parameters": point.parameters, "MACs": point.macs}
            rows.add_row(
                _budget(point),
                show(point.cost),
                share(point.ratio),
                number(point.value),
                "*" if point.on_front else "",
                *(count(numbers[name]) for name in counted),
                f"{point.seconds:.3g}",
            )
        return [rows]

    def to_dict(self):
        """The result without the models, as `json.dumps` accepts it."""
        points = [
            plain(replace(point, budget=_budget(point), file=point.file and str(point.file)))
            for point in (self.dense, *self.points)
        ]
        return {
            "metric": self.metric,
            "larger_is_better": self.larger_is_better,
            "cost": self.cost,
            "dense": points[0],
            "points": points[1:],
            "unmet": {in_short(budget): lowest for budget, lowest in self.unmet.items()},
        }

    def _figure(self):
        """The metric over the cost; points that another is better than are hollow."""
        figure = plots.figure("ParetoFront.plot", figsize=(7, 4.5), layout="constrained")
        axes = figure.subplots()
        every = sorted((self.dense, *self.points), key=lambda point: point.ratio)
        front = [point for point in every if point.on_front]
        others = [point for point in every if not point.on_front]
        axes.axhline(self.dense.value, color="gray", linestyle=":", label="the model given")
        for points, style in ((front, {"marker": "o"}), (others, {"marker": "o", "mfc": "white"})):
            line = "-" if points is front else ""
            label = "Pareto front" if points is front else "not on it"
            if points:
                shown = zip(*((100 * p.ratio, p.value) for p in points), strict=True)
                axes.plot(*shown, line, color="#1f77b4", label=label, **style)
        axes.set(xlabel=f"{self.cost}, % of the model given", ylabel=self.metric)
        figure.legend(loc="outside upper right", ncols=3, fontsize="small")
        return figure


def _budget(point):
    """What a point was pruned to, in a few characters."""
    return "the model given" if point.budget is None else in_short(point.budget)


def on_front(ratios, values, larger_is_better):
    """Which of some models no other is better than, in cost and in metric.

    Args:
        ratios: Their costs.
        values: Their metrics; NaN is worse than anything.
        larger_is_better: Whether a larger metric is better.

    Returns:
        A list of booleans.

    Example:

    >>> on_front([1.0, 0.5, 0.4, 0.2], [0.9, 0.8, 0.85, 0.5], larger_is_better=True)
    [True, False, True, True]
    """
    sign = 1 if larger_is_better else -1
    goods = [float("-inf") if value != value else sign * value for value in values]
    pairs = list(zip(ratios, goods, strict=True))
    return [
        value > float("-inf")
        and not any(
            cost <= ours and good >= value and (cost < ours or good > value) for cost, good in pairs
        )
        for ours, value in pairs
    ]
