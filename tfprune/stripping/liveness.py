"""Liveness: which units and calls of a model an output needs, given its masks and zeros.

This is dead-code elimination over the coupled units, in two passes.

1. Constant propagation, forward: which positions hold the same number for every input?
2. Liveness, backward to the fixed point: which units does an output of the model need? A layer
   needs a unit if its kernel carries it, by a factor other than 0, to a needed output, unless the
   unit is a constant that can be folded into the layer's bias.

Units that nothing needs are removed.
"""

import contextlib
import dataclasses
from collections import Counter

import numpy as np

from tfprune import _keras
from tfprune._tools.finite import NotFiniteError
from tfprune.coupling.analysis import couple
from tfprune.coupling.groups import equalize_groups
from tfprune.coupling.kept_units import keeping
from tfprune.coupling.labels import FIXED
from tfprune.coupling.rules import Flow, rule_of
from tfprune.coupling.rules.base import unknown
from tfprune.coupling.rules.linear import forget_connected
from tfprune.coupling.units import unique_in_order, unit_name
from tfprune.rebuild.engine import rebuild
from tfprune.stripping.inlining import inlined
from tfprune.stripping.strip_report import KeptUnit, StrippedLayer, StripReport


class Liveness:
    """Which units and calls of a model are live, and which constants are to be folded.

    Args:
        model: See `strip`.
        hidden: Function of a model that returns a context manager. Within it, values that will not
            stay 0 are shown to the analysis as something else.
        keep: The names of composite layers that stay what they are; or True for all, and for the
            model if it is subclassed.
        wholly: Whether what cannot be inlined is refused.

    Attributes:
        model: The model with its composite layers inlined.
        coupling: Its units.
        kept_units, folds, dropped: The arguments for `rebuild`.

    Raises:
        ValueError: See `strip`.
    """

    def __init__(self, model, hidden=None, keep=(), wholly=False):
        self.given = model
        _refuse_not_finite(model)
        self.model = model if keep is True else inlined(model, wholly, keep)
        self.coupling = couple(self.model, keep=keep)
        with contextlib.nullcontext() if hidden is None else hidden(self.model):
            flow, self._retained, self.dropped = _live_units(self.coupling)
            _refuse_conflicts(flow)
        if hidden is not None:
            flow = dataclasses.replace(flow, tensor_constants=_constants(self.coupling))
        self._flow = flow
        self.kept_units = keeping(self.coupling, flow.needed, _dead_layers(self.coupling, flow))
        self.folds = _folds(self._flow)
        forget_connected(self.coupling.trace.calls)

    @property
    def needed(self):
        """Boolean array over units: which stay."""
        return self._flow.needed

    @property
    def changes(self):
        """Whether any unit or call goes, or any input of a call."""
        coupling, needed = self.coupling, self.needed
        is_whole = all(needed[coupling.roots[piece.labels]].all() for piece in coupling.slices)
        return not is_whole or bool(self.dropped) or self._has_dead_calls

    @property
    def size(self):
        """How large the model is: its weights and its calls."""
        return _keras.count_weights(self.model), len(self.coupling.trace.calls)

    @property
    def may_uncover_more(self):
        """Whether what goes may let more go: units tied or pinned by what is there no more."""
        needed, roots = self.needed, self.coupling.roots
        is_untied = any(needed[roots[labels]].sum() < 2 for labels in self.coupling.blocks)
        is_less = is_untied or bool(self.dropped) or self._has_dead_calls
        return self.changes and (is_less or any(map(self._has_one_group, self.calls)))

    def _has_one_group(self, call):
        """Whether a layer with several groups, among which units are tied, has one group left."""
        groups = getattr(call.operation, "groups", None) or 1
        if groups == 1 or not call.inputs:
            return False
        labels = self._flow.labels(call.inputs[0])
        labels = labels.reshape(-1, labels.shape[-1])[0]  # of the channels
        if len(labels) % groups:
            return False
        return self._flow.is_needed(labels).reshape(groups, -1).any(axis=1).sum() < 2

    @property
    def _has_dead_calls(self):
        live, trace = set(self.calls), self.coupling.trace
        return any(
            call not in live and not any(id(parent) in trace.in_place for parent in call.parents)
            for call in trace.calls
        )

    @property
    def idle_layers(self):
        """The names of layers that stay what they are, though not all they compute is needed."""
        trace = self.coupling.trace
        before, after = (_live_calls(trace, each, wholly=False) for each in ({}, self.dropped))
        idle = set(before) - set(after)
        parents = {id(parent) for call in idle for parent in call.parents}
        return {call.operation.name for key, call in trace.in_place.items() if key in parents}

    def rebuilt(self):
        """The smaller model."""
        return rebuild(self.model, self.kept_units, self.folds, self.dropped)

    @property
    def calls(self):
        """The calls that an output of the model needs."""
        return self._flow.calls

    def report(self, small, checked=None):
        """The `StripReport` for the model that was rebuilt; `checked` is what its check found."""
        coupling, needed, reasons = self.coupling, self._flow.needed, self._reasons()
        layers, kept = {}, []
        together = {
            unit: f"units of {unit_set.name!r} go together"
            for unit_set in coupling.sets
            if len(unit_set.layers) > 1
            for unit in unit_set.units.tolist()
        }
        for piece in coupling.slices:
            name = unit_name(piece.layer, piece.family)
            if not piece.makes or name in layers:
                continue
            units = unique_in_order(coupling.roots[piece.labels])
            is_called = id(piece.layer) in self._flow.operations
            after = int(needed[units].sum()) if is_called else 0
            layers[name] = StrippedLayer(name, len(units), after)
            zeros = _zero_units(coupling, piece.layer, piece.family) if after else ()
            for index, unit in enumerate(units.tolist()):
                if unit in zeros and needed[unit]:
                    why = reasons.get(unit, ["what uses it is 0 now, but is trained"])
                    why = [together[unit], *why] if unit in together else why
                    kept.append(KeptUnit(name, index, "; ".join(why)))
        return StripReport(
            layers=tuple(layers.values()),
            kept=tuple(kept),
            parameters=(_keras.count_weights(self.given), _keras.count_weights(small)),
            error=None if checked is None else checked.error,
            not_from_config=tuple(layer.name for layer in _keras.not_from_config(small)),
            not_compared=() if checked is None else checked.not_compared,
            unreached=tuple(each.part.name for each in coupling.trace.unreached if each.stays),
        )

    def _reasons(self):
        """For each unit that is kept, all reasons for it."""
        reasons = {u: [reason] for u, reason in {**self._retained, **self.coupling.pins}.items()}
        for units, reason in _needs(self._flow, self.calls):
            for unit in units.tolist():
                reasons.setdefault(unit, []).append(reason)
        return reasons


