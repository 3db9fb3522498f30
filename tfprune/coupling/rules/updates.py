"""Operations that write into a tensor, or make one of indices: scatter, slice and its update."""

import numpy as np

from tfprune import _keras
from tfprune.coupling.calls import Tensor
from tfprune.coupling.rules.arithmetic import edit_arguments
from tfprune.coupling.rules.base import Rule, fixed, rule, unknown_outputs
from tfprune.coupling.rules.block_labels import counts_along, resized, unit_axis, with_batch_axis
from tfprune.coupling.rules.data_movement import DataMovement, argument


class _Update(Rule):
    """Writes updates into a tensor, at places which need not be known.

    Units pass along an axis on which the updates are as long as what they are written into. There
    both have the same units. An array among the operands is cut like the tensor.
    """

    def axis_of_updates(self, call, axis):
        """The axis of the updates that lies along an axis of the output, or None."""
        raise NotImplementedError

    def label(self, call, inputs, labels):
        name, (output,) = call.operation.name, call.outputs
        known = {t: with_batch_axis(t, a) for t, a in zip(call.inputs, inputs, strict=True)}
        target, indices, updates = _operands(call)
        axes = {
            axis
            for axis in range(len(output.shape))
            for operand, place in ((target, axis), (updates, self.axis_of_updates(call, axis)))
            if place is not None and _varies(known, operand, place)
        }
        axis = next(iter(axes), None)
        along_updates = None if axis is None else self.axis_of_updates(call, axis)
        reason = None
        if isinstance(indices, Tensor):
            labels.pin(known[indices], f"{name!r} takes places from it")
        if len(axes) > 1 or _is_elsewhere(known, updates, along_updates):
            reason = f"{name!r} writes among its units"
        elif axis is not None and (
            along_updates is None or updates.shape[along_updates] != output.shape[axis]
        ):
            reason = f"{name!r} writes at places among its units"
        if axis is None or reason:
            for operand in (target, updates):
                labels.pin(known.get(operand, 0) if _is_tensor(operand) else 0, reason)
            return [fixed(output)]
        vectors = [
            np.broadcast_to(known[operand].reshape(-1), output.shape[axis : axis + 1])
            for operand in (target, updates)
            if _is_tensor(operand)
        ]
        for vector in vectors[1:]:
            labels.unite(vectors[0], vector, f"{name!r} writes it into fixed channels")
        call.memo["axis"] = axis
        shape = [1] * (len(output.shape) - 1)
        shape[axis - 1] = -1
        joined = vectors[0] if len(vectors) == 1 else np.maximum(*vectors)
        return [joined.reshape(shape)]

    def constants(self, call, inputs):
        return unknown_outputs(call)

    def rewrite(self, node, call, sizes):
        """Resizes arrays among the operands."""
        axis = call.memo.get("axis")
        counts = None if axis is None else counts_along(sizes, call.outputs[0], axis)
        if counts is None:
            return
        target, _, updates = _operands(call)
        places = {id(target): axis, id(updates): self.axis_of_updates(call, axis)}

        def edit(given, serialised):
            if _is_tensor(given) or id(given) not in places:
                return serialised
            return resized(serialised, {places[id(given)]: counts})

        edit_arguments(node, call, edit)


def _operands(call):
    names = {
        "ScatterUpdate": ("inputs", "indices", "updates"),
        "SliceUpdate": ("inputs", "start_indices", "updates"),
    }[type(call.operation).__name__]
    return tuple(argument(call, place, name) for place, name in enumerate(names))


def _is_tensor(operand):
    return isinstance(operand, Tensor)


def _varies(known, operand, axis):
    return _is_tensor(operand) and known[operand].shape[axis] != 1


def _is_elsewhere(known, updates, axis):
    """Whether updates have units along another axis."""
    return _is_tensor(updates) and unit_axis(known[updates]) not in (None, axis)


@rule(*_keras.operation_classes("ScatterUpdate"))
class ScatterUpdate(_Update):
    """Rows written at indices (rows, axes that they name); the other axes are written whole."""

    def axis_of_updates(self, call, axis):
        named = np.shape(_operands(call)[1])[-1]
        return None if axis < named else axis - named + 1


@rule(*_keras.operation_classes("SliceUpdate"))
class SliceUpdate(_Update):
    """A block written from a start on."""

    def axis_of_updates(self, call, axis):
        return axis


@rule(*_keras.operation_classes("Slice"))
class Slice(DataMovement):
    """A block of a size from a start on."""

    def pin_reason(self, call, arrays):
        start = argument(call, 1, "start_indices")
        if unit_axis(arrays[0]) is not None and isinstance(start, Tensor):
            return f"{call.operation.name!r} takes places that are not known beforehand"
        return None

    def moved(self, call, arrays, number):
        axis = unit_axis(arrays[0])
        if axis is None:
            return [arrays[0]]
        start = int(np.asarray(argument(call, 1, "start_indices"))[axis])
        stop = start + call.outputs[0].shape[axis]
        return [arrays[0].take(range(start, stop), axis)]

    def resize(self, config, call, sizes):
        """Sets the sizes of `shape` that change."""
        shape, (output,) = list(config["shape"]), call.outputs
        for axis in range(len(shape)):
            counts = counts_along(sizes, output, axis)
            if counts is not None and shape[axis] != -1:
                shape[axis] = int(counts.sum())
        config["shape"] = tuple(shape)

    def rewrite(self, node, call, sizes):
        """Moves the start to where its unit stands then."""
        start = argument(call, 1, "start_indices")

        def edit(given, serialised):
            if given is not start:
                return serialised
            moved = np.array(start)
            for axis in range(len(moved)):
                counts = counts_along(sizes, call.inputs[0], axis)
                if counts is not None:
                    moved[axis] = counts[: moved[axis]].sum()
            return moved.tolist()

        edit_arguments(node, call, edit)


@rule(*_keras.operation_classes("OneHot"))
class OneHot(Rule):
    """A new axis, of classes; units keep theirs."""

    def label(self, call, inputs, labels):
        array, axis = with_batch_axis(call.inputs[0], inputs[0]), call.operation.axis
        moved = np.expand_dims(array, axis if axis >= 0 else array.ndim)
        if axis == 0:
            labels.pin(array, f"{call.operation.name!r} moves its units behind the classes")
            return [fixed(call.outputs[0])]
        return [moved[0]]

    def constants(self, call, inputs):
        return unknown_outputs(call)
