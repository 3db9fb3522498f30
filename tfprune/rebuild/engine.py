"""Rebuilds a model from its kept units: edited config, gathered weights and optimizer slots.

The sizes are edited in the model's config, and Keras deserializes it. So names, shared layers and
nested models stay as they are, and the given model is not changed.
"""

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.analysis import couple
from tfprune.coupling.index_maps import kept_index_maps, matched_index_maps
from tfprune.coupling.kept_units import NEW
from tfprune.coupling.labels import placed
from tfprune.coupling.resizing import resize_in_place, settle_numbers
from tfprune.coupling.rules import rule_of
from tfprune.coupling.rules.own_weights import has_own_weights
from tfprune.coupling.sizes import Sizes, scale_factors
from tfprune.layers.masked import Masked
from tfprune.masks.in_place import InPlace, mask_in_place, note_masks_inside, unmask
from tfprune.rebuild import convert
from tfprune.rebuild.copying import copy_model
from tfprune.rebuild.resized_copies import ResizedCopies


def rebuild(model, kept_units, folds=None, dropped=None, *, growth=None, stock=True):
    """Returns a new model with the kept units only, by default made of stock layers.

    Weights, masks and optimizer slots are gathered, and the compile state is copied. Elements of
    new units are as the layers' initializers and the optimizer make them. The given model is not
    changed.

    Args:
        model: A Functional or built Sequential model.
        kept_units: The units of the new model, from `tfprune.coupling.select` or `keeping`.
        folds: Dict from the id of an operation to a list of `tfprune.coupling.rules.base.Fold`:
            constants that are added to its biases first.
        dropped: Dict from a `Call` to the positions of the inputs that are dropped.
        growth: Sets the weights of new units: an object with a method `taken(variable,
            value, indices, counterpart)` which returns the new value, given the old one and the old
            indices along each axis that changes. By default what the initializers made.
        stock: Whether layers that carry masks become stock layers; otherwise their masks are kept.

    Returns:
        The new model.

    Raises:
        ValueError: If no model can have these units.

    Example:

    >>> import keras
    >>> from tfprune.coupling import couple, select
    >>> model = keras.Sequential([
    ...     keras.Input((3,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(2)])
    >>> kept_units = select(couple(model), {model.get_layer("hidden"): [1, 3, -1]})
    >>> rebuild(model, kept_units).get_layer("hidden").kernel.shape  # one new unit
    TensorShape([3, 3])
    """
    folds, sizes, calls = folds or {}, Sizes(kept_units), kept_units.coupling.trace.calls_of
    added, factors, known = added_constants(folds), scale_factors(kept_units), {}
    indices = {} if kept_units.grown else kept_index_maps(kept_units)
    opened = kept_units.coupling.trace.in_place
    if not stock:
        refuse_summands(kept_units)

    def changed(variable, value):
        new = value
        if id(variable) in added:
            new = new + added[id(variable)]
        if id(variable) in factors:
            factor, summand = factors[id(variable)]
            new = new * factor + summand
        return new.astype(value.dtype, copy=False)

    def kept_value(variable):
        value = _keras.values(variable)
        new = gathered(changed(variable, value), indices.get(id(variable), {}), None)
        return None if new is value else new

    def take(variable, value, counterpart):
        new_value, chosen = changed(variable, value), indices.get(id(variable), {})
        if growth is not None:
            new_value = growth.new_value(variable, new_value, chosen, counterpart)
        else:
            new_value = gathered(new_value, chosen, counterpart)
        return _checked(variable, new_value.astype(value.dtype, copy=False), counterpart)

    def edited(config, operation):
        config = convert.to_stock(config) if stock else config
        return _resized(config, operation, calls, sizes, folds)

    def resize_opened(layer, copy):
        resize_in_place(
            layer, copy, edited, lambda part: convert.rebuilt(part, edited), calls, sizes
        )
        if not kept_units.grown:
            for ours, theirs in _keras.variable_pairs(layer, copy):
                theirs.assign(take(ours, _keras.values(ours), theirs))
            _fill_new_biases(layer, copy, kept_units, folds)
        settle_numbers(opened[id(layer)], layer, copy, sizes, known)

    resized = None
    if id(model) not in opened and stock and growth is None and not kept_units.grown:
        operations = list(convert.graph_operations(model))
        resized = ResizedCopies(model, operations, calls, sizes, kept_value, folds)
    inside = {
        key: resize
        for call in kept_units.coupling.trace.calls
        for key, resize in rule_of(call.operation).in_place(call).items()
    }

    def resize_kept(layer, copy):
        if resized is not None and resized.takes(layer):
            resized.resize(layer, copy)
            return
        is_opened, is_inside = id(layer) in opened, id(layer) in inside
        is_kept = id(layer) in calls and has_own_weights(layer)
        if not (is_opened or is_inside or is_kept):
            return
        parts = _keras.all_layers(copy)
        masked = [part for part in parts if isinstance(part, Masked) and part.carries_masks]
        noting = [part for part in parts if isinstance(part, InPlace)]
        if is_opened:
            resize_opened(layer, unmask(copy))
        elif is_inside:
            inside[id(layer)](unmask(copy), sizes)
        else:
            rule_of(layer).resize_in_place(unmask(copy), calls[id(layer)][0], sizes)
        for part in masked:
            mask_in_place(part)
        for part in noting:
            note_masks_inside(part)

    if id(model) in opened:
        new = copy_model(model).model
        resize_kept(model, unmask(new) if stock else new)
    else:
        new = convert.rebuilt(
            model,
            edited,
            {_key(call): positions for call, positions in (dropped or {}).items()},
            resize_kept=resize_kept,
            resized=resized,
            initialize=kept_units.grown,
            **({"keep": unmask} if stock else {}),
        )
        if stock:
            convert.unmask_inside(new)
    pairs = list(_keras.variable_pairs(model, new))
    if kept_units.grown:
        indices.update(matched_index_maps(kept_units, couple(new), pairs))

    def take_mask(variable, value, counterpart):
        return gathered(value, indices.get(id(variable), {}), counterpart)

    def take_slot(variable, value, counterpart, name):
        chosen = indices.get(id(variable), {})
        return gathered_slot(variable, value, chosen, counterpart, name)

    missing = [pair for pair in pairs if resized is None or not resized.is_done(pair[1])]
    convert.copy_weights(model, new, take, take_mask, missing)
    _fill_new_biases(model, new, kept_units, folds)
    if id(model) in opened and not _keras.has_stock_compile(model):
        _keras.renew_optimizers(new)
    else:
        convert.copy_compile_state(model, new, take_slot, pairs)
    return new


