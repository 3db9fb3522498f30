"""Whole numbers among the attributes of a resized layer: which are sizes that have to follow.

That is found by running the layer, first with the new size in the place of every number that
equals an old one. As long as it fails or computes something else, numbers are set back, those that
have one name in all layers inside together, where with them it comes further in its code.
"""

import itertools

from tfprune import _keras
from tfprune.coupling.attribute_trials import (
    DECIMALS,
    MOST_CHOICES,
    RIGHT,
    WRONG,
    Trials,
    set_numbers,
)
from tfprune.coupling.rules import has_rule


def settle_numbers(call, before, new, sizes, known=None):
    """Sets the attributes of a resized layer that are sizes, so that it computes the same.

    Args:
        call: A `Call` of the layer before.
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
    options = _options(call.operation, new, sizes)
    trials = Trials(call, before, new, sizes)
    if not trials.examples:
        raise DoesNotRunError
    key = type(call.operation), tuple(sorted((p, str(o)) for p, o in options.items()))
    for choice in (known or {}).get(key, []):
        if trials.reached(choice)[0] == RIGHT:
            set_numbers(new, choice)
            return True
    changes = _changes(options)
    # Values of new units come later.
    enough = (WRONG,) if sizes.kept_units.grown else (RIGHT, DECIMALS)
    choice, reached = _best(options, changes, trials, enough)
    if reached < enough[:1] and trials.says_wrong and _keras.let_infer_shapes(new):
        trials.forget()
        choice, reached = _best(options, changes, trials, enough)
        if reached < enough[:1]:
            _keras.let_say_shapes(new)
    if reached[0] == RIGHT and known is not None:
        choice = _said_by_config(choice, changes, trials)
        known.setdefault(key, []).append(choice)
    set_numbers(new, choice)
    if reached[0] == 0:
        raise DoesNotRunError(trials.failed)
    return reached[0] == RIGHT


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
    before, after = map(_keras.float_numbers, (trials.call.operation, trials.new))
    is_rescaled = any(before[place] != after[place] for place in before.keys() & after.keys())
    trials.most, seen = MOST_CHOICES, {trials.config(choice)}
    if seen == {None} or trials.is_said_by_config(choice) or is_rescaled:
        return choice  # what was rescaled, such as the epsilon of a norm inside, none of them says
    for change in changes:
        other = {**choice, **change}
        config = trials.config(other)
        if config not in seen and trials.reached(other)[0] == RIGHT:
            seen.add(config)
            if trials.is_said_by_config(other):
                return other
    return choice


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
