"""The lengths of all axes of weights and tensors, as functions of the kept units."""

import numpy as np
from scipy.sparse import csr_array


class AxisLengths:
    """The lengths of all axes that have units along them.

    Almost all are linear in the kept units:

        length_r = sum_u a_ru kept_u

    where `a_ru` is how often unit u occurs along an axis. Axes with the same units share an index
    r. The others are the input channels of grouped convolutions, which differ from group to group
    of
    filters: all groups that stay keep equally many, and one that goes has none.

    Args:
        coupling: The units of the model.

    Attributes:
        of_slice: For each slice of the coupling, by id, the index of its axis.
        of_tensor: For each tensor the indices of the axes that have units along them.
        matrix: The numbers `a`, of shape (linear axes, units).
        count: How many axes there are, of both kinds.
    """

    def __init__(self, coupling):
        self._known, self._units = {}, []
        linear = [piece for piece in coupling.slices if np.ndim(piece.labels) == 1]
        others = [piece for piece in coupling.slices if np.ndim(piece.labels) != 1]
        self.of_slice = {id(p): self._index(coupling.roots[p.labels]) for p in linear}
        self.of_tensor = {
            tensor: tuple(
                self._index(coupling.roots[_along(labels, axis)])
                for axis, size in enumerate(labels.shape)
                if size != 1
            )
            for tensor, labels in coupling.tensor_labels.items()
        }
        lengths = [len(units) for units in self._units]
        rows = np.repeat(np.arange(len(lengths)), lengths)
        units = np.concatenate([np.empty(0, int), *self._units])
        shape = (len(lengths), coupling.size)
        self.matrix = csr_array((np.ones(len(units), np.int64), (rows, units)), shape=shape)
        self.of_slice.update({id(p): len(lengths) + i for i, p in enumerate(others)})
        self._by_group = [(coupling.roots[p.labels], p.axis) for p in others]
        self._units += [units.reshape(-1) for units, _ in self._by_group]
        self.count = len(self._units)

    def _index(self, units):
        units = np.sort(units)
        index = self._known.setdefault(units.tobytes(), len(self._units))
        if index == len(self._units):
            self._units.append(units)
        return index

    def of(self, kept):
        """The length of each axis, when the units are kept for which a boolean array is True."""
        by_group = [kept[units].sum(axis=axis).max(initial=0) for units, axis in self._by_group]
        linear = self.matrix @ kept.astype(np.int64)
        return np.concatenate([linear, np.array(by_group, np.int64)])

    def units_along(self, indices):
        """The units along any of some axes."""
        return np.unique(np.concatenate([np.empty(0, int), *(self._units[i] for i in indices)]))


def _along(labels, axis):
    """The labels along an axis of a tensor, at the first index of the others."""
    return np.moveaxis(labels, axis, 0).reshape(labels.shape[axis], -1)[:, 0]
