"""Sizes to resize to: integers, differences (`by`), inputs (`inputs_of`), and their constraints."""

import numbers
from dataclasses import dataclass

import numpy as np

from tfprune.coupling.units import unit_name
from tfprune.surgery.lookup import find_operation, input_units, output_units


@dataclass(frozen=True)
class Difference:
    """A difference in the number of units, made by `by`."""

    units: int

    def __repr__(self):
        return f"by({self.units:+d})"


@dataclass(frozen=True)
class Inputs:
    """The inputs of a layer, made by `inputs_of`."""

    layer: object
    index: int | None = None

    def __repr__(self):
        index = "" if self.index is None else f", {self.index}"
        return f"inputs_of({getattr(self.layer, 'name', self.layer)!r}{index})"


def by(units):
    """A size relative to the present one, for `tfprune.surgery.resize`.

    Args:
        units: Integer other than 0: how many units are added, or removed if it is negative.

    Raises:
        ValueError: If it is not.

    Example:

    >>> by(+2), by(-3)
    (by(+2), by(-3))
    """
    if not _is_integer(units) or units == 0:
        raise ValueError(f"Argument `units` must be an integer other than 0. Received: {units!r}.")
    return Difference(int(units))


def inputs_of(layer, index=None):
    """The inputs of a layer, to be resized with `tfprune.surgery.resize` instead of its outputs.

    Of a concatenation all inputs are counted together; of a sum, or another element-wise operation,
    each has the size. Of other layers with several inputs it is the first.

    Args:
        layer: A layer or its name.
        index: Integer, to count one of several inputs only: 0 for the first.

    Example:

    >>> inputs_of("dense"), inputs_of("attention", 1)
    (inputs_of('dense'), inputs_of('attention', 1))
    """
    if index is not None and not (_is_integer(index) and index >= 0):
        raise ValueError(f"Argument `index` must be an integer from 0. Received: index={index!r}.")
    return Inputs(layer, None if index is None else int(index))


@dataclass(frozen=True, eq=False)
class SizeConstraint:
    """A constraint on the number of positions: `sum_p signs_p * counts[units_p] = size`.

    Attributes:
        name: What is counted, for messages.
        units: The unit of each position.
        signs: 1 or -1 for each position.
        size: The number to reach.
        hard: Whether it must hold even where sizes are only met as nearly as possible.
    """

    name: str
    units: np.ndarray
    signs: np.ndarray
    size: int
    hard: bool = False

    @property
    def current(self):
        """The number of positions before."""
        return int(self.signs.sum())


def size_constraint(model, coupling, key, wanted, joined=()):
    """The constraint for an entry of `changes`.

    Args:
        model: The model.
        coupling: Its units.
        key: A layer, its name, `inputs_of` one, or a pair of a layer and the name of its units.
        wanted: The size, or a difference from `by`.
        joined: Pairs of an array of units that the layer gains or loses as inputs at the same time,
            and 1 or -1.

    Raises:
        ValueError: If either cannot be read.
    """
    layer, family = key if isinstance(key, tuple) else (key, None)
    if isinstance(layer, Inputs):
        _, operation = find_operation(model, layer.layer)
        units = input_units(coupling, operation, layer.index)
        what = "the inputs" if layer.index is None else f"input {layer.index}"
        name = f"{what} of {operation.name!r}"
    else:
        _, operation = find_operation(model, layer)
        units = output_units(coupling, operation, family)
        name = repr(unit_name(operation, family))
    parts = [(units, 1), *joined]
    return SizeConstraint(
        name,
        np.concatenate([part for part, _ in parts]),
        np.concatenate([np.full(len(part), sign) for part, sign in parts]),
        len(units) + wanted.units if isinstance(wanted, Difference) else _checked(wanted, name),
    )


def equal_counts(name, ours, theirs):
    """The constraint that two arrays of units keep equally many positions; none if they are equal.

    Returns:
        A list of one `SizeConstraint` or none.
    """
    if np.array_equal(ours, theirs):
        return []
    signs = np.concatenate([np.ones(len(ours), int), -np.ones(len(theirs), int)])
    return [SizeConstraint(name, np.concatenate([ours, theirs]), signs, 0, hard=True)]


def _checked(wanted, name):
    if not _is_integer(wanted):
        raise ValueError(
            "A size must be an integer, or a difference: `tfprune.surgery.by(+2)`. "
            f"Received: {name}: {wanted!r}."
        )
    return int(wanted)


def _is_integer(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
