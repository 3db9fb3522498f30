"""Runs of a resized layer with choices of the whole numbers among its attributes."""

import itertools
import traceback

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling import any_size
from tfprune.coupling.calls import Tensor
from tfprune.coupling.labels import placed

MOST_CHOICES = 256
"""How many choices of numbers are tried."""

RIGHT, WRONG = 2, 1
"""How far a layer comes that computes the same, or something else, as the first of a tuple.

The second, if it computes the same, is to how many decimal places. If it fails, it is 0 and the
lines.
"""

DECIMALS = 6
"""Where it is the same to as many places, no other choice is tried."""

_MOST_AFTER_RIGHT = 16
"""How many choices are tried for more places: a scale of attention may change outputs little."""


class Trials:
    """Runs a resized layer with choices of its numbers.

    Attributes:
        new: The layer.
        examples: For some sizes of what is dynamic, inputs and the outputs that are right.
        most: How many choices are tried.
        failed: Where it failed last, the number of the layer inside, in whose own code; or None.
        says_wrong: Whether only the shapes that the layer's class says were wrong with a choice.
    """

    def __init__(self, call, before, new, sizes):
        self.call, self.new = call, new
        self.examples, self.failed, self.says_wrong = [], None, False
        self.forget()
        self._is_used = _are_used(call, sizes.coupling.trace)
        outputs = list(itertools.compress(call.outputs, self._is_used))
        self._said_axes = None  # for each output the axes whose size its class says rightly
        own_sizes = any_size.static_sizes(call.operation, call.inputs)
        for number, static_sizes in enumerate([any_size.OTHER_SIZES, *own_sizes]):
            if number > len(any_size.STATIC_SIZES) and self.examples:
                break  # those that it may demand are tried only where no others are taken
            inputs, kept = _inputs(call, sizes, static_sizes)
            try:
                expected = self._outputs(before, inputs)
            except Exception:  # it takes no such sizes
                continue
            wanted = [
                array if counts is None else np.repeat(array, counts[1], counts[0])
                for array, counts in zip(expected, map(_unit_counts(sizes), outputs), strict=True)
            ]
            shapes = [array.shape for array in expected]
            found = _equal_axes(self._said(before, inputs), shapes)
            if self._said_axes is not None:
                found = [a & b for a, b in zip(self._said_axes, found, strict=True)]
            self._said_axes = found
            self.examples.append((kept, wanted))

    def reached(self, choice):
        """How far the layer comes with a choice, as a tuple that is larger the further."""
        key = tuple(choice.items())
        if key not in self._reached:
            if len(self._reached) >= self.most:
                return (-1,)
            self._reached[key] = found = self._run(choice)
            if found[0] == RIGHT and found[1] < DECIMALS:
                self.most = min(self.most, len(self._reached) + _MOST_AFTER_RIGHT)
        return self._reached[key]

    def forget(self):
        """Forgets how far the layer came, since it was changed."""
        self._reached, self.most = {}, MOST_CHOICES

    def _run(self, choice):
        set_numbers(self.new, choice)
        is_right, is_said, error = True, True, 0.0
        for kept, wanted in self.examples:
            try:
                found = self._outputs(self.new, kept)
            except Exception as failure:  # the layer's own code may fail in any way
                self.failed = _failed_part(failure, self.new)
                return (0, _lines(failure, self.new))
            shapes = [array.shape for array in wanted]
            if [array.shape for array in found] != shapes:
                return (0, (np.inf,))
            for ours, theirs in zip(found, wanted, strict=True):
                is_right &= any_size.is_near(ours, theirs, 1e-3, 1e-5)
                error = max(error, _relative(ours, theirs))
            is_said &= self._says(shapes, kept)
        self.says_wrong |= is_right and not is_said
        if not is_said:
            return (0, (np.inf,))
        if not is_right:
            return (WRONG,)
        return (RIGHT, int(min(DECIMALS, -np.log10(error))) if error else DECIMALS)

    def _outputs(self, layer, values):
        """Those outputs of a call that anything takes."""
        args, kwargs = _arguments(self.call, values)
        outputs = keras.tree.flatten(_keras.called_in_inference(layer, args, kwargs))
        used = itertools.compress(outputs, self._is_used)
        return [np.asarray(keras.ops.cast(output, "float64")) for output in used]

    def _said(self, layer, values):
        """The shapes that the layer's class says by itself, without a run; None if it says none."""
        says = ("compute_output_shape", "compute_output_spec")
        if all(getattr(type(layer), name) is getattr(keras.Layer, name) for name in says):
            return None
        arguments = _arguments(self.call, values)
        args, kwargs = keras.tree.map_structure(_symbolic, arguments)
        try:
            outputs = keras.tree.flatten(layer.compute_output_spec(*args, **kwargs))
        except Exception:  # the layer's own code may fail in any way
            return None
        return [tuple(each.shape) for each in itertools.compress(outputs, self._is_used)]

    def _says(self, shapes, values):
        """Whether Keras would see these shapes, where it saw right ones before."""
        if not any(self._said_axes):
            return True
        found = _equal_axes(self._said(self.new, values), shapes)
        return all(a <= b for a, b in zip(self._said_axes, found, strict=True))

    def is_said_by_config(self, choice):
        """Whether the config of the layer makes one that computes the same with its weights."""
        set_numbers(self.new, choice)
        return _keras.config_fits(self.new, _arguments(self.call, self.examples[0][0]))

    def config(self, choice):
        """What the config of the layer is then; None if it has none."""
        set_numbers(self.new, choice)
        try:
            return repr(keras.saving.serialize_keras_object(self.new)["config"])
        except Exception:  # the layer's own code may fail in any way
            return None


