"""Fake quantisation: rounding by itself of each element, to the numbers of a range."""

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.rules.base import Rule, pin_inputs, rule
from tfprune.layers import FakeQuantize


class _Rounding(Rule):
    """Rounds each element; a constant to the constant that it becomes."""

    def range(self, call):
        """The range as two floats; None where all passes through."""
        raise NotImplementedError

    def constants(self, call, inputs):
        limits, known = self.range(call), ~np.isnan(inputs[0])
        if limits is None:
            return [inputs[0]]
        values = keras.ops.convert_to_tensor(np.where(known, inputs[0], 0), "float32")
        rounded = keras.quantizers.fake_quant_with_min_max_vars(values, *limits)
        return [np.where(known, keras.ops.convert_to_numpy(rounded), np.nan)]


@rule(FakeQuantize)
class FakeQuantizeLayer(_Rounding):
    """The layer, which has its range in variables."""

    def range(self, call):
        return call.operation.range


@rule(_keras.FAKE_QUANTIZATION)
class FakeQuantization(_Rounding):
    """The operation of Keras, which takes its range as numbers, or as tensors."""

    def label(self, call, inputs, labels):
        if self._numbers(call) is None:
            reason = f"{call.operation.name!r} takes its range from tensors"
            return pin_inputs(call, inputs, labels, reason)
        return [inputs[0]]

    def constants(self, call, inputs):
        if self._numbers(call) is None:
            return [np.full((1,) * inputs[0].ndim, np.nan)]
        return super().constants(call, inputs)

    def range(self, call):
        return self._numbers(call)

    def _numbers(self, call):
        arguments = dict(zip(("inputs", "min_vals", "max_vals"), call.args, strict=False))
        arguments |= call.kwargs
        found = [arguments.get(name) for name in ("min_vals", "max_vals")]
        try:
            return tuple(float(np.asarray(each)) for each in found)
        except (TypeError, ValueError):
            return None
