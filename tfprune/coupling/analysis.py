"""The analysis of a model: its trace, labels by rules, and the coupled units that result."""

import keras
import numpy as np

from tfprune import _keras
from tfprune._tools.checks import check_model
from tfprune.coupling.failures import core
from tfprune.coupling.labels import FIXED, Labels, placed
from tfprune.coupling.model_trace import trace
from tfprune.coupling.resized_proofs import not_resizable
from tfprune.coupling.rules import has_rule, label, rule_of
from tfprune.coupling.rules.base import fixed
from tfprune.coupling.rules.embedding import Embedding
from tfprune.coupling.units import Coupling, UnitSet, unique_in_order
from tfprune.coupling.unreached import pin_what_they_may_read


def couple(model, apart=(), keep=(), *, free=()):
    """Returns the coupled units of a model: those that can only be removed together.

    Units are coupled where tensors are added or multiplied, through normalisations and depthwise
    convolutions, between gates, and wherever else one index belongs to several weights.

    Args:
        model: Any Keras model that is built, masked or not.
        apart: Concatenating operations and depthwise convolutions that count as makers of their
            outputs, which are then not coupled with their inputs.
        keep: The names of the composite layers that stay what they are, see `tfprune.strip`; or
            True for all.
        free: Input layers, and operations that give outputs of the model, of which units can come
            and go. By default inputs and outputs keep their sizes.

    Returns:
        A `Coupling`.

    Raises:
        ValueError: If the model is not built, or is subclassed and its `call` cannot be traced.

    Example:

    >>> import keras
    >>> model = keras.Sequential([
    ...     keras.Input((3,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(2)])
    >>> coupling = couple(model)
    >>> [(unit_set.name, len(unit_set.units)) for unit_set in coupling.sets if unit_set.removable]
    [('hidden', 4)]
    """
    check_model(model)
    how = apart, free
    labels, traced = Labels(), _traced(model, free, keep=keep)
    coupling = _coupled(traced, how, labels)
    closed = not_resizable(coupling)
    if closed and labels.took_constants:  # which may be as large as numbers in the code say
        labels = Labels(literal=closed)
        coupling = _coupled(traced, how, labels)
        closed = not_resizable(coupling)
    further = closed and not_resizable(coupling, {})
    closed = {}
    while further:
        closed.update(further)
        coupling = _coupled(
            _traced(model, free, closed=closed, keep=keep), how, Labels(labels.literal)
        )
        further = not_resizable(coupling, closed)
    return _along_other_axes(coupling, how, labels.literal)


def _traced(model, free, *args, **kwargs):
    """The trace of a model, in which free inputs are known as those of nested models are."""
    traced, graph = trace(model, *args, **kwargs), _keras.functional(model)
    if graph is not None and free:
        layers = _keras.input_layers(graph)
        for layer, tensor in zip(layers, traced.inputs, strict=True):
            if any(layer is each for each in free):
                traced.entries[id(layer)] = [tensor]
    return traced


def _along_other_axes(coupling, how, literal):
    """A `Coupling` in which units are on other axes where more of them can go then.

    So heads that must stay lose some of what each has, or the other way round; and dense layers
    over tokens lose their own units in place of channels that pass through them.
    """
    calls, selected, tried = coupling.trace.calls, frozenset(), False
    of_heads = {
        id(call.operation)
        for call in calls
        if call.memo.get("has other axis") and _are_pinned(coupling, call.outputs)
    }
    beside = {id(call.operation) for call in calls if call.memo.get("has units beside")}
    for places in (of_heads, beside):
        while places:
            other = _coupled(coupling.trace, how, Labels(literal, selected | places))
            closed, tried = not_resizable(other), True
            if not closed and _removable(other) > _removable(coupling):
                coupling, selected, tried = other, selected | places, False
                break
            left = {
                id(call.operation)
                for call in calls
                if id(call.operation) in places and not any(id(p) in closed for p in call.parents)
            }
            places = left if closed and left != places else ()
    return _coupled(coupling.trace, how, Labels(literal, selected)) if tried else coupling


def _are_pinned(coupling, tensors):
    found = np.concatenate([coupling.tensor_labels[tensor].reshape(-1) for tensor in tensors])
    return all(unit == FIXED or unit in coupling.pins for unit in coupling.roots[found].tolist())


def _removable(coupling):
    """How many elements of weights belong to units that can be removed, counted for each axis."""
    is_free = np.ones(coupling.size, bool)
    is_free[[FIXED, *coupling.pins]] = False
    return sum(
        piece.broadcast(is_free[coupling.roots[piece.labels]]).sum() for piece in coupling.slices
    )