def _relative(found, wanted):
    """The largest difference as a part of the largest number that is wanted."""
    largest = np.abs(wanted).max(initial=0)
    return float(np.abs(found - wanted).max(initial=0) / largest) if largest else 0.0


def _equal_axes(said, shapes):
    """For each output the set of axes along which it has the size that is said."""
    if said is None or len(said) != len(shapes):
        return [set()] * len(shapes)
    return [
        {
            axis
            for axis, size in enumerate(ours)
            if len(ours) == len(theirs) and size == theirs[axis]
        }
        for ours, theirs in zip(said, shapes, strict=True)
    ]


def _symbolic(leaf):
    is_tensor = keras.ops.is_tensor(leaf)
    return keras.KerasTensor(leaf.shape, leaf.dtype.name) if is_tensor else leaf


def _failed_part(error, layer):
    """The number of the innermost layer of a user's class inside whose code failed, or None."""
    numbers = {id(part): number for number, part in enumerate(_keras.all_layers(layer)) if number}
    found = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        part = frame.f_locals.get("self")
        if id(part) in numbers and not isinstance(part, keras.Model):
            found = found if _keras.is_stock(type(part)) else numbers[id(part)]
    return found


def _lines(error, layer):
    """The lines of users' code that an exception comes from, outermost first."""
    classes = {cls for part in _keras.all_layers(layer) for cls in type(part).__mro__}
    own = {cls.__module__ for cls in classes if not _keras.is_stock(cls)}
    frames = traceback.walk_tb(error.__traceback__)
    return tuple(number for frame, number in frames if frame.f_globals.get("__name__") in own)


def set_numbers(layer, numbers):
    """Sets whole numbers among the attributes of a layer, a dict by place."""
    for place, number in numbers.items():
        _keras.set_number(layer, place, number)


def _unit_counts(sizes):
    """Function of a tensor that returns its unit axis and the counts along it, or None."""

    def found(tensor):
        shape = sizes.coupling.tensor_labels[tensor].shape
        axis = next((axis for axis, size in enumerate(shape, 1) if size != 1), None)
        return None if axis is None else (axis, sizes.counts_along(tensor, axis - 1))

    return found


def _inputs(call, sizes, static_sizes):
    """Random arrays for the tensors that a layer takes: those of the old layer and of the new."""
    draw, before, after = np.random.default_rng(0), {}, {}
    for tensor in keras.tree.flatten([list(call.args), call.kwargs]):
        if not isinstance(tensor, Tensor):
            continue
        shape = any_size.with_size(tensor, static_sizes).shape
        is_float = keras.backend.is_float_dtype(tensor.dtype)
        value = draw.normal(size=shape) if is_float else draw.integers(0, 2, shape)
        if tensor.dtype == "string":
            known = sizes.coupling.trace.looked_up(tensor)
            words = ["word", "another"] if known is None else known.astype(str)
            value = draw.choice(words, shape)
        counts = _unit_counts(sizes)(tensor)
        before[tensor] = after[tensor] = value
        if counts is not None:
            axis, counts = counts
            before[tensor] = value * placed(counts > 0, axis, value.ndim)
            after[tensor] = np.repeat(value, counts, axis)
    return before, after


def _arguments(call, values):
    def value(leaf):
        if isinstance(leaf, Tensor):
            return keras.ops.convert_to_tensor(values[leaf], leaf.dtype)
        return leaf

    return keras.tree.map_structure(value, (list(call.args), dict(call.kwargs)))


def _are_used(call, trace):
    """For each output of a call whether anything takes it."""
    taken = {id(tensor) for call in trace.calls for tensor in (*call.inputs, *call.masks)}
    taken.update(map(id, trace.outputs))
    return [id(tensor) in taken for tensor in call.outputs]
