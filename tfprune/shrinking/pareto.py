"""Prunes a dense model to a series of budgets: accuracy over cost, and a small model for each."""

import hashlib
import inspect
import math
import os
import time
from collections.abc import Iterable
from dataclasses import replace

import keras

from tfprune._tools import progress
from tfprune._tools.checks import check_integer
from tfprune.coupling.costs import total_macs
from tfprune.measuring.metrics import checked_metric
from tfprune.shrinking import fingerprints
from tfprune.shrinking.evaluation import Evaluation
from tfprune.shrinking.pareto_front import ParetoFront, ParetoPoint, on_front
from tfprune.shrinking.prepared import Prepared
from tfprune.shrinking.run_folder import RunFolder
from tfprune.units.accuracy import check_says_how_much
from tfprune.units.budget_kinds import Budget, Latency, Units, UnmetError, cost_name, with_share
from tfprune.units.model_costs import cost_change, model_cost


def pareto(
    model,
    data,
    *,
    remaining=(0.8, 0.6, 0.4, 0.3, 0.2, 0.1),
    cost="macs",
    metric="accuracy",
    larger_is_better=None,
    folder=None,
    seed=0,
    verbose=0,
    **pruning,
):
    """Prunes a model to several budgets: accuracy over cost, as a table, a plot and small models.

    Each point is what `tfprune.prune` makes of the model given by its budget, so none depends on
    another. What does not depend on the budget is done once: checks, the part of the data that is
    held out, new batch statistics for a dense model with stale ones.

    With a `folder`, each model is written to it when it is done, with its measurements, and the
    same call goes on after an interruption: points that are there are not made again. Another
    `remaining` adds points to the folder. A folder of another model, of other data or arguments is
    refused; of datasets only the shapes and the length are compared, of functions their code.

    Args:
        model: Any Keras model that is built; compiled, to be trained or evaluated. It is not
            changed.
        data: The data of `tfprune.prune`.
        remaining: What may remain: fractions of the cost, floats in (0, 1], or budgets of
            `tfprune.budgets`. Those that cannot be met are listed in `unmet`.
        cost: What is to be small: "macs", "parameters", "bytes" or "latency"; or a budget of all of
            it, with its other arguments, as `tfprune.budgets.Latency(fraction=1.0, batch_size=32)`.
        metric, larger_is_better: What is to be good, see `tfprune.budgets.Accuracy`: the name of a
            metric, evaluated on `validation_data` or on the part of the data that is held out, or
            a function from a model to a float.
        folder: Where models are kept, a path to a new or empty folder, or to that of a run which
            goes on; by default they are kept in memory.
        seed: Integer, with which `keras.utils.set_random_seed` is called before each point, so that
            one that is trained does not depend on those before it; None leaves random states alone.
        verbose: 0 is quiet, 1 shows progress.
        **pruning: Further arguments of `tfprune.prune`: `criterion`, `epochs`, `exclude`,
            `validation_data`, ...

    Returns:
        A `ParetoFront`: prints as a table and has `plot(path)`, `best(drop=0.01)` for the smallest
        point within a drop of the metric, and `model(point)` for the model of a point.

    Raises:
        TypeError: If an argument is unknown.
        ValueError: If an argument is out of its range, no budget can be met, the folder holds
            something else, or Keras cannot write a model.

    Example:

    >>> import numpy as np
    >>> model = keras.Sequential([
    ...     keras.Input((8,)), keras.layers.Dense(32, activation="relu"), keras.layers.Dense(4)])
    >>> x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    >>> front = pareto(model, (x,), remaining=(0.75, 0.5, 0.25), metric="error")
    >>> [point.ratio for point in front.points]
    [0.75, 0.5, 0.25]
    >>> front.model(front.best(drop=0.9)).layers[0].units < 32
    True
    """
    start = time.perf_counter()
    wanted = _checked_budgets(remaining, cost)
    if seed is not None:
        check_integer("seed", seed, least=0)
    if not isinstance(folder, (str, os.PathLike, type(None))):
        raise ValueError(
            f"Argument `folder` must be the path of a folder, or None. Received: folder={folder!r}."
        )
    larger_is_better = checked_metric(metric, larger_is_better)
    kept, whole = _InMemory(), with_share(cost, 1.0)
    points, unmet = {}, {}
    with progress.shown(verbose) as verbose:
        prepared = Prepared(model, data, verbose=verbose, **pruning)
        for budget in wanted:
            prepared.check(budget)
        evaluate = Evaluation(metric, larger_is_better, model, prepared.judge)
        if folder is not None:
            arguments = {"cost": cost, "metric": metric, "seed": seed, **pruning}
            kept = RunFolder(folder, _identity(model, data, arguments))
        dense = _dense(prepared, evaluate, whole, kept, start, is_named=isinstance(metric, str))
        with progress.stage("Budgets", len(wanted), verbose=verbose) as bar:
            for budget in wanted:
                name = _file_name(budget)
                found = kept.measured(name)
                try:
                    if found is None:
                        small, found = _made(prepared, budget, whole, dense.cost, evaluate, seed)
                        kept.write(name, small, found)
                except UnmetError as error:
                    unmet[budget], failure = error.lowest, error
                else:
                    points[name] = ParetoPoint(budget, **found, file=kept.model_path(name))
                bar.add(1)
    if not points:
        raise failure
    points = dict(sorted(points.items(), key=lambda item: -item[1].ratio))
    every = (dense, *points.values())
    ratios, values = [each.ratio for each in every], [each.value for each in every]
    marks = on_front(ratios, values, larger_is_better)
    dense, *marked = (
        replace(point, on_front=mark) for point, mark in zip(every, marks, strict=True)
    )
    return ParetoFront(
        metric=evaluate.name,
        larger_is_better=larger_is_better,
        cost=cost_name(cost),
        dense=dense,
        points=tuple(marked),
        unmet=unmet,
        models=tuple(map(kept.models.get, points)) if folder is None else None,
    )


