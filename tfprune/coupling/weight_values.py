"""Weights of a user's layer in the graph of its `call`: arrays with units along their axes.

A weight that is added, multiplied, gathered or concatenated in a `call` is an array among the
arguments of an operation. Its positions along each axis are numbered, all weights of a trace one
after the other, and operations on weights alone, such as a transpose, are applied to these numbers
and to the values. So a rule reads in an array how the axes of the weights stand in it.
"""

from dataclasses import dataclass, field

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.labels import placed


class WeightArray(np.ndarray):
    """The value of a weight, or of an expression of weights, with the numbers along its axes.

    Attributes:
        axes: For each axis the numbers of its positions, see `WeightAxes`; None where there are
            no units. Arrays that are made from this one have none.
    """

    axes = None


@dataclass(eq=False)
class WeightAxes:
    """The numbers of the positions along the axes of weights, and what expressions say of them.

    Attributes:
        first: The smallest number. Those below it belong to other weights.
        starts: For each axis of a weight, as the ids of the layer and weight and the axis, the
            layer, the weight, the axis and the number of the first position.
        taken: The ids of the weights, with units or without.
        count: One more than the largest number; 0 stands for what is fixed.
        ties: Pairs of arrays of numbers of the same unit, each with the reason.
        pins: Arrays of numbers that cannot be removed, each with the reason.
    """

    first: int = 1
    starts: dict = field(default_factory=dict)
    taken: set = field(default_factory=set)
    count: int = field(init=False)
    ties: list = field(default_factory=list)
    pins: list = field(default_factory=list)

    def __post_init__(self):
        self.count = self.first

    def of(self, layer, weight):
        """The `WeightArray` of a weight of a layer; constants and whole numbers have no units."""
        self.taken.add(id(weight))
        if not isinstance(weight, keras.Variable) or _keras.is_index(weight):
            value = keras.ops.convert_to_numpy(weight)
            return weight_array(value, [None] * value.ndim)
        axes = []
        for axis, size in enumerate(weight.shape):
            key = id(weight), axis
            if size > 1 and key not in self.starts:
                self.starts[key] = layer, weight, axis, self.count
                self.count += size
            axes.append(np.arange(size) + self.starts[key][-1] if size > 1 else None)
        return weight_array(keras.ops.convert_to_numpy(_keras.raw(weight)), axes)

    def applied(self, operation, args, kwargs):
        """The outputs of an operation on weights and constants: a list of arrays."""
        structure = (list(args), dict(kwargs))
        values = [_plain(leaf) for leaf in keras.tree.flatten(structure)]
        args, kwargs = keras.tree.pack_sequence_as(structure, values)
        found = keras.tree.flatten(operation.call(*args, **kwargs))
        found = [keras.ops.convert_to_numpy(value) for value in found]
        leaves = keras.tree.flatten(structure)
        weights = [leaf for leaf in leaves if isinstance(leaf, WeightArray)]
        others = [leaf for leaf in leaves if isinstance(leaf, np.ndarray) and leaf.ndim]
        if len(weights) == 1 and weights[0].ndim:
            moved = self._moved(operation, structure, weights[0], found, len(others) > 1)
            if moved is not None:
                return moved
        if type(operation).__name__ == "Concatenate" and len(others) == len(leaves):
            return [self._concatenated(operation, others, found[0])]
        zeros = {id(weight): np.zeros_like(_plain(weight)) for weight in weights}
        without = _called(operation, structure, zeros)
        is_finite = without is not None and all(np.isfinite(each).all() for each in without)
        if len(found) == 1 and is_finite and _is_elementwise(operation, structure, found[0]):
            return [self._joined(operation, others, found[0])]
        for weight in weights:
            for numbers in filter(_has_numbers, weight.axes):
                self.pins.append((numbers, f"{operation.name!r} computes with the weight"))
        return found

    def _moved(self, operation, structure, weight, found, is_indexed):
        """The outputs if each element of them is an element of the weight.

        With `is_indexed`, other arrays say which; only axes that are taken as they are pass then.
        """
        places = np.arange(weight.size, dtype="int32").reshape(weight.shape)
        outputs = _called(operation, structure, {id(weight): places})
        if outputs is not None and is_indexed:
            mirrored = _called(operation, structure, {id(weight): places.max() - places})
            if any((a + b != places.max()).any() for a, b in zip(outputs, mirrored, strict=True)):
                return None
        if outputs is None or any(
            place.shape != value.shape
            or place.dtype.kind != "i"
            or place.size
            and not 0 <= place.min() <= place.max() < weight.size
            or not np.array_equal(np.asarray(weight).reshape(-1)[place], value)
            for place, value in zip(outputs, found, strict=True)
        ):
            return None
        arrays = []
        for place, value in zip(outputs, found, strict=True):
            coordinates = np.unravel_index(place, weight.shape)
            numbers = [
                numbers[coordinate] if _has_numbers(numbers) else None
                for numbers, coordinate in zip(weight.axes, coordinates, strict=True)
            ]
            for place, along in enumerate(weight.axes if is_indexed else ()):
                if _has_numbers(along) and not _is_whole(numbers[place], along):
                    self.pins.append((along, f"{operation.name!r} looks it up"))
                    numbers[place] = None
            arrays.append(weight_array(value, self._along_axes(operation, numbers, value)))
        return arrays

    def _along_axes(self, operation, numbers, value):
        """The numbers along each axis, given arrays of numbers for every element."""
        axes = [None] * value.ndim
        for array in filter(_has_numbers, numbers):
            varying = [a for a in range(value.ndim) if (array != array.take([0], axis=a)).any()]
            if not varying:
                self.pins.append((array, f"{operation.name!r} takes it by its place"))
                continue
            axis = varying[-1]
            first = array[tuple(slice(None) if a == axis else 0 for a in range(value.ndim))]
            if len(varying) > 1:
                shape = [len(first) if a == axis else 1 for a in range(value.ndim)]
                self.ties.append((array, first.reshape(shape), f"{operation.name!r} reshapes it"))
            if axes[axis] is not None:
                self.pins.append((first, f"{operation.name!r} puts two units on one axis"))
            else:
                axes[axis] = first
        return axes

    def _concatenated(self, operation, arrays, value):
        """Arrays one after the other, such as kernels that are applied in one product."""
        along, axes = operation.axis % value.ndim, []
        for axis in range(value.ndim):
            parts = [_numbers(array, axis) for array in arrays]
            axes.append(np.concatenate(parts) if axis == along else parts[0])
            if axis != along:
                for part in parts[1:]:
                    reason = f"{operation.name!r} puts it beside what is fixed"
                    self.ties.append((parts[0], part, reason))
        return weight_array(value, axes)

    def _joined(self, operation, arrays, value):
        """The output of an element-wise operation."""
        axes = [None] * value.ndim
        for array in arrays:
            known = getattr(array, "axes", None) or [
                np.zeros(size, int) if size > 1 else None for size in array.shape
            ]
            for axis, numbers in enumerate(known, value.ndim - array.ndim):
                if not _has_numbers(numbers):
                    continue
                if axes[axis] is None:
                    axes[axis] = numbers
                else:
                    self.ties.append((axes[axis], numbers, f"{operation.name!r} joins it"))
                    axes[axis] = np.maximum(axes[axis], numbers)
        return weight_array(value, axes)

    def record(self, labels, calls):
        """Makes a label for each number, and records the ties and pins.

        Args:
            labels: The `Labels` to record in. Its `of_numbers` is added to.
            calls: The calls of the trace. What none of them takes, such as the embeddings of
                positions after those of the sizes that were traced, is pinned.
        """
        fresh = labels.fresh(self.count - self.first)
        labels.of_numbers = table = np.append(labels.of_numbers, fresh)
        is_unused = np.arange(self.count) >= self.first
        for call in calls:
            spread = getattr(call.operation, "array", None)
            for array in call.arrays if spread is None else [spread]:
                for numbers in filter(_has_numbers, getattr(array, "axes", None) or ()):
                    is_unused[numbers] = False
        for ours, theirs, _ in reversed(self.ties):  # of these, `ours` stand in what is made later
            is_unused[theirs] &= is_unused[ours]
        labels.pin(table[is_unused], "the layer does not use this part of a weight for all sizes")
        for numbers, reason in self.pins:
            labels.pin(table[numbers], reason)
        for ours, theirs, reason in self.ties:
            labels.unite(table[ours], table[theirs], reason)

    def record_slices(self, labels, families=None):
        """Records the slices of the weights, once it is known which make and which use units.

        Args:
            labels: The `Labels` to record in.
            families: The names of the units that weights make, by their ids. By default, units that
                a layer makes before others, and uses itself, are called hidden.
        """
        marked = [
            np.concatenate([np.empty(0, int), *arrays])
            for arrays in (labels.made_by_weights, labels.used_by_weights)
        ]
        roots, made_by, found = labels.roots(), {}, []
        for layer, weight, axis, start in self.starts.values():
            units = labels.of_numbers[start : start + weight.shape[axis]]
            makes, uses = (bool(np.isin(units, each).any()) for each in marked)
            if makes:
                made_by.setdefault(id(layer), {})[roots[units[0]]] = None
            found.append((layer, weight, axis, units, makes, uses))
        for layer, weight, axis, units, makes, uses in found:
            *hidden, last = made_by.get(id(layer), {None: None})
            unit, family = roots[units[0]], None
            if families is not None:
                family = families.get(id(weight))
            elif makes and unit != last:
                number = hidden.index(unit)
                family = f"hidden_{number}" if number else "hidden"
            labels.slice(layer, weight, axis, units, makes=makes, family=family, uses=uses)


