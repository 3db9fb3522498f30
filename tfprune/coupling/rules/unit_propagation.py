"""Proofs of how units pass through an operation, made by running it: see `inferred`."""

import weakref
from dataclasses import dataclass

import keras
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tfprune.coupling.calls import Tensor
from tfprune.coupling.labels import FIXED, placed
from tfprune.coupling.rules.block_labels import unit_axis
from tfprune.coupling.rules.trials import Trials

SCALES = (1.0, 10.0, 0.1)
"""The scales of the random inputs, each with its own values."""

MOST_ALONE = 128
"""Up to how many units each is left out and doubled by itself."""

COMBINATIONS = 12
"""How many random combinations of counts are tried."""

_KNOWN = weakref.WeakKeyDictionary()


class NotInferredError(Exception):
    """Nothing can be inferred; the message completes "none can be inferred, because it ..."."""


@dataclass(frozen=True, eq=False)
class Passage:
    """How units pass through an operation.

    Attributes:
        axes: For each output the axis along which its units stand, or None if it has none.
        sources: For each output a dict from an input's place to the index of the unit which each
            position along the axis follows, -1 for none.
        pinned: For each input's place the indices of units that stand at fixed places.
    """

    axes: tuple
    sources: tuple
    pinned: dict


def infer(call, arrays):
    """How units pass through a call.

    Args:
        call: The `Call` of an operation.
        arrays: The label array of each input tensor, with the batch axis.

    Returns:
        A `Passage`; None if there are no units, or the operation has weights and is not tried.

    Raises:
        NotInferredError: If that could not be proven.
    """
    is_layer = isinstance(call.operation, keras.layers.Layer)
    labelled = [place for place, array in enumerate(arrays) if (array != FIXED).any()]
    if not labelled or (is_layer and call.operation.weights):
        return None
    if any(unit_axis(arrays[place]) is None for place in labelled):
        raise NotInferredError("takes a tensor with one unit, which it may spread over others")
    return remembered(call, arrays, labelled, lambda: _proven(call, arrays, labelled))


def remembered(call, arrays, labelled, prove, kind=None):
    """What a proof gives, made once for an operation and its inputs, errors included.

    With a `kind`, it is made once for all operations of that kind and class, with masks or without.
    """
    cls = getattr(call.operation, "own_class", None) or type(call.operation)
    known = _KNOWN.setdefault(call.operation if kind is None else cls, {})
    key = (kind, _key(call, [arrays[place] for place in labelled], labelled))
    if key not in known:
        try:
            known[key] = prove()
        except NotInferredError as why:
            known[key] = str(why)
    if isinstance(known[key], str):
        raise NotInferredError(known[key])
    return known[key]


def _key(call, arrays, labelled):
    """What a proof depends on: shapes, arguments, and which labels are equal."""
    leaves = keras.tree.flatten([list(call.args), call.kwargs])
    rest = [
        np.asarray(leaf).tobytes() if hasattr(leaf, "shape") else repr(leaf)
        for leaf in leaves
        if not isinstance(leaf, Tensor)
    ]
    patterns = [np.unique(array, return_inverse=True)[1].tobytes() for array in arrays]
    is_fixed = [(array == FIXED).tobytes() for array in arrays]
    shapes = [(tensor.shape, tensor.dtype) for tensor in call.inputs]
    return repr((shapes, labelled, patterns, is_fixed, rest))


def _proven(call, arrays, labelled):
    trials = Trials(call, NotInferredError)
    axes = {place: unit_axis(arrays[place]) for place in labelled}
    found = [passage(trials, axes, scale, seed) for seed, scale in enumerate(SCALES)]
    out_axes, sources = merged(found, labelled)
    count, first = classes(arrays, labelled, sources)
    if count < 2:
        raise NotInferredError("joins all of its units")
    alike = Alike(trials, axes, out_axes, sources, first)
    for tensor, output, axis in zip(call.outputs, alike.outputs, out_axes, strict=True):
        is_other = len(tensor.shape) != output.ndim or any(
            size not in (None, found) or (size is None and place == axis)
            for place, (size, found) in enumerate(zip(tensor.shape, output.shape, strict=True))
            if place
        )
        if is_other:
            raise NotInferredError("announces another shape than it gives")
    stuck = alike.stuck(count) if count <= MOST_ALONE else np.zeros(count, bool)
    if stuck.all() or not alike.in_combinations(~stuck):
        raise NotInferredError("does not treat fewer or more units alike")
    pinned = {
        place: np.flatnonzero((first[place] >= 0) & stuck[first[place]]) for place in labelled
    }
    return Passage(out_axes, sources, pinned)


def passage(trials, axes, scale, seed):
    """For each output and labelled input the unit that each element follows, -1 for none."""
    base, other = trials.draw(scale, 2 * seed), trials.draw(scale, 2 * seed + 1)
    before = trials.run(base)
    if not all(map(same, before, trials.run(base))):
        raise NotInferredError("is not deterministic")
    found = []
    for place, axis in axes.items():
        size = base[place].shape[axis]
        codes = [np.zeros(array.shape, int) for array in before]
        depends = [np.zeros(array.shape, bool) for array in before]
        for digit in range(max(1, (size - 1).bit_length())):
            changed = []
            for value in (0, 1):
                is_moved = (np.arange(size) >> digit) & 1 == value
                is_moved = placed(is_moved, axis, base[place].ndim)
                moved = {**base, place: np.where(is_moved, other[place], base[place])}
                after = trials.run(moved)
                changed.append([~_equal(a, b) for a, b in zip(before, after, strict=True)])
            for output, (zero, one) in enumerate(zip(*changed, strict=True)):
                if (zero & one).any():
                    raise NotInferredError("joins its units")
                codes[output] += one.astype(int) << digit
                depends[output] |= zero | one
        found.append([np.where(d, c, -1) for d, c in zip(depends, codes, strict=True)])
    return found


