"""RMS norms that users write by hand, as `x * rsqrt(mean(x * x) + epsilon) * scale`.

The mean counts units that are 0, so a smaller layer divides by another number. With S the sum of
squares over C units, of which all are 0 but C',

    rsqrt(S / C + epsilon) = sqrt(C / C') * rsqrt(S / C' + epsilon * C / C').

So the smaller layer computes the same with its gain times sqrt(C / C'), and its epsilon times
C / C'. The gain may be any affine function of the weight, the same for each unit, such as
`1 + scale`. The epsilon is one of the layer's attributes.

That a layer is such a norm is proven by running a copy of it: its outputs are those of the formula,
row by row, for inputs of many scales, for several weights and epsilons, and with fewer and more
units. A norm that subtracts a mean has no smaller form: what it subtracts from the units that are
left depends on how many were 0.

Reference:
    B. Zhang, R. Sennrich, "Root Mean Square Layer Normalization", https://arxiv.org/abs/1910.07467.
"""

import contextlib
import itertools
import math

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.rules.block_labels import unit_axis
from tfprune.coupling.rules.custom_weights import OwnWeights, WrittenNorm
from tfprune.coupling.rules.resized_trials import ResizedTrials
from tfprune.coupling.rules.unit_propagation import NotInferredError, Passage

MOST_SIZES = 6
"""How many choices of the attributes that are sizes are tried."""

MOST_STEPS = 5
"""How many positions along each other axis a norm is tried on first, whatever there are."""

_PRECISIONS = {"bfloat16": 6e-2, "float16": 1e-2}
"""What outputs may differ by, relative to the largest of a row; else by `_PRECISION`."""

_PRECISION = 1e-5


def infer_written_norm(call, arrays):
    """What a call of a layer is if that is a hand-written RMS norm over units.

    Args:
        call: The `Call`.
        arrays: The label array of each input tensor, with the batch axis.

    Returns:
        An `OwnWeights` with a `norm`; None if the layer is no such norm.

    Raises:
        NotInferredError: If it is a norm over units that cannot be resized, with the reason.
    """
    if not _may_be_norm(call, arrays):
        return None
    for most in (MOST_STEPS, math.inf):
        with contextlib.suppress(NotInferredError):  # it cannot be run on so few steps
            trials = _Rows(call, most, "float32")
            if not trials.ignores_scale():
                return None
            break
    else:
        return None
    return _Prover(call, trials).found()


def rescaling(norm, size, new_size):
    """The factor and the summand for a norm's weight, and the factor for its epsilon.

    Args:
        norm: The `WrittenNorm`.
        size: The number of its units.
        new_size: The number of those that are left. New units, more than there were, have no
            effect on these.
    """
    if not norm.counts or not 0 < new_size < size:
        return 1.0, 0.0, 1.0
    factor = math.sqrt(size / new_size)
    return factor, (factor - 1) * norm.intercept / norm.slope, size / new_size


def _may_be_norm(call, arrays):
    """Whether a layer holds no layers, is called on units of the last axis and has their gain."""
    layer = call.operation
    is_alone = len(_keras.all_layers(layer)) == 1 and len(layer.variables) in (1, 2)
    if not is_alone or len(call.inputs) != 1 or len(call.outputs) != 1:
        return False
    tensor, (array,) = call.inputs[0], arrays
    if unit_axis(array) != array.ndim - 1 or tensor.shape != call.outputs[0].shape:
        return False
    size = tensor.shape[-1]
    return all(_axis(variable.shape, size) is not None for variable in layer.variables)


def _axis(shape, size):
    """The axis of a weight that has an element for each unit; None if it has others."""
    shape = tuple(shape)
    return shape.index(size) if math.prod(shape) == size and size in shape else None


def _formula(rows, gain, epsilon, count):
    squares = np.square(rows).sum(axis=-1, keepdims=True)
    return rows / np.sqrt(squares / count + epsilon) * gain


