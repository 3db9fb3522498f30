"""Whole numbers among the attributes of a resized layer: which are sizes that have to follow.

That is found by running the layer, first with the new size in the place of every number that
equals an old one. As long as it fails or computes something else, numbers are set back, those that
have one name in all layers inside together, where with them it comes further in its code.
"""

import itertools
import traceback

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling import any_size
from tfprune.coupling.calls import Tensor
from tfprune.coupling.labels import placed
from tfprune.coupling.rules import has_rule

MOST_CHOICES = 256
"""How many choices of numbers are tried."""

_RIGHT, _WRONG = 2, 1
"""How far a layer comes that computes the same, or something else, as the first of a tuple.

The second, if it computes the same, is to how many decimal places. If it fails, it is 0 and the
lines.
"""

_DECIMALS = 6
"""Where it is the same to as many places, no other choice is tried."""

_MOST_AFTER_RIGHT = 16
"""How many choices are tried for more places: a scale of attention may change outputs little."""


def settle_numbers(opened, before, new, sizes, known=None):
    """Sets the attributes of a resized layer that are sizes, so that it computes the same.

    Args:
        opened: A `Call` of the layer before.
        before: The layer, in which the weights of what is removed are 0.
        new: The resized layer, with its weights.
        sizes: The `Sizes` after the change.
        known: Choices that were right for layers of the same classes, by their keys, added to. If
            given, a choice is preferred with which the layer's config makes the new sizes.

    Returns:
        Whether any choice is right.

    Raises:
        DoesNotRunError: If the layer runs with none.
    """
    options = _options(opened.operation, new, sizes)
    trials = _Trials(opened, before, new, sizes)
    if not trials.examples:
        raise DoesNotRunError
    key = type(opened.operation), tuple(sorted((p, str(o)) for p, o in options.items()))
    for choice in (known or {}).get(key, []):
        if trials.reached(choice)[0] == _RIGHT:
            _set(new, choice)
            return True
    changes = _changes(options)
    # Values of new units come later.
    enough = (_WRONG,) if sizes.kept_units.grown else (_RIGHT, _DECIMALS)
    choice, reached = _best(options, changes, trials, enough)
    if reached < enough[:1] and trials.says_wrong and _keras.let_infer_shapes(new):
        trials.forget()
        choice, reached = _best(options, changes, trials, enough)
        if reached < enough[:1]:
            _keras.let_say_shapes(new)
    if reached[0] == _RIGHT and known is not None:
        choice = _said_by_config(choice, changes, trials)
        known.setdefault(key, []).append(choice)
    _set(new, choice)
    if reached[0] == 0:
        raise DoesNotRunError(trials.failed)
    return reached[0] == _RIGHT


def _best(options, changes, trials, enough):
    """The choice with which the layer comes furthest, and how far it comes."""
    choice, reached = None, (-1,)
    for index in (0, -1):  # all new, all as before
        start = {place: values[index] for place, values in options.items()}
        found = _improved(start, changes, trials, enough)
        choice, reached = max((choice, reached), found, key=lambda pair: pair[1])
        if reached >= enough:
            break
    return choice, reached


class DoesNotRunError(ValueError):
    """A resized layer runs with none of its numbers.

    Attributes:
        part: The number of the layer inside whose code fails, or None.
    """

    def __init__(self, part=None):
        super().__init__("does not run with other sizes, whichever of its attributes follow")
        self.part = part


class _Trials:
    """Runs a resized layer with choices of its numbers.

    Attributes:
        new: The layer.
        examples: For some sizes of what is dynamic, inputs and the outputs that are right.
        most: How many choices are tried.
        failed: Where it failed last, the number of the layer inside, in whose own code; or None.
        says_wrong: Whether only the shapes that the layer's class says were wrong with a choice.
    """

    def __init__(self, opened, before, new, sizes):
        self.opened, self.new = opened, new
        self.examples, self.failed, self.says_wrong = [], None, False
        self.forget()
        self._is_used = _are_used(opened, sizes.coupling.trace)
        outputs = list(itertools.compress(opened.outputs, self._is_used))
        self._said_axes = None  # for each output the axes whose size its class says rightly
        own_sizes = any_size.static_sizes(opened.operation, opened.inputs)
        for number, static_sizes in enumerate([any_size.OTHER_SIZES, *own_sizes]):
            if number > len(any_size.STATIC_SIZES) and self.examples:
                break  # those that it may demand are tried only where no others are taken
            inputs, kept = _inputs(opened, sizes, static_sizes)
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
            if found[0] == _RIGHT and found[1] < _DECIMALS:
                self.most = min(self.most, len(self._reached) + _MOST_AFTER_RIGHT)
        return self._reached[key]

    def forget(self):
        """Forgets how far the layer came, since it was changed."""
        self._reached, self.most = {}, MOST_CHOICES

    def _run(self, choice):
        _set(self.new, choice)
        is_right, is_said, error = True, True, 0.0
        for kept, wanted in self.examples:
            try:
                found = self._outputs(self.new, kept)
            except Exception as error:  # the layer's own code may fail in any way
                self.failed = _failed_part(error, self.new)
                return (0, _lines(error, self.new))
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
            return (_WRONG,)
        return (_RIGHT, int(min(_DECIMALS, -np.log10(error))) if error else _DECIMALS)

    def _outputs(self, layer, values):
        """Those outputs of a call that anything takes."""
        args, kwargs = _arguments(self.opened, values)
        outputs = keras.tree.flatten(_keras.called_in_inference(layer, args, kwargs))
        used = itertools.compress(outputs, self._is_used)
        return [np.asarray(keras.ops.cast(output, "float64")) for output in used]

    def _said(self, layer, values):
        """The shapes that the layer's class says by itself, without a run; None if it says none."""
        says = ("compute_output_shape", "compute_output_spec")
        if all(getattr(type(layer), name) is getattr(keras.Layer, name) for name in says):
            return None
        arguments = _arguments(self.opened, values)
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
        _set(self.new, choice)
        return _keras.config_fits(self.new, _arguments(self.opened, self.examples[0][0]))

    def config(self, choice):
        """What the config of the layer is then; None if it has none."""
        _set(self.new, choice)
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


