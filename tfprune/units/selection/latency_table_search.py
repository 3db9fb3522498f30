"""Search for the units to remove under a budget of latency, with a table of measured pieces.

The selection works on the sum of the pieces, as on multiply-accumulates. What it gives is rebuilt
and timed beside the dense model, which tells how far the sum is from the truth:

    measured / dense = a + b sum / dense sum

where `a` is what no unit saves, and `b` what running pieces behind each other takes or saves. The
selection is repeated with the sum at which that line meets the budget.
"""

from tfprune.units.selection.ranking import UnreachableError

_ROUNDS = 5


def units_by_table(select, present, fewest, costs, timer, budget, progress=1.0):
    """The units to keep so that a call takes no longer than allowed.

    Args:
        select: Function from the nanoseconds by the table that are allowed to the units to keep, a
            boolean array, which raises an `UnreachableError` if there are none.
        present: Boolean array over units: those that are not pruned yet.
        fewest: Boolean array over units: those that are kept if all go that can.
        costs: `CostsOfLatency`.
        timer: Function from a boolean array over units to the seconds of a call with all units and
            with these.
        budget: `Latency`.
        progress: Float from 0 to 1, how far on the way to the budget.

    Returns:
        A boolean array over units: of the choices that were timed and are within the tolerance, the
        slowest.

    Raises:
        UnreachableError: If none is.
    """
    dense, seconds = timer(present)
    share = budget.allowed(dense, progress) / dense
    most, least = (share * (1 + sign * budget.tolerance) for sign in (1, -1))
    known, timed, asked = [(1.0, 1.0)], {}, share
    if seconds / dense <= most:
        return present
    for _ in range(_ROUNDS):
        try:
            kept = select(int(asked * costs.dense))
        except UnreachableError:
            kept = fewest
        if kept.tobytes() in timed:
            break
        now, seconds = timer(kept)
        ratio = seconds / now
        timed[kept.tobytes()] = ratio, kept
        if least <= ratio <= most or (ratio > most and kept is fewest):
            break
        known.append((costs.of(kept) / costs.dense, ratio))
        asked = _asked(known, share)
    within = [each for each in timed.values() if each[0] <= most]
    if not within:
        lowest = min(ratio for ratio, _ in timed.values())
        raise UnreachableError("The budget cannot be met.", lowest * dense)
    return max(within, key=lambda each: (each[0], each[1].sum()))[1]


def _asked(known, share):
    """The share by the table at which a line through the two nearest points meets a share."""
    above = min((each for each in known if each[1] > share), key=lambda each: each[1], default=None)
    below = max(
        (each for each in known if each[1] <= share), key=lambda each: each[1], default=None
    )
    if below is None:
        first, second = sorted(known, key=lambda each: each[1])[:2]
    elif above is None:
        first, second = sorted(known, key=lambda each: -each[1])[:2]
    else:
        first, second = below, above
    rise = second[1] - first[1]
    if rise <= 0 or second[0] <= first[0]:  # noise: as if all were in proportion
        return first[0] * share / first[1]
    found = first[0] + (share - first[1]) / rise * (second[0] - first[0])
    return min(1.0, max(found, 0.5 * first[0] * share / first[1]))


def table_timer(costs):
    """Times by the table alone, for one of another device; see `LatencyTimer`."""

    def seconds(kept):
        return 1e-9 * costs.dense, 1e-9 * costs.of(kept)

    return seconds