class _Rows(ResizedTrials):
    """Runs a copy of a layer on rows, each of the units of one position, computing in a dtype."""

    def __init__(self, call, most, dtype=None):
        self.most, self.dtype = most, dtype
        super().__init__(call, NotInferredError)
        if dtype is not None and type(self.operation.dtype_policy) is keras.DTypePolicy:
            self.operation.dtype_policy = dtype
        self.precision = _PRECISIONS.get(self.operation.compute_dtype, _PRECISION)
        self.lead = self._shape(self.tensors[0])[:-1]
        self.size = self.tensors[0].shape[-1]
        self.place = next(iter(self.weights))
        self.axis = _axis(self.shapes[self.place], self.size)
        self.masks = {p: value for p, value in self.draw(1.0, 0).items() if p < len(self.tensors)}

    def _shape(self, tensor):
        *lead, last = super()._shape(tensor)
        is_data = tensor is self.tensors[0]
        return (*(min(n, self.most) for n in lead), last if is_data else min(last, self.most))

    def _dtype(self, tensor):
        is_float = "float" in tensor.dtype and self.dtype is not None
        return self.dtype if is_float else super()._dtype(tensor)

    def values(self, rows, weight):
        """The values of all tensors and weights; as many rows as there is room for."""
        rows = np.asarray(rows, "float32")
        inputs = np.resize(rows, (math.prod(self.lead), rows.shape[-1]))
        values = {**self.masks, 0: inputs.reshape(*self.lead, rows.shape[-1])}
        for place, shape in self.shapes.items():
            shape = [len(weight) if size == self.size else size for size in shape]
            values[place] = np.asarray(weight, "float32").reshape(shape)
        return values

    def outputs(self, rows, weight):
        """The outputs for rows (count, units) and the weight's element for each unit."""
        found, room = [], math.prod(self.lead)
        for start in range(0, len(rows), room):
            (output,) = self.run(self.values(rows[start : start + room], weight))
            if output.shape != (*self.lead, rows.shape[-1]):
                raise NotInferredError("gives another shape than it takes")
            found.append(output.reshape(room, -1)[: len(rows) - start].astype("float64"))
        return np.concatenate(found)

    def is_same(self, found, expected):
        """Whether outputs are equal, each row measured by itself."""
        largest = np.abs(expected).max(axis=-1, keepdims=True)
        allowed = self.precision * np.maximum(np.abs(expected), 0.1 * largest)
        return bool((np.abs(found - expected) <= allowed).all())

    def ignores_scale(self):
        """Whether twice the input gives the same: what is no norm is told by a single run."""
        rows = 1e3 * _drawn(0, 1, self.size)
        one, two = self.outputs(np.concatenate([rows, 2 * rows]), _weight(0, self.size))
        return self.is_same(two[None], one[None])

    def subtracts_mean(self):
        """Whether units are affine functions of those with their mean and variance taken away."""
        rows = 100 * _drawn(1, 3, self.size)
        outputs = self.outputs(rows, _weight(0, self.size))
        normal = rows - rows.mean(axis=-1, keepdims=True)
        normal /= normal.std(axis=-1, keepdims=True)
        factor = (outputs[0] - outputs[1]) / (normal[0] - normal[1])
        expected = outputs[0] + factor * (normal[2] - normal[0])
        return bool(np.abs(outputs[2] - expected).max() <= 1e-2 * np.abs(outputs).max())


def _drawn(seed, count, size):
    """Rows of normal numbers, none near 0."""
    drawn = np.random.default_rng(seed).normal(size=(count, size))
    return drawn + np.copysign(0.1, drawn)


def _weight(seed, size):
    """Numbers that every precision can hold, of which none is 0."""
    draw = np.random.default_rng([seed, 7])
    return draw.integers(16, 128, size) / 64 * draw.choice([-1, 1], size)


