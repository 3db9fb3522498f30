"""What coupled units are worth: the scores of the layers that make them, put together."""

import numpy as np

from tfprune.criteria import units as criteria
from tfprune.criteria.asking import drawn_seed
from tfprune.prunable_units import maker_of, places


class UnitScores:
    """Scores the units of a model.

    Args:
        criterion: See `tfprune.criteria.units`.
        seed: Integer, for criteria which draw.
    """

    def __init__(self, criterion="magnitude", *, seed=None):
        self.criterion = criteria.get(criterion)
        self.seed = drawn_seed(seed, self.criterion)

    def of(self, units, sets=None):
        """The scores of units.

        Args:
            units: `PrunableUnits`.
            sets: The sets of them that are scored, by default all.

        Returns:
            An array over all units of the coupling, 0 outside of the sets.

        Raises:
            ValueError: If scores are not finite, or a criterion was not measured yet.
        """
        scores = np.zeros(units.coupling.size)
        for place, unit_set in enumerate(units.sets):
            if sets is None or any(unit_set is other for other in sets):
                scores[unit_set.units] = self._of_set(units, unit_set, [self.seed or 0, place])
        return scores

    def _of_set(self, units, unit_set, seed):
        """The scores of a set: the sum over the layers that make it."""
        total = np.zeros(len(unit_set.units))
        for layer, family in zip(unit_set.layers, unit_set.families, strict=True):
            made, weights = by_unit(units, layer, family)
            scores = criteria.score(self.criterion, layer, weights, seed, family)
            members = np.isin(made, unit_set.units)
            total[places(made[members], unit_set.units)] += scores[members]
        return total


def by_unit(units, layer, family):
    """The units a layer makes, in order, and its weights with a row for each."""
    made, weights = None, {}
    for piece, _, name in units.masked:
        if piece.makes and maker_of(piece) == (id(layer), family):
            roots = units.coupling.roots[piece.labels]
            made = roots[np.sort(np.unique(roots, return_index=True)[1])]
            rows = np.moveaxis(np.asarray(piece.variable), piece.axis, 0)
            weights[name] = _rows_of(rows.reshape(len(rows), -1), places(roots, made))
    return made, weights


def _rows_of(rows, places):
    """The rows of each unit side by side; units which have fewer than others are filled with 0."""
    counts = np.bincount(places)
    filled = np.zeros((len(counts), counts.max(), rows.shape[1]), rows.dtype)
    by_unit = np.argsort(places, kind="stable")
    within = np.concatenate([np.arange(count) for count in counts])
    filled[places[by_unit], within] = rows[by_unit]
    return filled.reshape(len(counts), -1)
