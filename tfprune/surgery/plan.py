"""Several edits of a model as one plan: solved together, made at once, or not at all.

A plan is carried out in three steps, each of which gives a model: layers are inserted; sizes are
changed; layers are removed, connected or replaced. So inserted layers can be resized, and a layer
that is removed has equal sizes on both sides.
"""

import dataclasses
from dataclasses import dataclass

import keras
import numpy as np

from tfprune import _keras
from tfprune._tools.tables import Printable, table
from tfprune.coupling.kept_units import NEW
from tfprune.coupling.units import couple, unit_name
from tfprune.rebuild.engine import rebuild
from tfprune.surgery.edits import (
    Connect,
    Disconnect,
    Edit,
    Insert,
    Remove,
    Replace,
    Resize,
    ResizeKernel,
    Shrink,
    from_dict,
)
from tfprune.surgery.growth import Growth, effects, grows_alone, selection_of
from tfprune.surgery.indices import made_only_by, makers, selected, standing
from tfprune.surgery.lookup import find
from tfprune.surgery.restructure import copied, restructured
from tfprune.surgery.size_solver import solve, without_negative
from tfprune.surgery.utility import Utilities


@dataclass(frozen=True)
class Split:
    """New units are copies of old ones, whose effect is shared out among them (Net2Wider).

    Args:
        noise: Float, what is added to the weights that make a copy: normal numbers with the
            deviation of the weight times this. With 0 copies stay equal as long as they are
            trained alike.
        seed: Integer, for the noise.

    Example:

    >>> Split(noise=0.01)
    Split(noise=0.01, seed=None)
    """

    noise: float = 0.0
    seed: int | None = None


@dataclass(frozen=True)
class Resized:
    """The units of a layer before and after, and how many of those after are new."""

    name: str
    before: int
    after: int
    new: int


