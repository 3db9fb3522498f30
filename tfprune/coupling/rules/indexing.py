"""Indexing: slices and indices, `take`, `split` and `unstack`."""

import numpy as np

from tfprune import _keras
from tfprune.coupling.calls import Tensor
from tfprune.coupling.labels import placed
from tfprune.coupling.rules.base import rule
from tfprune.coupling.rules.block_labels import counts_along, operation_axes, replaced
from tfprune.coupling.rules.data_movement import DataMovement


@rule(*_keras.operation_classes("GetItem"))
class GetItem(DataMovement):
    """`x[key]` with slices, indices, new axes and an ellipsis."""

    def pin_reason(self, call, arrays):
        name = call.operation.name
        if len(call.args) != 2 or not all(map(_is_plain, _entries(call))):
            return f"{name!r} takes places that are not known beforehand"
        for entry, axis in _by_axis(call):
            if axis is None or arrays[0].shape[axis] == 1 or not isinstance(entry, slice):
                continue
            start, stop, step = entry.indices(call.inputs[0].shape[axis])
            if step < -1:
                return f"{name!r} takes every {-step}th of its units, from the last"
            if not range(start, stop, step):
                return f"{name!r} takes none of its units"
        return None

    def tie(self, call, arrays, labels):
        """Pins the unit that an index picks, and unites units between the steps of a slice."""
        name = call.operation.name
        for entry, axis in _by_axis(call):
            if axis is None or arrays[0].shape[axis] == 1:
                continue
            units = np.moveaxis(arrays[0], axis, 0)
            if not isinstance(entry, slice):
                labels.pin(units[entry], f"{name!r} picks it by its index")
            elif (entry.step or 1) > 1:
                for first in range(0, len(units), entry.step):
                    steps = units[first : first + entry.step]
                    labels.unite(steps, steps[:1], f"{name!r} steps over fixed channels")

    def moved(self, call, arrays, number):
        key = []
        for entry, axis in _by_axis(call):
            if axis is not None and arrays[0].shape[axis] == 1:
                entry = slice(None) if isinstance(entry, slice) else 0
            key.append(entry)
        return [arrays[0][tuple(key)]]

    def rewrite(self, node, call, sizes):
        """Rewrites indices and the bounds of slices for the new positions of units."""
        if "shapes" not in call.memo:
            return
        tensor, written = node["args"]
        is_several = isinstance(call.args[1], (tuple, list))
        new, axis = [], 0
        for entry, serialised in zip(
            _entries(call), written if is_several else (written,), strict=True
        ):
            counts = None
            if entry is Ellipsis:
                axis += _skipped(call)
            elif entry is not None:
                counts, axis = counts_along(sizes, call.inputs[0], axis), axis + 1
            new.append(serialised if counts is None else _moved_entry(entry, counts))
        node["args"] = (tensor, tuple(new) if is_several else new[0])


def _entries(call):
    key = call.args[1]
    return tuple(key) if isinstance(key, (tuple, list)) else (key,)


def _is_plain(entry):
    if isinstance(entry, slice):
        bounds = (entry.start, entry.stop, entry.step)
        return all(bound is None or _is_index(bound) for bound in bounds)
    return entry is None or entry is Ellipsis or _is_index(entry)


def _is_index(entry):
    return isinstance(entry, (int, np.integer)) and not isinstance(entry, bool)


def _skipped(call):
    """How many axes the ellipsis of a key stands for."""
    taken = sum(entry is not None and entry is not Ellipsis for entry in _entries(call))
    return len(call.inputs[0].shape) - taken


def _by_axis(call):
    """The entries of a key, the ellipsis and the end written out, each with its axis or None."""
    axis, entries = 0, _entries(call)
    if not any(entry is Ellipsis for entry in entries):
        entries = (*entries, Ellipsis)
    for entry in entries:
        if entry is None:
            yield None, None
        elif entry is Ellipsis:
            for _ in range(_skipped(call)):
                yield slice(None), axis
                axis += 1
        else:
            yield entry, axis
            axis += 1


def _moved_entry(entry, counts):
    """An index or a slice (as Keras serialises it) among the new units."""
    before = np.concatenate([[0], np.cumsum(counts)])  # the new position of each index
    if not isinstance(entry, slice):
        return int(before[entry % len(counts)])
    start, stop, step = entry.indices(len(counts))
    if step > 0:
        first = start - start % step  # whole steps are removed, so the offset within a step is kept
        start, stop = before[first] + start % step, before[stop]
    else:
        start, stop = before[start + 1] - 1, before[stop + 1] - 1
    stop = None if stop < 0 else int(stop)
    config = {"start": int(start), "stop": stop, "step": entry.step}
    return {"class_name": "__slice__", "config": config}


