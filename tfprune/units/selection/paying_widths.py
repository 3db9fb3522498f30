"""`round_to="auto"`: the multiples of units that pay, from the steps that kernels make.

Kernels work on 4, 8, 16 or 32 channels at once, and what is left over costs as much as a whole
round, or more. How much a width between two multiples of 32 takes above the straight line between
these is measured once for each kind of piece, along each of its dimensions: at the smallest piece
that has room for it, where a single round weighs most.
"""

import numpy as np

from tfprune.measuring.latency_table import LatencyTable
from tfprune.units.selection.latency_costs import CostsOfLatency
from tfprune.units.selection.removal_groups import removal_groups

_PERIODS = ((64, 32, (1, 2, 4, 8, 12, 16, 20, 24, 28)), (32, 16, (1, 2, 4, 6, 8, 12)))
"""From which size on: the distance of the multiples, and the widths above the lower one."""

_MULTIPLES = (1, 2, 4, 8, 16, 32)
_ROOM = 1.5
"""How many times its multiple a layer has at least, so that it can lose units."""


def multiples_that_pay(units, groups, costs):
    """For each set of units the multiple at which its layers are fast.

    It is the smallest multiple `g` whose widths lie on average above the line by no more than what
    a quarter of `g` units take.

    Args:
        units: `PrunableUnits`.
        groups: Their `RemovalGroups`.
        costs: `CostsOfLatency`.

    Returns:
        An array of integers, one for each set.
    """
    profiles = _profiles(costs)
    slopes = {}  # by removal group: what the pieces that it is in take for each position, by kind
    for grid in costs.grids:
        for place, dimension in enumerate(grid.dimensions):
            per_unit = _per_position(grid, place)
            for group in dimension.groups.tolist():
                by_kind = slopes.setdefault(group, {})
                kind = _kind(grid, place)
                by_kind[kind] = by_kind.get(kind, 0.0) + per_unit
    found = []
    for unit_set in units.sets:
        group = int(groups.group_of_unit[unit_set.units].max())
        weights = {k: w for k, w in slopes.get(group, {}).items() if k in profiles}
        most = len(unit_set.units) / _ROOM
        found.append(_multiple(weights, profiles, most))
    return np.array(found, int)


def _multiple(weights, profiles, most):
    total = sum(weights.values())
    allowed = [m for m in _MULTIPLES if m <= max(1, most)]
    if not total:
        return 1
    for multiple in allowed:
        above = sum(weight * profiles[kind].above(multiple) for kind, weight in weights.items())
        if above / total <= multiple / 4:
            return multiple
    return allowed[-1]


class _Profile:
    """How far widths between two multiples lie above the line between these, in positions."""

    def __init__(self, period, above):
        self._period, self._above = period, above

    def above(self, multiple):
        """The mean over all widths that are multiples of a number, a power of 2.

        Half of them are multiples of twice that number; the others are represented by those that
        were measured.
        """
        if multiple >= self._period:
            return 0.0
        rest = self.above(2 * multiple)
        odd = [up for width, up in self._above.items() if width % (2 * multiple) == multiple]
        return 0.5 * max(0.0, sum(odd) / len(odd)) + 0.5 * rest if odd else rest


def _kind(grid, place):
    """What kernels differ by: the operation, the size of its kernel, and which dimension it is."""
    operation = grid.piece.operation
    names = ("kernel_size", "strides", "groups")
    sizes = tuple(str(getattr(operation, name, None)) for name in names)
    return (type(operation).__name__, *sizes, len(grid.dimensions), place)


def _per_position(grid, place):
    """The seconds of a position of a dimension, between half and all of them."""
    counts = [len(dimension.groups) for dimension in grid.dimensions]
    half = list(counts)
    half[place] = max(1, counts[place] // 2)
    if half == counts:
        return 0.0
    positions = grid.dimensions[place].each * (counts[place] - half[place])
    return max(0.0, grid.at(tuple(counts)) - grid.at(tuple(half))) / positions


def _profiles(costs):
    """A `_Profile` by kind of piece and dimension, for those that are large enough."""
    chosen = {}
    for grid in costs.grids:
        for place, dimension in enumerate(grid.dimensions):
            is_plain = dimension.each == 1 and dimension.rest == 0 and grid.is_measured
            fits = [p for p in _PERIODS if len(dimension.groups) >= p[0]]
            if is_plain and fits and len(grid.dimensions) <= 2:
                kind = _kind(grid, place)
                size = fits[0][0], -len(dimension.groups), grid.piece.macs or 0
                if kind not in chosen or size > chosen[kind][0]:
                    chosen[kind] = size, grid, place, fits[0][1:]
    asked = []
    for _, grid, place, (period, widths) in chosen.values():
        start = len(grid.dimensions[place].groups) // 2 // period * period
        for width in (0, *widths, period):
            counts = [len(dimension.groups) for dimension in grid.dimensions]
            counts[place] = start + width
            asked.append((grid.piece, list(zip(grid.dimensions, counts, strict=True))))
    seconds = iter(costs.seconds(asked))
    found = {}
    for kind, (_, _, _, (period, widths)) in chosen.items():
        first, *inside, last = [next(seconds) for _ in range(len(widths) + 2)]
        if None in (first, last, *inside) or last <= first:
            continue
        each = (last - first) / period
        above = {
            width: (value - first) / each - width
            for width, value in zip(widths, inside, strict=True)
        }
        found[kind] = _Profile(period, above)
    return found


def pieces_to_measure(units, batch_size=1, input_shapes=None):
    """All pieces that selection under a latency asks for, whatever scores and budget.

    Args:
        units: `PrunableUnits` of a model of which nothing is pruned.
        batch_size, input_shapes: As in `CostsOfLatency`.

    Returns:
        A list of `SmallModel`, each with another digest.

    Raises:
        ValueError: If there is none.
    """
    asked = []

    def note(models):
        asked.extend(models)
        return [1.0 + place for place in range(len(models))]

    groups = removal_groups(units)
    table = LatencyTable({}, measure=note)
    multiples_that_pay(
        units, groups, CostsOfLatency(units, groups, table, batch_size, input_shapes)
    )
    if not asked:
        raise ValueError(
            "The model has no piece that can be measured by itself. "
            f"Received: model={units.model.name!r}."
        )
    return asked
