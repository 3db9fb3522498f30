"""Rebuilds a model from its kept units: edited config, gathered weights and optimizer slots.

The sizes are edited in the model's config, and Keras deserializes it. So names, shared layers and
nested models stay as they are, and the given model is not changed.
"""

import numpy as np

from tfprune import _keras
from tfprune.coupling.analysis import couple
from tfprune.coupling.resizing import resize_in_place, resized_config
from tfprune.coupling.rules import rule_of
from tfprune.coupling.rules.custom_weights import has_own_weights
from tfprune.coupling.size_attributes import DoesNotRunError, settle_numbers
from tfprune.coupling.sizes import Sizes
from tfprune.layers.masked import Masked
from tfprune.masks.in_place import InPlace, mask_in_place, note_masks_inside, unmask
from tfprune.rebuild import convert, copied_state
from tfprune.rebuild.copying import copy_model
from tfprune.rebuild.new_values import NewValues, refuse_summands
from tfprune.rebuild.resized_copies import ResizedCopies
from tfprune.rebuild.unchanged_copies import UnchangedCopies


def rebuild(model, kept_units, folds=None, dropped=None, *, growth=None, joins=None, stock=True):
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
        joins: Changes the inputs of concatenations: an object with the methods `restructured`, as
            `restructure` of `convert.rebuilt`, and `matched(new, kept_units)`, which returns the
            `Coupling` of the new model and the `made` of `matched_index_maps`.
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
    folds = folds or {}
    values, sizes = NewValues(kept_units, folds, growth), Sizes(kept_units)
    if not stock:
        refuse_summands(kept_units)
    resizing = _Resizing(model, values, sizes, folds, stock, joins)
    if id(model) in sizes.coupling.trace.in_place:
        new = copy_model(model).model
        resizing.resize(model, unmask(new) if stock else new)
    else:
        new = convert.rebuilt(
            model,
            resizing.edited,
            {_key(call): positions for call, positions in (dropped or {}).items()},
            None if joins is None else joins.restructured,
            resize_kept=resizing.resize,
            copies=resizing.copies,
            empty=_empty_pieces(sizes) if stock and not kept_units.grown else None,
            initialize=kept_units.grown,
            **({"keep": unmask} if stock else {}),
        )
        if stock:
            convert.unmask_inside(new)
    pairs = list(_keras.variable_pairs(model, new))
    if kept_units.grown:
        coupling, made = (couple(new), ()) if joins is None else joins.matched(new, kept_units)
        values.match(coupling, pairs, made)
    missing = [pair for pair in pairs if not resizing.is_done(pair[1])]
    copied_state.copy_weights(model, new, values.weight, values.mask, missing)
    _fill_new_biases(model, new, kept_units, folds)
    if _keras.functional(model) is None and not _keras.has_stock_compile(model):
        _keras.renew_optimizers(new)
    else:
        copied_state.copy_compile_state(model, new, values.slot, pairs)
        if stock and not _keras.is_stock(type(new)):  # a user's, with what it holds besides
            unmask(new)
    return new


