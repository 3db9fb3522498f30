"""Linear constraints on sizes, which the size solver meets."""

import functools
from dataclasses import dataclass

import numpy as np

from tfprune.surgery.sizes import Wanted


@dataclass(frozen=True, eq=False)
class SizeConstraint:
    """A constraint on a number of positions: `sum_p signs_p * counts[units_p]` and its bounds.

    Attributes:
        name: What is counted, for messages.
        units: The unit of each position.
        signs: An integer factor for each position, mostly 1 or -1.
        size: The number to reach, None if it has bounds.
        hard: Whether it is a condition of an edit, not a size that the user asks for.
        wanted: The `Wanted` that the user gave; it has the bounds, and may be relaxed.
        counts_new: Whether new units are counted only.
        counts_inserted: Whether units that a new input of a concatenation brings are counted.
        before: The number before, None for that of the positions.
    """

    name: str
    units: np.ndarray
    signs: np.ndarray
    size: int | None = None
    hard: bool = False
    wanted: Wanted | None = None
    counts_new: bool = False
    counts_inserted: bool = True
    before: int | None = None

    @property
    def current(self):
        """The number of positions before."""
        if self.counts_new:
            return 0
        return int(self.signs.sum()) if self.before is None else self.before

    @functools.cached_property
    def bounds(self):
        """The lowest and the highest number, and what it is a multiple of."""
        if self.wanted is None:
            return self.size, self.size, 1
        return self.wanted.bounds(self.current)

    @property
    def is_relaxed(self):
        """Whether it is met as nearly as possible where it cannot be met."""
        return self.wanted is not None and self.wanted.relaxed


FITS = (None, "shrink", "grow")
"""How two sizes are made equal: any way, without new units, without removing any."""


def check_fit(fit):
    """Raises a `ValueError` unless it is one of `FITS`."""
    if fit not in FITS:
        raise ValueError(f"Argument `fit` must be one of {FITS}. Received: fit={fit!r}.")


def equal_counts(name, ours, theirs, fit=None):
    """The constraint that two arrays of units keep equally many positions; none if they are equal.

    With a `fit` of `FITS` these are at most as many as the smaller has, or at least as many as the
    larger.

    Returns:
        A list of `SizeConstraint`s, or none.
    """
    if np.array_equal(ours, theirs):
        return []
    signs = np.concatenate([np.ones(len(ours), int), -np.ones(len(theirs), int)])
    found = [SizeConstraint(name, np.concatenate([ours, theirs]), signs, 0, hard=True)]
    return found + fitted(name, ours, fit, min(len(ours), len(theirs)), max(len(ours), len(theirs)))


def fitted(name, units, fit, lower, higher):
    """The constraint of a `fit` of `FITS` on the number of some positions, as a list or none."""
    if fit is None:
        return []
    wanted = Wanted("at_most", lower) if fit == "shrink" else Wanted("at_least", higher)
    name = f"{name}, with fit={fit!r}"
    return [SizeConstraint(name, units, np.ones(len(units), int), hard=True, wanted=wanted)]