def _improved(choice, changes, trials, enough):
    """A choice with those changes with which the layer comes further, and how far it comes."""
    reached = trials.reached(choice)
    pairs = [{**a, **b} for a, b in itertools.combinations(changes, 2) if not a.keys() & b.keys()]
    while reached < enough:
        others = ({**choice, **change} for change in (*changes, *pairs))
        further = next((other for other in others if trials.reached(other) > reached), None)
        if further is None:
            break
        choice, reached = further, trials.reached(further)
    return choice, reached


def _said_by_config(choice, changes, trials):
    """A right choice, with such changes that the layer's config says the new sizes, if it can."""
    before, after = map(_keras.float_numbers, (trials.opened.operation, trials.new))
    is_rescaled = any(before[place] != after[place] for place in before.keys() & after.keys())
    trials.most, seen = MOST_CHOICES, {trials.config(choice)}
    if seen == {None} or trials.is_said_by_config(choice) or is_rescaled:
        return choice  # what was rescaled, such as the epsilon of a norm inside, none of them says
    for change in changes:
        other = {**choice, **change}
        config = trials.config(other)
        if config not in seen and trials.reached(other)[0] == _RIGHT:
            seen.add(config)
            if trials.is_said_by_config(other):
                return other
    return choice


def _set(layer, numbers):
    for place, number in numbers.items():
        _keras.set_number(layer, place, number)


def _changes(options):
    """Dicts of numbers to change together: for all layers inside with one name, and each alone."""
    by_name = {}
    for place, values in options.items():
        by_name.setdefault((place[1:], tuple(values)), []).append(place)
    together = [
        dict.fromkeys(places, value) for (_, values), places in by_name.items() for value in values
    ]
    alone = [
        {place: value}
        for (_, values), places in by_name.items()
        for place in places[: len(places) * (len(places) > 1)]
        for value in values
    ]
    return together + alone


def _options(layer, new, sizes):
    """The numbers among the attributes that may be sizes which changed, each with what it may be.

    Returns:
        A dict from a place, see `_keras.whole_numbers`, to a list of numbers: the new sizes, and
        the number before. Layers with rules, such as recurrent ones over users' cells, have theirs
        already.
    """
    calls = sizes.coupling.trace.calls_of
    by_rules = {
        id(inside)
        for part in _keras.all_layers(layer)
        if part is not layer and id(part) in calls and has_rule(part)
        for inside in _keras.all_layers(part)
    }
    parts = list(zip(_keras.all_layers(layer), _keras.all_layers(new), strict=True))
    of_tensors = _changed_in_calls(layer, sizes)
    changed = [{**of_tensors, **_changed(ours, sizes)} for ours, _ in parts]
    return {
        place: [*changed[place[0]][number], number]
        for place, number in _keras.whole_numbers(new).items()
        if number in changed[place[0]]
        and not _keras.is_stock(type(parts[place[0]][1]))
        and id(parts[place[0]][0]) not in by_rules
    }


def _changed(part, sizes):
    """The sizes of the weights in a layer that change, each with what becomes of it."""
    found = {}
    for weight in part.weights:
        for old, size in zip(weight.shape, sizes.of_weight(weight), strict=True):
            if old != size:
                found.setdefault(old, {})[size] = None
    return found


def _changed_in_calls(layer, sizes):
    """The sizes of tensors inside a layer that change, such as a number of heads."""
    found = {}
    for call in sizes.coupling.trace.calls:
        if any(parent is layer for parent in call.parents):
            for tensor in call.outputs:
                for old, size in zip(tensor.shape, sizes.of_tensor(tensor), strict=True):
                    if old != size:
                        found.setdefault(old, {})[size] = None
    return found


def _unit_counts(sizes):
    """Function of a tensor that returns its unit axis and the counts along it, or None."""

    def found(tensor):
        shape = sizes.coupling.tensor_labels[tensor].shape
        axis = next((axis for axis, size in enumerate(shape, 1) if size != 1), None)
        return None if axis is None else (axis, sizes.counts_along(tensor, axis - 1))

    return found


def _inputs(opened, sizes, static_sizes):
    """Random arrays for the tensors that a layer takes: those of the old layer and of the new."""
    draw, before, after = np.random.default_rng(0), {}, {}
    for tensor in keras.tree.flatten([list(opened.args), opened.kwargs]):
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


def _arguments(opened, values):
    def value(leaf):
        if isinstance(leaf, Tensor):
            return keras.ops.convert_to_tensor(values[leaf], leaf.dtype)
        return leaf

    return keras.tree.map_structure(value, (list(opened.args), dict(opened.kwargs)))


def _are_used(opened, trace):
    """For each output of a call whether anything takes it."""
    taken = {id(tensor) for call in trace.calls for tensor in (*call.inputs, *call.masks)}
    taken.update(map(id, trace.outputs))
    return [id(tensor) in taken for tensor in opened.outputs]