def _refuse_not_finite(model):
    """Refuses weights from which nothing can be told: 0 times infinite is not 0."""
    found = [weight.path for weight in model.weights if not _keras.is_finite(weight)]
    if found:
        raise NotFiniteError(
            "The model has weights that are NaN or infinite, so it cannot be told what its outputs "
            f"need. Received: model={model.name!r}, weights={found}. Train it from where they were "
            "finite, or assign other values: a large negative number where -inf masks something "
            "out."
        )


def _live_units(coupling):
    """The units that an output of the model needs: the fixed point, from the outputs backward.

    Returns:
        The `Flow` with the live calls; for units that are kept only so that a layer has any, the
        reason; and for calls that can do without some inputs, the positions of these.
    """
    constants = _constants(coupling)
    calls, before = coupling.trace.calls, None
    while calls != before:
        before, flow = calls, _initial_flow(coupling, constants, calls)
        _propagate_needs(flow)
        calls = _live_calls(coupling.trace, _dropped(coupling.trace, flow))
    retained = {}
    while _equalize(coupling, flow, retained) or _retain_one(coupling, flow, retained):
        _propagate_needs(flow)
        # What is kept may need inputs again that could be dropped before.
        calls = _live_calls(coupling.trace, _dropped(coupling.trace, flow))
        flow = dataclasses.replace(flow, calls=calls)
        _propagate_needs(flow)
    return flow, retained, _dropped(coupling.trace, flow)


def _initial_flow(coupling, constants, calls):
    """The `Flow` in which nothing is needed but what is fixed or pinned."""
    needed = np.zeros(coupling.size, bool)
    needed[[FIXED, *coupling.pins]] = True
    counts = Counter(id(call.operation) for call in coupling.trace.calls)
    return Flow(
        tensor_labels=coupling.tensor_labels,
        tensor_constants=constants,
        roots=coupling.roots,
        needed=needed,
        called_once=frozenset(operation for operation, n in counts.items() if n == 1),
        calls=calls,
    )


def _constants(coupling):
    """For each tensor the constants that its positions hold, propagated forward."""
    constants = {tensor: unknown(tensor) for tensor in coupling.trace.inputs}
    for call in coupling.trace.calls:
        inputs = [constants[tensor] for tensor in call.inputs]
        outputs = rule_of(call.operation).constants(call, inputs)
        constants.update(zip(call.outputs, outputs, strict=True))
    return constants


def _needs(flow, calls):
    """The units that each call needs, with the reason."""
    for call in calls:
        for need in rule_of(call.operation).needs(call, flow):
            yield np.unique(flow.roots[need.labels[need.where]]), need.reason


def _propagate_needs(flow):
    """Marks the units that needed units need, until nothing is added."""
    count = 0
    while count < flow.needed.sum():
        count = flow.needed.sum()
        for units, _ in _needs(flow, reversed(flow.calls)):
            flow.needed[units] = True