class Plan(Printable):
    """Edits of a model, collected, solved together and made at once: see `edit`.

    Attributes:
        edits: The edits so far.
    """

    def __init__(self, model, *, criterion="magnitude", relaxed=False, split=None, **limits):
        self._model = model
        self._criterion, self._relaxed, self._split = criterion, relaxed, split
        self._limits = _checked_limits(limits)
        self._units = None
        self._new = self._solved = self._grown = None
        self.edits = ()
        if _keras.functional(model) is None:
            couple(model)  # says what is wrong with it

    # Edits --------------------------------------------------------------------------------------

    def resize(self, changes):
        """Adds what `tfprune.surgery.resize` does."""
        if not isinstance(changes, dict) or not changes:
            raise ValueError(
                "Argument `changes` must be a dict from layers to sizes, or to differences from "
                f"`tfprune.surgery.by`. Received: changes={changes!r}."
            )
        self._add(*(Resize.of(self._name, key, wanted) for key, wanted in changes.items()))

    def shrink(self):
        """Adds what `tfprune.surgery.shrink` does."""
        self._add(Shrink())

    def insert(self, after, layers, init="identity"):
        """Adds what `tfprune.surgery.insert` does."""
        layers = [layers] if isinstance(layers, keras.layers.Layer) else list(layers)
        serialised, weights = zip(*map(_serialised, layers), strict=True) if layers else ((), ())
        self._add(Insert(self._name(after), tuple(serialised), init, tuple(weights)))

    def remove(self, layer):
        """Adds what `tfprune.surgery.remove` does."""
        self._add(Remove(self._name(layer)))

    def connect(self, source, target):
        """Adds what `tfprune.surgery.connect` does."""
        self._add(Connect(self._name(source), self._name(target)))

    def disconnect(self, source, target):
        """Adds what `tfprune.surgery.disconnect` does."""
        self._add(Disconnect(self._name(source), self._name(target)))

    def resize_kernel(self, layer, kernel_size, padding=None):
        """Adds what `tfprune.surgery.resize_kernel` does."""
        size = tuple(kernel_size) if isinstance(kernel_size, (list, tuple)) else kernel_size
        size = keras.tree.map_structure(lambda n: n.item() if _is_number(n) else n, size)
        self._add(ResizeKernel(self._name(layer), size, padding))

    def replace(self, layer, new_layer, keep_weights=True):
        """Adds what `tfprune.surgery.replace` does."""
        serialised, weights = _serialised(new_layer)
        self._add(Replace(self._name(layer), serialised, keep_weights, weights))

    def _add(self, *edits):
        if self._new is not None:
            raise RuntimeError("The plan was carried out already. Begin a new one with `edit`.")
        inserted = {
            name for e in (*self.edits, *edits) if isinstance(e, Insert) for name in e.names
        }
        for edit in edits:
            named = {getattr(edit, each, None) for each in ("layer", "after", "source", "target")}
            if not named & inserted:  # else it is checked where the layer is there
                edit.check(self._model)
        self.edits = (*self.edits, *edits)
        self._solved = self._grown = None

    def _name(self, layer):
        if isinstance(layer, str):
            return layer
        names = [name for e in self.edits if isinstance(e, Insert) for name in e.names]
        name = getattr(layer, "name", None)
        if name in names:
            return name
        find(self._model, layer)
        find(self._model, name)  # a plan holds names, which must tell which layer is meant
        return name

    # What becomes of it -------------------------------------------------------------------------

    @property
    def model(self):
        """The new model; solved and made the first time it is asked for."""
        if self._new is None:
            later = [edit for edit in self.edits if not _is_first(edit)]
            new = self._resized()
            if _changing(later):
                for edit in later:
                    edit.check(new)
                new = restructured(new, later)
            self._new = copied(new) if new is self._model else new
        return self._new

    @property
    def effects(self):
        """Why the new model computes something else; empty where it computes the same."""
        start, kept_units = self._solve()
        found = []
        if kept_units is not None and grows_alone(kept_units):
            new = self._resized()
            found += effects(kept_units, couple(new), _keras.variable_pairs(start, new))
        elif kept_units is not None:
            found += effects(kept_units)
        for edit in self.edits:
            found += edit.effects(self._model if _is_first(edit) else start)
        return tuple(dict.fromkeys(found))

    @property
    def sizes(self):
        """The layers whose units change, as `Resized`."""
        _, kept_units = self._solve()
        if kept_units is None:
            return ()
        found = {}
        for layer, family, units in makers(kept_units.coupling):
            stand = standing(kept_units, units)
            if stand != units.tolist():
                name = unit_name(layer, family)
                stay = len(set(stand) - {NEW})  # copies of a unit have its number
                found[name] = Resized(name, len(units), len(stand), len(stand) - stay)
        return tuple(found.values())

    def _resized(self):
        """The model with the sizes, before what comes after them."""
        start, kept_units = self._solve()
        if kept_units is None or not _changes(kept_units):
            return start
        if self._grown is None:
            noise = (self._split.noise, self._split.seed) if self._split else ()
            growth = Growth(start, kept_units, *noise)
            try:
                self._grown = rebuild(start, kept_units, growth=growth, stock=False)
            except Exception as error:  # Keras and layers raise whatever they like
                sizes = [f"{each.name}: {each.before} -> {each.after}" for each in self.sizes]
                raise ValueError(
                    "With these sizes there is no model, and nothing was changed. "
                    f"Received: {'; '.join(sizes)}. Reason: {error}"
                ) from error
        return self._grown

    def _solve(self):
        """The model with what comes before sizes, and the kept_units of units in it."""
        if self._solved is None:
            start, together = self._model, []
            for edit in filter(_is_first, self.edits):
                if any(edit.after in other.names for other in together):  # behind one of these
                    start, together = restructured(start, together), []
                edit.check(start)
                together.append(edit)
            start = restructured(start, together) if together else start
            for edit in self.edits:
                if not _is_first(edit):
                    edit.check(start)
            self._solved = start, self._selection(start)
        return self._solved

    def _selection(self, start):
        later = [edit for edit in self.edits if not _is_first(edit)]
        if not any(type(edit).rows is not Edit.rows or isinstance(edit, Shrink) for edit in later):
            return None
        coupling = couple(start)
        if self._units is not None:
            return selected(coupling, start, self._units)
        rows = [row for edit in later for row in edit.rows(start, coupling, later)]
        utilities = Utilities(start, coupling, self._criterion)
        solutions = []
        if any(isinstance(edit, Shrink) for edit in later):
            if rows:
                raise ValueError(
                    "`shrink` names no sizes, and cannot be planned together with edits that ask "
                    "for some. Make one model after the other."
                )
            solutions = [without_negative(coupling, utilities, **self._limits)]
        elif rows:
            goes = [layer for edit in later for layer in edit.removed(start)]
            cheap = made_only_by(coupling, goes)
            ask = utilities if _may_shrink(rows) or self._split else _of_equal_worth
            options = {"relaxed": self._relaxed, "cheap": cheap, **self._limits}
            solutions = [solve(coupling, rows, ask, **options)]
        for solution in solutions:
            return selection_of(coupling, solution, split=self._split is not None)
        return None

    # With statement, printing, JSON -------------------------------------------------------------

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is None:
            self.model  # noqa: B018 - made here, so that what is wrong is said here

    def tables(self):
        """What the plan will do."""
        steps = table(["Edit", "Layer", "How"], [], title=f"Plan for {self._model.name!r}")
        for edit in self.edits:
            steps.add_row(*edit.describe())
        found = [steps]
        if self.sizes:
            sizes = table(["Layer"], ["Units", "then", "removed", "new"])
            for each in self.sizes:
                removed = each.before - (each.after - each.new)
                sizes.add_row(each.name, *map(str, (each.before, each.after, removed, each.new)))
            found.append(sizes)
        why = self.effects
        says = f"The function changes: {'; '.join(why)}." if why else "The function stays the same."
        return [*found, says]

    def to_dict(self):
        """The plan with its solution as plain values which JSON can write.

        The criterion is not in it: the units which it chose are.
        """
        _, kept_units = self._solve()
        units = []
        for layer, family, made in makers(kept_units.coupling) if kept_units is not None else ():
            stand = standing(kept_units, made)
            if stand != made.tolist():
                places = {unit: place for place, unit in enumerate(made.tolist())}
                kept = [places.get(unit, NEW) for unit in stand]
                units.append([layer.name, family, len(made), kept])
        return {
            "edits": [edit.to_dict() for edit in self.edits],
            "units": units,
            "split": dataclasses.asdict(self._split) if self._split else None,
        }

    @classmethod
    def from_dict(cls, model, content):
        """The plan of a dict that `to_dict` gave, for an equal model.

        Args:
            model: The model.
            content: The dict, as it was or read from JSON.

        Raises:
            ValueError: If the model has not the layers or units of which the plan speaks.
        """
        split = content["split"]
        plan = cls(model, split=None if split is None else Split(**split))
        plan._add(*map(from_dict, content["edits"]))
        plan._units = content["units"]
        return plan


