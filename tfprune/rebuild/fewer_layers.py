"""A model of the model's own class with fewer layers, made from its config."""

import itertools

from tfprune.rebuild import copied_state
from tfprune.rebuild.config_numbers import MOST_TRIED, ConfigNumbers, weights_in_order
from tfprune.rebuild.same_class import copy_training_state


def models_with_fewer_layers(model, gone, places, depth):
    """Builds models of the same class that lack some of the layers.

    Which number in the config is the depth is found: with another, the class makes another number
    of weights. Lists in the config which have an entry for each layer are shortened.

    Args:
        model: The model, of a class with a config.
        gone: The ids of the weights that go, of layers as a whole.
        places: The places of the layers that go, among all layers of their kind.
        depth: The number of these.

    Yields:
        New models with the weights that are left. Nothing is known of what a class makes of the
        place of a layer, so that they compute what they should is to be checked.

    Raises:
        ValueError: If no numbers in the config make these weights.
    """
    numbers, weights = ConfigNumbers(model), weights_in_order(model)
    kept = [weight for weight in weights if id(weight) not in gone]
    shapes, is_found = [tuple(weight.shape) for weight in kept], False
    for lists in _shortened(numbers, places, depth):
        found = _matching(numbers, shapes, len(places), lists)
        if found is None:
            continue
        is_found, new = True, numbers.make(found, {})
        pairs = list(zip(kept, weights_in_order(new), strict=True))
        copied_state.copy_weights(model, new, pairs=pairs)
        copy_training_state(model, new, pairs)
        yield new
    if not is_found:
        numbers.refuse("no numbers in its config make the layers that stay, and no others")


def _shortened(numbers, places, depth):
    """The lists of an entry for each layer without those of some: all of them, one, or none."""
    found = {
        (place,): [entry for index, entry in enumerate(entries) if index not in places]
        for place, entries in numbers.lists(depth)
    }
    return [*([found] if len(found) > 1 else []), *({p: each} for p, each in found.items()), {}]


def _matching(numbers, shapes, removed, lists):
    """The numbers that make weights of these shapes, along with lists; None if none do."""
    depths = {
        place: [number - less for less in range(min(removed + 1, number))]
        for place, number in numbers.before.items()
        if _is_depth(numbers, place, number, lists)
    }
    tried = itertools.product(*depths.values())
    for values in itertools.islice(tried, 1, MOST_TRIED):
        found = {**dict(zip(depths, values, strict=True)), **lists}
        if numbers.shapes(found) == shapes:
            return found
    return None


def _is_depth(numbers, place, number, lists):
    found = numbers.shapes({place: number - 1, **lists})
    return found is not None and len(found) != len(numbers.shapes_before)
