"""`tfprune.compare_exports`: bytes, metrics and latency of exported files beside their model."""

import pathlib
from dataclasses import dataclass

import keras
import numpy as np

from tfprune import _keras
from tfprune._tools.checks import check_batch_sizes, check_model
from tfprune._tools.tables import NOTHING, Printable, count, milliseconds, number, share, table
from tfprune.coupling.shapes import random_inputs, sized_inputs
from tfprune.exporting.checks import named_arrays, unpacked_batches
from tfprune.exporting.graph import output_names
from tfprune.exporting.loading import load, of_model
from tfprune.measuring.data import check_fits, has_labels
from tfprune.measuring.file_size import FileSize, file_size
from tfprune.measuring.latency import medians
from tfprune.measuring.metrics import WithoutLoss, check_data, shapes_in
from tfprune.rebuild.copied_state import copied_metric
from tfprune.reports.output_differences import OutputDifference

_BATCH = 32


@dataclass(frozen=True)
class ExportSummary:
    """The measurements of a model or of one exported file.

    Attributes:
        name: The model's name, or that of the file.
        format: `"model"`, or the format as `tfprune.export` names it.
        bytes: The size on disk, of all files of a directory; None for the model.
        zipped: The size in a zip archive, where zeros take almost no space; None for the model.
        latency: The median seconds of one call by batch size; None if the file fixes another.
        metrics: The metrics of the outputs on the data by name, without the loss.
        agreement: The share of positions at which the largest of several values, the class, is that
            of the model, the least of all outputs; None if every output is a single number.
        error: The relative error of the outputs, rms(difference to the model) / rms(model), the
            largest of all outputs; on the data, or else on random inputs.
    """

    name: str
    format: str
    bytes: int | None
    zipped: int | None
    latency: dict
    metrics: dict
    agreement: float | None
    error: float


@dataclass(frozen=True)
class ExportComparison(Printable):
    """The result of `compare_exports`; `print` shows it as a table.

    Attributes:
        rows: An `ExportSummary` for the model, then one for each file.
        notes: What could not be measured, and why.
    """

    rows: tuple
    notes: tuple = ()

    def tables(self):
        """The rich table that is printed, with a row for the model and for each file.

        Latency is given in milliseconds at each batch size.
        """
        first = self.rows[0]
        titles = [f"ms at {size}" for size in first.latency]
        rows = table(
            ("", "format"),
            ("bytes", "zipped", *titles, *first.metrics, "agreement", "error"),
            first.name,
            self.notes,
        )
        for row in self.rows:
            cells = (
                count(row.bytes),
                count(row.zipped),
                *(milliseconds(value).removesuffix(" ms") for value in row.latency.values()),
                *(number(value) for value in row.metrics.values()),
                share(row.agreement),
                f"{row.error:.1g}",
            )
            rows.add_row(row.name, row.format, *cells)
        return [rows]


