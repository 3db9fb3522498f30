"""Operations without a rule: what they do to units is inferred by running them.

An operation without weights is run on random inputs with units changed, left out and doubled. It
is followed only where this proves that units pass through it. All of these must hold:

1. It is deterministic: run twice, it gives the same.
2. Each output element depends on one unit of an input at most. Units carry binary numbers; for each
   digit, the units with a 0 there are replaced by other values, then those with a 1. An element
   that changes both times for any digit depends on several units; else the digits spell the one.
3. The units of an output stand along one axis, not that of the batch, and are the same in each of
   several random inputs of different scales.
4. It treats fewer and more units alike: for counts of 0, 1 and 2 in the place of each unit, its
   output on the inputs with those counts is its output with those counts, and its static shape is
   the one that it announces. Every unit is left out and doubled, alone where there are few enough,
   and in many combinations. Units for which this fails alone are pinned; if it fails for a
   combination of the others, all are.

So element-wise functions, permutations, repetitions and selections of units are found, over one
input or several whose units then go together, whatever the operation does along other axes. What
joins units, counts them or takes them by fixed places is pinned. For a layer of a user's class with
weights, see `custom_weights`; one of Keras's is pinned. `strip` compares the models in any case.
"""

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.labels import FIXED, placed
from tfprune.coupling.rules.base import (
    Need,
    Rule,
    fixed,
    pin_inputs,
    rule,
    unknown,
    unknown_outputs,
)
from tfprune.coupling.rules.block_labels import (
    block,
    fit,
    unit_axis,
    with_batch_axes,
    without_batch_axis,
)
from tfprune.coupling.rules.custom_weights import has_own_weights, own_weights, places
from tfprune.coupling.rules.trials import Trials
from tfprune.coupling.rules.unit_propagation import NotInferredError, Passage, infer
from tfprune.coupling.rules.weight_proofs import infer_own_weights
from tfprune.coupling.rules.written_norms import rescaling

_NONE = -1
"""In place of a label: no unit, and nothing fixed either."""


