"""Wrappers: `TimeDistributed` and `Bidirectional`."""

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.calls import Call, Tensor
from tfprune.coupling.labels import FIXED, along, placed
from tfprune.coupling.rules.base import Rule, pin_inputs, rule, rule_of, unknown_outputs
from tfprune.coupling.rules.parts import OfParts, flow_inside, sizes_inside


def _without_time(tensor):
    return Tensor((tensor.shape[0], *tensor.shape[2:]), tensor.dtype)


@rule(keras.layers.TimeDistributed)
class TimeDistributed(Rule):
    """A layer at every time step: the rule of the inner layer, with one more axis.

    For a model or a layer without a rule, see `tfprune.coupling.time_steps`.
    """

    def label(self, call, inputs, labels):
        (array,) = inputs
        if array.shape[0] != 1:
            reason = f"{call.operation.name!r} takes units for time steps"
            return pin_inputs(call, inputs, labels, reason)
        inner = self._inner(call)
        if _keras.functional(inner.operation) is not None:
            name = inner.operation.name
            reason = f"{call.operation.name!r} hands a mask of steps to the layers in {name!r}"
            return pin_inputs(call, inputs, labels, reason)
        with labels.inside(call.operation):
            outputs = rule_of(inner.operation).label(inner, [array[0]], labels)
        return [output[None] for output in outputs]

    def constants(self, call, inputs):
        (array,) = inputs
        if array.shape[0] != 1:
            return unknown_outputs(call)
        inner = self._inner(call)
        outputs = rule_of(inner.operation).constants(inner, [array[0]])
        return [output[None] for output in outputs]

    def needs(self, call, flow):
        return self._inside("needs", call, flow, [])

    def folds(self, call, flow):
        return self._inside("folds", call, flow, [])

    def left_out(self, call, flow):
        """Those of the inner layer."""
        return self._inside("left_out", call, flow, super().left_out(call, flow))

    def is_refused(self, call, flow):
        """Whether the layer inside could not compute the same when smaller."""
        return self._inside("is_refused", call, flow, False)

    def _inside(self, method, call, flow, otherwise):
        """Calls a method of the rule of the inner layer."""
        if flow.labels(call.inputs[0]).shape[0] != 1:
            return otherwise
        inner = self._inner(call)
        pairs = list(zip(inner.inputs + inner.outputs, call.inputs + call.outputs, strict=True))
        labels = {ours: flow.labels(theirs)[0] for ours, theirs in pairs}
        constants = {ours: flow.constants(theirs)[0] for ours, theirs in pairs}
        within = flow_inside(flow, call, labels, constants, [inner.operation])
        return getattr(rule_of(inner.operation), method)(inner, within)

    def _inner(self, call):
        if "inner" not in call.memo:
            layer, kwargs = call.operation.layer, {}
            if _keras.takes_mask(layer) and call.kwargs.get("mask"):
                kwargs["mask"] = call.kwargs["mask"]
            inputs, outputs = (tuple(map(_without_time, t)) for t in (call.inputs, call.outputs))
            call.memo["inner"] = Call(layer, inputs, kwargs, outputs)
        return call.memo["inner"]

    def add_bias(self, config, call):
        """Gives the layer inside a bias."""
        inner = self._inner(call)
        rule_of(inner.operation).add_bias(config["layer"]["config"], inner)

    def factors(self, call, sizes):
        """Those of the layer inside."""
        inner = self._inner(call)
        return rule_of(inner.operation).factors(inner, self._sizes_inside(call, sizes))

    def resize(self, config, call, sizes):
        """Resizes the layer inside."""
        inner = self._inner(call)
        within = self._sizes_inside(call, sizes)
        rule_of(inner.operation).resize(config["layer"]["config"], inner, within)

    def in_place(self, call):
        """Those in the layer inside."""
        inner = self._inner(call)

        def within(resize):
            return lambda copy, sizes: resize(copy, self._sizes_inside(call, sizes))

        found = rule_of(inner.operation).in_place(inner)
        return {key: within(resize) for key, resize in found.items()}

    def _sizes_inside(self, call, sizes):
        inner, known = self._inner(call), sizes.coupling.tensor_labels
        pairs = zip(inner.inputs + inner.outputs, call.inputs + call.outputs, strict=True)
        return sizes_inside(sizes, {ours: known[theirs][0] for ours, theirs in pairs})


