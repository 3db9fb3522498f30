"""What the units of any model are worth, masked or not."""

from dataclasses import dataclass

import numpy as np

from tfprune.coupling.labels import FIXED
from tfprune.coupling.units import Coupling, unit_name
from tfprune.criteria import units as criteria
from tfprune.criteria.asking import call, drawn_seed
from tfprune.criteria.contribution import ActivationContribution
from tfprune.layers import Masked
from tfprune.prunable_units import places
from tfprune.unit_scores import by_unit


@dataclass(frozen=True, eq=False)
class _Weights:
    """The weights in which units stand: triples of a slice, its layer and the weight's name."""

    coupling: Coupling
    masked: list


class Utilities:
    """Scores coupled units: the sum of what they are worth to each layer that makes them.

    Args:
        coupling: The units.
        criterion: See `tfprune.criteria.units`. Scores may be negative; those that are not finite
            count as worst.
        seed: Integer, for criteria which draw.
    """

    def __init__(self, coupling, criterion="magnitude", seed=None):
        self.coupling = coupling
        self.criterion = criteria.get(criterion)
        self.seed = drawn_seed(seed, self.criterion)
        self.weights = _Weights(coupling, _named_pieces(coupling))

    def __call__(self, wanted):
        """An array over all units, with the utilities of those for which `wanted` is True."""
        found = np.zeros(self.coupling.size)
        for place, unit_set in enumerate(self.coupling.sets):
            if not wanted[unit_set.units].any():
                continue
            makers = zip(unit_set.layers, unit_set.families, strict=True)
            for number, (layer, family) in enumerate(makers):
                made, weights = by_unit(self.weights, layer, family)
                scores = self._scores(layer, family, weights, [self.seed or 0, place, number])
                members = np.isin(made, unit_set.units)
                target = unit_set.units[places(made[members], unit_set.units)]
                with np.errstate(invalid="ignore"):
                    found[target] += scores[members]
        found[FIXED] = 0
        return found

    def _scores(self, layer, family, weights, seed):
        criterion = self.criterion
        is_shown = family is None and isinstance(layer, Masked)
        if isinstance(criterion, ActivationContribution) and not is_shown:
            criterion = criteria.magnitude  # nothing inside a layer is measured
        units = len(next(iter(weights.values())))
        scores = call(criterion, {"layer": layer, "weights": weights, "seed": seed})
        scores = np.asarray(scores, "float64")
        if scores.shape != (units,):
            raise ValueError(
                f"A criterion must return one score for each of the {units} units. "
                f"Received: shape={scores.shape}, layer={unit_name(layer, family)!r}."
            )
        return scores


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
