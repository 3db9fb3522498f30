"""How far the outputs of an exported model are from the model's, batch after batch."""

import keras
import numpy as np


class OutputDifference:
    """The relative error of an output, and how often the largest of its values is the same one.

    Example:

    >>> difference = OutputDifference()
    >>> difference.add(np.array([[3.0, 4.0]]), np.array([[3.0, 4.5]]))
    >>> difference.error, difference.agreement
    (0.1, 1.0)
    """

    def __init__(self):
        self._difference = self._size = 0.0
        self._same = self._positions = 0
        self._is_float = self._is_comparable = True

    def add(self, ours, theirs):
        """Takes account of a batch.

        Args:
            ours: Array.
            theirs: Array of the same shape, else the error is infinite. Elements that are infinite
                or NaN must be so in both. Of integers those that differ are counted.
        """
        if ours.shape != theirs.shape:
            self._is_comparable = False
            return
        if ours.ndim > 1 and ours.shape[-1] > 1:
            is_same = ours.argmax(axis=-1) == theirs.argmax(axis=-1)
            self._same += int(is_same.sum())
            self._positions += is_same.size
        self._is_float = keras.backend.is_float_dtype(ours.dtype.name)
        if not self._is_float:
            self._difference += float(np.count_nonzero(ours != theirs))
            self._size += ours.size
            return
        ours, theirs = ours.astype("float64"), theirs.astype("float64")
        finite = np.isfinite(ours)
        if not np.array_equal(ours[~finite], theirs[~finite], equal_nan=True):
            self._is_comparable = False
            return
        self._difference += float(np.sum(np.square(ours - theirs, where=finite, out=_zeros(ours))))
        self._size += float(np.sum(np.square(ours, where=finite, out=_zeros(ours))))

    @property
    def error(self):
        """rms(difference) / rms(ours), or the share of integers that differ."""
        if not self._is_comparable or not np.isfinite(self._difference):
            return float("inf")
        if not self._difference:
            return 0.0
        share = self._difference / self._size if self._size else float("inf")
        return float(np.sqrt(share)) if self._is_float else share

    @property
    def agreement(self):
        """The share of positions of the same class; None where there are no classes."""
        is_known = self._positions and self._is_comparable
        return self._same / self._positions if is_known else None


def _zeros(array):
    return np.zeros(array.shape)
