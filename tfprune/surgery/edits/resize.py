"""Resizes layers, or shrinks all to their useful units."""

from dataclasses import dataclass

import numpy as np

from tfprune.surgery.edits.base import Edit
from tfprune.surgery.edits.connect import Connect, Disconnect
from tfprune.surgery.lookup import find_operation
from tfprune.surgery.sizes import Difference, Inputs, size_constraint


@dataclass(frozen=True)
class Resize(Edit):
    """Changes the size of a layer, see `tfprune.surgery.resize`.

    `size` is the new size, or `change` the difference. `inputs` tells whether it is that of the
    inputs, or with `index` of one of them. `family` names the units where the layer makes several
    kinds.
    """

    layer: str
    size: int | None = None
    change: int | None = None
    inputs: bool = False
    family: str | None = None
    index: int | None = None

    @classmethod
    def of(cls, name_of, key, wanted):
        """The edit for an entry of `changes`; `name_of` gives the name of a layer."""
        layer, family = key if isinstance(key, tuple) else (key, None)
        inputs = isinstance(layer, Inputs)
        name = name_of(layer.layer if inputs else layer)
        wanted = wanted.item() if isinstance(wanted, np.integer) else wanted
        change = wanted.units if isinstance(wanted, Difference) else None
        index = layer.index if inputs else None
        return cls(name, None if change is not None else wanted, change, inputs, family, index)

    def check(self, model):
        find_operation(model, self.layer)

    @property
    def _wanted(self):
        return self.size if self.change is None else Difference(self.change)

    def constraints(self, model, coupling, edits):
        key = Inputs(self.layer, self.index) if self.inputs else (self.layer, self.family)
        _, operation = find_operation(model, self.layer)
        joined = []
        for edit in edits:  # the size counts the inputs that the layer gains and loses
            is_end = isinstance(edit, (Connect, Disconnect)) and self.index is None
            if is_end and find_operation(model, edit.target)[1] is operation:
                joined += edit.joined_units(model, coupling)
        return [size_constraint(model, coupling, key, self._wanted, joined)]

    def describe(self):
        what = "inputs" if self.index is None else f"input {self.index}"
        name = f"{what} of {self.layer}" if self.inputs else self.layer
        name = name if self.family is None else f"{name}/{self.family}"
        return "resize", name, f"{self._wanted!r}" if self.change else f"to {self.size}"


@dataclass(frozen=True)
class Shrink(Edit):
    """Removes all units of negative utility, see `tfprune.surgery.shrink`."""

    def describe(self):
        return "shrink", "all layers", "without units of negative utility"