def compare_exports(
    model, paths, data=None, *, metrics=None, input_shapes=None, batch_sizes=(1, 32)
):
    """Compares exported files with their model: bytes, metrics, latency and error of each.

    Use it to choose a format or a quantization. Each file runs in its own runtime: the LiteRT
    interpreter, onnxruntime, or the signature of a SavedModel. Latencies are medians of calls, all
    files alternating in one run, with the default threads of each runtime (one for LiteRT, all for
    the others).

    Args:
        model: The Functional or built Sequential model that was exported.
        paths: One path or a list of them, of any format of `tfprune.export`.
        data: `(x, y)`, or a dataset of batches, to evaluate metrics on; without labels, as `x`,
            `(x, None)` or a dataset of inputs, agreement and error alone are measured on it.
        metrics: What `compile` takes as `metrics`; by default what the model was compiled with, if
            it is compiled.
        input_shapes: Sizes for dynamic dimensions, as in `tfprune.coupling.costs`; by
            default those of `data`.
        batch_sizes: The batch sizes to measure latency at; empty for none.

    Returns:
        An `ExportComparison`; `print` shows it as a table.

    Raises:
        ValueError: If there is no exported model at a path, its inputs or outputs are not those of
            the model, the data does not fit, or `metrics` are given without labels.
        ImportError: If a runtime is not installed.

    Example:

    >>> import tempfile, tfprune
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "small.tflite"
    >>> x, y = np.ones((4, 8), "float32"), np.ones((4, 2), "float32")
    >>> file = tfprune.export(model, path, format="litert")
    >>> found = compare_exports(model, file, (x, y), metrics=["mae"], batch_sizes=())
    >>> [(row.format, list(row.metrics), row.error < 1e-4) for row in found.rows]
    [('model', ['mae'], True), ('litert', ['mae'], True)]
    """
    check_model(model)
    check_batch_sizes(batch_sizes)
    paths = [paths] if isinstance(paths, (str, pathlib.Path)) else list(paths)
    runners = [of_model(model, "model"), *map(load, paths)]
    known = set(runners[0].shapes)
    for path, runner in zip(paths, runners[1:], strict=True):
        if not set(runner.shapes) <= known:
            raise _mismatch(path, "take the inputs", runners[0].shapes, runner.shapes)
    data = _with_targets(data)
    if data is not None:
        check_data(data)
        check_fits(model, data)
    notes = []
    models = _metric_models(model, metrics, data, len(runners), notes)
    differences = [{} for _ in runners]
    at_once = max(_BATCH, *(runner.fixed_batch or 0 for runner in runners))
    for arrays, targets, weights in _batches(model, data, input_shapes, at_once):
        outputs = [_outputs(runner, arrays) for runner in runners]
        for path, given in zip(paths, outputs[1:], strict=True):
            if set(given) != set(outputs[0]):
                raise _mismatch(path, "give the outputs", outputs[0], given)
        for found, given in zip(differences, outputs, strict=True):
            for name, ours in outputs[0].items():
                found.setdefault(name, OutputDifference()).add(ours, given[name])
        for each, given in zip(models, outputs, strict=False):
            each.add(given, targets, weights)
    if input_shapes is None and data is not None:
        input_shapes = shapes_in(data)
    times = _latencies(model, runners, input_shapes, batch_sizes, notes)
    names = [model.name, *(pathlib.Path(path).name for path in paths)]
    sizes = [FileSize(None, None), *map(file_size, paths)]
    rows = [
        ExportSummary(
            name=name,
            format=runner.format,
            bytes=size.bytes,
            zipped=size.zipped,
            latency={batch_size: found[index] for batch_size, found in times.items()},
            metrics=models[index].found() if models else {},
            agreement=min(
                (each.agreement for each in found if each.agreement is not None), default=None
            ),
            error=max(each.error for each in found),
        )
        for index, (name, runner, size, found) in enumerate(
            zip(names, runners, sizes, (list(d.values()) for d in differences), strict=True)
        )
    ]
    return ExportComparison(tuple(rows), tuple(notes))


# Outputs and latency ------------------------------------------------------------------------------


def _mismatch(path, what, expected, received):
    noun = what.split()[-1]
    return ValueError(
        f"Argument `paths` must name files which {what} of the model, as `tfprune.export` writes "
        f"them: {list(expected)}. Received: path={str(path)!r} with the {noun} {list(received)}."
    )


def _batches(model, data, input_shapes, at_once):
    """The inputs as arrays by name, targets and sample weights, so many examples at a time."""
    if data is None:
        arrays = keras.tree.flatten(random_inputs(model, _sizes(model, input_shapes), _BATCH))
        yield named_arrays(model, arrays), None, None
        return
    is_arrays = isinstance(data, (tuple, list))
    for batch in [(*data, None)] if is_arrays else unpacked_batches(data):
        for start in range(0, len(keras.tree.flatten(batch[0])[0]), at_once):
            some = slice(start, start + at_once)
            x, y, weight = keras.tree.map_structure(
                lambda array, some=some: None if array is None else array[some], batch
            )
            yield named_arrays(model, keras.tree.flatten(x)), y, weight


def _with_targets(data):
    """Inputs alone as a pair with no targets."""
    if isinstance(data, dict) or hasattr(data, "__array__"):
        return data, None
    return (data[0], None) if isinstance(data, (tuple, list)) and len(data) == 1 else data