def _resized(config, operation, calls, sizes, folds):
    """A serialised operation with the new sizes in its arguments and in those of its calls."""
    coupling = sizes.coupling
    if id(operation) in coupling.trace.entries:
        given = sizes.of_tensor(coupling.trace.entries[id(operation)][0])
        pairs = zip(config["config"]["batch_shape"], given, strict=True)
        shape = [size if size is None else new for size, new in pairs]  # it may be called on others
        return {**config, "config": {**config["config"], "batch_shape": shape}}
    if id(operation) not in calls:
        return config
    rule, arguments = rule_of(operation), dict(config["config"])
    rule.resize(arguments, calls[id(operation)][0], sizes)
    if any(fold.layer.bias is None for fold in folds.get(id(operation), [])):
        rule.add_bias(arguments, calls[id(operation)][0])
    config = {**config, "config": arguments}
    # A model that is called twice has its operations called twice, at the same node index.
    by_node = {call.node_index: call for call in reversed(calls[id(operation)])}
    for index, call in by_node.items() if "inbound_nodes" in config else ():
        rule.rewrite(config["inbound_nodes"][index], call, sizes)
    return config


def added_constants(folds):
    """Returns for biases, by id, the folded constants; under `id(None)` those of missing biases."""
    return {id(fold.layer.bias): fold.values for each in folds.values() for fold in each}


def refuse_summands(kept_units):
    """Refuses to keep masks that hold elements at 0 which a smaller operation adds something to."""
    for call in kept_units.coupling.trace.calls:
        for variable, _, *summand in rule_of(call.operation).factors(call, Sizes(kept_units)):
            if any(summand):
                _refuse_pruned(variable, call.operation, kept_units)


