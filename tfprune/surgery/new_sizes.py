"""The units that stay under the edits of a plan, and how many are added."""

import numpy as np

from tfprune import _keras
from tfprune.surgery.edges import Joins
from tfprune.surgery.edits import Disconnect, Edit, Shrink
from tfprune.surgery.growth import kept_units_of
from tfprune.surgery.indices import kept_units_from, units_made_only_by
from tfprune.surgery.size_solver import remove_negative, solve
from tfprune.surgery.utility import Utilities


def kept_units_after(model, edits, selected=None, *, criterion, relaxed, split, **limits):
    """The units that stay where several edits of a model are made together.

    Args:
        model: The model, after the edits that are made before sizes are solved.
        edits: The other edits.
        selected: The units of each layer, as `Plan.to_dict` writes them; None to select them.
        criterion, relaxed: As in `tfprune.surgery.resize`.
        split: Whether new units are copies of old ones.
        **limits: `time_limit` and `verbose`, as in `tfprune.surgery.resize`.

    Returns:
        The `KeptUnits`, or None if all units stay, and the `Joins`, or None.

    Raises:
        ValueError: If there are no sizes at which the edits fit together.
    """
    shrinks = any(isinstance(edit, Shrink) for edit in edits)
    has_sizes = any(type(edit).constraints is not Edit.constraints for edit in edits)
    if not shrinks and not has_sizes and not any(isinstance(edit, Disconnect) for edit in edits):
        return None, None
    joins = Joins(model, edits)
    coupling = joins.coupling
    if selected is not None:
        return kept_units_from(coupling, model, selected, joins.outputs()), joins
    asked = [
        constraint for edit in edits for constraint in edit.constraints(model, coupling, joins)
    ]
    constraints = [*asked, *joins.constraints()]
    utilities = _with_inputs(Utilities(model, coupling, criterion), joins)
    if shrinks:
        if constraints:
            raise ValueError(
                "`shrink` names no sizes, and cannot be planned together with edits that ask "
                "for some. Make one model after the other."
            )
        solution = remove_negative(coupling, utilities, **limits)
    elif constraints or joins:
        removed = [layer for edit in edits for layer in edit.removed(model)]
        cheap = units_made_only_by(coupling, removed)
        limits = {"relaxed": relaxed, "ranked": split, **limits}
        try:
            solution = _solved(asked, joins, utilities, cheap, limits)
        except ValueError:
            if any(not each.hard for each in asked) or not joins.hold():
                raise
            solution = _solved(asked, joins, utilities, cheap, limits)
    else:
        return None, None
    return joins.with_inserted(kept_units_of(coupling, solution, split=split)), joins


def _solved(asked, joins, utilities, cheap, limits):
    constraints, cheap = [*asked, *joins.constraints()], [*cheap, *joins.cheap()]
    edges = {"ties": joins.ties(), "inserted": joins.inserted(), "cheap": cheap}
    return solve(joins.coupling, constraints, utilities, **edges, **limits)


def _with_inputs(utilities, joins):
    """Utilities in which channels of inputs, which no layer makes, have those of their readers."""
    units = joins.input_units()

    def both(wanted):
        found = np.asarray(utilities(wanted), float)
        for piece in joins.coupling.slices if len(units) else ():
            if piece.uses and piece.labels.ndim == 1:
                read = joins.coupling.roots[piece.labels]
                weight = np.moveaxis(np.asarray(_keras.raw(piece.variable), float), piece.axis, 0)
                norms = np.square(weight.reshape(len(weight), -1)).sum(1)
                is_input = np.isin(read, units)
                np.add.at(found, read[is_input], norms[is_input])
        return found

    return both
