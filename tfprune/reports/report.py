"""What a model consists of and costs, and what became of it: `inspect` and `compare`."""

import pathlib
from dataclasses import dataclass

import keras
import numpy as np

from tfprune._tools import plots
from tfprune._tools.tables import (
    Change,
    Printable,
    changed,
    count,
    milliseconds,
    number,
    plain,
    shape,
    share,
    short,
    table,
)
from tfprune.coupling.costs import costs
from tfprune.coupling.shapes import sized_inputs
from tfprune.measuring import measure


@dataclass(frozen=True)
class LayerSummary:
    """A layer, or an operation without weights, over all its calls in a model.

    Attributes:
        name: Its name, after those of the nested models around it: `"encoder/dense"`.
        type: Its class name.
        output_shape: The shape its first call makes, with the batch axis; None where dynamic.
        units: The size of the axis along which it makes units, None if it makes none.
        parameters: The elements of its weights that no earlier layer has.
        macs: Multiply-accumulates for one sample, None if they are not known.
        sparsity: The share of elements of its weights that are exactly 0, None without weights.
    """

    name: str
    type: str
    output_shape: tuple
    units: int | None
    parameters: int
    macs: int | None
    sparsity: float | None


@dataclass(frozen=True)
class Inspection(Printable):
    """What `inspect` found: the layers of a model and their sums.

    Attributes:
        name: The model's name.
        layers: A `LayerSummary` for each layer and operation, in the order they run.
        parameters: The elements of all weights.
        macs: Multiply-accumulates for one sample, None if those of a layer are not known.
        sparsity: The share of elements of all weights that are exactly 0.
        notes: What could not be told, and why.
    """

    name: str
    layers: tuple
    parameters: int
    macs: int | None
    sparsity: float
    notes: tuple = ()

    def tables(self):
        """What is printed: a rich table of the layers."""
        numbers = ("parameters", "MACs", "sparsity")
        rows = table(("layer", "type", "output shape"), numbers, self.name, self.notes)
        for layer in self.layers:
            counts = (count(layer.parameters), count(layer.macs), share(layer.sparsity))
            rows.add_row(layer.name, layer.type, shape(layer.output_shape), *counts)
        rows.add_section()
        total = (count(self.parameters), count(self.macs), share(self.sparsity))
        rows.add_row("total", "", "", *total, style="bold")
        return [rows]


def inspect(model, input_shapes=None):
    """Lists the layers of a model with their output shapes, parameters, MACs and sparsity.

    Args:
        model: A Functional or built Sequential model; nested models are looked into.
        input_shapes: The sizes to take for dynamic dimensions, as in `tfprune.coupling.costs`.

    Returns:
        An `Inspection`, which prints itself as a table.

    Raises:
        ValueError: If the model has no graph, or `input_shapes` does not fit its inputs.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="d")])
    >>> found = inspect(model)
    >>> found.parameters, found.macs, found.layers[0].output_shape
    (8, 6, (None, 2))
    """
    calls = costs(model, input_shapes)
    layers = _by_name(calls)
    return Inspection(
        name=model.name,
        layers=tuple(layers),
        parameters=model.count_params(),
        macs=_sum(layer.macs for layer in layers),
        sparsity=_zeros(model.weights) or 0.0,
        notes=_notes(model, calls),
    )


def _by_name(calls):
    """A `LayerSummary` for each layer or operation, from the costs of all calls."""
    grouped = {}
    for call in calls:
        grouped.setdefault(call.name, []).append(call)
    return [
        LayerSummary(
            name=name,
            type=same[0].type,
            output_shape=same[0].output_shape,
            units=same[0].units,
            parameters=sum(call.parameters for call in same),
            macs=_sum(call.macs for call in same),
            sparsity=_zeros(getattr(same[0].operation, "weights", [])),
        )
        for name, same in grouped.items()
    ]


def _sum(counts):
    counts = list(counts)
    return None if None in counts else sum(counts)


def _zeros(weights):
    """The share of exact zeros in weights, None without any."""
    sizes = [int(np.prod(weight.shape)) for weight in weights]
    if not sum(sizes):
        return None
    kept = [np.count_nonzero(keras.ops.convert_to_numpy(weight)) for weight in weights]
    return 1 - sum(kept) / sum(sizes)


