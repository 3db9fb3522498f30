"""Weights of a recurrent cell in the graph of one step, with labels along their axes.

What operations do to weights alone, such as a split into gates, is seen by running them on numbers
of their elements. What is not seen so is taken to be element-wise; `cell_trials` tries all of it.
"""

from dataclasses import dataclass, field

import keras
import numpy as np

from tfprune.coupling.labels import FIXED, placed


@dataclass(frozen=True, eq=False)
class Expression:
    """A weight, or what a step makes of weights alone.

    Attributes:
        values: Numbers in place of its value.
        labels: For each axis of the weight, the labels of all elements.
    """

    values: np.ndarray
    labels: tuple

    @property
    def shape(self):
        """Its shape."""
        return self.values.shape


@dataclass(eq=False)
class CellWeights:
    """The weights that a cell holds itself.

    Attributes:
        axes: For each weight, by id, the weight and the labels along each of its axes.
        made, used: Label arrays of the units that weights make, and that they use.
    """

    labels: object
    axes: dict = field(default_factory=dict)
    made: list = field(default_factory=list)
    used: list = field(default_factory=list)

    def of(self, weight):
        """The `Expression` of a weight."""
        vectors = [self.labels.fresh(size) for size in weight.shape]
        self.axes[id(weight)] = weight, vectors
        values = np.random.default_rng(len(self.axes)).normal(size=weight.shape)
        return expression(values.astype("float32"), vectors)

    def applied(self, operation, structure):
        """The outputs of an operation on weights and constants alone, as expressions."""
        leaves = [leaf for leaf in keras.tree.flatten(structure) if isinstance(leaf, Expression)]
        outputs = _run(operation, structure, [leaf.values for leaf in leaves])
        moved = self._moved(operation, structure, leaves, outputs)
        if moved is not None:
            return moved
        return [self._joined(operation, leaves, values) for values in outputs]

    def _moved(self, operation, structure, leaves, outputs):
        """The outputs if each element of them is an element of a weight."""
        rank = len(leaves[0].labels)
        if any(len(leaf.labels) != rank for leaf in leaves):
            return None
        starts = np.cumsum([0, *(leaf.values.size for leaf in leaves)])
        numbers = [
            np.arange(start, start + leaf.values.size, dtype="float32").reshape(leaf.shape)
            for start, leaf in zip(starts, leaves, strict=False)
        ]
        try:
            places = _run(operation, structure, numbers)
        except Exception:  # an operation may fail on large numbers in any way
            return None
        values = np.concatenate([leaf.values.reshape(-1) for leaf in leaves])
        by_axis = [
            np.concatenate([leaf.labels[axis].reshape(-1) for leaf in leaves])
            for axis in range(rank)
        ]
        found = []
        for place, output in zip(places, outputs, strict=True):
            place = np.clip(np.nan_to_num(place), 0, len(values) - 1).astype(int)
            if not np.array_equal(values[place], output):
                return None
            found.append(Expression(output, tuple(labels[place] for labels in by_axis)))
        return found

    def _joined(self, operation, leaves, values):
        """An output, if the operation works element by element."""
        vectors = [None] * values.ndim
        for leaf in leaves:
            for axis, vector in enumerate(self.along_axes(leaf), values.ndim - len(leaf.shape)):
                if vector is None:
                    continue
                if axis < 0 or vectors[axis] is None and len(vector) != values.shape[axis]:
                    self.pin(operation, leaf)
                elif vectors[axis] is None:
                    vectors[axis] = vector
                else:
                    self.labels.unite(vectors[axis], vector, f"{operation.name!r} joins it")
        return expression(values, vectors)

    def along_axes(self, leaf):
        """For each axis of an expression the labels along it, None where there are no units."""
        vectors = [None] * len(leaf.shape)
        for array in leaf.labels:
            varying = [a for a in range(array.ndim) if (array != array.take([0], axis=a)).any()]
            if not varying:
                if array.size == 1 or (array == FIXED).all():
                    continue
                self.labels.pin(array, "the cell takes it by its place in a weight")
                continue
            axis = varying[-1]
            first = array[tuple(slice(None) if a == axis else slice(1) for a in range(array.ndim))]
            self.labels.unite(array, first, "the cell reshapes a weight")
            if vectors[axis] is not None:
                self.labels.pin(first, "the cell puts units of two axes on one")
            vectors[axis] = first.reshape(-1)
        return vectors

    def pin(self, operation, *leaves):
        """Pins all units of expressions."""
        for leaf in leaves:
            for array in leaf.labels:
                self.labels.pin(array, f"{operation.name!r} takes a weight in a way without a rule")

    def slices(self, layer, families):
        """Records the slices of the weights, once it is known which make and which use units."""
        for weight, vectors in self.axes.values():
            for axis, vector in enumerate(vectors):
                makes, uses = (self._is_in(vector, each) for each in (self.made, self.used))
                options = {"family": families.get(id(weight))} if makes else {}
                self.labels.slice(layer, weight, axis, vector, makes=makes, uses=uses, **options)

    def uses(self, flow):
        """For each axis of a weight that uses units: their labels, and whether it does.

        Only what makes needed units counts.
        """
        for weight, vectors in self.axes.values():
            is_used = np.asarray(weight) != 0
            for axis, vector in enumerate(vectors):
                if not self._is_in(vector, self.used):
                    continue
                found = is_used
                for other, units in enumerate(vectors):
                    if other != axis:
                        found = found & placed(flow.is_needed(units), other, found.ndim)
                yield vector, np.moveaxis(found, axis, 0).reshape(len(vector), -1).any(axis=1)

    @staticmethod
    def _is_in(vector, arrays):
        return any(np.isin(vector, array).any() for array in arrays)


def expression(values, vectors):
    """An `Expression` with labels along its axes, None = no units."""
    arrays = [
        np.broadcast_to(placed(vector, axis, values.ndim), values.shape)
        for axis, vector in enumerate(vectors)
        if vector is not None
    ]
    return Expression(values, tuple(arrays))


def _run(operation, structure, values):
    """The outputs of an operation with arrays in place of the expressions."""
    values = iter(values)
    args, kwargs = keras.tree.map_structure(
        lambda leaf: next(values) if isinstance(leaf, Expression) else leaf, structure
    )
    return [np.asarray(each) for each in keras.tree.flatten(operation.call(*args, **kwargs))]
