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
joins units, counts them or takes them by fixed places is pinned, as is an operation with weights.
`strip` compares the models in any case.
"""

import keras
import numpy as np

from tfprune.coupling.labels import FIXED, placed
from tfprune.coupling.rules.base import (
    Rule,
    fixed,
    pin_inputs,
    rule,
    unknown,
    unknown_outputs,
)
from tfprune.coupling.rules.blocks import block, fit, with_batch_axes, without_batch_axis
from tfprune.coupling.rules.passages import NotInferredError, infer
from tfprune.coupling.rules.trials import Trials

_NONE = -1
"""In place of a label: no unit, and nothing fixed either."""


@rule(keras.Operation)
class Inferred(Rule):
    """The rule of every operation that has none of its own: see the module."""

    def label(self, call, inputs, labels):
        name, kind = call.operation.name, type(call.operation).__name__
        reason = f"{name!r} ({kind}) has no rule"
        arrays = with_batch_axes(call, inputs)
        try:
            passage = infer(call, arrays)
            if passage is not None:
                call.memo["passage"] = passage
                return self._passed(call, arrays, passage, labels, reason)
        except NotInferredError as why:
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