def weight_array(value, axes):
    """An array with numbers along its axes."""
    array = np.array(value).view(WeightArray)
    array.axes = tuple(axes)
    return array


class Spread(keras.Operation):
    """The operation by which an expression of weights becomes a tensor of each example.

    Attributes:
        array: Its value, with a batch axis.
    """

    def __init__(self, array, name):
        super().__init__(name=name)
        self.array = array

    def call(self):
        """The value."""
        return keras.ops.convert_to_tensor(np.asarray(self.array))


def gets_batch(operation, leaves, array, batch):
    """Whether an operation repeats weights for each example of a batch."""
    kinds = ("BroadcastTo", "Tile", "Repeat")
    if type(operation).__name__ not in kinds or not array.ndim or array.shape[0] != batch:
        return False
    weights = [leaf for leaf in leaves if isinstance(leaf, WeightArray)]
    return all(weight.ndim < array.ndim or weight.shape[0] == 1 for weight in weights)


def _numbers(array, axis):
    """The numbers along an axis of an array, 0 where there are none."""
    found = (getattr(array, "axes", None) or [None] * array.ndim)[axis]
    return np.zeros(array.shape[axis], int) if found is None else found


def _plain(leaf):
    return np.asarray(leaf) if isinstance(leaf, WeightArray) else leaf


