"""Masks and zeros -> dead units -> a smaller model, checked to compute the same (contract S).

Dead-code elimination over the coupled units. First, forward: which positions hold the same number
whatever the input is? Then, backward: which units does any output need? A layer needs the units
that its kernel does not multiply by 0 on the way to a needed output, unless they hold a constant
that can go into its bias. What nobody needs goes.
"""

import contextlib
import dataclasses
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from tfprune import _keras
from tfprune.coupling.groups import equalize_groups
from tfprune.coupling.kept_units import keeping, unique_in_order
from tfprune.coupling.labels import FIXED
from tfprune.coupling.rules import Flow, rule_of
from tfprune.coupling.units import couple, unit_name
from tfprune.rebuild.engine import rebuild
from tfprune.stripping.check import check_equal
from tfprune.stripping.inlining import inlined


@dataclass(frozen=True)
class KeptUnit:
    """A unit which makes no use of its inputs and yet could not be removed."""

    layer: str
    index: int
    reason: str


@dataclass(frozen=True)
class StrippedLayer:
    """The units of a layer before and after."""

    name: str
    before: int
    after: int


@dataclass(frozen=True)
class StripReport:
    """What `strip` removed, and what it could not.

    Attributes:
        layers: Every layer that makes units.
        kept: The units that are masked or zero and had to stay, with the reason.
        parameters: How many there were and are.
        error: The largest difference between the outputs of the two models, over the largest
            output; None if they were not compared.
    """

    layers: tuple
    kept: tuple
    parameters: tuple
    error: float | None = field(default=None)

    @property
    def removed_units(self):
        """How many units were removed."""
        return sum(layer.before - layer.after for layer in self.layers)

    def __str__(self):
        lines = [f"{layer.name}: {layer.before} -> {layer.after} units" for layer in self.layers]
        lines += [f"{u.layer}[{u.index}] stays: {u.reason}" for u in self.kept]
        before, after = self.parameters
        return "\n".join([*lines, f"parameters: {before:,} -> {after:,}"])


def strip(model, *, check=True, return_report=False):
    """Rebuilds a model without the units that have no effect.

    A unit goes when masks, zeros and constants prove that it does nothing: its output reaches no
    output of the model, or is a constant that the biases of its consumers can take over. It does
    not matter how the zeros came about; the model need not carry masks at all. Composite layers
    are inlined (`tfprune.stripping.inlining`).

    Args:
        model: A Functional or built Sequential model, of `tfprune.layers` or of stock layers. It
            is not touched.
        check: Whether to run both models on random inputs and compare before returning.
        return_report: Whether to return a `StripReport` as well.

    Returns:
        The smaller model, of stock Keras layers only, with names, compile state and optimizer
        slots kept; with `return_report=True`, the model and the report.

    Raises:
        ValueError: If the model cannot be rebuilt, with the layer and the reason.
        RuntimeError: If the outputs differ, which would be a defect of this function.

    Example:

    >>> import keras
    >>> import tfprune
    >>> model = keras.Sequential([
    ...     keras.Input((3,)),
    ...     tfprune.layers.Dense(4, activation="relu", name="hidden"),
    ...     tfprune.layers.Dense(2, name="logits")])
    >>> tfprune.set_masks(model, "logits", "kernel", trainable=[0, 2])
    >>> small, report = tfprune.strip(model, return_report=True)
    >>> print(report)
    hidden: 4 -> 2 units
    logits: 2 -> 2 units
    parameters: 26 -> 14
    """
    liveness = Liveness(model)
    small = rebuild(liveness.model, liveness.kept_units, liveness.folds, liveness.dropped)
    error = check_equal(model, small, liveness.coupling.trace) if check else None
    return (small, liveness.report(small, error)) if return_report else small


