"""Composite layers of users' classes that stay the objects they are, resized on their copies.

The layers inside that have rules are made anew from their edited configs, and take the places of
those that the copy has. The weights of users' classes get new shapes. Which whole numbers among the
attributes are sizes that have to follow is found by running the copy with other numbers.
"""

import itertools

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling import any_size
from tfprune.coupling.calls import Tensor
from tfprune.coupling.labels import placed
from tfprune.coupling.rules import has_rule, rule_of


def resize_in_place(layer, copy, edited, rebuilt, calls, sizes):
    """Resizes the copy of a composite layer.

    Args:
        layer: The layer, which was opened when the model was traced.
        copy: Its copy without masks, changed in place. Weights get the new shapes.
        edited: Function of a serialised layer and the layer, which returns it with its new sizes.
        rebuilt: Function of a model inside, which returns it with its new sizes.
        calls: For each operation, by id, its calls.
        sizes: The `Sizes` after the change.
    """
    parts = list(zip(_keras.all_layers(layer), _keras.all_layers(copy), strict=True))
    inside = set()
    for part, new in parts:
        if id(part) in inside:
            continue
        if _keras.functional(part) is not None:
            inside.update(map(id, _keras.all_layers(part)))
            _keras.become(new, rebuilt(part))
        elif id(part) in calls and has_rule(part):
            inside.update(map(id, _keras.all_layers(part)))
            if part.weights or _is_resized(part, calls, sizes):
                _make_anew(part, new, edited, calls[id(part)][0], sizes)
        elif id(part) in calls:
            rule_of(part).resize_in_place(new, calls[id(part)][0], sizes)
        else:
            _resize_weights(part, new, sizes)
    call = sizes.coupling.trace.in_place[id(layer)]
    _keras.forget_input_shape(
        copy, [(tensor.shape, sizes.of_tensor(tensor)) for tensor in call.inputs]
    )


def _make_anew(part, new, edited, call, sizes):
    """Puts a layer with new sizes in the place of one that the copy has."""
    custom_objects = _keras.custom_objects_of(_keras.all_layers(part))
    config = _keras.without_shapes(keras.saving.serialize_keras_object(part))
    config = edited(_keras.with_functions(config, part, custom_objects), part)
    made = keras.saving.deserialize_keras_object(
        config, custom_objects=custom_objects, safe_mode=False
    )

    def value(leaf):
        if not isinstance(leaf, Tensor):
            return leaf
        return keras.KerasTensor(sizes.of_tensor(leaf), leaf.dtype)

    args, kwargs = keras.tree.map_structure(value, (list(call.args), dict(call.kwargs)))
    made(*args, **kwargs)
    _keras.become(new, made)


def _is_resized(part, calls, sizes):
    """Whether an operation without weights, such as a reshape, is called on other sizes."""
    return any(
        sizes.of_tensor(tensor) != tensor.shape
        for call in calls[id(part)]
        for tensor in (*call.inputs, *call.outputs)
    )


def _resize_weights(part, new, sizes):
    """Gives the weights that a layer holds itself their new shapes."""
    for ours, theirs in _keras.own_variable_pairs(part, new):
        shape = sizes.of_weight(ours)
        if shape != tuple(ours.shape):
            _keras.resize_variable(theirs, np.zeros(shape, "float32"))


MOST_CHOICES = 64
"""How many choices of attributes are tried."""


