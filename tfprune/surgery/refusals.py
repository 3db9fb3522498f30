"""Why sizes cannot be met, and what can be done: the messages of the size solver."""

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.labels import FIXED
from tfprune.coupling.units import unit_name
from tfprune.surgery.indices import units_by_layer


def refuse(coupling, choice, parts):
    """Raises a `ValueError` which says why parts of a problem cannot be met.

    Args:
        coupling: The units.
        choice: What chooses the numbers of units of a part.
        parts: The parts that cannot be met.
    """
    constraints = [each for part in parts for each in part.constraints]
    soft = [[i for i, each in enumerate(part.constraints) if not each.hard] for part in parts]
    nearest = [choice.nearest(part, each) for part, each in zip(parts, soft, strict=True)]
    if any(sizes is None for sizes in nearest):
        raise ValueError(_impossible(coupling, constraints))
    reachable = [
        f"{each.name}: {size}"
        for part, sizes in zip(parts, nearest, strict=True)
        for each, size in zip(part.constraints, sizes, strict=True)
        if not each.hard
    ]
    asked = [each for each in constraints if not each.hard]
    wanted = [_asked(each) for each in asked]
    losing = [_what_would_go(coupling, choice, part) for part in parts]
    if all(losing):
        raise ValueError(
            "The sizes can only be met by removing trained units, which a plan that asks only for "
            f"more of them does not do, and nothing was changed. Received: {_listed(wanted)}. "
            f"What would go: {_listed(name for each in losing for name in each)}. The nearest that "
            f"can without: {_listed(reachable)}. Ask for these, take them with `relaxed=True`, or "
            "permit the loss by asking for it: `resize(model, {layer: by(-1), ...})`."
        )
    counts = [each for each in asked if not each.counts_new and (each.signs > 0).all()]
    least = " A size is never below 1." if any(each.bounds[1] < 1 for each in counts) else ""
    raise ValueError(
        "The sizes cannot be met, and nothing was changed. "
        f"Received: {_listed(wanted)}. The nearest that can: {_listed(reachable)}."
        f"{_pins_message(coupling, asked)}{least} Ask for these, or take them with `relaxed=True`."
    )


def _asked(each):
    if each.wanted is None or each.wanted.kind in ("to", "by"):
        return f"{each.name} of size {each.current} asked to be {each.bounds[0]}"
    return f"{each.name} of size {each.current} asked to be {each.wanted!r}"


def _what_would_go(coupling, choice, part):
    """The layers of which units would go if they might, as strings; none if that does not help."""
    if not choice.only_grows(part):
        return []
    bounds = [each.bounds for each in part.constraints]
    found = choice.first_way(part, bounds, may_lose=True)
    if found is None:
        return []
    kept = choice.solution(part, found).kept
    changed = [
        (unit_name(layer, family), len(units), int((~kept[units]).sum()))
        for layer, family, units in units_by_layer(coupling)
    ]
    return [f"{gone} of the {count} units of {name!r}" for name, count, gone in changed if gone]


def _impossible(coupling, constraints):
    hard = [each for each in constraints if each.hard] or constraints
    return (
        "There are no sizes at which this fits together, and nothing was changed. Received: "
        f"{_listed(each.name for each in hard)}.{_pins_message(coupling, hard)} Tensors "
        "that are added or multiplied have equal sizes, each layer keeps a unit, and units of the "
        "inputs and outputs of the model keep their number; see `tfprune.explain(model)`."
    )


def _pins_message(coupling, constraints):
    """Why units that constraints count cannot be removed or added, as a sentence."""
    units = np.unique(np.concatenate([each.units for each in constraints]))
    pins = {coupling.pins[u] for u in units.tolist() if u in coupling.pins}
    names = {each.name for each in constraints}
    for call in coupling.trace.calls:
        if repr(call.operation.name) in names and isinstance(call.operation, keras.Layer):
            pins.update(_keras.changed_kernels(call.operation))
    pins = sorted(pins)
    held = f" What holds units: {_listed(pins)}." if pins else ""
    if "it is an output of the model" in pins:
        held += " An output changes its size where the layer that gives it is named."
    if FIXED in units:
        held += (
            " Some are channels of an input of the model, or constants. An input changes its size "
            "where it is named, as `inputs_of(model)`."
        )
    return held


def _listed(items):
    return "; ".join(dict.fromkeys(items))