def merged(passages, labelled):
    """The axis of each output, and what its positions follow, the same for all random inputs."""
    axes, sources = [], []
    for output in range(len(passages[0][0])):
        by_place = {
            place: [passage[index][output] for passage in passages]
            for index, place in enumerate(labelled)
        }
        by_place = {p: codes for p, codes in by_place.items() if any((c >= 0).any() for c in codes)}
        found = [followed(codes) for codes in by_place.values()]
        possible = set.intersection(*map(set, found)) if found else {None}
        if not possible:
            raise NotInferredError("spreads its units over several axes")
        axis = min(possible) if found else None
        if axis == 0:
            raise NotInferredError("moves its units to the batch axis")
        axes.append(axis)
        sources.append({p: each[axis] for p, each in zip(by_place, found, strict=True)})
    return tuple(axes), tuple(sources)


def followed(codes):
    """For each axis along which all elements of a position follow one unit, these units."""
    found = {}
    for axis in range(codes[0].ndim):
        rows = [np.moveaxis(c, axis, 0).reshape(c.shape[axis], -1) for c in codes]
        rows = np.concatenate(rows, axis=1)
        highest = rows.max(axis=1)
        if ((rows == highest[:, None]) | (rows < 0)).all():
            found[axis] = highest
    return found


def classes(arrays, labelled, sources):
    """How many classes of units go together, and for each input the class of each index.

    What is fixed is of class -1, as is what meets it.
    """
    vectors = {place: arrays[place].reshape(-1) for place in labelled}
    names, numbers = np.unique(np.concatenate([[FIXED], *vectors.values()]), return_inverse=True)
    pieces = np.split(numbers[1:], np.cumsum([len(v) for v in vectors.values()])[:-1])
    numbered = dict(zip(labelled, pieces, strict=True))
    pairs = [np.empty((0, 2), int)]
    for by_place in sources:
        followed = [np.where(s < 0, -1, numbered[p][s]) for p, s in by_place.items()]
        for one, other in zip(followed, followed[1:], strict=False):
            both = (one >= 0) & (other >= 0)
            pairs.append(np.stack([one[both], other[both]], axis=-1))
    pairs = np.concatenate(pairs)
    ones, shape = np.ones(len(pairs), bool), (len(names), len(names))
    graph = coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=shape)
    count, components = connected_components(graph, directed=False)
    # Components are numbered by the first in them, and FIXED is the smallest label.
    return count - 1, {place: components[n] - 1 for place, n in numbered.items()}


class Alike:
    """Tries whether an operation treats fewer and more units alike."""

    def __init__(self, trials, axes, out_axes, sources, classes):
        self.trials, self.axes, self.out_axes = trials, axes, out_axes
        self.sources, self.classes = sources, classes
        self.inputs = trials.draw(1.0, 99)
        self.outputs = trials.run(self.inputs)

    def stuck(self, size):
        """For each class whether it cannot be left out or doubled by itself."""
        stuck = np.zeros(size, bool)
        for index in range(size):
            for count in (0, 2):
                counts = np.ones(size, int)
                counts[index] = count
                stuck[index] |= not self.holds(counts)
        return stuck

    def in_combinations(self, is_free):
        """Whether it holds for combinations of counts of the classes that are free."""
        size, draw = len(is_free), np.random.default_rng(0)
        patterns = [draw.integers(0, 3, size) for _ in range(COMBINATIONS)]
        for digit in range(max(1, (size - 1).bit_length())):
            selected = (np.arange(size) >> digit) & 1 == 1
            patterns += [np.where(selected, a, b) for a, b in ((0, 1), (1, 0), (2, 1), (1, 2))]
        patterns = [np.where(is_free, counts, 1) for counts in patterns]
        patterns = [counts for counts in patterns if counts.any()]
        return all(self.holds(c, announces=i < 3) for i, c in enumerate(patterns))

    def holds(self, counts, announces=False):
        """Whether the outputs for some counts are the outputs with those counts."""
        counts = np.append(counts, 1)  # the last is that of class -1
        inputs = dict(self.inputs)
        for place, axis in self.axes.items():
            inputs[place] = np.repeat(inputs[place], counts[self.classes[place]], axis)
            if not inputs[place].size:
                return True  # nothing would be left, which no model does
        expected = []
        for output, axis, by_place in zip(self.outputs, self.out_axes, self.sources, strict=True):
            if axis is not None:
                repeats = np.ones(output.shape[axis], int)
                for place, source in by_place.items():
                    repeats = np.where(source < 0, repeats, counts[self.classes[place][source]])
                output = np.repeat(output, repeats, axis)
            expected.append(output)
        try:
            found = self.trials.run(inputs)
            shapes = self.trials.announced(inputs) if announces else [a.shape for a in expected]
        except NotInferredError:
            return False
        return all(
            a.shape == b.shape == shape and same(a, b)
            for a, b, shape in zip(expected, found, shapes, strict=True)
        )


def _equal(a, b):
    return (a == b) | ((a != a) & (b != b))


def same(a, b):
    """Whether two arrays are equal up to rounding."""
    if a.shape != b.shape:
        return False
    if a.dtype.kind not in "fc":
        return bool((a == b).all())
    return np.allclose(a, b, rtol=1e-4, atol=1e-5 * np.nanmax(np.abs(a), initial=0), equal_nan=True)
