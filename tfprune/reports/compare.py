"""`tfprune.compare`: units, parameters, MACs, bytes, latency and metrics of two models."""

from dataclasses import dataclass

from tfprune._tools import pages, plots
from tfprune._tools.checks import check_batch_sizes, check_model
from tfprune._tools.tables import (
    Change,
    Printable,
    changed,
    count,
    milliseconds,
    number,
    share,
    short,
    table,
)
from tfprune.coupling.shapes import sized_inputs
from tfprune.measuring.file_size import FileSize, size_on_disk
from tfprune.measuring.latency import latency
from tfprune.measuring.metrics import evaluate, shapes_in
from tfprune.measuring.runtimes import check as check_runtime
from tfprune.measuring.runtimes import check_installed
from tfprune.rebuild.convert import without_masks
from tfprune.reports.inspect import inspect


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
class Comparison(Printable, plots.Plottable):
    """The result of `compare`: the measurements of two models. `print` shows it as tables.

    `plot(path)` draws the units of each layer before and after; `save(path)` writes an HTML page
    with these and the tables.

    Attributes:
        names: The names of the two models.
        layers: A `LayerChange` for each layer with weights or MACs.
        parameters: The number of elements of all weights.
        macs: Multiply-accumulates for one sample.
        sparsity: The fraction of all elements that are exactly 0.
        bytes: The size on disk by format, `"saved_model"` and `"keras"`.
        zipped: The size of these in a zip archive, where zeros take almost no space.
        latency: The median seconds of one call by batch size.
        metrics: The metrics by name.
        notes: What could not be measured, and why.

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

    def _figure(self):
        """The units of each layer before and after, with the totals in the title."""
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
        return figure

    def _title(self):
        return " → ".join(self.names)

    def _page(self):
        rows = [row for row in self.layers if row.units != Change(None, None)]
        bars = pages.Bars("units", [(r.name, r.units.before, r.units.after) for r in rows])
        return [self._total_table(), bars, self._layer_table()]

    def tables(self):
        """The rich tables that are printed: the layers, and the totals."""
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


def compare(
    before,
    after,
    data=None,
    *,
    metrics=None,
    input_shapes=None,
    batch_sizes=(1, 32),
    runtime="keras",
    threads=None,
    quantize=None,
):
    """Compares two models: units, parameters, MACs, bytes on disk, latency and metrics.

    Use it to see what pruning saved. A masked model is measured as the stock model with the same
    weights, zeros included, so masks cost nothing and zeros only save bytes in zipped files.
    Latencies are medians of inference calls, the two models alternating in one run; their ratio is
    more reliable than the numbers. What cannot be measured is None, and `notes` says why.

    Args:
        before, after: Keras models that are built and take the same inputs. Layers are
            matched by name.
        data: `(x, y)`, or a dataset of batches, to evaluate metrics on.
        metrics: What `compile` takes as `metrics`; by default what each model was compiled with.
        input_shapes: Sizes for dynamic dimensions, as in `tfprune.coupling.costs`; by
            default those of `data`.
        batch_sizes: The batch sizes to measure latency at; empty for none.
        runtime, threads, quantize: What latency is measured in, as in `tfprune.budgets.Latency`.

    Returns:
        A `Comparison`; `print` shows it as tables.

    Raises:
        ValueError: If a model has no graph, `input_shapes` does not fit, or there is `data` but
            neither `metrics` nor a compiled model.
        ImportError: If the runtime is not installed.

    Example:

    >>> import keras
    >>> before, after = (
    ...     keras.Sequential([keras.Input((8,)), keras.layers.Dense(n, name="d")]) for n in (6, 3)
    ... )
    >>> comparison = compare(before, after, batch_sizes=())
    >>> comparison.layers[0].units, comparison.parameters.ratio
    (Change(before=6, after=3), 0.5)
    """
    check_model(before, "before")
    check_model(after, "after")
    check_batch_sizes(batch_sizes)
    check_runtime(runtime, threads, quantize)
    check_installed(runtime)
    how = {"runtime": runtime, "threads": threads, "quantize": quantize}
    models = (before, after)
    is_dynamic = any(None in size for size in sized_inputs(before))
    if input_shapes is None and data is not None and is_dynamic:
        input_shapes = shapes_in(data)
    found = [inspect(model, input_shapes) for model in models]
    notes = [note for inspection in found for note in inspection.notes]
    evaluated = [] if data is None else [evaluate(m, data, metrics) for m in models]
    stock = [without_masks(model) for model in models]
    sizes = _sizes(stock, notes)
    return Comparison(
        names=tuple(inspection.name for inspection in found),
        layers=tuple(_layer_changes(*(inspection.layers for inspection in found))),
        **_changes(found, ("parameters", "macs", "sparsity")),
        **{
            name: {format: _changes(pair, [name])[name] for format, pair in sizes.items()}
            for name in ("bytes", "zipped")
        },
        latency=_latencies(stock, batch_sizes, input_shapes, how, notes),
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
            counts = _changes((old, new), ("units", "parameters", "macs", "sparsity"))
            status = "added" if old is None else "removed" if new is None else "kept"
            yield LayerChange(name=name, type=there[0].type, status=status, **counts)


def _changes(pair, names):
    """Attributes of two objects, each a `Change`; None where an object is None."""
    return {name: Change(*(getattr(one, name, None) for one in pair)) for name in names}


def _sizes(models, notes):
    """The sizes on disk of both models by format, as `FileSize`s."""
    found = {}
    for format in ("saved_model", "keras"):
        found[format] = []
        for model in models:
            try:
                found[format].append(size_on_disk(model, format))
            except ValueError as error:
                found[format].append(FileSize(None, None))
                notes.append(f"bytes of {model.name!r} as {format} are not known: {error}")
    return found


def _latencies(models, batch_sizes, input_shapes, how, notes):
    found = {}
    for batch_size in batch_sizes:
        try:
            found[batch_size] = Change(*latency(models, batch_size, input_shapes, **how))
        except ValueError as error:
            found[batch_size] = Change(None, None)
            notes.append(f"latency for a batch of {batch_size} was not measured: {error}")
    return found


def _metric_changes(before=None, after=None):
    before, after = before or {}, after or {}
    return {name: Change(before.get(name), after.get(name)) for name in {**before, **after}}