class Liveness:
    """What of a model has no effect.

    Args:
        model: See `strip`.
        hidden: Function of a model that returns a context in which values hide from the analysis
            that they are 0, because they will not stay so.

    Attributes:
        model: The model with its composite layers opened.
        coupling: Its units.
        kept_units, folds, dropped: What `rebuild` is to be given.

    Raises:
        ValueError: See `strip`.
    """

    def __init__(self, model, hidden=contextlib.nullcontext):
        self.given = model
        self.model = inlined(model)
        self.coupling = couple(self.model)
        with hidden(self.model):
            flow, self._revived, self.dropped = _live_units(self.coupling)
            _refuse_conflicts(flow)
        self._flow = dataclasses.replace(flow, tensor_constants=_constants(self.coupling))
        self.kept_units = keeping(self.coupling, flow.needed)
        self.folds = _folded(self._flow)

    @property
    def calls(self):
        """The calls that an output of the model still needs."""
        return self._flow.calls

    def report(self, small, error=None):
        """The `StripReport` on the model that was rebuilt."""
        reasons = _reasons(self.coupling, self._flow, self._revived)
        return _report(self.given, small, self.coupling, self._flow, reasons, error)


def _live_units(coupling):
    """The units that some output needs, the fixed point from the outputs back.

    Returns:
        The `Flow` with the calls that some output needs; for units kept lest a layer be left
        without any, the reason; and for calls that can do without some inputs, their places.
    """
    constants = _constants(coupling)
    calls, before = coupling.trace.calls, None
    while calls != before:
        before, flow = calls, _start(coupling, constants, calls)
        _close(coupling, flow)
        calls = _reachable(coupling.trace, _dropped(coupling.trace, flow))
    revived = {}
    while _even_out(coupling, flow, revived) or _revive_one(coupling, flow, revived):
        _close(coupling, flow)
        # What is kept may need inputs again that could be dropped before.
        calls = _reachable(coupling.trace, _dropped(coupling.trace, flow))
        flow = dataclasses.replace(flow, calls=calls)
        _close(coupling, flow)
    return flow, revived, _dropped(coupling.trace, flow)


def _start(coupling, constants, calls):
    needed = np.zeros(coupling.size, bool)
    needed[FIXED] = True
    needed[list(coupling.pins)] = True
    operations = [id(call.operation) for call in coupling.trace.calls]
    return Flow(
        tensor_labels=coupling.tensor_labels,
        tensor_constants=constants,
        roots=coupling.roots,
        needed=needed,
        called_once=frozenset(o for o in operations if operations.count(o) == 1),
        calls=calls,
    )


def _constants(coupling):
    constants = {
        tensor: np.full((1,) * (len(tensor.shape) - 1), np.nan) for tensor in coupling.trace.inputs
    }
    for call in coupling.trace.calls:
        inputs = [constants[tensor] for tensor in call.inputs]
        outputs = rule_of(call.operation).constants(call, inputs)
        constants.update(zip(call.outputs, outputs, strict=True))
    return constants


def _close(coupling, flow):
    """Marks what the needed units need, until nothing is added."""
    changed = True
    while changed:
        changed = False
        for call in reversed(flow.calls):
            for need in rule_of(call.operation).needs(call, flow):
                units = np.unique(coupling.roots[need.labels[need.where]])
                added = units[~flow.needed[units]]
                if added.size:
                    changed = True
                    flow.needed[added] = True


def _dropped(trace, flow):
    """For each call that can do without some of its inputs, their places."""
    serves = Counter((id(call.operation), call.node_index) for call in trace.calls)
    bound = {tensor for outputs in trace.siblings for tensor in outputs}
    dropped = {}
    for call in flow.calls:
        places = rule_of(call.operation).drops(call, flow)
        # Not the outputs of models which have others, nor calls in models that are called twice.
        is_bound = bound.intersection(call.inputs[place] for place in places)
        if places and not is_bound and serves[id(call.operation), call.node_index] == 1:
            dropped[call] = places
    return dropped


def _reachable(trace, dropped):
    """The calls that an output of the model still needs when inputs are dropped."""
    wanted, before = set(trace.outputs), None
    while wanted != before:
        before = set(wanted)
        for outputs in trace.siblings:
            wanted.update(outputs if wanted.intersection(outputs) else ())
        for call in reversed(trace.calls):
            if wanted.intersection(call.outputs):
                gone = dropped.get(call, ())
                wanted.update(t for place, t in enumerate(call.inputs) if place not in gone)
                wanted.update(call.masks)
    return tuple(call for call in trace.calls if wanted.intersection(call.outputs))


