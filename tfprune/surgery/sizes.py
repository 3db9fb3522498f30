"""Sizes to resize to (`by`, `at_least`, ...), and what is counted (`inputs_of`, ...)."""

import numbers
from dataclasses import dataclass

KINDS = ("to", "by", "at_least", "at_most", "multiple_of")
LARGEST = 10**6
"""How many new units can come in one plan."""


@dataclass(frozen=True)
class Wanted:
    """A size, or bounds of it.

    Attributes:
        kind: One of `KINDS`.
        units: The number that it is about.
        relaxed: Whether it is met as nearly as possible where it cannot be met.
    """

    kind: str
    units: int
    relaxed: bool = False

    def bounds(self, current):
        """The lowest and the highest size, given the present one, and what it is a multiple of."""
        exact = current + self.units if self.kind == "by" else self.units
        lowest = {"at_most": float("-inf"), "multiple_of": 1}.get(self.kind, exact)
        highest = exact if self.kind in ("to", "by", "at_most") else float("inf")
        return lowest, highest, self.units if self.kind == "multiple_of" else 1

    def __repr__(self):
        units = f"{self.units:+d}" if self.kind == "by" and self.units else f"{self.units}"
        return f"{self.kind}({units}{', relaxed=True' if self.relaxed else ''})"


class Difference(Wanted):
    """A difference to the present number, made by `by`."""


@dataclass(frozen=True)
class Inputs:
    """The inputs of a layer, made by `inputs_of`."""

    layer: object
    index: int | None = None

    def __repr__(self):
        index = "" if self.index is None else f", {self.index}"
        return f"inputs_of({getattr(self.layer, 'name', self.layer)!r}{index})"


@dataclass(frozen=True)
class New:
    """The new units of a layer, made by `new_in`."""

    layer: object

    def __repr__(self):
        return f"new_in({getattr(self.layer, 'name', self.layer)!r})"


@dataclass(frozen=True)
class Total:
    """A weighted sum of sizes, made by `total_of`: pairs of what is counted and its factor."""

    terms: tuple

    def __repr__(self):
        named = {getattr(key, "name", key): factor for key, factor in self.terms}
        return f"total_of({named})"


def by(units, *, relaxed=False):
    """A size relative to the present one, for `tfprune.surgery.resize`.

    Args:
        units: Integer: how many units are added, or removed if it is negative. With 0 the size is
            held, whatever else changes; the units may be others.
        relaxed: Boolean. Whether it is met as nearly as possible where it cannot be met.

    Raises:
        ValueError: If `units` is no integer.

    Example:

    >>> by(+2), by(-3, relaxed=True), by(0)
    (by(+2), by(-3, relaxed=True), by(0))
    """
    return _wanted("by", units, relaxed, lowest=None)


def to(units, *, relaxed=False):
    """A size for `tfprune.surgery.resize`: as the integer alone, but that it can be relaxed.

    Args:
        units: Integer, the size.
        relaxed: As in `by`.

    Example:

    >>> to(8, relaxed=True)
    to(8, relaxed=True)
    """
    return _wanted("to", units, relaxed, lowest=None)


def at_least(units, *, relaxed=False):
    """A lower bound of a size, for `tfprune.surgery.resize`.

    A layer that is smaller grows to it; what else is asked for may make it larger.

    Args:
        units: Integer, the lowest size.
        relaxed: As in `by`.

    Example:

    >>> at_least(8)
    at_least(8)
    """
    return _wanted("at_least", units, relaxed, lowest=None)


def at_most(units, *, relaxed=False):
    """An upper bound of a size, for `tfprune.surgery.resize`.

    A layer that is larger keeps so many of its units, those of the highest scores.

    Args:
        units: Integer, the highest size.
        relaxed: As in `by`.

    Example:

    >>> at_most(64)
    at_most(64)
    """
    return _wanted("at_most", units, relaxed, lowest=None)