def settle_numbers(opened, before, new, sizes, known):
    """Sets the attributes of a resized layer that are sizes, so that it computes the same.

    Of several choices, one with which the layer's config makes the new sizes is preferred.

    Args:
        opened: A `Call` of the layer before.
        before: The layer, in which the weights of what is removed are 0.
        new: The resized layer, with its weights.
        sizes: The `Sizes` after the change.
        known: Choices that were right for layers of the same classes, by their keys, added to.

    Returns:
        Whether any choice is right; None if the layer runs with none.
    """
    options = _options(opened.operation, new, sizes)
    tried = []
    for static_sizes in (*any_size.STATIC_SIZES, any_size.OTHER_SIZES):
        inputs, kept = _examples(opened, sizes, static_sizes)
        expected = _outputs_or_none(before, opened, inputs)
        if expected is not None:
            wanted = [
                array if counts is None else np.repeat(array, counts[1], counts[0])
                for array, counts in zip(
                    expected, map(_unit_counts(sizes), opened.outputs), strict=True
                )
            ]
            tried.append((kept, wanted))
    if not tried:
        return None
    key = type(opened.operation), tuple(sorted((p, str(o)) for p, o in options.items()))
    choices = itertools.islice(_choices(options), MOST_CHOICES)
    right = running = None
    for choice in [*known.get(key, []), *choices]:
        _set(new, choice)
        results = [(_outputs_or_none(new, opened, kept), wanted) for kept, wanted in tried]
        if any(found is None or _shapes(found) != _shapes(wanted) for found, wanted in results):
            continue
        running = choice if running is None else running
        pairs = [pair for result in results for pair in zip(*result, strict=True)]
        if all(np.allclose(*pair, 1e-3, 1e-5) for pair in pairs):
            right = choice if right is None else right
            if _keras.config_fits(new, _arguments(opened, tried[0][0])):
                right = choice
                break
    if running is None:
        return None
    chosen = running if right is None else right
    known.setdefault(key, []).append(chosen)
    _set(new, chosen)
    return right is not None


def _shapes(arrays):
    return [array.shape for array in arrays]


def _set(layer, numbers):
    for place, number in numbers.items():
        _keras.set_number(layer, place, number)


def _options(layer, new, sizes):
    """The numbers among the attributes that may be sizes which changed, each with what it may be.

    Returns:
        A dict from a place, see `_keras.whole_numbers`, to the number before and a list of numbers,
        the new sizes first.
    """
    parts = list(zip(_keras.all_layers(layer), _keras.all_layers(new), strict=True))
    of_tensors = _changed_in_calls(layer, sizes)
    changed = [{**of_tensors, **_changed(ours, sizes)} for ours, _ in parts]
    return {
        place: (number, [*changed[place[0]][number], number])
        for place, number in _keras.whole_numbers(new).items()
        if number in changed[place[0]] and not _keras.is_stock(type(parts[place[0]][1]))
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


def _choices(options):
    """Choices of a number for each place: all new, all as before, then those that differ little."""
    new = {place: values[0] for place, (_, values) in options.items()}
    old = {place: number for place, (number, _) in options.items()}
    seen = []
    for count in range(len(options) + 1):
        for start in (new, old):
            for places in itertools.combinations(options, count):
                for values in itertools.product(*(options[place][1] for place in places)):
                    choice = {**start, **dict(zip(places, values, strict=True))}
                    if choice not in seen:
                        seen.append(choice)
                        yield choice


def _unit_counts(sizes):
    """Function of a tensor that returns its unit axis and the counts along it, or None."""

    def found(tensor):
        shape = sizes.coupling.tensor_labels[tensor].shape
        axis = next((axis for axis, size in enumerate(shape, 1) if size != 1), None)
        return None if axis is None else (axis, sizes.counts_along(tensor, axis - 1))

    return found


def _examples(opened, sizes, static_sizes):
    """Random arrays for the tensors that a layer takes: those of the old layer and of the new."""
    draw, before, after = np.random.default_rng(0), {}, {}
    for tensor in keras.tree.flatten([list(opened.args), opened.kwargs]):
        if not isinstance(tensor, Tensor):
            continue
        shape = any_size.with_size(tensor, static_sizes).shape
        is_float = keras.backend.is_float_dtype(tensor.dtype)
        value = draw.normal(size=shape) if is_float else draw.integers(0, 2, shape)
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


def _run(layer, opened, values):
    args, kwargs = _arguments(opened, values)
    outputs = keras.tree.flatten(layer(*args, **kwargs))
    return [np.asarray(keras.ops.cast(output, "float64")) for output in outputs]


def _outputs_or_none(new, opened, values):
    try:
        return _run(new, opened, values)
    except Exception:  # the layer's own code may fail in any way
        return None
