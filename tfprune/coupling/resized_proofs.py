"""Proofs that layers which stay what they are can be resized in place.

Half of the units that may go are removed from a copy of the layer, and another copy in which they
are masked must compute the same. Where the code of a layer has a size in it as a number, for
instance, that fails.
"""

import inspect

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.groups import equalize_groups
from tfprune.coupling.index_maps import gathered, kept_index_maps
from tfprune.coupling.kept_units import keeping
from tfprune.coupling.layer_runs import own_class
from tfprune.coupling.resizing import resize_in_place, resized_config
from tfprune.coupling.size_attributes import DoesNotRunError, settle_numbers
from tfprune.coupling.sizes import Sizes, scale_factors
from tfprune.masks.in_place import mask_in_place, unmask

_MOST = 256
_proven = {}


def not_resizable(coupling, closed=None):
    """The layers that were inlined to be resized in place, and cannot be.

    Of one around others it is told of these, where any of them cannot be resized by itself.

    Args:
        coupling: A `Coupling`.
        closed: If given, the ids of layers that are not inlined; then those inside are told whose
            code fails in one around them, but for these.

    Returns:
        A dict from the id of a layer to the reason.
    """
    trace = coupling.trace
    if not trace.in_place:
        return {}
    sizes = Sizes(keeping(coupling, _half(coupling)))
    maps = kept_index_maps(sizes.kept_units)
    first_calls = [calls[0] for calls in trace.inlined.values()]

    def failures(calls):
        found = {}
        for call in calls:
            reason, part = _proven_failure(call, sizes, maps)
            if reason is not None:
                layer = call.operation
                inside = failures([each for each in first_calls if _is_in(each, layer)])
                if not inside and closed is not None and part is not None:
                    part = _keras.all_layers(layer)[part]
                    layer = layer if id(part) in closed else part
                name, kind = layer.name, own_class(layer).__name__
                found.update(inside or {id(layer): f"{name!r} ({kind}) {reason}"})
        return found

    return failures(trace.in_place.values())


def _is_in(call, layer):
    return any(parent is layer for parent in call.parents)


def _proven_failure(call, sizes, maps):
    """The same as `_failure`; each case is tried once."""
    key = _key(call, sizes)
    if key not in _proven:
        if len(_proven) >= _MOST:
            _proven.pop(next(iter(_proven)))
        _proven[key] = _failure(call, sizes, maps)
    return _proven[key]


def _half(coupling):
    """Units to keep: at least every second one of each set, and as many as groups need."""
    needed = np.ones(coupling.size, bool)
    for unit_set in coupling.sets:
        free = [
            unit
            for unit, reason in zip(unit_set.units.tolist(), unit_set.pinned, strict=True)
            if reason is None
        ]
        needed[free[1::2]] = False
    while equalize_groups(coupling.groupings, coupling.roots, needed, last=()):
        pass
    return needed


def _key(call, sizes):
    """What decides whether a layer can be resized: classes, functions, attributes and shapes."""
    layer, of_all = call.operation, vars(keras.layers.Layer())  # these wrap `build` on each object
    parts = _keras.all_layers(layer)
    functions = [
        value if value.__closure__ or value.__defaults__ else value.__code__
        for part in parts
        for name, value in sorted(vars(part).items())
        if inspect.isfunction(value) and name not in of_all
    ]
    return (
        tuple((own_class(part), part.compute_dtype) for part in parts),
        tuple(functions),
        tuple(_keras.plain_attributes(layer).items()),
        tuple(_keras.whole_numbers(layer).items()),
        tuple((tuple(w.shape), sizes.of_weight(w)) for w in layer.weights),
        tuple((tensor.shape, sizes.of_tensor(tensor)) for tensor in call.inputs),
    )


def _failure(call, sizes, maps):
    """Why a layer cannot be resized in place, or None; and the number of the one inside, or None.

    That is the layer of a user's class in whose code the resized layer fails, whatever its numbers.
    """
    layer, calls = call.operation, sizes.coupling.trace.calls_of
    masked, copy = (unmask(_keras.copied_objects(layer)[0][1]) for _ in range(2))
    for part in _keras.all_layers(masked):
        mask_in_place(part)
    _prune(layer, masked, sizes)
    factors = scale_factors(sizes.kept_units)

    def edited(config, part):
        return resized_config(config, part, sizes)

    try:
        resize_in_place(layer, copy, edited, calls, sizes)
        values = [_keras.values(variable) for _, variable in _keras.variable_pairs(layer, masked)]
        for value, (ours, new) in zip(values, _keras.variable_pairs(layer, copy), strict=True):
            factor, summand = factors.get(id(ours), (1, 0))
            new.assign(gathered(value * factor + summand, maps.get(id(ours), {}), None))
        is_right = settle_numbers(call, masked, copy, sizes)
    except DoesNotRunError as error:
        return str(error), error.part
    except Exception as error:  # the layer's own code may fail in any way
        return f"cannot be resized in place: {type(error).__name__}: {str(error)[:200]}", None
    return (None if is_right else "computes something else when it is resized in place"), None


def _prune(layer, masked, sizes):
    """Masks the units that are removed in a copy of a layer."""
    masks = {
        id(mask.weight): mask
        for part in _keras.all_layers(masked)
        for mask in (getattr(part, "masks_by_name", None) or {}).values()
    }
    for ours, weight in _keras.variable_pairs(layer, masked):
        kept = np.ones(ours.shape, bool)
        for piece in sizes.coupling.slices:
            if piece.variable is ours:
                kept &= piece.broadcast(sizes.counts(piece.labels)) > 0
        if id(weight) in masks and not kept.all():
            mask = masks[id(weight)]
            mask.set(kept & np.asarray(mask.trainable), np.asarray(mask.frozen))