def _coupled(traced, how, labels):
    """The `Coupling` of a trace, recorded in new `Labels`; `how` is `apart` and `free`."""
    apart, free = how
    for call in traced.calls:
        call.memo.clear()
    open_inputs = [traced.entries[id(each)][0] for each in free if id(each) in traced.entries]
    tensor_labels = {
        tensor: _free_labels(tensor, labels) if tensor in open_inputs else fixed(tensor)
        for tensor in traced.inputs
    }
    traced.weight_axes.record(labels, traced.calls)
    made_anew = {id(operation): _made_anew for operation in apart}
    is_free = {id(each) for each in free}
    for call in traced.calls:
        before = len(labels.pins)
        label([call], tensor_labels, labels, made_anew)
        if id(call.operation) in is_free and not set(call.outputs).isdisjoint(traced.outputs):
            _unpin(labels, before, [tensor_labels[tensor] for tensor in call.outputs])
    sliced_by = {key: set(layers) for key, layers in labels.sliced_by.items()}
    traced.weight_axes.record_slices(labels)
    _pin_what_others_use(traced, labels, sliced_by)
    _tie_repeated_calls(traced, tensor_labels, labels)
    _pin_what_regularizers_need(traced, tensor_labels, labels)
    pin_what_they_may_read(traced, tensor_labels, labels)
    open_outputs = {
        t for call in traced.calls if id(call.operation) in is_free for t in call.outputs
    }
    for tensor in traced.outputs:
        if tensor not in open_outputs:
            labels.pin(tensor_labels[tensor], "it is an output of the model")
    roots = labels.roots()
    pins = {}
    for pinned, reason in labels.pins:
        for unit in np.unique(roots[pinned]).tolist():
            pins.setdefault(unit, reason)
    return Coupling(
        trace=traced,
        tensor_labels=tensor_labels,
        slices=tuple(labels.slices),
        groupings=tuple(labels.groupings),
        roots=roots,
        pins=pins,
        sets=_sets(labels, roots, pins, traced.names),
        blocks=tuple(labels.blocks),
    )


def _pin_what_others_use(traced, labels, sliced_by):
    """Pins units along an axis of a weight along which another layer that has it knows none.

    Such are the rows of an `Embedding` with which a layer of a user's class multiplies. The layers
    that recorded an axis when the calls were labelled are in `sliced_by`.
    """
    called, holders = {id(call.operation): call.operation for call in traced.calls}, {}
    for (variable, _), layers in sliced_by.items():
        holders.setdefault(variable, set()).update(layers)
    for key, operation in called.items():
        if traced.weight_axes.starts or not has_rule(operation):
            for weight in getattr(operation, "weights", ()):
                holders.setdefault(id(weight), set()).add(key)
    for variable, _ in traced.weight_axes.starts:
        holders.setdefault(variable, set()).add(None)
    for piece in labels.slices:
        holding = holders.get(id(piece.variable), set())
        known = sliced_by.get((id(piece.variable), piece.axis), set())
        for key in (holding - known) & called.keys() if len(holding) > 1 else ():
            if known.isdisjoint(map(id, _keras.all_layers(called[key]))):
                labels.pin(piece.labels, _why_needed_whole(called[key], piece))


def _why_needed_whole(layer, piece):
    """Why a layer that shares a weight needs all along an axis of it."""
    name = f"the weight {piece.variable.name!r}"
    if isinstance(rule_of(layer), Embedding) and piece.axis == 0:
        return f"{layer.name!r} looks up rows of {name}, which it shares"
    return f"{layer.name!r} shares {name}, and how it uses axis {piece.axis} of it is not known"


def _pin_what_regularizers_need(traced, tensor_labels, labels):
    """Pins units of which a user's regularizer fails when there is one less, as in training."""
    for call in traced.calls:
        regularizer = getattr(call.operation, "activity_regularizer", None)
        for tensor in call.outputs if regularizer is not None else ():
            shape = tuple(size or 1 for size in tensor.shape)
            for axis, size in enumerate(shape[1:], 1):
                if why := _why_not_for_less(regularizer, shape, axis):
                    array = np.moveaxis(tensor_labels[tensor], axis - 1, 0)
                    kind = f"activity_regularizer of {call.operation.name!r}"
                    labels.pin(array.reshape(size, -1), f"the {kind} fails for fewer units: {why}")
    for piece in labels.slices:
        regularizer = getattr(piece.variable, "regularizer", None)
        regularizer = getattr(regularizer, "regularizer", regularizer)  # that of a masked weight
        if why := _why_not_for_less(regularizer, tuple(piece.variable.shape), piece.axis):
            kind = f"regularizer of {piece.layer.name!r} for {piece.variable.name!r}"
            labels.pin(piece.labels, f"the {kind} fails for fewer units: {why}")


