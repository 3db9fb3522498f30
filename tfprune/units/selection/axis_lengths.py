"""How long the axes of weights and tensors are: sums over the units that are kept."""

import numpy as np
from scipy.sparse import csr_array


class Rows:
    """The lengths of all axes along which units stand, each one linear in the kept units.

        length_r = sum_u a_ru kept_u

    where `a_ru` is how often unit u stands along an axis. Axes with the same units are one row.

    Args:
        coupling: The units of the model.

    Attributes:
        of_piece: For each one-dimensional slice of the coupling, by id, its row.
        of_tensor: For each tensor the rows of the axes along which units stand.
        matrix: The numbers `a`, of shape (rows, units).
    """

    def __init__(self, coupling):
        self._known, self._units = {}, []
        self.of_piece = {
            id(piece): self._row(coupling.roots[piece.labels])
            for piece in coupling.slices
            if np.ndim(piece.labels) == 1
        }
        self.of_tensor = {
            tensor: tuple(
                self._row(coupling.roots[_along(labels, axis)])
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

    def _row(self, units):
        units = np.sort(units)
        row = self._known.setdefault(units.tobytes(), len(self._units))
        if row == len(self._units):
            self._units.append(units)
        return row

    def of(self, kept):
        """The length of each, when the units are kept for which a boolean array is True."""
        return self.matrix @ kept.astype(np.int64)


def _along(labels, axis):
    """The labels along an axis of a tensor, at the first place of the others."""
    return np.moveaxis(labels, axis, 0).reshape(labels.shape[axis], -1)[:, 0]