def edit(model, *, criterion="magnitude", relaxed=False, split=None, time_limit=60.0, verbose=0):
    """Begins a plan of several edits of a model, which are solved together and made at once.

    The methods of the plan are named as the functions of `tfprune.surgery` and do what they do.
    Layers that are inserted can be named in what follows. Printed, the plan says what it will do;
    `plan.model` is the new model. If anything fails, nothing is changed.

    Args:
        model: A Functional or built Sequential model. It is not touched.
        criterion: What units are worth: see `tfprune.criteria.units`; for those that are measured
            on data, a `tfprune.units.scores.UnitScores` that brings the data along.
        relaxed: Whether sizes that cannot be met are met as nearly as they can be.
        split: `tfprune.surgery.Split()` for new units that are copies of old ones; by default
            they begin without effect.
        time_limit: Seconds for the choice of units.
        verbose: 0 is quiet; 1 says so where many units are to be chosen among.

    Returns:
        A `Plan`, also a context manager: the model is made where the `with` statement ends.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((3,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(2)])
    >>> with edit(model) as plan:
    ...     plan.insert("hidden", keras.layers.Dense(4, name="deeper"))
    ...     plan.resize({"deeper": 6})
    >>> [layer.units for layer in plan.model.layers], plan.effects
    ([4, 6, 2], ())
    """
    return Plan(
        model,
        criterion=criterion,
        relaxed=relaxed,
        split=split,
        time_limit=time_limit,
        verbose=verbose,
    )


def _is_first(edit):
    return edit.before_sizes


def _is_number(value):
    return isinstance(value, np.integer)


def _changing(edits):
    """Whether any of the edits changes more than sizes."""
    return any(not isinstance(edit, (Resize, Shrink)) for edit in edits)


def _changes(kept_units):
    return bool(kept_units.grown) or bool((kept_units.counts != 1).any())


def _may_shrink(rows):
    return any(row.firm or row.size < row.now for row in rows) or len(rows) > 1


def _of_equal_worth(wanted):
    return np.ones(len(wanted))


def _serialised(layer):
    """A layer as plain values, and its weights if it has them already."""
    if not isinstance(layer, keras.layers.Layer):
        raise ValueError(f"A layer is needed. Received: {layer!r}.")
    serialised = keras.saving.serialize_keras_object(layer)
    serialised = {key: value for key, value in serialised.items() if key != "build_config"}
    if not layer.built or not layer.weights:
        return serialised, None
    return serialised, tuple(weight.tolist() for weight in layer.get_weights())


def _checked_limits(limits):
    limits = {"time_limit": 60.0, "verbose": 0, **limits}
    if not limits["time_limit"] > 0:
        raise ValueError(
            f"Argument `time_limit` must be above 0. Received: {limits['time_limit']!r}."
        )
    return limits
