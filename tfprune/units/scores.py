"""Importance scores of coupled units: the scores of all their slices, aggregated."""

import numpy as np

from tfprune.criteria import arguments
from tfprune.criteria import units as criteria
from tfprune.criteria.activations import measured_units
from tfprune.criteria.layerwise_obs import LayerwiseOBS
from tfprune.criteria.measuring import measure
from tfprune.criteria.unit_activations import in_tensors
from tfprune.criteria.unit_slices import SliceGroups
from tfprune.measuring.replicas import replicas_of
from tfprune.units.layerwise_obs import LayerwisePrices
from tfprune.units.prunable import indices_in

_AGGREGATES = {"sum": np.nansum, "mean": np.nanmean, "max": np.nanmax}
_NORMALIZERS = {"mean": np.mean, "max": np.max, "sum": np.sum, "l2": np.linalg.norm}


class UnitScores:
    """Scores the units of a model.

    A unit has slices in several layers: in those that make it (both sides of a residual sum do), in
    the norms it passes, and in those that use it. A criterion scores the slices in each layer of
    its roles, or the activations at each tensor that layers use the unit from; see
    `tfprune.criteria.units`. Its `aggregate` makes one score of them.

    Args:
        criterion: A name, a `tfprune.criteria.Criterion`, which also says how scores are
            aggregated and normalised, or a callable; see `tfprune.criteria.units`.
        data: `(x, y)` or a dataset of batches, for criteria that are measured on data.
        verbose: 0 is quiet, 1 shows the progress through the data.

    Raises:
        ValueError: If an argument is wrong.

    Example:

    >>> import keras
    >>> import tfprune
    >>> from tfprune.units.prunable import PrunableUnits
    >>> hidden = tfprune.layers.Dense(2, kernel_initializer="identity", name="hidden")
    >>> out = tfprune.layers.Dense(1, kernel_initializer="ones")
    >>> units = PrunableUnits(keras.Sequential([keras.Input((2,)), hidden, out]))
    >>> UnitScores("l1").of(units)[units.sets[0].units]  # |1| in `hidden` and |1| in `out`
    array([2., 2.])
    >>> UnitScores(tfprune.criteria.L1(normalize="sum")).of(units)[units.sets[0].units]
    array([0.5, 0.5])
    """

    def __init__(self, criterion="magnitude", *, data=None, verbose=0):
        self.criterion = criteria.get(criterion)
        self.seed = arguments.resolve_seed(self.criterion)
        self.data = data
        self.verbose = verbose
        self._prices = None

    def of(self, units, sets=None):
        """The scores of units; nothing is changed.

        Args:
            units: `PrunableUnits`.
            sets: The sets of them that are scored, by default all.

        Returns:
            An array over all units of the coupling, 0 outside of the sets.

        Raises:
            ValueError: If scores are not finite, a criterion was not measured yet or has no score
                for some units, or data or a loss is missing.
        """
        wanted = set(map(id, units.sets if sets is None else sets))
        sets_by_index = {
            index: unit_set for index, unit_set in enumerate(units.sets) if id(unit_set) in wanted
        }
        scores = np.zeros(units.coupling.size)
        for index, found in self._found(units, sets_by_index).items():
            scores[sets_by_index[index].units] = found
        if self.criterion.normalize is not None:
            is_pruned = units.pruned()
            for unit_set in sets_by_index.values():
                values = scores[unit_set.units]
                living = values[~is_pruned[unit_set.units]]
                by = _NORMALIZERS[self.criterion.normalize](living) if living.size else 0.0
                scores[unit_set.units] = values / by if by else values
        return scores

    def prune(self, units, dead, optimizer=None):
        """Prunes units, and lets the criterion make up for them, see `LayerwiseOBS`.

        Args:
            units: `PrunableUnits`.
            dead: Boolean array over all units of the coupling.
            optimizer: The optimizer whose slots are to be masked too, or None.
        """
        updates = self._updates(units, dead)
        units.mask(dead, optimizer)
        if updates is not None:
            updates.apply()

    def _updates(self, units, dead):
        """The `ConsumerUpdates`; None where the criterion changes no weights."""
        if not getattr(self.criterion, "update", False) or not (dead & ~units.pruned()).any():
            return None
        prices, self._prices = self._prices, None
        if prices is None or prices.units is not units:
            prices = LayerwisePrices(units, self.criterion, self.data, self.verbose)
        return prices.updates(dead)

    def _found(self, units, sets_by_index):
        """The scores of some sets by their index in `units.sets`."""
        if isinstance(self.criterion, LayerwiseOBS):
            self._prices = LayerwisePrices(units, self.criterion, self.data, self.verbose)
            return self._prices.of(sets_by_index)
        names = criteria.activations_of(self.criterion)
        if not names:
            return self._of_weights(units, sets_by_index, self.criterion)
        visible_units = in_tensors(units.coupling)
        hidden = {
            index: s for index, s in sets_by_index.items() if not visible_units[s.units].any()
        }
        visible = {index: s for index, s in sets_by_index.items() if index not in hidden}
        return {
            **self._of_activations(units, visible, names),
            **self._of_weights(units, hidden, criteria.Magnitude()),
        }

    def _of_activations(self, units, sets_by_index, names):
        """Scores at each tensor that units are used from; unused units have 0."""
        columns = {index: [] for index in sets_by_index}
        sets = list(sets_by_index.values())
        measured = measured_units(names, units, sets, self.data, verbose=self.verbose)
        for members, found in measured:
            for index, unit_set in sets_by_index.items():
                ours = np.isin(members, unit_set.units)
                if ours.any():
                    offered = {name: values[ours] for name, values in found.items()}
                    scores = arguments.call(self.criterion, offered)
                    scores = criteria.checked(scores, np.count_nonzero(ours), unit_set.name)
                    columns[index].append(_placed(scores, members[ours], unit_set.units))
        return {
            index: np.nan_to_num(self._together(columns[index], s))
            for index, s in sets_by_index.items()
        }

    def _of_weights(self, units, sets_by_index, criterion):
        """Scores of each layer in each role of the criterion."""
        groups = SliceGroups(units, criterion.roles)
        of_sets = {index: groups.of_set(index) for index in sets_by_index}
        measured = self._gradients(units, criterion, of_sets)
        seed = replicas_of(units.model).agreed(self.seed) or 0
        roots, found = units.coupling.roots, {}
        for index, unit_set in sets_by_index.items():
            columns = []
            for group in of_sets[index]:
                scores = criteria.score(
                    criterion,
                    group.layer,
                    group.matrices(roots),
                    [seed, index],
                    group.family,
                    role=group.role,
                    measured={name: group.matrices(roots, of) for name, of in measured.items()},
                )
                if scores is not None:
                    columns.append(_placed(scores, group.units, unit_set.units))
            found[index] = self._together(columns, unit_set)
            is_missing = np.isnan(found[index]) & [why is None for why in unit_set.pinned]
            if is_missing.any():
                raise ValueError(_no_score_message(criterion, unit_set, is_missing))
        return {index: np.nan_to_num(scores) for index, scores in found.items()}

    def _gradients(self, units, criterion, of_sets):
        """The gradients that a criterion requests, by name and by the id of the variable."""
        names = criteria.gradients_of(criterion)
        pieces = {
            id(piece.variable): piece
            for groups in of_sets.values()
            for group in groups
            for _, piece in group.pieces
        }
        if not (names and pieces):
            return {}
        pieces_in_order = list(pieces.values())
        found = measure(names, units.model, pieces_in_order, self.data, verbose=self.verbose)
        return {name: dict(zip(pieces, found[name], strict=True)) for name in names}

    def _together(self, columns, unit_set):
        """One number for each unit; NaN for units that no column has a number for."""
        values = np.array(columns).reshape(len(columns), len(unit_set.units))
        found = np.full(len(unit_set.units), np.nan)
        is_known = ~np.isnan(values).all(axis=0)
        if is_known.any():
            found[is_known] = _AGGREGATES[self.criterion.aggregate](values[:, is_known], axis=0)
        return found


def _placed(scores, members, among):
    """The scores of units in the order of `among`, NaN for units without one."""
    ours = np.isin(members, among)
    values = np.full(len(among), np.nan)
    values[indices_in(members[ours], among)] = scores[ours]
    return values


def _no_score_message(criterion, unit_set, is_missing):
    return (
        "The criterion says nothing of some units, because none of the layers that it looks at has "
        f"them ({criterion.roles}). Received: criterion={criterion!r}, "
        f"layers={unit_set.name!r}, {np.count_nonzero(is_missing)} of {len(is_missing)} units. "
        "Leave the layers out with `exclude`, or take another criterion."
    )