_MERGES = {
    "concat": lambda a, b, axis: np.concatenate([a, b], axis),
    "sum": lambda a, b, axis: a + b,
    "ave": lambda a, b, axis: (a + b) / 2,
    "mul": lambda a, b, axis: np.where((a == 0) | (b == 0), 0.0, a * b),
}


@rule(keras.layers.Bidirectional)
class Bidirectional(OfParts):
    """A forward and a backward recurrent layer, merged.

    Concatenated, both must keep equally many units, because Keras assumes equal widths. Merged by a
    sum, a mean or a product, their units are coupled.
    """

    def label(self, call, inputs, labels):
        layer, inner = call.operation, self._inner(call)
        found = self.label_parts(call, inputs, labels)
        if any(along(arrays[0], -1) is None for arrays in found):
            reason = f"{layer.name!r} merges along an axis without units"
            return pin_inputs(call, [arrays[0] for arrays in found], labels, reason)
        forward, backward = (
            np.broadcast_to(along(arrays[0], -1), each.outputs[0].shape[-1:])
            for each, arrays in zip(inner, found, strict=True)
        )
        if layer.merge_mode not in ("concat", None):
            labels.unite(forward, backward, f"{layer.name!r} merges it with fixed units")
        elif (forward != FIXED).all() and (backward != FIXED).all():
            labels.group(layer, np.stack([forward, backward]), whole=False)
        if layer.merge_mode == "concat":
            forward = np.concatenate([forward, backward])
        states = [*found[0][1:], *found[1][1:]]
        first = placed(forward, -1, found[0][0].ndim)
        return [first, *([found[1][0]] if layer.merge_mode is None else []), *states]

    def constants(self, call, inputs):
        layer, found = call.operation, self.constants_of_parts(call, inputs)
        outputs = [found[0][0], found[1][0]]
        if layer.merge_mode is not None:
            sizes = [each.outputs[0].shape[-1] for each in self._inner(call)]
            both = [
                np.broadcast_to(array, (*array.shape[:-1], size))
                for array, size in zip(outputs, sizes, strict=True)
            ]
            outputs = [_MERGES[layer.merge_mode](*both, -1)]
        return [*outputs, *found[0][1:], *found[1][1:]]

    def parts(self, call):
        inner = zip(self._inner(call), ("forward", "backward"), strict=True)
        return [(rule_of(each.operation), each, family) for each, family in inner]

    def config_of(self, config, place):
        return config[("layer", "backward_layer")[place]]["config"]

    def _inner(self, call):
        """The calls of both layers, with half of the initial states each."""
        if "inner" not in call.memo:
            layer, (sequences, *states) = call.operation, call.inputs
            count = 2 if layer.merge_mode is None else 1
            output, made = call.outputs[0], call.outputs[count:]
            if layer.merge_mode == "concat":
                output = Tensor((*output.shape[:-1], output.shape[-1] // 2), output.dtype)
            halves = [
                (states[: len(states) // 2], made[: len(made) // 2]),
                (states[len(states) // 2 :], made[len(made) // 2 :]),
            ]
            kwargs = {name: value for name, value in call.kwargs.items() if name == "mask"}
            call.memo["inner"] = [
                Call(inside, (sequences, *starts), kwargs, (_copy(output), *map(_copy, ends)))
                for inside, (starts, ends) in zip(
                    (layer.forward_layer, layer.backward_layer), halves, strict=True
                )
            ]
        return call.memo["inner"]


def _copy(tensor):
    return Tensor(tensor.shape, tensor.dtype)