class _Resizing:
    """Gives layers their new sizes: in their configs, or in place on their copies."""

    def __init__(self, model, values, sizes, folds, stock, joins):
        self.values, self.sizes, self.folds, self.stock = values, sizes, folds, stock
        trace = sizes.coupling.trace
        self.calls, self.inlined_in_place, self.known = trace.calls_of, trace.in_place, {}
        self.inside = {
            key: resize
            for call in trace.calls
            for key, resize in rule_of(call.operation).in_place(call).items()
        }
        self.copies = None
        if id(model) in self.inlined_in_place:
            return
        operations = list(convert.graph_operations(model))
        if stock and values.growth is None and not sizes.kept_units.grown:
            self.copies = ResizedCopies(model, operations, self.calls, sizes, values.kept, folds)
        elif not stock and not joins:  # units may move where joins change
            self.copies = UnchangedCopies(model, operations, self._changed(operations))

    def _changed(self, operations):
        """The ids of operations of which units come or go, or weights change."""
        kept_units, coupling = self.sizes.kept_units, self.sizes.coupling
        is_changed = kept_units.counts != 1
        is_changed[list(kept_units.grown)] = True
        found = {
            id(piece.layer)
            for piece in coupling.slices
            if is_changed[coupling.roots[piece.labels]].any()
        }
        for call in coupling.trace.calls:
            labels = (coupling.tensor_labels[each] for each in (*call.inputs, *call.outputs))
            if any(is_changed[coupling.roots[each]].any() for each in labels):
                found.add(id(call.operation))
        return found | {
            id(each)
            for each in operations
            if id(each) not in self.calls
            or any(id(w) in self.values.factors for w in getattr(each, "weights", ()))
        }

    def is_done(self, variable):
        """Whether a variable of the new model has its value."""
        return self.copies is not None and self.copies.is_done(variable)

    def edited(self, config, operation):
        """A serialised operation with the new sizes."""
        config = convert.to_stock(config) if self.stock else config
        if id(operation) in self.sizes.kept_units.dead:
            return config  # its calls are removed
        return resized_config(config, operation, self.sizes, self.folds)

    def resize(self, layer, copy):
        """Resizes the copy of a layer that is no new object."""
        if id(layer) in self.sizes.kept_units.dead:
            return
        if self.copies is not None and self.copies.takes(layer):
            self.copies.resize(layer, copy)
            return
        if id(layer) in self.inlined_in_place:
            resize = self._resize_composite
        elif id(layer) in self.inside:
            resize = self._resize_inside
        elif id(layer) in self.calls and has_own_weights(layer):
            resize = self._resize_by_rule
        else:
            return
        how = [_masking(part) for part in _keras.all_layers(copy)]
        resize(layer, unmask(copy))
        for function, part in zip(how, _keras.all_layers(copy), strict=True):
            if function is not None:
                function(part)

    def _resize_inside(self, layer, copy):
        self.inside[id(layer)](copy, self.sizes)

    def _resize_by_rule(self, layer, copy):
        rule_of(layer).resize_in_place(copy, self.calls[id(layer)][0], self.sizes)

    def _resize_composite(self, layer, copy):
        resize_in_place(layer, copy, self.edited, self.calls, self.sizes)
        kept_units = self.sizes.kept_units
        if not kept_units.grown:
            for ours, theirs in _keras.variable_pairs(layer, copy):
                theirs.assign(self.values.weight(ours, _keras.values(ours), theirs))
            _fill_new_biases(layer, copy, kept_units, self.folds)
        call = self.inlined_in_place[id(layer)]
        try:
            settle_numbers(call, layer, copy, self.sizes, self.known)
        except DoesNotRunError as error:
            raise ValueError(
                f"A layer cannot be resized, because it {error}. "
                f"Received: layer={layer.name!r} ({type(layer).__name__}). "
                "Leave its units as they are, with `exclude`."
            ) from error


def _masking(layer):
    """The function that gives a resized layer such masks as the layer has, or None."""
    if isinstance(layer, Masked) and layer.carries_masks:
        return mask_in_place
    return note_masks_inside if isinstance(layer, InPlace) else None


def _key(call):
    return (*(parent.name for parent in call.parents), call.operation.name, call.node_index)


def _empty_pieces(sizes):
    """For each split that has any empty piece, or one piece only, which pieces are empty."""
    found = {}
    for call in sizes.coupling.trace.calls:
        empty = rule_of(call.operation).empty_pieces(call, sizes)
        if empty:  # of all calls of a nested model
            before = found.get(_key(call), empty)
            found[_key(call)] = [a and b for a, b in zip(before, empty, strict=True)]
    return {key: empty for key, empty in found.items() if any(empty) or len(empty) == 1}


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