def _refuse_pruned(variable, layer, kept_units):
    is_pruned = ~_keras.live_elements(variable).numpy() & (_keras.values(variable) == 0)
    indices = kept_index_maps(kept_units).get(id(variable), {})
    if gathered(is_pruned, indices, None).any():
        raise ValueError(
            "Cannot resize a layer with its masks, because elements that are 0 would have another "
            "value in the smaller layer. "
            f"Received: layer={layer.name!r}, weight={variable.path!r}. Set the masks of this "
            "weight with `tfprune.set_masks(model, layer, weight, trainable=True)`, or use "
            "`tfprune.strip`, which leaves no masks."
        )


def _key(call):
    return (*(parent.name for parent in call.parents), call.operation.name, call.node_index)


def gathered(value, indices_by_axis, counterpart):
    """Returns an array gathered by its index maps, with new positions from its counterpart.

    Args:
        value: The array.
        indices_by_axis: Dict from each axis that changes to the old indices, `NEW` for new ones;
            those that differ along other axes too come last.
        counterpart: The variable of the new model, or an array.
    """
    is_new = np.zeros((1,) * value.ndim, bool)
    for axis, indices in indices_by_axis.items():
        if indices.ndim > 1:
            value = np.take_along_axis(value, indices, axis)
        else:
            value = np.take(value, indices, axis)
        is_new = is_new | new_positions(indices, axis, value.ndim)
    if is_new.any():
        if isinstance(counterpart, keras.Variable):
            counterpart = keras.ops.convert_to_numpy(_keras.raw(counterpart))
        value = np.where(is_new, counterpart, value)
    return value


def _checked(variable, value, counterpart):
    if tuple(value.shape) != tuple(counterpart.shape):
        raise ValueError(
            "A weight does not fit the new model, because its layer does not tell which units "
            f"stand where in it. Received: weight={variable.path!r}, shape={tuple(value.shape)}, "
            f"where {tuple(counterpart.shape)} is needed. Leave the units before it as they are."
        )
    return value


def gathered_slot(variable, value, indices_by_axis, counterpart, name):
    """Returns an optimizer slot gathered by its weight's index maps; it may lack some axes.

    Args:
        variable: The old weight.
        value, counterpart: The slot's, as in `gathered`.
        indices_by_axis: Those of the weight.
        name: The name of the slot's list in the optimizer.
    """
    axes = _slot_axes(name, len(variable.shape), value.ndim)
    chosen = {
        axes.index(a): _without_axes(axes, i) for a, i in indices_by_axis.items() if a in axes
    }
    return gathered(value, chosen, counterpart)


def new_positions(indices, axis, rank):
    """Returns where the indices along an axis are `NEW`, as a boolean array of a rank."""
    is_new = indices == NEW
    return is_new if indices.ndim > 1 else placed(is_new, axis, rank)


def _without_axes(axes, indices):
    """Indices for a slot that lacks axes of its weight: those at the first index of these axes."""
    if indices.ndim == 1:
        return indices
    lacking = tuple(axis for axis in range(indices.ndim) if axis not in axes)
    return np.take(indices, 0, axis=lacking[0]) if lacking else indices


def _slot_axes(name, weight_rank, slot_rank):
    """The axes of the weight that a slot has; Adafactor's factors `r` and `c` lack one each."""
    axes = list(range(weight_rank))
    if slot_rank == weight_rank:
        return axes
    if 0 < slot_rank == weight_rank - 1:
        axes.pop(-1 if name == "_r" else -2)
        return axes
    return []


def _fill_new_biases(model, new, kept_units, folds):
    """Assigns the folded constants, or zeros, to biases that only the new model has."""
    made = {id(f.layer): f for each in folds.values() for f in each if f.layer.bias is None}
    for ours, theirs in _keras.layer_pairs(model, new) if made else ():
        if id(ours) not in made:
            is_new = getattr(ours, "bias", ours) is None and theirs.bias is not None
            if is_new:  # as in one of two directions
                theirs.bias.assign(np.zeros(theirs.bias.shape))
        else:
            value = made[id(ours)].values
            for axis, labels in enumerate(made[id(ours)].labels):
                stays = kept_units.counts[kept_units.coupling.roots[labels]] > 0
                value = np.compress(stays, value, axis)
            theirs.bias.assign(value)