def _why_not_for_less(regularizer, shape, axis):
    """Why a regularizer of a user's class cannot be used with one position less, or None."""
    if regularizer is None or _keras.is_stock(type(regularizer)) or shape[axis] < 2:
        return None
    try:
        regularizer(keras.ops.zeros(shape))
    except Exception:  # so what it does of another shape would say nothing
        return None
    try:
        regularizer(keras.ops.zeros([n - (along == axis) for along, n in enumerate(shape)]))
    except Exception as error:  # the user's own code may fail in any way
        return f"{type(error).__name__}: {core(str(error))}"
    return None


def _unpin(labels, start, outputs):
    """Drops the pins from an index on that are of outputs, as by the softmax that gives them."""
    made = np.concatenate([array.reshape(-1) for array in outputs])
    labels.pins[start:] = [pin for pin in labels.pins[start:] if not np.isin(pin[0], made).any()]


def _free_labels(tensor, labels):
    """New labels along the last axis of an input."""
    rank = len(tensor.shape)
    is_number = keras.backend.standardize_dtype(tensor.dtype).startswith(("float", "bfloat"))
    if rank < 2 or tensor.shape[-1] is None or not is_number:
        return fixed(tensor)
    return placed(labels.fresh(tensor.shape[-1]), rank - 2, rank - 1)


def _made_anew(call, labels):
    """New labels along the axis along which a call concatenates its inputs, or has its channels."""
    (output,) = call.outputs
    rank = len(output.shape)
    axis = made_axis(call.operation) % rank
    return placed(labels.fresh(output.shape[axis]), axis - 1, rank - 1)


def made_axis(operation):
    """The axis of its output along which an operation concatenates, or has its channels."""
    if hasattr(operation, "axis"):
        return operation.axis
    return 1 if operation.data_format == "channels_first" else -1


def _tie_repeated_calls(traced, tensor_labels, labels):
    """Unites the units of all calls of an operation with sizes in its config."""
    for tensors in traced.entries.values():
        for tensor in tensors[1:]:
            ours, theirs = tensor_labels[tensors[0]], tensor_labels[tensor]
            labels.unite(ours, theirs, "a shared model is also called on fixed channels")
    first = {}
    for call in traced.calls:
        if not rule_of(call.operation).has_sizes:
            continue
        known = first.setdefault(id(call.operation), call)
        reason = f"{call.operation.name!r} is also called on fixed channels"
        for ours, theirs in zip(known.inputs, call.inputs, strict=True):
            labels.unite(tensor_labels[ours], tensor_labels[theirs], reason)


def _sets(labels, roots, pins, names):
    """The sets of units with the same makers, in the order of the model."""
    # Each combination of makers has a number; unit by unit this takes longer than all the rest.
    combinations, numbers = [()], np.zeros(int(roots.max()) + 1, int)
    places, layers, in_order = {(): 0}, {}, [np.empty(0, int)]
    for piece in labels.slices:
        if not piece.makes:
            continue
        key = id(piece.layer), piece.family
        layers[key] = piece.layer
        units = np.unique(roots[piece.labels])
        units = units[units != FIXED]
        before = numbers[units]
        in_order.append(units[before == 0])
        for number in np.unique(before).tolist():
            makers = combinations[number]
            if key not in makers:
                makers = (*makers, key)
                place = places.setdefault(makers, len(combinations))
                combinations += [makers] if place == len(combinations) else []
                numbers[units[before == number]] = place
    in_order = np.concatenate(in_order)
    of_units = numbers[in_order]
    sets = [(number, in_order[of_units == number]) for number in unique_in_order(of_units).tolist()]
    return tuple(
        UnitSet(
            layers=tuple(layers[key] for key in combinations[number]),
            units=units,
            pinned=tuple(pins.get(unit) for unit in units.tolist()),
            groups=_groups(labels, roots, units),
            families=tuple(family for _, family in combinations[number]),
            names=names,
        )
        for number, units in sets
    )


def _groups(labels, roots, units):
    for grouping in labels.groupings:
        for side in grouping.sides:
            grouped = roots[side]
            is_alone = grouped.shape[1] == 1  # a group of one unit is removed whole
            if not is_alone and np.isin(grouped, units).all() and grouped.size == len(units):
                return grouped
    return None
