"""The sizes of weights and tensors after units are removed or added."""

import functools
from dataclasses import dataclass

import numpy as np

from tfprune.coupling.index_maps import equal_count
from tfprune.coupling.kept_units import KeptUnits
from tfprune.coupling.rules import rule_of


@dataclass(frozen=True, eq=False)
class Sizes:
    """The sizes of weights and tensors after units are removed or added.

    Attributes:
        kept_units: The units of the new model.
    """

    kept_units: KeptUnits

    @property
    def coupling(self):
        """The coupled units of the old model."""
        return self.kept_units.coupling

    def counts(self, labels):
        """Returns for each label how many positions of the new model take the place of its own."""
        return self.kept_units.counts[self.coupling.roots[labels]]

    def of_weight(self, variable):
        """Returns the new shape of a variable."""
        pieces = self._pieces.get(id(variable), [])
        along = {p.axis: self.counts(p.labels) for p in pieces if np.ndim(p.labels) == 1}
        shape = [int(along[a].sum()) if a in along else n for a, n in enumerate(variable.shape)]
        for piece in pieces:
            if piece.axis not in along:  # its units differ along other axes too
                counts = self.counts(piece.labels)
                for axis, stays in along.items():
                    if counts.shape[axis] != 1:
                        counts = np.compress(stays > 0, counts, axis)
                shape[piece.axis] = equal_count(counts, piece, self.kept_units.dead)
        return tuple(shape)

    @functools.cached_property
    def _pieces(self):
        pieces = {}
        for piece in self.coupling.slices:
            pieces.setdefault(id(piece.variable), []).append(piece)
        return pieces

    def of_tensor(self, tensor):
        """Returns the new shape of a tensor, with the batch axis; None stays None."""
        shape = list(tensor.shape)
        for axis, size in enumerate(self.coupling.tensor_labels[tensor].shape):
            if size != 1:
                shape[axis + 1] = int(self.counts_along(tensor, axis).sum())
        return tuple(shape)

    def counts_along(self, tensor, axis):
        """Returns for each position along an axis of a tensor how many take its place."""
        labels = np.moveaxis(self.coupling.tensor_labels[tensor], axis, 0)
        if not labels.size:
            return np.ones(tensor.shape[axis + 1], int)
        labels = labels.reshape(len(labels), -1)[:, 0]
        return np.broadcast_to(self.counts(labels), (tensor.shape[axis + 1],))


def scale_factors(kept_units):
    """The changes to weights of operations that scale by their own size.

    Returns:
        A dict from the id of each variable to what its value is multiplied by, and what is added
        then.
    """
    sizes, found = Sizes(kept_units), {}
    for operation_calls in kept_units.coupling.trace.calls_of.values():
        call = operation_calls[0]
        for variable, factor, *summand in rule_of(call.operation).factors(call, sizes):
            found[id(variable)] = factor, *(summand or [0])
    return found
