"""Units that weights of a custom layer join: removing their indices equals weights of 0."""

import itertools
from dataclasses import dataclass

import numpy as np

from tfprune.coupling.labels import placed
from tfprune.coupling.rules import unit_propagation
from tfprune.coupling.rules.unit_propagation import NotInferredError

MOST_ALONE = 32
"""Up to how many units each is left out and doubled by itself, where units are joined."""


@dataclass(frozen=True, eq=False)
class Group:
    """Indices that come and go together.

    Attributes:
        axes: Their axis for each input or weight, by place.
        used: The weights whose elements are 0 where an index is without effect.
        classes: For each place the class of each index; those of one class are one unit.
        count: How many classes there are.
        makes: Whether they are the units of the output.
    """

    axes: dict
    used: frozenset
    classes: dict
    count: int
    makes: bool = False


class Joins:
    """Checks that indices which come and go together do what their weights of 0 do."""

    def __init__(self, prover, groups, found):
        self.trials, self.groups = prover.trials, groups
        self.out_axis, self.sources = found.out_axis, found.sources
        self.input_places = frozenset(prover.input_axes)

    def hold(self, briefly=False):
        """Whether it holds for each unit, and for combinations of them; or for one of these."""
        patterns = itertools.islice(self._patterns(), 1 if briefly else None)
        try:
            return all(self._holds(counts, seed) for seed, counts in enumerate(patterns))
        except NotInferredError:
            return False

    def _patterns(self):
        draw = np.random.default_rng(0)
        for _ in range(unit_propagation.COMBINATIONS):
            yield [draw.integers(0, 3, group.count) for group in self.groups]
        for place, group in enumerate(self.groups):
            for index in range(group.count if group.count <= MOST_ALONE else 0):
                for count in (0, 2):
                    counts = [np.ones(each.count, int) for each in self.groups]
                    counts[place][index] = count
                    yield counts

    def _holds(self, counts, seed):
        if not all(each.any() for each in counts):
            return True  # nothing would be left, which no model does
        inputs = self.trials.draw(1.0 if seed % 2 else 0.5, 1000 + seed)
        return self._is_same(inputs, counts, seed < 2) and all(
            self._ignores_zeros(inputs, group, np.minimum(each, 1))
            for group, each in zip(self.groups, counts, strict=True)
            if self.input_places & group.axes.keys()
        )

    def _is_same(self, inputs, counts, announces):
        """Whether the layer with some indices does what it does with weights of 0 for the others.

        Twice as many of a unit do the same where the weights that use them are halved.
        """
        before, after = dict(inputs), dict(inputs)
        for group, each in zip(self.groups, counts, strict=True):
            for place, axis in group.axes.items():
                by_index, rank = np.append(each, 1)[group.classes[place]], inputs[place].ndim
                if place in group.used:
                    before[place] = before[place] * _along(by_index > 0, axis, rank)
                    after[place] = after[place] * _along(1 / np.maximum(by_index, 1), axis, rank)
                after[place] = np.repeat(after[place], by_index, axis)
        expected = self.trials.run(before)
        for group, each in zip(self.groups, counts, strict=True):
            if group.makes:
                repeats = np.ones(expected[0].shape[self.out_axis], int)
                for place, source in self.sources.items():
                    followed = np.append(each, 1)[group.classes[place][source]]
                    repeats = np.where(source < 0, repeats, followed)
                expected = [np.repeat(expected[0], repeats, self.out_axis)]
        return self._gives(after, expected, announces)

    def _ignores_zeros(self, inputs, group, counts):
        """Whether units of the input that are 0 can be left out."""
        before, after = dict(inputs), dict(inputs)
        for place, axis in group.axes.items():
            by_index = np.append(counts, 1)[group.classes[place]]
            if place in self.input_places:
                before[place] = inputs[place] * _along(by_index, axis, inputs[place].ndim)
            after[place] = np.repeat(inputs[place], by_index, axis)
        return self._gives(after, self.trials.run(before))

    def _gives(self, inputs, expected, announces=False):
        found = self.trials.run(inputs)
        if not all(map(unit_propagation.same, expected, found)):
            return False
        return not announces or self.trials.announced(inputs) == [each.shape for each in found]


def _along(values, axis, rank):
    return placed(values, axis, rank).astype("float32")
