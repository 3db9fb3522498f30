"""The weight slices of coupled units, grouped by layer and by the layer's role.

A layer plays one of three roles for a unit:

* "makers": it makes the unit: the column of a kernel, the filter of a convolution, its bias;
* "norms": it passes the unit on and has a weight for it: gamma and beta of a norm, the alpha of a
  PReLU, the taps of a depthwise convolution;
* "consumers": it makes other units out of it: the row of a kernel.
"""

from dataclasses import dataclass

import numpy as np

from tfprune import _keras
from tfprune.coupling.labels import FIXED


def roles(coupling):
    """The role of each slice of a `Coupling`, by id; statistics and other constants are left out.

    Example:

    >>> import keras
    >>> from tfprune.coupling import couple
    >>> model = keras.Sequential([
    ...     keras.Input((3,)), keras.layers.Dense(4), keras.layers.BatchNormalization(),
    ...     keras.layers.Dense(2)])
    >>> list(roles(couple(model)).values())
    ['consumers', 'makers', 'makers', 'norms', 'norms', 'consumers', 'makers', 'makers']
    """
    making = {id(piece.variable) for piece in coupling.slices if piece.makes}
    layers = {id(piece.layer): piece.layer for piece in coupling.slices}
    learnt = {id(v) for layer in layers.values() for v in _keras.own_trainable_variables(layer)}
    return {
        id(piece): "makers" if piece.makes else _role_of_others(piece, making)
        for piece in coupling.slices
        if id(piece.variable) in learnt
    }


def _role_of_others(piece, making):
    return "consumers" if id(piece.variable) in making else "norms"


@dataclass(frozen=True, eq=False)
class SliceGroup:
    """The weight slices of units in one layer and one role.

    Attributes:
        layer: The layer.
        role: One of `tfprune.criteria.criterion.ROLES`.
        family: The layer's name for units inside of it, None for those of its output.
        pieces: The slices, by the names of their weights.
        units: The units, in the order in which they stand in the layer.
    """

    layer: object
    role: str
    family: str | None
    pieces: tuple
    units: np.ndarray

    def matrices(self, roots, arrays=None):
        """The weights by name, each of shape (units, elements of a unit).

        Units which have fewer elements than others are filled up with 0.

        Args:
            roots: For each label its unit.
            arrays: What to take in place of the weights, by the ids of their variables.
        """
        found = {}
        for name, piece in self.pieces:
            variable = piece.variable
            array = np.asarray(variable if arrays is None else arrays[id(variable)]).copy()
            units_at, rows = _positions(piece, roots, array)
            rows = _by_unit(rows, units_at, self.units)
            found[name] = np.concatenate([found[name], rows], 1) if name in found else rows
        return found


def _positions(piece, roots, array):
    """The unit of each position, and a row of elements for it."""
    axes = [piece.axis]
    if piece.labels.ndim > 1:
        axes = [axis for axis, size in enumerate(piece.labels.shape) if size > 1]
    rows = np.moveaxis(array, axes, range(len(axes)))
    units_at = roots[piece.labels.reshape(-1)]
    return units_at, rows.reshape(len(units_at), -1)


def _by_unit(rows, units_at, units):
    """The rows of each unit side by side."""
    order = np.argsort(units)
    found = np.searchsorted(units, units_at, sorter=order)
    indices = order[np.minimum(found, len(units) - 1)]
    is_member = units[indices] == units_at
    if not is_member.all():
        rows, indices = rows[is_member], indices[is_member]
    counts = np.bincount(indices, minlength=len(units))
    if (counts == 1).all():
        in_order = (indices[1:] > indices[:-1]).all()
        return rows if in_order else rows[np.argsort(indices)]
    filled = np.zeros((len(units), counts.max(initial=0), rows.shape[1]), rows.dtype)
    by_unit = np.argsort(indices, kind="stable")
    within = np.arange(len(indices)) - np.repeat(np.cumsum(counts) - counts, counts)
    filled[indices[by_unit], within] = rows[by_unit]
    return filled.reshape(len(units), -1)


class SliceGroups:
    """The slices of each set of units of a model, grouped by layer and role.

    Args:
        units: `PrunableUnits`.
        wanted: Which of `tfprune.criteria.criterion.ROLES` are scored.
    """

    def __init__(self, units, wanted):
        self._units = units
        self._roots = units.coupling.roots
        self._names = {id(piece.variable): name for piece, _, name in units.masked}
        role_of = roles(units.coupling)
        set_of = np.full(units.coupling.size, -1)
        for index, unit_set in enumerate(units.sets):
            set_of[unit_set.units] = index
        self._by_set = [{} for _ in units.sets]
        for piece in units.coupling.slices:
            role = role_of.get(id(piece))
            if role in wanted:
                family = piece.family if role == "makers" else None
                for index in np.unique(set_of[self._roots[piece.labels]]).tolist():
                    if index >= 0:
                        by_key = self._by_set[index]
                        by_key.setdefault((id(piece.layer), role, family), []).append(piece)

    def of_set(self, index):
        """The groups of a set; those of makers have all units of their layer, others its own."""
        return [
            SliceGroup(
                layer=pieces[0].layer,
                role=role,
                family=family,
                pieces=tuple((self._name(piece), piece) for piece in pieces),
                units=self._units_in(pieces, None if role == "makers" else index),
            )
            for (_, role, family), pieces in self._by_set[index].items()
        ]

    def _units_in(self, pieces, index):
        units_at = np.concatenate([self._roots[piece.labels].reshape(-1) for piece in pieces])
        found, first = np.unique(units_at, return_index=True)
        found = found[np.argsort(first)]
        if index is None:
            return found[found != FIXED]
        return found[np.isin(found, self._units.sets[index].units)]

    def _name(self, piece):
        return self._names.get(id(piece.variable), piece.variable.path)
