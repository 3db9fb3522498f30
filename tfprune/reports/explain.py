"""Which units of a model are coupled, what one of them carries, and why others cannot go."""

import pathlib
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from tfprune import _keras
from tfprune._tools.tables import NOTHING, Printable, count, table
from tfprune.coupling.costs import costs
from tfprune.coupling.labels import FIXED, placed
from tfprune.coupling.units import couple
from tfprune.reports import explain_plot
from tfprune.stripping.inlining import inlined
from tfprune.units.cost_model import removal_savings, removals_by_set


@dataclass(frozen=True)
class Place:
    """Where units stand in a weight.

    Attributes:
        layer: The layer's name.
        weight: The weight's name in the layer: `"kernel"`, `"lstm_cell/recurrent_kernel"`.
        axis: The axis of the weight along which they stand.
        indices: How many indices of the axis one unit takes (the gates of an LSTM are 4), the
            most where units differ.
        makes: Whether the layer makes the units, or only uses them.
        rank: How many axes the weight has.
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
class Span:
    """The least and the most of a number that may differ from unit to unit."""

    least: int
    most: int

    def __str__(self):
        return " to ".join(dict.fromkeys([count(self.least), count(self.most)]))


@dataclass(frozen=True)
class CoupledUnits:
    """Units that the same layers make: those at the same index go together or stay.

    Attributes:
        name: The names of the layers that make them.
        layers: The same, as a tuple.
        places: Every `Place` in which the units stand.
        units: How many there are.
        removable: How many of them may go.
        at_once: How many go in one removal: 1, or as many as groups with equal counts ask for.
        parameters: The elements of weights that one removal saves, a `Span`; None if none may go.
        macs: The multiply-accumulates for one sample that it saves, None also if not known.
        constraint: What must hold beside, None if each unit may go by itself.
        pinned: For each reason why units cannot go, how many it holds.
    """

    name: str
    layers: tuple
    places: tuple
    units: int
    removable: int
    at_once: int
    parameters: Span | None
    macs: Span | None
    constraint: str | None
    pinned: dict

    @property
    def followers(self):
        """The names of the layers that do not make the units but lose their slices too."""
        makers = set(self.layers)
        return tuple(dict.fromkeys(p.layer for p in self.places if p.layer not in makers))


@dataclass(frozen=True)
class Node:
    """A call in the graph of a model.

    Attributes:
        name, type: Of the layer or operation, an input's type is `"Input"`.
        inputs: The places in `Explanation.graph` of what it is called on.
        sets: The places in `Explanation.sets` of the units of its output, in their order.
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
class Explanation(Printable):
    """What `explain` found; `print` shows it as tables.

    Attributes:
        name: The model's name.
        sets: A `CoupledUnits` for each set, in the order of the model.
        graph: The calls, each a `Node`, in the order in which they run.
        notes: What could not be told, and why.
    """

    name: str
    sets: tuple
    graph: tuple = field(repr=False)
    notes: tuple = ()

    def plot(self, path):
        """Draws the graph of the model; layers that make the same units have one colour.

        The colour of an arrow is that of the units which go along it. Sets that several layers
        make stand out; grey is what cannot go. Layers with one input and no units of their own,
        such as activations, are named in the box of the layer before them.

        Args:
            path: The file to write; its suffix says the format, `.png`, `.svg` or `.pdf`.

        Returns:
            The path as `pathlib.Path`.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        explain_plot.save(pathlib.Path(path), self)
        return pathlib.Path(path)

    def tables(self):
        """What is printed: a rich table of the sets, and one of what cannot go."""
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
                _listed(place for place in one.places if place.layer in one.followers),
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
    """Layers with the weights in which units stand; those of one axis need no more than a name."""
    by_layer = {}
    for place in places:
        weights = by_layer.setdefault(place.layer, [])
        if place.rank > 1:
            weights.append(str(place))
    return ", ".join(" ".join([layer, *weights]) for layer, weights in by_layer.items())


def explain(model, input_shapes=None):
    """Lists the coupled units of a model, what each carries, and why those stay that cannot go.

    Units are coupled when they can only be removed together, in all layers and weights where they
    stand: a filter with its entries in the batch normalisation after it, with the filters that a
    residual sum adds to it, and with the rows of all kernels that read them. `prune_units`,
    `PruneUnits` and `strip` go by these sets.

    Args:
        model: A Functional or built Sequential model, masked or not. Layers made of layers are
            looked into as far as `strip` can open them.
        input_shapes: The sizes to take for dynamic dimensions when MACs are counted, as in
            `tfprune.inspect`.

    Returns:
        An `Explanation`, which prints itself as a table.

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
    model = inlined(model)
    coupling = couple(model)
    saved = removal_savings(model, coupling, input_shapes)
    unknown = {(c.name, c.reason) for c in costs(model, input_shapes) if c.macs is None}
    return Explanation(
        name=model.name,
        sets=tuple(
            map(_coupled_units, coupling.sets, removals_by_set(coupling), saved, _places(coupling))
        ),
        graph=tuple(_graph(model, coupling)),
        notes=tuple(f"MACs of {name!r} are not known: {why}" for name, why in sorted(unknown)),
    )


