"""Rules of layers whose call stands for several calls of layers inside them."""

import dataclasses
from collections import ChainMap

from tfprune.coupling.rules.base import Rule


def flow_inside(flow, call, tensor_labels, tensor_constants, layers):
    """The `Flow` for calls of the layers inside a layer.

    Args:
        flow: The `Flow` of the model.
        call: The `Call` of the layer.
        tensor_labels, tensor_constants: Those of tensors that are not in the model.
        layers: The layers inside.
    """
    return dataclasses.replace(
        flow,
        tensor_labels=ChainMap(tensor_labels, flow.tensor_labels),
        tensor_constants=ChainMap(tensor_constants, flow.tensor_constants),
        called_once=frozenset(map(id, layers)) if flow.can_fold(call) else frozenset(),
    )


def sizes_inside(sizes, tensor_labels):
    """The `Sizes` for tensors inside a layer, which are not in the model."""
    labels = ChainMap(tensor_labels, sizes.coupling.tensor_labels)
    coupling = dataclasses.replace(sizes.coupling, tensor_labels=labels)
    kept_units = dataclasses.replace(sizes.kept_units, coupling=coupling)
    return dataclasses.replace(sizes, kept_units=kept_units)


class OfParts(Rule):
    """A layer that stands for calls of several layers inside it, the parts.

    A subclass says which, and how their outputs make those of the layer.
    """

    def parts(self, call):
        """A list of triples of a rule, a `Call` that it is applied to, and the name of its units.

        The same for each time that it is asked of one call.
        """
        raise NotImplementedError

    def config_of(self, config, place):
        """The arguments of a part in those of the layer, to be changed in place."""
        raise NotImplementedError

    def label_parts(self, call, inputs, labels):
        """The labels of the outputs of each part."""
        known, found = dict(zip(call.inputs, inputs, strict=True)), []
        for rule, part, family in self.parts(call):
            with labels.inside(call.operation, family):
                found.append(rule.label(part, [known[tensor] for tensor in part.inputs], labels))
            known.update(zip(part.outputs, found[-1], strict=True))
            call.memo.update({("labels", tensor): known[tensor] for tensor in part.outputs})
        return found

    def constants_of_parts(self, call, inputs):
        """The constants of the outputs of each part."""
        known, found = dict(zip(call.inputs, inputs, strict=True)), []
        for rule, part, _ in self.parts(call):
            found.append(rule.constants(part, [known[tensor] for tensor in part.inputs]))
            known.update(zip(part.outputs, found[-1], strict=True))
            call.memo.update({("constants", tensor): known[tensor] for tensor in part.outputs})
        return found

    def needs(self, call, flow):
        return self._of_parts("needs", call, flow)

    def folds(self, call, flow):
        return self._of_parts("folds", call, flow)

    def _of_parts(self, method, call, flow):
        """Calls a method of the rules of all parts, and joins the lists they return."""
        parts = self.parts(call)
        labels, constants = (
            {tensor: call.memo[kind, tensor] for _, part, _ in parts for tensor in part.outputs}
            for kind in ("labels", "constants")
        )
        within = flow_inside(
            flow, call, labels, constants, [part.operation for _, part, _ in parts]
        )
        return [each for rule, part, _ in parts for each in getattr(rule, method)(part, within)]

    def add_bias(self, config, call):
        """Gives all parts biases."""
        for place, (rule, part, _) in enumerate(self.parts(call)):
            rule.add_bias(self.config_of(config, place), part)

    def resize(self, config, call, sizes):
        """Resizes all parts."""
        sizes = sizes_inside(sizes, self._labels(call))
        for place, (rule, part, _) in enumerate(self.parts(call)):
            rule.resize(self.config_of(config, place), part, sizes)

    def in_place(self, call):
        """Those in all parts."""
        found, parts, labels = {}, self.parts(call), self._labels(call)

        def within(resize):
            return lambda copy, sizes: resize(copy, sizes_inside(sizes, labels))

        for rule, part, _ in parts:
            for key, resize in rule.in_place(part).items():
                found[key] = within(resize)
        return found

    def _labels(self, call):
        """The labels of the tensors that parts make, which are not in the model."""
        known = (("labels", t) for _, part, _ in self.parts(call) for t in part.outputs)
        return {key[1]: call.memo[key] for key in known if key in call.memo}