def _even_out(coupling, flow, revived):
    """Keeps units so that groups have equal counts; whether there were any to keep."""
    used = {id(call.operation) for call in flow.calls}
    groupings = [grouping for grouping in coupling.groupings if id(grouping.layer) in used]
    added = equalize_groups(groupings, coupling.roots, flow.needed, last=_left_out(coupling, flow))
    revived.update(added)
    return bool(added)


def _revive_one(coupling, flow, revived):
    """Keeps one unit of what would be left without any; whether there was such a thing.

    Layers near the outputs come first: what they keep may be all that those before them need.
    Then tensors, such as a slice of a layer's output, since few operations work on none.
    """
    used = {id(call.operation) for call in flow.calls}
    emptied = [
        (unit_set.name, unit_set.units)
        for unit_set in reversed(coupling.sets)
        if any(id(layer) in used for layer in unit_set.layers)
        and not flow.needed[unit_set.units].any()
    ]
    if not emptied:
        dropped = _dropped(coupling.trace, flow)
        emptied = [
            (call.operation.name, np.unique(coupling.roots[flow.labels(tensor)]))
            for call in reversed(flow.calls)
            for place, tensor in enumerate(call.inputs)
            if place not in dropped.get(call, ()) and not flow.is_needed(flow.labels(tensor)).any()
        ]
    for name, units in emptied[:1]:
        treated_as_gone = np.isin(units, _left_out(coupling, flow))
        unit = int(units[np.argmin(treated_as_gone)])
        flow.needed[unit] = True
        revived[unit] = f"{name!r} needs at least one unit"
    return bool(emptied)


def _reasons(coupling, flow, revived):
    """For each unit kept, all that keeps it."""
    reasons = {unit: [reason] for unit, reason in {**revived, **coupling.pins}.items()}
    for call in flow.calls:
        for need in rule_of(call.operation).needs(call, flow):
            for unit in np.unique(coupling.roots[need.labels[need.where]]).tolist():
                reasons.setdefault(unit, []).append(need.reason)
    return reasons


def _left_out(coupling, flow):
    left_out = [rule_of(call.operation).left_out(call, flow) for call in flow.calls]
    return coupling.roots[np.concatenate([np.empty(0, int), *left_out])]


def _refuse_conflicts(flow):
    for call in flow.calls:
        if rule_of(call.operation).is_refused(call, flow):
            raise ValueError(
                "Cannot strip a model in which a normalisation leaves units out of its statistics "
                "that cannot be removed. "
                f"Received: layer={call.operation.name!r} ({type(call.operation).__name__}). "
                "Prune whole units, with `tfprune.prune_units` or `PruneUnits`, or set its masks "
                "with `tfprune.set_masks(model, layer, weight, trainable=True)`."
            )


def _folded(flow):
    additions = {}
    for call in flow.calls:
        folds = rule_of(call.operation).folds(call, flow)
        if folds:
            additions[id(call.operation)] = folds
    return additions


def _report(model, small, coupling, flow, reasons, error):
    layers, kept = {}, []
    used = {id(call.operation) for call in flow.calls}
    for piece in coupling.slices:
        name = unit_name(piece.layer, piece.family)
        if not piece.makes or name in layers:
            continue
        units = unique_in_order(coupling.roots[piece.labels])
        after = int(flow.needed[units].sum()) if id(piece.layer) in used else 0
        layers[name] = StrippedLayer(name, len(units), after)
        silent = _silent_units(coupling, piece.layer, piece.family)
        for index, unit in enumerate(units.tolist()):
            if after and unit in silent and flow.needed[unit]:
                kept.append(KeptUnit(name, index, "; ".join(reasons[unit])))
    return StripReport(
        layers=tuple(layers.values()),
        kept=tuple(kept),
        parameters=(_keras.count_weights(model), _keras.count_weights(small)),
        error=error,
    )


def _silent_units(coupling, layer, family):
    """The units whose slices of every kernel of the layer are 0."""
    silent = None
    for piece in coupling.slices:
        is_made = piece.layer is layer and piece.family == family and piece.makes
        if is_made and len(piece.variable.shape) > 1:
            value = np.moveaxis(np.asarray(piece.variable), piece.axis, 0) != 0
            loud = coupling.roots[piece.labels][value.reshape(len(value), -1).any(axis=1)]
            quiet = set(coupling.roots[piece.labels].tolist()) - set(loud.tolist())
            silent = quiet if silent is None else silent & quiet
    return silent or set()