def _dropped(trace, flow):
    """For each call that can do without some of its inputs, the positions of these."""
    uses = Counter((id(call.operation), call.node_index) for call in trace.calls)
    bound = {tensor for outputs in trace.siblings for tensor in outputs}
    dropped = {}
    for call in flow.calls:
        positions = rule_of(call.operation).drops(call, flow)
        # Not the outputs of models which have others, nor calls in models that are called twice.
        is_bound = bound.intersection(call.inputs[position] for position in positions)
        if positions and not is_bound and uses[id(call.operation), call.node_index] == 1:
            dropped[call] = positions
    return dropped


def _live_calls(trace, dropped, wholly=True):
    """The calls that an output of the model needs when inputs are dropped.

    A layer that stays what it is makes all of its calls if any of them is needed, unless `wholly`
    is False.
    """
    wanted, before, kept = set(trace.outputs), None, set()
    stays = trace.in_place.keys() if wholly else set()

    def is_live(call):
        return wanted.intersection(call.outputs) or kept.intersection(map(id, call.parents))

    while wanted != before:
        before = set(wanted)
        for outputs in trace.siblings:
            wanted.update(outputs if wanted.intersection(outputs) else ())
        live = filter(is_live, trace.calls)
        kept.update(stays & {id(p) for call in live for p in call.parents})
        for call in reversed(trace.calls):
            if is_live(call):
                removed = dropped.get(call, ())
                wanted.update(t for i, t in enumerate(call.inputs) if i not in removed)
                wanted.update(call.masks)
    return tuple(filter(is_live, trace.calls))


def _equalize(coupling, flow, retained):
    """Keeps units so that groups have equal counts; returns whether any were added."""
    groupings = [g for g in coupling.groupings if id(g.layer) in flow.operations]
    added = equalize_groups(groupings, coupling.roots, flow.needed, last=_left_out(flow))
    retained.update(added)
    return bool(added)


def _dead_layers(coupling, flow):
    """The layers with groups, by id, that no output needs, and whose weights no other layer has."""
    calls = coupling.trace.calls
    needed = {id(call.operation) for call in calls if call.in_place} | flow.operations
    dead = [each.layer for each in coupling.groupings if id(each.layer) not in needed]
    if not dead:
        return frozenset()
    operations = [call.operation for call in calls if id(call.operation) in needed]
    used = {id(weight) for each in operations for weight in getattr(each, "weights", ())}
    return frozenset(id(layer) for layer in dead if used.isdisjoint(map(id, layer.weights)))


def _retain_one(coupling, flow, retained):
    """Keeps one unit of a layer or tensor that would have none; returns whether there was one.

    Layers near the outputs come first: what they keep may be all that those before them need.
    Then tensors, such as a slice of a layer's output, since few operations work on none.
    """
    emptied = [
        (unit_set.name, unit_set.units)
        for unit_set in reversed(coupling.sets)
        if any(id(layer) in flow.operations for layer in unit_set.layers)
        and not flow.needed[unit_set.units].any()
    ]
    if not emptied:
        dropped = _dropped(coupling.trace, flow)
        emptied = [
            (call.operation.name, np.unique(coupling.roots[flow.labels(tensor)]))
            for call in reversed(flow.calls)
            for position, tensor in enumerate(call.inputs)
            if position not in dropped.get(call, ())
            and not flow.is_needed(flow.labels(tensor)).any()
        ]
    for name, units in emptied[:1]:
        unit = int(units[np.argmin(np.isin(units, _left_out(flow)))])
        flow.needed[unit] = True
        retained[unit] = f"{name!r} needs at least one unit"
    return bool(emptied)


def _left_out(flow):
    """The units that operations already treat as if they were removed."""
    left_out = [rule_of(call.operation).left_out(call, flow) for call in flow.calls]
    return flow.roots[np.concatenate([np.empty(0, int), *left_out])]


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


def _folds(flow):
    """For each operation that has any, by id, the constants to fold into its biases."""
    found = {}
    for call in flow.calls:
        folds = rule_of(call.operation).folds(call, flow)
        if folds:
            found[id(call.operation)] = folds
    return found


def _zero_units(coupling, layer, family):
    """The units whose slices of every kernel of the layer are 0."""
    zeros = None
    for piece in coupling.slices:
        is_made = piece.layer is layer and piece.family == family and piece.makes
        if is_made and len(piece.variable.shape) > 1:
            units = coupling.roots[piece.labels]
            value = np.moveaxis(np.asarray(piece.variable), piece.axis, 0) != 0
            is_nonzero = value.reshape(len(value), -1).any(axis=1)
            found = set(units.tolist()) - set(units[is_nonzero].tolist())
            zeros = found if zeros is None else zeros & found
    return zeros or set()
