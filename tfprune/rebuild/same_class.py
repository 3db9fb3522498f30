"""A smaller model of the model's own class, made from its config with smaller numbers.

Its config, its caches and its presets then say the sizes that it has, which is what a model that
was resized in place lacks.
"""

import inspect

import keras

from tfprune import _keras
from tfprune.coupling.sizes import Sizes
from tfprune.rebuild import copied_state
from tfprune.rebuild.config_numbers import ConfigNumbers, weights_in_order
from tfprune.rebuild.new_values import NewValues


def rebuild_same_class(model, kept_units, folds, floats=None):
    """Builds the model of the same class that keeps some of the units.

    Args:
        model: The model, of a class with a config.
        kept_units: The `KeptUnits`, of the model with its composite layers as they are.
        folds: As in `tfprune.rebuild.engine.rebuild`. No bias can be added.
        floats: A dict from floating-point numbers in the config to what takes their place, as the
            epsilon of norms over fewer units.

    Returns:
        The new model.

    Raises:
        ValueError: If no numbers in the config make these sizes.
    """
    _refuse_new_biases(model, folds)
    numbers, sizes = ConfigNumbers(model), Sizes(kept_units)
    weights = weights_in_order(model)
    found = numbers.matching([sizes.of_weight(weight) for weight in weights])
    changed = {
        place: floats[value] for place, value in numbers.floats.items() if value in (floats or {})
    }
    new = numbers.make(found, changed)
    pairs = list(zip(weights, weights_in_order(new), strict=True))
    values = NewValues(kept_units, folds, None)
    copied_state.copy_weights(model, new, values.weight, values.mask, pairs)
    copy_training_state(model, new, pairs, values.slot)
    return new


def copy_training_state(model, new, pairs, *take):
    """Lets a model of the same class train as `model` does: the same weights, compiled alike.

    What the class's own `compile` takes besides Keras's, as a sampler, goes along.

    Args:
        model: The model.
        new: The one of the same class.
        pairs: Pairs of a weight and its counterpart.
        *take: As in `tfprune.rebuild.copied_state.copy_compile_state`.
    """
    ours, theirs = _owners(model), _owners(new)
    for weight, counterpart in pairs:
        theirs[id(counterpart)].trainable = ours[id(weight)].trainable
    copied_state.copy_compile_state(model, new, *take, pairs=pairs)
    for name in _compiled_with(model):
        setattr(new, name, getattr(model, name))


def _owners(model):
    """The layer that holds each weight itself, by the weight's id."""
    return {
        id(variable): layer
        for layer in _keras.all_layers(model)
        for variable in _keras.own_variables(layer)
    }


def _compiled_with(model):
    """The attributes that the `compile` of the model's class sets besides Keras's, as a sampler."""
    own = inspect.signature(type(model).compile).parameters
    known = inspect.signature(keras.Model.compile).parameters
    return [name for name in own if name not in known and name in vars(model)]


def _refuse_new_biases(model, folds):
    without = [f.layer.name for each in folds.values() for f in each if f.layer.bias is None]
    if without:
        raise ValueError(
            "What some units always hold would have to be added to biases that a layer does not "
            f"have, so the class cannot make the smaller model. Received: model={model.name!r} "
            f"({type(model).__name__}), layers={without}. Strip without `same_class=True`."
        )


def rescaled_floats(model, small):
    """The floating-point numbers among the attributes of layers that others took the place of.

    Args:
        model: The model.
        small: The smaller model, resized in place.

    Returns:
        A dict from each number to what took its place in the most layers.
    """
    found = {}
    for ours, theirs in _keras.layer_pairs(model, small):
        before, after = (_keras.float_numbers(layer) for layer in (ours, theirs))
        for place, value in before.items():
            if place[0] == 0 and after.get(place, value) != value:
                counts = found.setdefault(value, {})
                counts[after[place]] = counts.get(after[place], 0) + 1
    return {value: max(counts, key=counts.get) for value, counts in found.items()}
