"""Resizes layers, or shrinks all to their useful units."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from tfprune import _keras
from tfprune.surgery.edits.base import Edit
from tfprune.surgery.lookup import find_operation, input_units, output_units
from tfprune.surgery.size_constraints import SizeConstraint
from tfprune.surgery.sizes import Inputs, New, Total, Wanted, as_wanted

_OUTPUTS, _INPUTS = "outputs", "inputs"


@dataclass(frozen=True)
class Resize(Edit):
    """Changes a size, or a sum of sizes, see `tfprune.surgery.resize`.

    Attributes:
        terms: What is counted: for each term its factor, the name of the layer, "outputs" or
            "inputs" of it, and the name of the units where it makes several kinds, or the index of
            an input, or None.
        wanted: The kind, the number and whether it is relaxed, as in `Wanted`.
        counts_new: Whether new units are counted only.
    """

    terms: tuple
    wanted: tuple
    counts_new: bool = False

    @classmethod
    def of(cls, name_of, key, value):
        """The edits for an entry of `changes`; `name_of` gives the name of a layer."""
        counts_new = isinstance(key, New)
        keys = key.layer if counts_new else key
        keys = keys.terms if isinstance(keys, Total) else ((keys, 1),)
        terms = tuple(_term(name_of, each, factor) for each, factor in keys)
        return [
            cls(terms, (each.kind, each.units, each.relaxed), counts_new)
            for each in as_wanted(value, _named(terms, counts_new))
        ]

    @property
    def layers(self):
        """The names of the layers."""
        return [layer for _, layer, _, _ in self.terms]

    def renamed(self, ends):
        """The edit with the operations that make inputs and outputs of layers in their place.

        Args:
            ends: For the name of each such layer, the names of the two operations.
        """
        terms = tuple(
            (factor, ends[layer][side == _OUTPUTS], _OUTPUTS, None)
            if layer in ends
            else (factor, layer, side, which)
            for factor, layer, side, which in self.terms
        )
        return dataclasses.replace(self, terms=terms)

    @property
    def given(self):
        """The names of the layers of which the output is counted."""
        return [layer for _, layer, side, which in self.terms if side == _OUTPUTS and which is None]

    def check(self, model):
        for layer in self.layers:
            find_operation(model, layer)

    def constraints(self, model, coupling, joins):
        units, signs, before = [np.empty(0, int)], [np.empty(0, int)], 0
        for factor, layer, side, which in self.terms:
            _, operation = find_operation(model, layer)
            if side == _INPUTS:
                found = input_units(coupling, operation, which)
            else:
                found = output_units(coupling, operation, which)
            before += factor * len(found)
            taken = joins.taken_by(operation) if joins and which is None else None
            found = found if taken is None else taken  # it counts what it gains, not what it loses
            units.append(found)
            signs.append(np.full(len(found), factor))
        return [
            SizeConstraint(
                self._name,
                np.concatenate(units),
                np.concatenate(signs),
                wanted=Wanted(*self.wanted),
                counts_new=self.counts_new,
                before=before,
            )
        ]

    @property
    def _name(self):
        return _named(self.terms, self.counts_new)

    def describe(self):
        wanted = Wanted(*self.wanted)
        how = f"to {wanted.units}" if wanted == Wanted("to", wanted.units) else repr(wanted)
        return "resize", self._name.replace("'", ""), how


def _term(name_of, key, factor):
    graph = _keras.functional(key.layer) if isinstance(key, Inputs) else None
    if graph is not None:
        inputs = _keras.input_layers(graph)
        if key.index is None and len(inputs) > 1 or (key.index or 0) >= len(inputs):
            raise ValueError(
                "Of a model with several inputs, name one by its index: `inputs_of(model, 0)`. "
                f"Received: {key!r}, of a model with {len(inputs)} inputs."
            )
        return factor, name_of(inputs[key.index or 0]), _OUTPUTS, None
    if isinstance(key, Inputs):
        return factor, name_of(key.layer), _INPUTS, key.index
    if isinstance(key, tuple) and (len(key) != 2 or not isinstance(key[1], str | None)):
        raise ValueError(
            "A key of `changes` must be a layer, its name, or a pair of it and the name of its "
            f"units. Received: {key!r}."
        )
    layer, family = key if isinstance(key, tuple) else (key, None)
    return factor, name_of(layer), _OUTPUTS, family


def _named(terms, counts_new):
    """What terms count, for messages."""
    named = []
    for factor, layer, side, which in terms:
        if side == _OUTPUTS:
            name = repr(layer if which is None else f"{layer}/{which}")
        else:
            name = f"{'the inputs' if which is None else f'input {which}'} of {layer!r}"
        named.append(name if factor == 1 else f"{factor} x {name}")
    total = " + ".join(named)
    return f"the new units of {total}" if counts_new else total


@dataclass(frozen=True)
class Shrink(Edit):
    """Removes all units of negative utility, see `tfprune.surgery.shrink`."""

    def describe(self):
        return "shrink", "all layers", "without units of negative utility"