@rule(*_keras.operation_classes("Take"))
class Take(DataMovement):
    """The positions along an axis given by an array of indices."""

    def pin_reason(self, call, arrays):
        name = call.operation.name
        if not isinstance(call.args[0], Tensor) or isinstance(call.args[1], Tensor):
            return f"{name!r} takes places that are not known beforehand"
        if call.operation.axis is None:
            return f"{name!r} takes places of all axes at once"
        return None

    def label_arrays(self, call, inputs, outputs, labels):
        table, (output,) = call.args[0], call.outputs
        if not isinstance(table, np.ndarray) or call.operation.axis != 0 or not inputs:
            return super().label_arrays(call, inputs, outputs, labels)
        for indices in inputs:
            labels.pin(indices, f"{call.operation.name!r} looks up rows by it")
        rows, *vectors = labels.along_axes(table)
        if rows is not None:
            labels.pin(rows, f"{call.operation.name!r} looks it up")
        offset = len(output.shape) - len(vectors)
        places = [place for place, vector in enumerate(vectors) if vector is not None]
        for place in places[:-1]:
            labels.pin(vectors[place], f"{call.operation.name!r} looks up units on several axes")
        if not places:
            return outputs
        return [placed(vectors[places[-1]], places[-1] + offset - 1, len(output.shape) - 1)]

    def tie(self, call, arrays, labels):
        axis, indices = self._of(call)
        if indices.ndim == 0 and arrays[0].shape[axis] != 1:
            picked = arrays[0].take(indices, axis=axis)
            labels.pin(picked, f"{call.operation.name!r} picks it by its index")

    def moved(self, call, arrays, number):
        axis, indices = self._of(call)
        if arrays[0].shape[axis] == 1:
            indices = np.zeros((1,) * indices.ndim, int)
        return [np.take(arrays[0], indices, axis=axis)]

    def rewrite(self, node, call, sizes):
        """Rewrites the indices for the new positions of units."""
        if "shapes" not in call.memo:
            return
        axis, indices = self._of(call)
        counts = counts_along(sizes, call.inputs[0], axis)
        if counts is None:
            return
        indices = (np.cumsum(counts) - counts)[indices]  # the first in the place of each
        for place in range(indices.ndim):
            counts = counts_along(sizes, call.outputs[0], axis + place)
            if counts is not None:
                next_ones = np.concatenate([np.arange(count) for count in counts])
                indices = np.repeat(indices, counts, axis=place)
                indices = indices + placed(next_ones, place, indices.ndim)
        tensor, serialised = node["args"]
        node["args"] = (tensor, replaced(serialised, indices))

    def _of(self, call):
        (axis,) = operation_axes(call)
        indices = np.asarray(call.args[1], int)
        return axis, indices % (call.inputs[0].shape[axis] or 1)


@rule(*_keras.operation_classes("Split"))
class Split(DataMovement):
    """Pieces along an axis, of equal size or between given indices."""

    def moved(self, call, arrays, number):
        array, axis = arrays[0], operation_axes(call)[0]
        if array.shape[axis] == 1:
            return [array] * len(call.outputs)
        return np.split(array, self._bounds(call), axis)

    def resize(self, config, call, sizes):
        """Sets `indices_or_sections` to the new bounds between pieces."""
        counts = counts_along(sizes, call.inputs[0], operation_axes(call)[0])
        if counts is not None and (counts != 1).any():
            before = np.concatenate([[0], np.cumsum(counts)])
            bounds = before[self._bounds(call)].tolist()
            config["indices_or_sections"] = bounds or 1  # TensorFlow takes no empty list

    def empty_pieces(self, call, sizes):
        axis = operation_axes(call)[0]
        if axis == 0 or any(tensor.shape[axis] is None for tensor in call.outputs):
            return []
        return [sizes.counts_along(tensor, axis - 1).sum() == 0 for tensor in call.outputs]

    def _bounds(self, call):
        lengths = [tensor.shape[operation_axes(call)[0]] for tensor in call.outputs]
        return np.cumsum(lengths)[:-1]


@rule(*_keras.operation_classes("Unstack"))
class Unstack(DataMovement):
    """Each position along an axis as a tensor."""

    def pin_reason(self, call, arrays):
        if arrays[0].shape[operation_axes(call)[0]] != 1:
            return f"{call.operation.name!r} takes each of its units by itself"
        return None

    def moved(self, call, arrays, number):
        return [np.take(arrays[0], 0, axis=operation_axes(call)[0])] * len(call.outputs)
