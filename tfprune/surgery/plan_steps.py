"""The three steps in which the edits of a plan are carried out, each of which gives a model.

Layers are inserted, then sizes are changed, then layers are removed, connected or replaced. So
inserted layers can be resized, and what is removed has equal sizes on both sides.
"""

from dataclasses import dataclass

from tfprune import _keras
from tfprune._tools.garbage import without_collection
from tfprune.coupling.analysis import couple
from tfprune.coupling.kept_units import NEW
from tfprune.coupling.units import unit_name
from tfprune.rebuild.engine import rebuild
from tfprune.surgery.edits import Connect, Resize, Shrink
from tfprune.surgery.edits.names import named_layers
from tfprune.surgery.growth import Growth, effects, grows_single_units
from tfprune.surgery.indices import units_after, units_by_layer
from tfprune.surgery.inlining import InlinedModel, renamed, with_all_inlined
from tfprune.surgery.lookup import walk_operations
from tfprune.surgery.measures import carry_over_resize
from tfprune.surgery.new_sizes import kept_units_after
from tfprune.surgery.restructure import apply_edits, copy_model


@dataclass(frozen=True)
class Resized:
    """The number of units of a layer before and after a plan.

    Attributes:
        name: The layer's name.
        before, after: How many units it has.
        new: How many of those after are new.
    """

    name: str
    before: int
    after: int
    new: int


class PlanSteps:
    """The steps of a plan, each of which is made once it is asked for.

    Args:
        inlined_model: The `InlinedModel` of the model.
        edits: All edits.
        units: The units of each layer, as `Plan.to_dict` writes them; None to select them.
        split: A `Split`, or None.
        **options: `criterion`, `relaxed`, `time_limit` and `verbose`, as in
            `tfprune.surgery.resize`.
    """

    def __init__(self, inlined_model, edits, units, split, **options):
        self._inlined_model, self._edits, self._units = inlined_model, edits, units
        self._split, self._options = split, options
        self._ends_inside, self._solved, self._grown = {}, None, None

    @without_collection()
    def new_model(self):
        """The model after all steps."""
        new = self._resized()
        later = self._edits_after_sizes()
        if any(not isinstance(edit, (Resize, Shrink)) for edit in later):
            start, _, _ = self.solve()
            for edit in later:
                _check_is_left(edit, start, new)
                edit.check(new)
            new = _applied(new, later)
        return copy_model(new) if new is self._inlined_model.graph else new

    def effects(self):
        """The reasons why the new model computes something else, empty if it computes the same."""
        start, kept_units, joins = self.solve()
        found = [] if kept_units is None else joins.effects(kept_units)
        is_single = kept_units is not None and grows_single_units(kept_units)
        if is_single:
            new = self._resized()
            found += effects(kept_units, couple(new), _keras.variable_pairs(start, new))
        if kept_units is not None and (joins or not is_single):
            found += effects(kept_units)
        for edit in self._edits_now():
            if joins and isinstance(edit, Connect) and edit in joins.edits:
                continue  # what it adds are new units
            found += edit.effects(self._inlined_model.graph if edit.before_sizes else start)
        return tuple(dict.fromkeys(found))

    def sizes(self):
        """The layers whose number of units changes, or whose units do, as `Resized`."""
        found = {}
        for layer, family, before, after in self.changed_units():
            name = unit_name(layer, family)
            kept = len(set(after) - {NEW})  # copies of a unit have its number
            found[name] = Resized(name, len(before), len(after), len(after) - kept)
        return tuple(found.values())

    def changed_units(self):
        """Yields changed layers: the layer, the name of its units, units before and after."""
        _, kept_units, _ = self.solve()
        if kept_units is None:
            return
        for layer, family, units in units_by_layer(kept_units.coupling):
            before, after = units.tolist(), units_after(kept_units, units)
            if before != after:
                yield layer, family, before, after

    def _resized(self):
        """The model with the new sizes, before the edits that come later."""
        start, kept_units, joins = self.solve()
        is_same = kept_units is None or not (kept_units.grown or (kept_units.counts != 1).any())
        if is_same and not joins:
            return start
        if self._grown is None:
            noise = (self._split.noise, self._split.seed) if self._split else ()
            growth = Growth(start, kept_units, *noise)
            try:
                self._grown = rebuild(start, kept_units, growth=growth, joins=joins, stock=False)
                carry_over_resize(start, self._grown, kept_units)
            except Exception as error:  # Keras and layers raise whatever they like
                sizes = [f"{each.name}: {each.before} -> {each.after}" for each in self.sizes()]
                raise ValueError(
                    "With these sizes there is no model, and nothing was changed. "
                    f"Received: {'; '.join(sizes)}. Reason: {error}"
                ) from error
        return self._grown

    def solve(self):
        """The model after the edits that come first, its `KeptUnits`, and the `Joins`.

        Either is None where there is nothing to solve.
        """
        if self._solved is None:
            start, together, self._ends_inside = self._inlined_model.graph, [], {}
            for edit in self._edits_now():
                if not edit.before_sizes:
                    continue
                near = named_layers(edit)
                if any(not near.isdisjoint(other.names) for other in together):
                    start, together = _applied(start, together), []
                edit.check(start)
                together.append(edit)
            start = _applied(start, together) if together else start
            inlined = InlinedModel(start)
            for name, *_ in self._units or ():
                inlined.inline_around(name)
            self._ends_inside = inlined.ends
            kept_units, joins = self._kept_units(inlined.graph)
            if kept_units is not None and inlined.inline_resized(kept_units):
                self._ends_inside = inlined.ends
                kept_units, joins = self._kept_units(inlined.graph)
            self._solved = inlined.graph, kept_units, joins
        return self._solved

    def _kept_units(self, start):
        later = self._later_edits()
        for edit in later:
            edit.check(start)
        is_split = self._split is not None
        return kept_units_after(start, later, self._units, split=is_split, **self._options)

    def _later_edits(self):
        return [edit for edit in self._edits_now() if not edit.before_sizes]

    def _edits_after_sizes(self):
        """The edits that are left once the sizes are changed, and the inputs of concatenations."""
        _, _, joins = self.solve()
        left = self._later_edits()
        return [edit for edit in left if joins is None or edit not in joins.edits]

    def _edits_now(self):
        """The edits, of what has taken the place of layers that were inlined since."""
        ends = {**self._inlined_model.ends, **self._ends_inside}
        return [renamed(edit, ends) for edit in self._edits]


def _check_is_left(edit, before, after):
    """Refuses an edit of a layer that went with the inputs of concatenations."""
    had, has = ({each.name for _, each in walk_operations(m)} for m in (before, after))
    lost = [name for name in sorted(named_layers(edit)) if name in had - has]
    if lost:
        what = " ".join(filter(None, edit.describe()))
        raise ValueError(
            "In a plan, the inputs of concatenations change before those of sums, and a layer "
            "whose output nothing takes any more goes. "
            f"Received: {what}, where {lost[0]!r} has lost all that took it. "
            "Connect it in a plan of its own first, and disconnect it in a second."
        )


def _applied(model, edits):
    """The model with edits applied; where they do not fit custom layers, inlined."""
    try:
        return apply_edits(model, edits)
    except ValueError as error:
        inlined = with_all_inlined(model)
        if inlined is model:
            raise
        try:
            return apply_edits(inlined, edits)
        except ValueError:
            raise error from error.__cause__