class _Prover:
    """Finds the gain, the epsilon and the sizes of a norm, and checks them."""

    def __init__(self, call, trials):
        self.call, self.trials, self.size = call, trials, trials.size
        self.floats = _keras.float_numbers(trials.operation)
        sizes = _keras.whole_numbers(trials.operation).items()
        self.whole = [place for place, number in sizes if number == self.size]

    def found(self):
        """The `OwnWeights`; see `infer_written_norm`."""
        if self.trials.subtracts_mean():
            raise NotInferredError(
                "subtracts the mean of its units, which no smaller layer has where some were 0"
            )
        if len(self.trials.weights) != 1:
            return None
        place = self._epsilon()
        if place is _NOWHERE:
            return None
        epsilon = self.floats.get(place, 0.0)
        if not self._holds(self.trials, place, epsilon):
            return None
        policy = self.call.operation.dtype_policy
        if policy != self.trials.operation.dtype_policy:
            as_it_is = _Rows(self.call, self.trials.most)
            if not self._holds(as_it_is, place, epsilon):
                return None
        numbers, counts = self._sized(place, epsilon)
        where, axis = self.trials.place, self.trials.axis
        every = np.arange(self.size)
        return OwnWeights(
            dict.fromkeys(numbers, (where, axis)),
            {where: axis},
            passage=Passage(
                (len(self.trials.lead),), ({0: every, where: every},), {0: np.empty(0, int)}
            ),
            norm=WrittenNorm(where, self.slope, self.intercept, place, counts),
        )

    def _set(self, place, epsilon):
        if place is not None:
            _keras.set_number(self.trials.operation, place, epsilon)

    def _epsilon(self):
        """The place of the epsilon, None if there is none; the gain is noted."""
        scales, weight = (0.03, 0.5, 2.0, 30.0), _weight(0, self.size)
        for place, before in self.floats.items():
            self._set(place, 0.25)
            rows = _of_scales(1, scales, self.size)
            try:
                outputs = self.trials.outputs(rows, weight)
            except NotInferredError:
                continue
            finally:
                self._set(place, before)
            if self._is_gain(outputs, rows, weight, 0.25):
                return place
        rows = _of_scales(1, (1e-9, 1e-6, 300.0, 1e3), self.size)
        outputs = self.trials.outputs(rows, weight)
        if self._is_gain(outputs, rows, weight, 0.0):
            return None
        if self._is_gain(outputs[-2:], rows[-2:], weight, 0.0):
            raise NotInferredError(
                "adds no attribute to the mean square of its units as an epsilon, which would have "
                "to follow their number"
            )
        return _NOWHERE

    def _is_gain(self, outputs, rows, weight, epsilon):
        """Whether outputs are those of the formula for some gain, affine in the weight."""
        gain = outputs[-1] / _formula(rows, 1.0, epsilon, self.size)[-1]
        slope, intercept = np.polyfit(weight, gain, 1)
        self.slope, self.intercept = (_rounded(float(n)) for n in (slope, intercept))
        if not np.isfinite(gain).all() or abs(self.slope) < 1e-3:
            return False
        expected = _formula(rows, self._gain(weight), epsilon, self.size)
        return self.trials.is_same(outputs, expected)

    def _gain(self, weight):
        return self.slope * weight + self.intercept

    def _holds(self, trials, place, epsilon):
        """Whether a copy computes the formula with its own epsilon, for another weight."""
        root = math.sqrt(epsilon) or 1e-6
        scales = [0.1 * root, root, 10 * root, 1.0, 100.0]
        scales = scales if trials.precision == _PRECISION else [1.0, 4.0]
        rows, weight = _of_scales(2, scales, self.size), _weight(1, self.size)
        rows[:, ::3], weight[1::4] = 0, 0
        rows[:, -1] += 0.5 * np.array(scales)
        if trials.precision != _PRECISION:
            rows = np.round(rows * 16) / 16  # what every precision can hold
        expected = _formula(rows, self._gain(weight), epsilon, self.size)
        try:
            return trials.is_same(trials.outputs(rows, weight), expected)
        except NotInferredError:
            return False

    def _sized(self, place, epsilon):
        """The attributes that are sizes, and whether the mean counts the units that there are."""
        choices = [c for n in range(len(self.whole) + 1) for c in _of(self.whole, n)]
        choices = [*choices[-1:], *choices[:-1]][:MOST_SIZES]  # all of them, none, some
        for counts, numbers in itertools.product((True, False), choices):
            for number in self.whole:
                _keras.set_number(self.trials.operation, number, self.size)
            source = self.trials.place, self.trials.axis
            self.trials.numbers = dict.fromkeys(numbers, source)
            norm = WrittenNorm(source[0], self.slope, self.intercept, place, counts)
            try:
                if self._is_alike(norm, epsilon):
                    return numbers, counts
            except NotInferredError:
                continue
            finally:
                self._set(place, epsilon)
        raise NotInferredError("does not treat fewer or more units alike")

    def _is_alike(self, norm, epsilon):
        """Whether it computes the same with units left out that are 0, and with units added."""
        size, scales = self.size, (math.sqrt(epsilon) or 1e-6, 1.0, 100.0)
        for seed, new_size in enumerate({size - 1, max(1, size // 3), size + 2}):
            rows, weight = _of_scales(seed, scales, new_size), _weight(seed, new_size)
            count = max(size, new_size) if norm.counts else size
            factor, summand, more = rescaling(norm, size, new_size)
            self._set(norm.epsilon, epsilon * more)
            dtype = self.trials.weights[norm.weight].dtype
            resized = keras.ops.convert_to_tensor(weight * factor + summand, dtype)
            resized = keras.ops.convert_to_numpy(resized).astype("float64")
            weight = (resized - summand) / factor
            if seed == 0 and self.trials.announced(self.trials.values(rows, resized)) != [
                (*self.trials.lead, new_size)
            ]:
                return False
            expected = _formula(rows, self._gain(weight), epsilon, count)
            if not self.trials.is_same(self.trials.outputs(rows, resized), expected):
                return False
        return True


_NOWHERE = object()


def _of(places, count):
    return list(itertools.combinations(places, count))


def _of_scales(seed, scales, size):
    return _drawn(seed, len(scales), size) * np.array(scales)[:, None]


def _rounded(number):
    """A number without what rounding has added to it."""
    short = round(number, 3)
    return short if abs(number - short) < 1e-5 else number
