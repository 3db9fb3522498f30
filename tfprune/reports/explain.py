"""`tfprune.explain`: the coupled units of a model, and why others cannot be removed."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from tfprune import _keras
from tfprune._tools import pages
from tfprune._tools.checks import check_model
from tfprune._tools.plots import Plottable
from tfprune._tools.tables import NOTHING, Printable, count, table
from tfprune.coupling.analysis import couple
from tfprune.coupling.costs import costs
from tfprune.coupling.labels import FIXED, placed
from tfprune.coupling.model_inputs import input_names
from tfprune.coupling.model_trace import trace
from tfprune.masks.skipping import NO_MASKS
from tfprune.reports import explain_page, explain_plot
from tfprune.stripping.inlining import inlined
from tfprune.units.cost_model import removal_savings, removals_by_set
from tfprune.units.prunable import set_skip_reasons


@dataclass(frozen=True)
class WeightSlice:
    """The slices of a weight that belong to units.

    Attributes:
        layer: The layer's name.
        weight: The weight's name in the layer: `"kernel"`, `"lstm_cell/recurrent_kernel"`.
        axis: The axis of the weight that the units index.
        indices: How many indices of the axis belong to one unit (4 for the gates of an LSTM), the
            most where units differ.
        makes: Whether the layer makes the units rather than uses them.
        rank: The number of axes of the weight.
    """

    layer: str
    weight: str
    axis: int
    indices: int
    makes: bool
    rank: int

    def __str__(self):
        times = f"×{self.indices}" if self.indices > 1 else ""
        return f"{self.weight}[{self.axis}]{times}"


@dataclass(frozen=True)
class Range:
    """The smallest and largest value of a number that may differ between units."""

    least: int
    most: int

    def __str__(self):
        return " to ".join(dict.fromkeys([count(self.least), count(self.most)]))


@dataclass(frozen=True)
class CoupledUnits:
    """A set of coupled units: units of several layers that can only be removed together.

    Attributes:
        name: The names of the layers that make them.
        layers: The same, as a tuple.
        slices: A `WeightSlice` for each weight and axis that the units index.
        units: The number of units.
        removable: How many of them `prune_units` can remove.
        at_once: How many one removal takes: 1, or more where groups must keep equal counts.
        parameters: The parameters that one removal saves, a `Range`; None if none can be removed.
        macs: The multiply-accumulates for one sample that it saves; None also if unknown.
        constraint: A further constraint, None if each unit can be removed by itself.
        pinned: A dict from each reason why units stay to their number: they cannot be removed, or
            `prune_units` skips them.
    """

    name: str
    layers: tuple
    slices: tuple
    units: int
    removable: int
    at_once: int
    parameters: Range | None
    macs: Range | None
    constraint: str | None
    pinned: dict

    @property
    def followers(self):
        """The names of the layers that use the units, and lose slices with them."""
        makers = set(self.layers)
        return tuple(dict.fromkeys(p.layer for p in self.slices if p.layer not in makers))


@dataclass(frozen=True)
class Node:
    """A call in the graph of a model.

    Attributes:
        name, type: Of the layer or operation, an input's type is `"Input"`.
        inputs: The indices in `Explanation.graph` of its inputs.
        sets: The indices in `Explanation.sets` of the units of its output, in order.
        makes: Whether it makes units.
        size: How many units its output has, 0 if none.
    """

    name: str
    type: str
    inputs: tuple
    sets: tuple
    makes: bool
    size: int


@dataclass(frozen=True)
class Explanation(Printable, Plottable):
    """The result of `explain`; `print` shows it as tables.

    `plot(path)` draws the graph of the model. Layers that make the same units have one colour, and
    an arrow that of the units it carries. Sets that several layers make stand out; grey units
    cannot be removed. Layers with one input and no units of their own, such as activations, are
    named in the box of the layer before them. `save(path)` writes an HTML page with that graph, to
    zoom and search in, and the tables.

    Attributes:
        name: The model's name.
        sets: A `CoupledUnits` for each set, in the order of the model.
        graph: A `Node` for each call, in the order in which they run.
        notes: What could not be counted, and why; parts that no `call` uses.
    """

    name: str
    sets: tuple
    graph: tuple = field(repr=False)
    notes: tuple = ()

    def _figure(self):
        return explain_plot.figure(self)

    def _title(self):
        return explain_plot.title_of(self)

    def _page(self):
        return [pages.Drawing(explain_page.drawing(self)), *self.tables()]

    def tables(self):
        """The rich tables that are printed: the sets, and the units that cannot be removed."""
        return [self._set_table(), *self._pinned_tables()]

    def _set_table(self):
        columns = ("units of", "go along in"), ("units", "can go", "parameters", "MACs")
        notes = [f"{s.name}: {s.constraint}" for s in self.sets if s.constraint]
        together = ", or those that go at once," if notes else ""
        notes.append(f"parameters, MACs: what one unit less{together} saves")
        rows = table(*columns, self.name, (*notes, *self.notes))
        for one in self.sets:
            rows.add_row(
                one.name,
                _listed(place for place in one.slices if place.layer in one.followers),
                count(one.units),
                count(one.removable),
                *(NOTHING if span is None else str(span) for span in (one.parameters, one.macs)),
                style=None if one.removable else "dim",
            )
        return rows

    def _pinned_tables(self):
        if not any(one.pinned for one in self.sets):
            return []
        rows = table(("units of", "stay because"), ("units",))
        for one in self.sets:
            for reason, units in one.pinned.items():
                rows.add_row(one.name, reason, count(units))
        return ["", rows]


def _listed(places):
    """Layers with the weights that units index; weights of one axis are left out."""
    by_layer = {}
    for place in places:
        weights = by_layer.setdefault(place.layer, [])
        if place.rank > 1:
            weights.append(str(place))
    return ", ".join(" ".join([layer, *weights]) for layer, weights in by_layer.items())


def explain(model, input_shapes=None):
    """Lists the coupled units of a model, what removing them saves, and which cannot be removed.

    Use it to see what structured pruning can do with a model, and why not more. Units are coupled
    when they can only be removed together, in all layers and weights that they index: a filter with
    its entries in the batch normalization after it, with the filters that a residual sum adds to
    it, and with the rows of all kernels that read them. `prune_units`, `PruneUnits` and `strip`
    work on these sets.

    Where layers of a model carry masks, what `prune_units` skips stays too: units of layers that
    carry none. Units of layers with `trainable=False` stay unless `only` names the layer.

    Args:
        model: Any Keras model that is built, masked or not. Composite layers are
            inlined as far as `strip` can.
        input_shapes: Sizes for dynamic dimensions, from which MACs are counted, as in
            `tfprune.inspect`.

    Returns:
        An `Explanation`; `print` shows it as tables, `save("coupled.html")` as a page.

    Raises:
        ValueError: If the model has no graph, or `input_shapes` does not fit its inputs.

    Example:

    >>> import keras
    >>> x = inputs = keras.Input((8, 8, 3))
    >>> x = keras.layers.Conv2D(4, 3, name="a")(x)
    >>> y = keras.layers.Conv2D(4, 3, padding="same", name="b")(x)
    >>> x = keras.layers.GlobalAveragePooling2D()(keras.layers.Add()([x, y]))
    >>> found = explain(keras.Model(inputs, keras.layers.Dense(2, name="logits")(x)))
    >>> [(s.name, s.followers, s.units, str(s.parameters), str(s.macs)) for s in found.sets[:1]]
    [('a + b', ('logits',), 4, '94', '3,242')]
    """
    check_model(model)
    unreached = trace(model).unreached
    model = inlined(model)
    coupling = couple(model)
    saved = removal_savings(model, coupling, input_shapes)
    unknown = {(c.name, c.reason) for c in costs(model, input_shapes) if c.macs is None}
    notes = [f"MACs of {name!r} are not known: {why}" for name, why in sorted(unknown)]
    notes += [
        f"{each.part.name!r} is in no set: the `call` of {each.holder.name!r} does not use it"
        for each in unreached
    ]
    notes += _keras.changed_kernels(model)
    skipped = set_skip_reasons(coupling)
    if not any(map(_keras.is_guarded, model.weights)):
        skipped = {key: why for key, why in skipped.items() if why != NO_MASKS}
        notes.append(f"{model.name}: {NO_MASKS}")
    sets = zip(coupling.sets, removals_by_set(coupling), saved, _slices(coupling), strict=True)
    return Explanation(
        name=model.name,
        sets=tuple(_coupled_units(*one, skipped.get(id(one[0]))) for one in sets),
        graph=tuple(_graph(model, coupling)),
        notes=tuple(notes),
    )


def _coupled_units(unit_set, removals, saved, slices, skipped):
    removable = int(np.isin(unit_set.units, np.concatenate([[-1], *removals])).sum())
    pinned = Counter(reason for reason in unit_set.pinned if reason is not None)
    if removable and not saved:
        pinned["a layer needs at least one unit"] = removable
    elif removable and skipped:
        pinned[skipped], saved = removable, ()
    at_once = max((len(saving.units) for saving in saved), default=1)
    return CoupledUnits(
        name=unit_set.name,
        layers=tuple(dict.fromkeys(layer.name for layer in unit_set.layers)),
        slices=tuple(slices),
        units=len(unit_set.units),
        removable=removable if saved else 0,
        at_once=at_once,
        parameters=_range([saving.parameters for saving in saved]),
        macs=_range([saving.macs for saving in saved]),
        constraint=f"{at_once} go at once, since groups keep equal counts" if at_once > 1 else None,
        pinned=dict(pinned),
    )


def _range(numbers):
    return Range(min(numbers), max(numbers)) if numbers and None not in numbers else None


def _set_of_units(coupling):
    """For each unit the index of its set in `coupling.sets`, -1 for what no layer makes."""
    places = np.full(coupling.size, -1)
    for place, unit_set in enumerate(coupling.sets):
        places[unit_set.units] = place
    return places


def _slices(coupling):
    """For each set a list of its `WeightSlice`s."""
    set_of = _set_of_units(coupling)
    found = [[] for _ in coupling.sets]
    for piece in coupling.slices:
        units, times = np.unique(_unit_indices(coupling, piece)[0], return_counts=True)
        for place in np.unique(set_of[units][set_of[units] >= 0]).tolist():
            found[place].append(
                WeightSlice(
                    layer=piece.layer.name,
                    weight=_name_in(piece.layer, piece.variable),
                    axis=piece.axis,
                    indices=int(times[set_of[units] == place].max()),
                    makes=piece.makes,
                    rank=len(piece.variable.shape),
                )
            )
    return found


def _unit_indices(coupling, piece):
    """Pairs of a unit and an index of the axis that belongs to it, each pair once."""
    units = coupling.roots[piece.labels]
    indices = np.arange(len(units))
    if units.ndim > 1:  # they differ along other axes too
        indices = placed(np.arange(units.shape[piece.axis]), piece.axis, units.ndim)
    pairs = np.stack(np.broadcast_arrays(units, indices)).reshape(2, -1)
    return np.unique(pairs, axis=1)


def _name_in(layer, variable):
    """The name of a weight after that of its layer."""
    return variable.path.rpartition(f"{layer.name}/")[2]


def _graph(model, coupling):
    set_of = _set_of_units(coupling)
    made_by = {id(piece.layer) for piece in coupling.slices if piece.makes}
    places = {}
    for name, tensor in zip(input_names(model), coupling.trace.inputs, strict=True):
        places[tensor] = len(places)
        yield Node(name, "Input", (), (), False, 0)
    for number, call in enumerate(coupling.trace.calls, len(places)):
        places.update(dict.fromkeys(call.outputs, number))
        units = coupling.roots[coupling.tensor_labels[call.outputs[0]].reshape(-1)]
        units = units[units != FIXED]
        sets = set_of[units]
        yield Node(
            name="/".join(call.path),
            type=type(call.operation).__name__,
            inputs=tuple(places[tensor] for tensor in call.inputs),
            sets=tuple(dict.fromkeys(sets[sets >= 0].tolist())),
            makes=id(call.operation) in made_by,
            size=len(np.unique(units)),
        )
