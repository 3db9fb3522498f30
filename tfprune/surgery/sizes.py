"""What sizes are asked for: numbers, differences, and what is counted."""

import numbers
from dataclasses import dataclass

import numpy as np

from tfprune.coupling.labels import FIXED
from tfprune.coupling.units import unit_name
from tfprune.surgery.lookup import find, input_units, output_units


@dataclass(frozen=True)
class Difference:
    """So many units more, or fewer if it is negative: what `by` gives."""

    units: int

    def __repr__(self):
        return f"by({self.units:+d})"


@dataclass(frozen=True)
class Inputs:
    """The inputs of a layer in place of its outputs: what `inputs_of` gives."""

    layer: object

    def __repr__(self):
        return f"inputs_of({getattr(self.layer, 'name', self.layer)!r})"


def by(units):
    """So many units more than there are, or fewer if it is negative.

    Args:
        units: Integer, not 0.

    Example:

    >>> by(+2), by(-3)
    (by(+2), by(-3))
    """
    if not _is_integer(units) or units == 0:
        raise ValueError(f"Argument `units` must be an integer other than 0. Received: {units!r}.")
    return Difference(int(units))


def inputs_of(layer):
    """The inputs of a layer, to be resized in place of its outputs.

    Args:
        layer: A layer or its name.

    Example:

    >>> inputs_of("dense")
    inputs_of('dense')
    """
    return Inputs(layer)


@dataclass(frozen=True, eq=False)
class Row:
    """A constraint: how many positions there are then, `sum_p signs_p * counts[units_p] = size`.

    Attributes:
        name: What is counted, for messages.
        units: The unit of each position.
        signs: 1 or -1 for each position.
        size: How many there should be.
        firm: Whether it holds even if sizes are met as nearly as can be only.
    """

    name: str
    units: np.ndarray
    signs: np.ndarray
    size: int
    firm: bool = False

    @property
    def now(self):
        """How many there are."""
        return int(self.signs.sum())


def asked(model, coupling, key, wanted, more=(), less=()):
    """The constraint that an entry of `changes` stands for.

    Args:
        model: The model.
        coupling: Its units.
        key: A layer, its name, `inputs_of` one, or a pair of a layer and the name of its units.
        wanted: The size, or a difference from `by`.
        more, less: Units of what is joined to the layer, or taken from it, at the same time.

    Raises:
        ValueError: If either cannot be read.
    """
    layer, family = key if isinstance(key, tuple) else (key, None)
    if isinstance(layer, Inputs):
        _, operation = find(model, layer.layer)
        name, units = f"the inputs of {operation.name!r}", input_units(coupling, operation)
    else:
        _, operation = find(model, layer)
        units = output_units(coupling, operation, family)
        name = repr(unit_name(operation, family))
    now = len(units)
    parts = [(units, 1), *((u, 1) for u in more), *((u, -1) for u in less)]
    return Row(
        name,
        np.concatenate([part for part, _ in parts]),
        np.concatenate([np.full(len(part), sign) for part, sign in parts]),
        now + wanted.units if isinstance(wanted, Difference) else _checked(wanted, name),
    )


def equal(name, ours, theirs):
    """The constraint that there are as many positions of one kind as of another."""
    signs = np.concatenate([np.ones(len(ours), int), -np.ones(len(theirs), int)])
    return Row(name, np.concatenate([ours, theirs]), signs, 0, firm=True)


def is_fixed(row):
    """Whether none of the positions belongs to a unit."""
    return bool((row.units == FIXED).all())


def _checked(wanted, name):
    if not _is_integer(wanted):
        raise ValueError(
            "A size must be an integer, or a difference: `tfprune.surgery.by(+2)`. "
            f"Received: {name}: {wanted!r}."
        )
    return int(wanted)


def _is_integer(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