def _has_numbers(numbers):
    return numbers is not None


def _is_whole(array, numbers):
    """Whether an array holds the numbers of an axis in their order, along one of its axes."""
    return any(
        size == len(numbers) and (array == placed(numbers, axis, array.ndim)).all()
        for axis, size in enumerate(array.shape)
    )


def _called(operation, structure, replaced):
    """The outputs with other values in place of leaves, by id; None if it fails."""
    args, kwargs = keras.tree.pack_sequence_as(
        structure,
        [replaced.get(id(leaf), _plain(leaf)) for leaf in keras.tree.flatten(structure)],
    )
    try:
        outputs = keras.tree.flatten(operation.call(*args, **kwargs))
    except Exception:  # operations may take floating-point numbers only
        return None
    return [keras.ops.convert_to_numpy(output) for output in outputs]


def _is_elementwise(operation, structure, value):
    """Whether an operation treats each element by itself, tried on the elements in other orders."""
    leaves = keras.tree.flatten(structure)
    arrays = [leaf for leaf in leaves if isinstance(leaf, np.ndarray) and leaf.ndim]
    try:
        if np.broadcast_shapes(*(array.shape for array in arrays)) != value.shape:
            return False
    except ValueError:
        return False
    full = {id(a): np.ascontiguousarray(np.broadcast_to(a, value.shape)) for a in arrays}
    order = np.random.default_rng(0).permutation(value.size)
    mixed = {key: array.reshape(-1)[order].reshape(value.shape) for key, array in full.items()}
    outputs = [_called(operation, structure, each) for each in (full, mixed)]
    if any(each is None or [e.shape for e in each] != [value.shape] for each in outputs):
        return False
    expected = value.reshape(-1)[order].reshape(value.shape)
    return np.allclose(outputs[0][0], value) and np.allclose(outputs[1][0], expected)