def multiple_of(units, *, relaxed=False):
    """A size that is a multiple of a number, for `tfprune.surgery.resize`.

    The layer grows to the next multiple, so that it loses no trained unit. Only where nothing meets
    all that is asked for otherwise, as below an `at_most`, it becomes smaller.

    Args:
        units: Integer from 1: what the size is a multiple of.
        relaxed: As in `by`.

    Example:

    >>> multiple_of(8)
    multiple_of(8)
    """
    return _wanted("multiple_of", units, relaxed, lowest=1)


def inputs_of(layer, index=None):
    """The inputs of a layer, to be resized with `tfprune.surgery.resize` instead of its outputs.

    Of a concatenation all inputs are counted together; of a sum, or another element-wise operation,
    each has the size. Of other layers with several inputs it is the first.

    Of the model itself it is the last axis of its input, such as the colours of images. It changes
    only if it is named so, or by its input layer, `keras.Input(shape, name="image")`.

    Args:
        layer: A layer or its name, or a Functional or Sequential model.
        index: Integer, to count one of several inputs only: 0 for the first.

    Example:

    >>> inputs_of("dense"), inputs_of("attention", 1)
    (inputs_of('dense'), inputs_of('attention', 1))
    """
    if index is not None and not (_is_integer(index) and index >= 0):
        raise ValueError(f"Argument `index` must be an integer from 0. Received: index={index!r}.")
    return Inputs(layer, None if index is None else int(index))


def new_in(layer):
    """The new units of a layer, to be bounded with `tfprune.surgery.resize`.

    Args:
        layer: A layer or its name, or `inputs_of` one.

    Example:

    >>> {"joined": by(+5), new_in("branch"): at_most(2)}
    {'joined': by(+5), new_in('branch'): at_most(2)}
    """
    return New(layer)


def total_of(*layers):
    """A sum of sizes, to be bounded with `tfprune.surgery.resize`: a linear constraint.

    Args:
        *layers: What is counted: layers, their names, or whatever else is a key of `changes`. Or
            one dict of them, with their integer factors as values.

    Raises:
        ValueError: If there are none, or a factor is no integer.

    Example:

    >>> {total_of("a", "b"): at_most(16), total_of({"a": 1, "b": -2}): 0}
    {total_of({'a': 1, 'b': 1}): at_most(16), total_of({'a': 1, 'b': -2}): 0}
    """
    terms = layers[0] if len(layers) == 1 and isinstance(layers[0], dict) else None
    if terms is None and not any(isinstance(each, (list, set, dict)) for each in layers):
        terms = dict.fromkeys(layers, 1)
    if not terms or not all(map(_is_integer, terms.values())):
        raise ValueError(
            "`total_of` takes layers, or a dict from layers to integers. "
            f"Received: {terms or layers!r}."
        )
    return Total(tuple((key, int(factor)) for key, factor in terms.items()))


def as_wanted(value, name):
    """A value of `changes` as a list of `Wanted`: an integer, one of these, or a list of both.

    Raises:
        ValueError: If it is none.
    """
    values = value if isinstance(value, (list, tuple)) else [value]
    found = [each if isinstance(each, Wanted) else _exact(each, name) for each in values]
    if not found:
        _refuse(value, name)
    if any(each.kind != "at_most" and each.units > LARGEST for each in found):
        raise ValueError(f"A size can be {LARGEST:,} at most. Received: {name}: {value!r}.")
    return found


def _exact(value, name):
    if not _is_integer(value):
        _refuse(value, name)
    return Wanted("to", int(value))


def _refuse(value, name):
    raise ValueError(
        "A size must be an integer, or made by `tfprune.surgery.by`, `to`, `at_least`, `at_most` "
        f"or `multiple_of`, or a list of these. Received: {name}: {value!r}."
    )


def _wanted(kind, units, relaxed, lowest):
    if not _is_integer(units) or (lowest is not None and units < lowest):
        above = "" if lowest is None else f" from {lowest}"
        raise ValueError(f"Argument `units` must be an integer{above}. Received: {units!r}.")
    if not isinstance(relaxed, bool):
        raise ValueError(f"Argument `relaxed` must be a boolean. Received: {relaxed!r}.")
    return (Difference if kind == "by" else Wanted)(kind, int(units), relaxed)


def _is_integer(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
