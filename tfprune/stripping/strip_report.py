"""The report of `strip`: the units that it removed, and those that it had to keep."""

import dataclasses
from dataclasses import dataclass, field


@dataclass(frozen=True)
class KeptUnit:
    """A unit whose kernel slices are all 0 and which could not be removed, with the reason."""

    layer: str
    index: int
    reason: str


@dataclass(frozen=True)
class StrippedLayer:
    """How many units a layer had before `strip`, and has after it."""

    name: str
    before: int
    after: int


@dataclass(frozen=True)
class StripReport:
    """The units that `strip` removed, and the zero units that it had to keep. It prints as text.

    Attributes:
        layers: A `StrippedLayer` for each layer that makes units.
        kept: A `KeptUnit` for each unit that is masked or zero and could not be removed.
        parameters: The number of parameters before and after.
        error: The largest difference between the outputs of the two models, over how much they vary
            between examples, or over the largest output where that is less; None if no output was
            compared.
        not_from_config: The names of layers that were shrunk in place and whose configs make the
            sizes, or the epsilon, that they had. A `.keras` file does not hold them; `.weights.h5`
            files, SavedModel, LiteRT and ONNX files do.
        not_compared: The names, or positions, of outputs that are not deterministic: they differ
            from call to call of the same model, so they were not compared.
        unreached: The names of parts which stay as they were, because the `call` of the model or
            layer around them does not use them, such as a head that only `train_step` calls.
    """

    layers: tuple
    kept: tuple
    parameters: tuple
    error: float | None = field(default=None)
    not_from_config: tuple = ()
    not_compared: tuple = ()
    unreached: tuple = ()

    @property
    def removed_units(self):
        """How many units were removed."""
        return sum(layer.before - layer.after for layer in self.layers)

    def __str__(self):
        lines = [f"{layer.name}: {layer.before} -> {layer.after} units" for layer in self.layers]
        lines += [f"{u.layer}[{u.index}] stays: {u.reason}" for u in self.kept]
        lines += [
            f"{name} was shrunk in place, and its config makes what it was before: a `.keras` file "
            "does not hold it"
            for name in self.not_from_config
        ]
        lines += [
            f"output {name!r} is not deterministic: it differs from call to call of the model, so "
            "it was not compared"
            for name in self.not_compared
        ]
        lines += [
            f"{name} stays as it was: the `call` of what it is in does not use it"
            for name in self.unreached
        ]
        before, after = self.parameters
        return "\n".join([*lines, f"parameters: {before:,} -> {after:,}"])


def joined(first, second):
    """The report of two passes, of which the second went on with what the first returned."""
    later = {layer.name: layer for layer in second.layers}
    before = {layer.name: layer.before for layer in first.layers}
    layers = [
        StrippedLayer(layer.name, layer.before, later.pop(layer.name, layer).after)
        for layer in first.layers
    ]
    as_they_were = {each.name for each in second.layers if each.before == each.after}
    return dataclasses.replace(
        second,
        layers=(*layers, *later.values()),
        kept=(
            *(unit for unit in first.kept if unit.layer in as_they_were),
            *(unit for unit in second.kept if unit.layer not in as_they_were & set(before)),
        ),
        parameters=(first.parameters[0], second.parameters[1]),
    )