@rule(keras.Operation)
class Inferred(Rule):
    """The rule of every operation that has none of its own: see the module."""

    def label(self, call, inputs, labels):
        name, kind = call.operation.name, type(call.operation).__name__
        reason = call.not_traced or f"{name!r} ({kind}) has no rule"
        arrays = with_batch_axes(call, inputs)
        try:
            if has_own_weights(call.operation):
                return self._weighted(call, arrays, labels, reason)
            passage = infer(call, arrays)
            if passage is not None:
                call.memo["passage"] = passage
                return self._passed(call, arrays, passage, labels, reason)
        except NotInferredError as why:
            if call.not_traced is None:
                reason = f"{reason}, and none can be inferred, because it {why}"
        return pin_inputs(call, arrays, labels, reason)

    def _passed(self, call, arrays, passage, labels, reason):
        for place, indices in passage.pinned.items():
            units = arrays[place].reshape(-1)[indices]
            labels.pin(units, f"{reason}, and takes these units by their places")
        outputs = []
        for tensor, axis, sources in zip(call.outputs, passage.axes, passage.sources, strict=True):
            if axis is None:
                outputs.append(fixed(tensor))
                continue
            joined = np.full(tensor.shape[axis], _NONE)
            for place, source in sources.items():
                other = np.where(source < 0, _NONE, arrays[place].reshape(-1)[source])
                both = (joined != _NONE) & (other != _NONE)
                why = f"{call.operation.name!r} joins it with fixed channels"
                labels.unite(joined[both], other[both], why)
                joined = np.maximum(joined, other)  # the unit rather than what is fixed
            joined = np.where(joined == _NONE, FIXED, joined)
            array = placed(joined, axis, len(tensor.shape))
            outputs.append(without_batch_axis(tensor, block(labels, array, reason)))
        call.memo["shapes"] = [array.shape for array in outputs]
        return outputs

    def _weighted(self, call, arrays, labels, reason):
        """The labels of the outputs of a layer with weights of its own."""
        layer, weights = call.operation, places(call)
        call.memo["own"] = found = infer_own_weights(call, arrays)

        def record(place, axis, units, **options):
            labels.slice(layer, weights[place], axis, units, **options)

        by_place = dict(enumerate(arrays))
        for place, axis in found.axes.items():
            made = labels.fresh(weights[place].shape[axis])
            record(place, axis, made, makes=found.passage is None)
            by_place[place] = placed(made, axis, len(weights[place].shape))
        for place, axis in found.used.items():
            units = next(a.reshape(-1) for a in arrays if unit_axis(a) is not None)
            record(place, axis, units, uses=True)
        call.memo["hidden"] = []
        for number, (axes, used) in enumerate(found.hidden):
            units = labels.fresh(next(weights[p].shape[a] for p, a in axes.items()))
            call.memo["hidden"].append(units)
            for place, axis in axes.items():
                options = {"family": f"hidden_{number}" if number else "hidden"}
                options = {"uses": True} if place in used else {**options, "makes": True}
                record(place, axis, units, **options)
        if found.reason is not None:
            why = f"{reason}, and none can be inferred, because it {found.reason}"
            pin_inputs(call, arrays, labels, why)
        if found.passage is None and found.out_axis is None:
            return [fixed(tensor) for tensor in call.outputs]
        if found.passage is not None:
            call.memo["passage"] = found.passage
        passage = found.passage or Passage((found.out_axis,), (found.sources,), {})
        return self._passed(call, by_place, passage, labels, reason)

    def needs(self, call, flow):
        own = call.memo.get("own")
        if own is None:
            return []
        if own.norm is not None:
            return _needs_of_norm(call, flow)
        reason, weights = f"{call.operation.name!r} uses it", places(call)
        needs = [
            Need(units, _is_used(weights, {p: axes[p] for p in used}), reason)
            for units, (axes, used) in zip(call.memo["hidden"], own.hidden, strict=True)
        ]
        if own.used:
            tensor = next(t for t in call.inputs if flow.labels(t).size > 1)
            is_zero = flow.constants(tensor).reshape(-1) == 0
            units = flow.labels(tensor).reshape(-1)
            needs.append(Need(units, _is_used(weights, own.used) & ~is_zero, reason))
        return needs

    def resize_in_place(self, layer, call, sizes):
        own = call.memo.get("own")
        if own is None:
            return
        before, shapes = places(call), {}
        for place, weight in zip(before, own_weights(layer), strict=True):
            shapes[place] = sizes.of_weight(before[place])
            value = np.asarray(weight)
            for axis, size in enumerate(shapes[place]):
                value = np.take(value, np.arange(size) % value.shape[axis], axis)
            _keras.resize_variable(weight, value)
        new_shapes = [(tensor.shape, sizes.of_tensor(tensor)) for tensor in call.inputs]
        for place, (_, shape) in enumerate(new_shapes):
            shapes[place] = shape
        for place, (source, axis) in own.numbers.items():
            _keras.set_number(layer, place, int(shapes[source][axis]))
        if own.norm is not None and own.norm.epsilon is not None:
            epsilon = _keras.float_numbers(call.operation)[own.norm.epsilon]
            *_, factor = _rescaling(call, sizes)
            _keras.set_number(layer, own.norm.epsilon, epsilon * factor)
        _keras.forget_input_shape(layer, new_shapes)

    def factors(self, call, sizes):
        own = call.memo.get("own")
        if own is None or own.norm is None:
            return []
        factor, summand, _ = _rescaling(call, sizes)
        return [] if factor == 1 else [(places(call)[own.norm.weight], factor, summand)]

    def constants(self, call, inputs):
        passage = call.memo.get("passage")
        if passage is None or all(np.isnan(array).all() for array in inputs):
            return unknown_outputs(call)
        arrays = with_batch_axes(call, inputs)
        try:
            found = _constants_of(call, arrays)
        except NotInferredError:  # it fails on these constants
            return unknown_outputs(call)
        results = []
        for tensor, axis, values, shape in zip(
            call.outputs, passage.axes, found, call.memo["shapes"], strict=True
        ):
            if axis is None:
                results.append(unknown(tensor))
                continue
            along_axis = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
            first = along_axis[:, :1]
            is_same = (along_axis == first).all(axis=1)
            array = placed(np.where(is_same, first[:, 0], np.nan), axis, len(tensor.shape))
            results.append(fit(array, (1, *shape))[0])
        return results


def _needs_of_norm(call, flow):
    """A norm needs every unit that is not 0, for its mean."""
    (tensor,) = call.inputs
    units = flow.labels(tensor)
    if not flow.is_needed(units).any():
        return []
    reason = f"{call.operation.name!r} counts it in its mean square"
    return [Need(units, flow.constants(tensor) != 0, reason)]


def _rescaling(call, sizes):
    """What follows the number of units of a norm, see `written_norms.rescaling`."""
    own, weights = call.memo["own"], places(call)
    weight, axis = weights[own.norm.weight], own.axes[own.norm.weight]
    return rescaling(own.norm, weight.shape[axis], sizes.of_weight(weight)[axis])


def _is_used(weights, axes):
    """For each index along axes of weights whether any of the weights is not 0 there."""
    found = False
    for place, axis in axes.items():
        value = np.moveaxis(np.asarray(weights[place]) != 0, axis, 0)
        found = found | value.reshape(len(value), -1).any(axis=1)
    return found


def _constants_of(call, arrays):
    """What each output element holds whatever is not known; NaN where it changes, or jumps.

    Args:
        call: The `Call`.
        arrays: The constants of each input tensor with the batch axis, NaN = not known.
    """
    trials = Trials(call, NotInferredError)
    results = []
    for seed, nudge in enumerate((0, 0, 1e-5, -1e-5)):
        values = trials.draw(1.0, seed)
        for place, array in enumerate(arrays):
            known = array * (1 + nudge) + nudge
            values[place] = np.where(np.isnan(array), values[place], known).astype(
                values[place].dtype
            )
        results.append([output.astype("float64") for output in trials.run(values)])
    found = []
    for first, second, *nudged in zip(*results, strict=True):
        is_known = np.isfinite(first) & (np.abs(first - second) <= 1e-6 * np.abs(first))
        for other in nudged:
            is_known &= np.abs(first - other) <= 1e-2 * (np.abs(first) + 1e-2)
        found.append(np.where(is_known, first, np.nan))
    return found
