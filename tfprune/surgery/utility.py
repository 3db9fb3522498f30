"""Utilities (importance scores) of the units of any model, masked or not."""

from dataclasses import dataclass

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.labels import FIXED
from tfprune.coupling.units import Coupling
from tfprune.criteria import arguments
from tfprune.criteria import units as criteria
from tfprune.criteria.contribution import ActivationContribution
from tfprune.criteria.unit_slices import SliceGroups
from tfprune.layers.layer_masks import measured_of
from tfprune.surgery.lookup import walk_operations
from tfprune.surgery.measures import measured_outputs
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


def _refuse_unmeasured(model):
    operations = [*_keras.all_layers(model), *(each for _, each in walk_operations(model))]
    if not any(measured_of(each) is not None for each in operations):
        raise ValueError(
            "The activation contribution is measured while a model trains, and of no layer of this "
            f"one it was. Received: model={model.name!r}. Train it with "
            "`tfprune.callbacks.PruneUnits`, or `attach` the criterion to layers."
        )


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
        if isinstance(self.criterion, ActivationContribution):
            _refuse_unmeasured(model)
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
        found, is_measured = np.zeros(coupling.size), np.zeros(coupling.size, bool)
        if isinstance(self.criterion, ActivationContribution):
            for units, values in measured_outputs(coupling, self._contribution):
                np.add.at(found, units, values)
                is_measured[units] = True
        groups = SliceGroups(self.units, self.criterion.roles)
        for index, unit_set in enumerate(coupling.sets):
            if not wanted[unit_set.units].any():
                continue
            for number, group in enumerate(groups.of_set(index)):
                if is_measured[group.units].all() and measured_of(group.layer) is None:
                    continue  # it was measured where the units go
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

    def _contribution(self, operation):
        """What was measured of the units of an operation; None if nothing."""
        return None if measured_of(operation) is None else self.criterion(operation)


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