def _coupled_units(unit_set, removals, saved, places):
    removable = int(np.isin(unit_set.units, np.concatenate([[-1], *removals])).sum())
    pinned = Counter(reason for reason in unit_set.pinned if reason is not None)
    if removable and not saved:
        pinned["a layer needs at least one unit"] = removable
    at_once = max((len(saving.units) for saving in saved), default=1)
    return CoupledUnits(
        name=unit_set.name,
        layers=tuple(dict.fromkeys(layer.name for layer in unit_set.layers)),
        places=tuple(places),
        units=len(unit_set.units),
        removable=removable if saved else 0,
        at_once=at_once,
        parameters=_span([saving.parameters for saving in saved]),
        macs=_span([saving.macs for saving in saved]),
        constraint=f"{at_once} go at once, since groups keep equal counts" if at_once > 1 else None,
        pinned=dict(pinned),
    )


def _span(numbers):
    return Span(min(numbers), max(numbers)) if numbers and None not in numbers else None


def _set_of_units(coupling):
    """For each unit the place of its set in `coupling.sets`, -1 for what no layer makes."""
    places = np.full(coupling.size, -1)
    for place, unit_set in enumerate(coupling.sets):
        places[unit_set.units] = place
    return places


def _places(coupling):
    """For each set a list of the places where its units stand."""
    set_of = _set_of_units(coupling)
    found = [[] for _ in coupling.sets]
    for piece in coupling.slices:
        units, times = np.unique(_standing(coupling, piece)[0], return_counts=True)
        for place in np.unique(set_of[units][set_of[units] >= 0]).tolist():
            found[place].append(
                Place(
                    layer=piece.layer.name,
                    weight=_name_in(piece.layer, piece.variable),
                    axis=piece.axis,
                    indices=int(times[set_of[units] == place].max()),
                    makes=piece.makes,
                    rank=len(piece.variable.shape),
                )
            )
    return found


def _standing(coupling, piece):
    """Units and the indices of the axis at which they stand, each pair once."""
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
    layers = _keras.input_layers(_keras.functional(model))
    for layer, tensor in zip(layers, coupling.trace.inputs, strict=True):
        places[tensor] = len(places)
        yield Node(layer.name, "Input", (), (), False, 0)
    for number, call in enumerate(coupling.trace.calls, len(places)):
        places.update(dict.fromkeys(call.outputs, number))
        units = coupling.roots[coupling.tensor_labels[call.outputs[0]].reshape(-1)]
        units = units[units != FIXED]
        sets = set_of[units]
        yield Node(
            name="/".join([part.name for part in (*call.parents, call.operation)]),
            type=type(call.operation).__name__,
            inputs=tuple(places[tensor] for tensor in call.inputs),
            sets=tuple(dict.fromkeys(sets[sets >= 0].tolist())),
            makes=id(call.operation) in made_by,
            size=len(np.unique(units)),
        )
