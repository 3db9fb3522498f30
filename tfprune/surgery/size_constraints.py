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
        before: The number before, None for that of the positions.
    """

    name: str
    units: np.ndarray
    signs: np.ndarray
    size: int | None = None
    hard: bool = False
    wanted: Wanted | None = None
    counts_new: bool = False
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


def equal_counts(name, ours, theirs):
    """The constraint that two arrays of units keep equally many positions; none if they are equal.

    Returns:
        A list of one `SizeConstraint` or none.
    """
    if np.array_equal(ours, theirs):
        return []
    signs = np.concatenate([np.ones(len(ours), int), -np.ones(len(theirs), int)])
    return [SizeConstraint(name, np.concatenate([ours, theirs]), signs, 0, hard=True)]
