"""Coupled units: which slices of which weights can only be removed together."""

from dataclasses import dataclass, field

import numpy as np

from tfprune.coupling.calls import Trace


@dataclass(frozen=True, eq=False)
class UnitSet:
    """A set of units that the same layers make, such as the filters of one convolution.

    Attributes:
        layers: The layers that make the units.
        units: Integer array of units, as `Coupling.units_of` numbers them.
        pinned: For each unit, the reason why it cannot be removed, or None.
        groups: Array of shape (groups, units in a group) if only whole groups or equal counts can
            be removed, else None.
        families: For each layer the name it has for these units; None for those of its output.
        names: Names of layers that tell where they are, by id; see `Trace`.
    """

    layers: tuple
    units: np.ndarray
    pinned: tuple
    groups: np.ndarray | None = None
    families: tuple = ()
    names: dict = field(default_factory=dict, repr=False)

    @property
    def name(self):
        """The names of the layers, with those of the families: `"attention/heads"`."""
        return " + ".join(map(self._name, self.layers, self.families))

    def _name(self, layer, family):
        name = self.names.get(id(layer), layer.name)
        return name if family is None else f"{name}/{family}"

    @property
    def removable(self):
        """Whether any unit of the set can be removed."""
        return any(reason is None for reason in self.pinned)


def unit_name(layer, family):
    """The name of a layer's units in reports."""
    return layer.name if family is None else f"{layer.name}/{family}"


@dataclass(frozen=True, eq=False)
class Coupling:
    """The coupled units of a model, from `couple`.

    Attributes:
        trace: The calls of the model.
        tensor_labels: The label array of each tensor of the trace.
        slices: A `Slice` for each axis of a weight that units belong to.
        groupings: The equal-count constraints.
        roots: For each label its unit, an equivalence class of coupled labels. Unit 0 is fixed.
        pins: Dict from each unit that cannot be removed to the reason.
        sets: The sets of units.
        blocks: For each tensor along several axes of which units would stand, if they were not
            united along all but one, the labels along that one.
    """

    trace: Trace
    tensor_labels: dict = field(repr=False)
    slices: tuple = field(repr=False)
    groupings: tuple = field(repr=False)
    roots: np.ndarray = field(repr=False)
    pins: dict = field(repr=False)
    sets: tuple = ()
    blocks: tuple = field(default=(), repr=False)

    @property
    def size(self):
        """The number of units, the fixed one included."""
        return int(self.roots.max()) + 1

    def units_of(self, labels):
        """Returns the unit of each label."""
        return self.roots[labels]


def unique_in_order(units):
    """The distinct units in the order in which they first occur; gates repeat them."""
    return units[np.sort(np.unique(units, return_index=True)[1])]
