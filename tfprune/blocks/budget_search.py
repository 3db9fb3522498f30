"""Blocks to remove until a budget is met: the fewest, or some of them, if units go too."""

import dataclasses
import math

import numpy as np

from tfprune.blocks.find import find_blocks
from tfprune.blocks.same_class import of_same_class
from tfprune.blocks.scores import scores_of
from tfprune.measuring.latency import latency
from tfprune.rebuild.bypassed import bypassed
from tfprune.units import budgets
from tfprune.units.model_costs import model_cost


def within_budget(model, found, order, budget):
    """Removes blocks until a budget is met.

    Args:
        model: The model, of which fractions count.
        found: Its `Blocks`.
        order: These, those first that are removed first.
        budget: A budget of parameters, MACs, bytes or latency.

    Returns:
        The model with the fewest blocks removed that meets it, and these blocks.

    Raises:
        ValueError: If it is not met without all of them.
    """
    meets = _Within(model, budget)
    if meets(model):
        return bypassed(found.model, []), []
    least = bypassed(found.model, order)
    if not meets(least):
        raise ValueError(
            f"The budget cannot be met by removing blocks: without all {len(order)} that can go, "
            f"{meets.in_words(least)} remain. Received: target={budget!r}. Allow more, or prune "
            "units of the result with `tfprune.prune`."
        )
    too_few, small, enough = 0, least, len(order)
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        candidate = bypassed(found.model, order[:middle])
        if meets(candidate):
            small, enough = candidate, middle
        else:
            too_few = middle
    return small, order[:enough]


def shallower(model, budget, data, *, only=None, exclude=None, same_class=False, verbose=0):
    """Yields a model without none, one, two, ... of its blocks, until no units need to go.

    Args:
        model: The model.
        budget: A budget of parameters, MACs, bytes or latency, of which fractions count from it.
        data: What block influence, by which blocks go, is measured on.
        only, exclude: See `find_blocks`.
        same_class: Whether the class of the model must make those without blocks.
        verbose: 0 is quiet, 1 shows progress.

    Yields:
        The model, the blocks that it lacks, and the budget in absolute numbers.

    Raises:
        ValueError: If there are no blocks.
    """
    found = find_blocks(model, only, exclude)
    scores = scores_of(found, "block_influence", data, verbose)
    order = [found.blocks[place] for place in np.argsort(scores, kind="stable")]
    meets = _Within(model, budget)
    absolute = meets.absolute()
    for number in range(len(order) + 1):
        small, removed = model, order[:number]
        if removed:
            small = bypassed(found.model, removed)
            if same_class:
                small, _ = of_same_class(model, found, removed, small, is_required=True)
        yield small, removed, absolute
        if meets(small):
            break


class _Within:
    """Whether a model is within a budget, a fraction of which counts from another model."""

    def __init__(self, model, budget):
        self.model, self.budget = model, budget
        self.dense = None if isinstance(budget, budgets.Latency) else self._cost(model)

    def __call__(self, small):
        if self.dense is None:
            dense, cost = self._latencies(small)
            return cost <= self.budget.allowed(dense)
        return self._cost(small) <= self.budget.allowed(self.dense)

    def absolute(self):
        """The same budget in numbers, of which no fraction counts from anything."""
        if self.dense is None:
            dense, _ = self._latencies(self.model) if self.budget.fraction else (math.inf, 0)
            allowed = 1000 * self.budget.allowed(dense)
            return dataclasses.replace(self.budget, milliseconds=allowed, fraction=None)
        return dataclasses.replace(self.budget, remaining=self.budget.allowed(self.dense))

    def in_words(self, small):
        if self.dense is None:
            return f"{1000 * self._latencies(small)[1]:.3g} ms"
        return f"{self._cost(small):,} of {self.dense:,} {self.budget.what}"

    def _latencies(self, small):
        return latency([self.model, small], **self.budget.conditions)

    def _cost(self, model):
        return model_cost(model, self.budget)