def _notes(model, calls):
    unknown = {(call.name, call.reason): None for call in calls if call.macs is None}
    notes = [f"MACs of {name!r} are not known: {reason}" for name, reason in unknown]
    outside = model.count_params() - sum(call.parameters for call in calls)
    if outside:
        notes.append(f"{outside:,} parameters of {model.name!r} stand outside of its graph")
    return tuple(notes)


# Two models ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerChange:
    """A layer with weights or MACs before and after.

    Attributes:
        name, type: Its name and class name.
        status: `"kept"`, `"removed"` (after has no layer of that name) or `"added"`.
        units, parameters, macs, sparsity: As in `LayerSummary`, each a `Change`.
    """

    name: str
    type: str
    status: str
    units: Change
    parameters: Change
    macs: Change
    sparsity: Change


@dataclass(frozen=True)
class Comparison(Printable):
    """What `compare` measured of two models; `print` shows it as tables.

    Attributes:
        names: The names of the two models.
        layers: A `LayerChange` for each layer with weights or MACs.
        parameters: The elements of all weights.
        macs: Multiply-accumulates for one sample.
        sparsity: The share of elements of all weights that are exactly 0.
        bytes: The size on disk by format, `"saved_model"` and `"keras"`.
        zipped: The size of these in a zip archive, where zeros take next to nothing.
        latency: The median seconds of one call by batch size.
        metrics: The metrics by name.
        notes: What could not be told, and why.

    All numbers are a `Change`.
    """

    names: tuple
    layers: tuple
    parameters: Change
    macs: Change
    sparsity: Change
    bytes: dict
    zipped: dict
    latency: dict
    metrics: dict
    notes: tuple = ()

    def to_dict(self):
        """The comparison as dicts, lists, strings and numbers, which JSON can write.

        Example:

        >>> import json
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="d")])
        >>> found = compare(model, model, batch_sizes=()).to_dict()
        >>> json.loads(json.dumps(found))["layers"][0]["parameters"]
        {'before': 8, 'after': 8, 'ratio': 1.0}
        """
        return plain(self)

    def plot(self, path):
        """Draws the units of each layer before and after, with the totals in the title.

        Args:
            path: The file to write; its suffix says the format, `.png`, `.svg` or `.pdf`.

        Returns:
            The path as `pathlib.Path`.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        rows = [row for row in reversed(self.layers) if row.units != Change(None, None)]
        figure = plots.figure(
            "Comparison.plot", figsize=(8, 1.5 + 0.35 * len(rows)), layout="constrained"
        )
        axes = figure.subplots()
        for shift, side, name in zip((0.2, -0.2), ("before", "after"), self.names, strict=True):
            places = [place + shift for place in range(len(rows))]
            units = [getattr(row.units, side) or 0 for row in rows]
            axes.barh(places, units, height=0.4, label=f"{side}: {name}")
        axes.set_yticks(range(len(rows)), [row.name for row in rows])
        axes.set_xlabel("units")
        axes.set_title(
            f"parameters {changed(self.parameters, short)}, MACs {changed(self.macs, short)}"
        )
        figure.legend(loc="outside lower center", ncols=2)
        figure.savefig(path)
        return pathlib.Path(path)

    def tables(self):
        """What is printed: a rich table of the layers, and one of the whole models."""
        return [self._layer_table(), "", self._total_table()]

    def _layer_table(self):
        numbers = ("units", "parameters", "MACs", "sparsity")
        rows = table(("layer",), numbers, " → ".join(self.names))
        for row in self.layers:
            cells = (
                changed(row.units, short),
                changed(row.parameters, short),
                changed(row.macs, short),
                changed(row.sparsity, share),
            )
            name = row.name if row.status == "kept" else f"{row.name} ({row.status})"
            rows.add_row(name, *cells, style="dim" if row.status == "removed" else None)
        return rows

    def _total_table(self):
        rows = table(("total",), ("before", "after", "ratio"), notes=self.notes)
        for name, change, show in self._totals():
            has_ratio = change.ratio is not None and show is not share
            ratio = f"{change.ratio:.3g}" if has_ratio else ""
            rows.add_row(name, show(change.before), show(change.after), ratio)
        return rows

    def _totals(self):
        yield "parameters", self.parameters, count
        yield "MACs", self.macs, count
        yield "sparsity", self.sparsity, share
        for format, change in self.bytes.items():
            yield f"bytes, {format}", change, count
            yield f"zipped, {format}", self.zipped[format], count
        for batch_size, change in self.latency.items():
            yield f"latency, batch of {batch_size}", change, milliseconds
        for name, change in self.metrics.items():
            yield name, change, number


def compare(before, after, data=None, *, metrics=None, input_shapes=None, batch_sizes=(1, 32)):
    """Measures two models side by side: units, parameters, MACs, bytes, latency, metrics.

    A model that carries masks is measured as the stock model with the same weights, zeros
    included: masks cost nothing here, and zeros save nothing but in zipped files. Latencies are
    medians of calls at inference through `tf.function`, both models in turns in one run; their
    ratio says more than they do. What cannot be measured is None, and `notes` says why.

    Args:
        before, after: Functional or built Sequential models that take the same inputs. Layers are
            matched by name.
        data: `(x, y)`, or a dataset of batches, to evaluate metrics on.
        metrics: What `compile` takes as `metrics`; by default what each model was compiled with.
        input_shapes: The sizes to take for dynamic dimensions, as in `tfprune.coupling.costs`; by
            default those of `data`.
        batch_sizes: The batch sizes to measure latency at; empty for none.

    Returns:
        A `Comparison`.

    Raises:
        ValueError: If a model has no graph, `input_shapes` does not fit, or there is `data` but
            neither `metrics` nor a compiled model.

    Example:

    >>> before, after = (
    ...     keras.Sequential([keras.Input((8,)), keras.layers.Dense(n, name="d")]) for n in (6, 3)
    ... )
    >>> comparison = compare(before, after, batch_sizes=())
    >>> comparison.layers[0].units, comparison.parameters.ratio
    (Change(before=6, after=3), 0.5)
    """
    models = (before, after)
    is_dynamic = any(None in size for size in sized_inputs(before))
    if input_shapes is None and data is not None and is_dynamic:
        input_shapes = measure.shapes_in(data)
    calls = [costs(model, input_shapes) for model in models]
    layers = [_by_name(of_model) for of_model in calls]
    notes = [note for pair in zip(models, calls, strict=True) for note in _notes(*pair)]
    evaluated = [] if data is None else [measure.evaluate(m, data, metrics) for m in models]
    stock = [measure.without_masks(model) for model in models]
    bytes_by_format, zipped = _sizes(stock, notes)
    return Comparison(
        names=tuple(model.name for model in models),
        layers=tuple(_layer_changes(*layers)),
        parameters=Change(*(model.count_params() for model in models)),
        macs=Change(*(_sum(layer.macs for layer in of_model) for of_model in layers)),
        sparsity=Change(*(_zeros(model.weights) for model in models)),
        bytes=bytes_by_format,
        zipped=zipped,
        latency=_latencies(stock, batch_sizes, input_shapes, notes),
        metrics=_metric_changes(*evaluated),
        notes=tuple(dict.fromkeys(notes)),
    )


def _layer_changes(before, after):
    """The layers of both models that have weights or MACs, in the order they run."""
    olds, news = ({layer.name: layer for layer in layers} for layers in (before, after))
    for name in {**olds, **news}:
        old, new = olds.get(name), news.get(name)
        there = [layer for layer in (old, new) if layer is not None]
        if any(layer.parameters or layer.macs != 0 for layer in there):
            counts = {
                field: Change(getattr(old, field, None), getattr(new, field, None))
                for field in ("units", "parameters", "macs", "sparsity")
            }
            status = "added" if old is None else "removed" if new is None else "kept"
            yield LayerChange(name=name, type=there[0].type, status=status, **counts)


def _sizes(models, notes):
    """The size on disk of both models by format, as they are and zipped."""
    plain_sizes, zipped = {}, {}
    for format in ("saved_model", "keras"):
        sizes = []
        for model in models:
            try:
                sizes.append(measure.size_on_disk(model, format))
            except ValueError as error:
                sizes.append(measure.FileSize(None, None))
                notes.append(f"bytes of {model.name!r} as {format} are not known: {error}")
        plain_sizes[format] = Change(*(size.bytes for size in sizes))
        zipped[format] = Change(*(size.zipped for size in sizes))
    return plain_sizes, zipped


def _latencies(models, batch_sizes, input_shapes, notes):
    found = {}
    for batch_size in batch_sizes:
        try:
            found[batch_size] = Change(*measure.latency(models, batch_size, input_shapes))
        except ValueError as error:
            found[batch_size] = Change(None, None)
            notes.append(f"latency for a batch of {batch_size} was not measured: {error}")
    return found


def _metric_changes(before=None, after=None):
    before, after = before or {}, after or {}
    return {name: Change(before.get(name), after.get(name)) for name in {**before, **after}}
