"""Copies weights, masks, class and compile state from a model to one that was made of it."""

import warnings

import keras
import numpy as np

from tfprune import _keras
from tfprune.rebuild.unit_measures import carry_measures


def _unchanged(_, array, *__):
    return array


def copy_weights(old, new, take=_unchanged, take_mask=_unchanged, pairs=None):
    """Copies every variable and mask from a model to one that `rebuilt` made of it.

    Args:
        old: The model.
        new: The model that `rebuilt` made of it.
        take: Function of an old variable, its value, and its counterpart in the new model; returns
            the new value.
        take_mask: The same for each mask of a variable; its counterpart is an array.
        pairs: Pairs of an old variable and its counterpart; by default all that there are.
    """
    pairs = list(_keras.variable_pairs(old, new) if pairs is None else pairs)
    in_use = _statistics_in_use(old)
    for ours, theirs in pairs:
        value = in_use.get(id(ours), _keras.values(ours))
        new_value = take(ours, value, theirs)
        # Unchanged values are shared until one of the two models is written to.
        is_shared = new_value is value and id(ours) not in in_use
        theirs.assign(_keras.raw(ours) if is_shared else new_value)
    for theirs in _keras.all_layers(new):
        if isinstance(theirs, keras.layers.Normalization) and theirs.built:
            theirs.finalize_state()  # it computes with a copy of what it learned
    fresh_masks = _masks_by_weight(new)
    counterparts = {id(ours): id(theirs) for ours, theirs in pairs}
    for weight, mask in _masks_by_weight(old).items():
        fresh = fresh_masks.get(counterparts.get(weight))
        if fresh is None:
            continue
        both = ((mask.trainable, fresh.trainable), (mask.frozen, fresh.frozen))
        values = [[keras.ops.convert_to_numpy(v) for v in pair] for pair in both]
        fresh.set(*(take_mask(mask.weight, *pair) for pair in values))
        fresh.rewired.assign(_keras.raw(mask.rewired))
        fresh.quantizer = mask.quantizer
        fresh.first_step.assign(_keras.raw(mask.first_step))
        if mask.sums is not None:
            zeros = np.zeros(tuple(fresh.weight.shape), mask.sums.dtype)
            fresh.sums = take_mask(mask.weight, mask.sums, zeros)
    carry_measures(old, new, take_mask)


def _statistics_in_use(model):
    """What layers of Keras compute with where that is not what their weights hold, by weight.

    A `Normalization` computes with what its weights held when `finalize_state` was called last.
    """
    found = {}
    for layer in _keras.all_layers(model):
        if isinstance(layer, keras.layers.Normalization) and layer.built:
            for weight, used in zip(layer.weights, (layer.mean, layer.variance), strict=False):
                now = keras.ops.reshape(keras.ops.cast(weight, used.dtype), used.shape)
                if not np.array_equal(now, used):
                    found[id(weight)] = np.reshape(used, weight.shape).astype(weight.dtype)
    return found


def _masks_by_weight(model):
    return {
        id(mask.weight): mask
        for layer in _keras.all_layers(model)
        for mask in (getattr(layer, "masks_by_name", None) or {}).values()
    }


def take_class(old, new):
    """Makes `new` one of the class of `old`, if that trains, evaluates or predicts in its own way.

    Returns:
        False if it should be and cannot; then a warning says so.
    """
    if type(new) is type(old) or _keras.functional(old) is None or not _keras.has_own_steps(old):
        return True
    if _keras.take_class(old, new):
        return True
    warnings.warn(
        f"The new model is a plain {type(new).__name__} model and not compiled, because "
        f"{type(old).__name__!r}, the class of {old.name!r}, has steps or a loss of its own, and "
        "attributes with layers that the new model lacks. `custom_layers='keep'` of `strip` keeps "
        "more of them.",
        stacklevel=4,
    )
    return False


def copy_compile_state(old, new, take=_unchanged, pairs=None):
    """Compiles `new` as `old` is compiled, with a copy of its optimizer and its state.

    If `old` is of a class with a `train_step` or other steps of its own, `new` becomes one of it.
    Where it cannot, it stays plain and is not compiled, and a warning says so.

    Args:
        old: The model; if it is not compiled, nothing else happens.
        new: The model that `rebuilt` made of it.
        take: Function of an old weight, the value of one of its slots, the slot's counterpart and
            its name; returns the new value.
        pairs: As in `copy_weights`.
    """
    if not take_class(old, new):
        return
    arguments = _keras.compile_arguments(old)
    if not arguments:
        return
    optimizer = old.optimizer
    if optimizer is not None:
        optimizer = type(optimizer).from_config(optimizer.get_config())
    metrics = {
        key: keras.tree.map_structure(copied_metric, arguments[key])
        for key in ("metrics", "weighted_metrics")
    }
    # What a `compile` of the class itself does is among the attributes.
    keras.Model.compile(new, **{**arguments, **metrics, "optimizer": optimizer})
    if optimizer is not None and old.optimizer.built:
        optimizer.build(new.trainable_variables)
        _keras.copy_optimizer_state(
            old.optimizer,
            optimizer,
            list(_keras.variable_pairs(old, new) if pairs is None else pairs),
            take,
        )


def copied_metric(metric):
    """Returns a metric with its state reset; a name as it is."""
    if isinstance(metric, keras.metrics.Metric):
        return type(metric).from_config(metric.get_config())
    return metric
