"""Utilities (importance scores) of the units of any model, masked or not."""

from dataclasses import dataclass

import keras
import numpy as np

from tfprune.coupling.labels import FIXED
from tfprune.coupling.units import Coupling
from tfprune.criteria import arguments
from tfprune.criteria import units as criteria
from tfprune.criteria.unit_slices import SliceGroups
from tfprune.units.scores import UnitScores


@dataclass(frozen=True, eq=False)
class _AnyUnits:
    """All units of a model, with the attributes of `PrunableUnits` that scoring needs.

    Attributes:
        model: The model.
        coupling: Its units.
        masked: The slices of units, as triples of a slice, its layer and the weight's name.
    """

    model: keras.Model
    coupling: Coupling
    masked: list

    @property
    def sets(self):
        """The sets of units."""
        return self.coupling.sets

    def pruned(self):
        """No unit: surgery removes units at once."""
        return np.zeros(self.coupling.size, bool)


class Utilities:
    """Utilities of coupled units: the scores of a criterion, summed over the layers it looks at.

    Args:
        model: The model.
        coupling: Its units.
        criterion: See `tfprune.criteria.units`. Scores may be negative; those that are not finite
            count as worst. A `tfprune.units.scores.UnitScores` brings the data along, for criteria
            that are measured on data.

    Raises:
        ValueError: If a criterion is measured on data, and there is none.
    """

    def __init__(self, model, coupling, criterion="magnitude"):
        self.units = _AnyUnits(model, coupling, _named_pieces(coupling))
        self.scores = criterion if isinstance(criterion, UnitScores) else None
        if self.scores is not None:
            return
        self.criterion = criteria.get(criterion)
        self.seed = arguments.resolve_seed(self.criterion)
        measured = criteria.gradients_of(self.criterion) + criteria.activations_of(self.criterion)
        if measured:
            raise ValueError(
                f"The criterion asks for {measured}, which is measured on data. Received: "
                f"criterion={criterion!r}. Pass "
                f"`tfprune.units.scores.UnitScores({criterion!r}, data=(x, y))`."
            )

    def __call__(self, wanted):
        """An array over all units, with the utilities of those for which `wanted` is True."""
        coupling = self.units.coupling
        if self.scores is not None:
            sets = [unit_set for unit_set in coupling.sets if wanted[unit_set.units].any()]
            return self.scores.of(self.units, sets)
        found = np.zeros(coupling.size)
        groups = SliceGroups(self.units, self.criterion.roles)
        for index, unit_set in enumerate(coupling.sets):
            if not wanted[unit_set.units].any():
                continue
            for number, group in enumerate(groups.of_set(index)):
                scores = criteria.score(
                    self.criterion,
                    group.layer,
                    group.matrices(coupling.roots),
                    [self.seed or 0, index, number],
                    group.family,
                    role=group.role,
                    finite=False,
                )
                if scores is None:  # the criterion cannot score the layer
                    continue
                members = np.isin(group.units, unit_set.units)
                with np.errstate(invalid="ignore"):
                    found[group.units[members]] += scores[members]
        found[FIXED] = 0
        return found


def _named_pieces(coupling):
    """The slices with names of their weights that are unique in a layer."""
    names, taken = {}, set()
    for piece in coupling.slices:
        if id(piece.variable) in names:
            continue
        parts = piece.variable.path.split("/")
        name = parts.pop()
        while (id(piece.layer), name) in taken and parts:
            name = f"{parts.pop()}_{name}"
        taken.add((id(piece.layer), name))
        names[id(piece.variable)] = name
    return [(piece, piece.layer, names[id(piece.variable)]) for piece in coupling.slices]