def _sizes(model, input_shapes):
    sizes = sized_inputs(model, input_shapes)
    if any(None in size for size in sizes):
        raise ValueError(
            "Argument `input_shapes` or `data` must be given for a model whose inputs have dynamic "
            f"sizes. Received: model={model.name!r}, inputs of the sizes {sizes}."
        )
    return sizes


def _outputs(runner, arrays):
    """The outputs of a model or file for a batch, by output name, one array each.

    Where its batch is fixed, the last one is filled up with samples that are cut off again.
    """
    fixed = runner.fixed_batch
    length = len(next(iter(arrays.values())))
    size, found = fixed or length, []
    for start in range(0, length, size):
        part = {name: arrays[name][start : start + size] for name in runner.shapes}
        kept = min(size, length - start)
        if fixed:
            part = {name: np.resize(a, (fixed, *a.shape[1:])) for name, a in part.items()}
        outputs = runner.run(part)
        found.append({name: output[:kept] for name, output in outputs.items()})
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def _latencies(model, runners, input_shapes, batch_sizes, notes):
    """For each batch size the median seconds of a call of each runner, None if it takes none."""
    found = {}
    for batch_size in batch_sizes:
        found[batch_size] = [None] * len(runners)
        fits = [i for i, c in enumerate(runners) if c.fixed_batch in (None, batch_size)]
        if len(fits) < len(runners):
            notes.append(f"{NOTHING} at a batch of {batch_size}: the file fixes another batch")
        arrays = keras.tree.flatten(random_inputs(model, _sizes(model, input_shapes), batch_size))
        inputs = named_arrays(model, arrays)
        calls = [_call(runners[i], inputs) for i in fits]
        for i, seconds in zip(fits, medians(calls), strict=True):
            found[batch_size][i] = seconds
    return found


def _call(runner, inputs):
    given = {name: inputs[name] for name in runner.shapes}
    return lambda: runner.run(given)


# Metrics -----------------------------------------------------------------------------------------


def _metric_models(model, metrics, data, count, notes):
    """A `_MetricModel` for the model and each file; empty where there are no metrics."""
    if data is None:
        return []
    if not has_labels(data):
        if metrics is not None:
            raise ValueError(
                "Argument `data` must hold labels for metrics. Received: inputs alone, "
                f"metrics={metrics!r}. Pass `(x, y)`, or leave out `metrics` for agreement alone."
            )
        notes.append("no metrics: the data has no labels")
        return []
    arguments = {"metrics": metrics}
    if metrics is None:
        compiled = _keras.compile_arguments(model) if model.compiled else {}
        arguments = {name: compiled.get(name) for name in ("metrics", "weighted_metrics")}
        if not any(arguments.values()):
            notes.append("no metrics: the model is not compiled with any, see `metrics`")
            return []
    return [_MetricModel(model, arguments) for _ in range(count)]


class _MetricModel:
    """Metrics of outputs that a model or file gave."""

    def __init__(self, model, arguments):
        self._names = output_names(model)
        self._structure = _keras.functional(model).output
        outputs = keras.tree.flatten(self._structure)
        inputs = [keras.Input(tensor.shape[1:], dtype=tensor.dtype) for tensor in outputs]
        named = zip(self._names, inputs, strict=True)
        same = [keras.layers.Identity(name=name)(tensor) for name, tensor in named]
        self._model = WithoutLoss(inputs, keras.tree.pack_sequence_as(self._structure, same))
        self._model.compile(**keras.tree.map_structure(copied_metric, arguments))

    def add(self, outputs, targets, weights):
        """Takes account of a batch."""
        given = [keras.ops.convert_to_tensor(outputs[name]) for name in self._names]
        given = keras.tree.pack_sequence_as(self._structure, given)
        targets, weights = keras.tree.map_structure(_as_tensor, (targets, weights))
        self._model.compute_metrics(None, targets, given, weights)

    def found(self):
        """The metrics by name, without the loss."""
        found = self._model.get_metrics_result()
        return {name: float(value) for name, value in found.items() if name != "loss"}


def _as_tensor(array):
    return None if array is None else keras.ops.convert_to_tensor(array)