class _InMemory:
    """What a `RunFolder` does, for models that stay in memory."""

    begun = None

    def __init__(self):
        self.models = {}

    def begin(self, begun):
        """Nothing, since it ends with the process."""

    def measured(self, name):
        """None: nothing is there before it is made."""

    def model_path(self, name):
        """None: there are no files."""

    def write(self, name, model, measured):
        """Keeps the model."""
        self.models[name] = model


def _checked_budgets(remaining, cost):
    """The budgets, largest share first as they are given.

    Raises:
        ValueError: If one is none, or comes twice.
    """
    if isinstance(with_share(cost, 1.0), Units):
        raise ValueError(
            'Argument `cost` must be "macs", "parameters", "bytes" or "latency", or a budget of '
            f"one of them. Received: cost={cost!r}."
        )
    found = []
    if not isinstance(remaining, Iterable) or isinstance(remaining, str):
        remaining = [remaining]
    for budget in remaining:
        check_says_how_much(budget)
        if isinstance(budget, float) and 0 < budget <= 1:
            budget = with_share(cost, float(budget))
        if not isinstance(budget, Budget) or budget in found:
            raise ValueError(
                "Argument `remaining` must hold fractions of the cost that may remain, floats in "
                "(0, 1], or budgets of `tfprune.budgets`, each once. "
                f"Received: {budget!r} in remaining={remaining!r}."
            )
        found.append(budget)
    if not found:
        raise ValueError(
            f"Argument `remaining` must hold a budget. Received: remaining={remaining!r}."
        )
    return found


def _identity(model, data, arguments):
    """What a run depends on, by name, each as a string."""
    taken = inspect.signature(Prepared).parameters.values()
    defaults = {each.name: each.default for each in taken if each.kind is each.KEYWORD_ONLY}
    arguments = {**defaults, **arguments}
    del arguments["verbose"]
    return {
        "model": fingerprints.of_model(model),
        "optimizer": fingerprints.of_training(model) if arguments["epochs"] else "",
        "data": fingerprints.of_data(data),
        **{name: fingerprints.of_argument(each) for name, each in sorted(arguments.items())},
    }


def _dense(prepared, evaluate, whole, kept, start, is_named):
    """The `ParetoPoint` of the model given."""
    model, begun = prepared.model, kept.begun
    if begun is not None and not is_named:
        value, _ = evaluate(model)
        if not math.isclose(value, begun["given"], rel_tol=1e-3):
            raise ValueError(
                "The folder holds a run with another evaluation, or it gives another value each "
                f"time. Received: metric={evaluate.name!r}, which is {value:.6g} for the model "
                f"given, and was {begun['given']:.6g}. Give another folder, or delete it."
            )
    if begun is None:
        value, metrics, given = evaluate.of_dense(prepared.denses)
        begun = {
            "cost": model_cost(model, whole),
            "ratio": 1.0,
            "value": value,
            "metrics": metrics,
            "parameters": model.count_params(),
            "macs": total_macs(model, getattr(whole, "input_shapes", None)),
            "seconds": time.perf_counter() - start,
        }
        kept.begin({"given": given, **begun})
    begun = {name: each for name, each in begun.items() if name != "given"}
    return ParetoPoint(None, **begun)


def _made(prepared, budget, whole, dense_cost, evaluate, seed):
    """A small model, and what is measured of it.

    Two latencies that were measured in turns are compared, and only they, so what is told of a
    small model is the time of the model given as it is told, times their ratio.
    """
    start = time.perf_counter()
    if seed is not None:
        keras.utils.set_random_seed(seed)
    small, _ = prepared.to(budget)
    change = cost_change(prepared.model, small, whole)
    value, metrics = evaluate(small)
    return small, {
        "cost": dense_cost * change.ratio if isinstance(whole, Latency) else change.after,
        "ratio": change.ratio,
        "value": value,
        "metrics": metrics,
        "parameters": small.count_params(),
        "macs": total_macs(small, getattr(whole, "input_shapes", None)),
        "seconds": time.perf_counter() - start,
    }


def _file_name(budget):
    """The name of the file of a point: "macs_0.5"; with other arguments a hash of them."""
    if isinstance(budget, Latency):
        plain = Latency(budget.milliseconds, budget.fraction)
        value = budget.fraction or f"{budget.milliseconds}ms"
    else:
        plain, value = type(budget)(budget.remaining), budget.remaining
    name = f"{type(budget).__name__.lower()}_{value}"
    if budget == plain:
        return name
    return f"{name}_{hashlib.sha256(repr(budget).encode()).hexdigest()[:8]}"
