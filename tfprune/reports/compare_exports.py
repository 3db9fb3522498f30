"""`tfprune.compare_exports`: bytes, metrics and latency of exported files beside their model."""

import pathlib
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from tfprune import _keras
from tfprune._tools.tables import NOTHING, Printable, count, milliseconds, number, table
from tfprune.coupling.shapes import random_inputs, sized_inputs
from tfprune.exporting.checks import relative_error
from tfprune.exporting.graph import output_names
from tfprune.exporting.loading import Exported, by_name, load
from tfprune.measuring.file_size import FileSize, file_size
from tfprune.measuring.latency import medians
from tfprune.measuring.metrics import WithoutLoss, check_data, shapes_in

_BATCH = 32


@dataclass(frozen=True)
class ExportSummary:
    """What was measured of a model or of one exported file.

    Attributes:
        name: The model's name, or that of the file.
        format: `"model"`, or the format as `tfprune.export` names it.
        bytes: The size on disk, of all files of a directory; None for the model.
        zipped: The size in a zip archive, where zeros take next to nothing; None for the model.
        latency: The median seconds of one call by batch size; None where the file fixes another.
        metrics: The metrics by name, of the outputs on the data; the loss is none of them.
        error: The root mean square of the difference to the model's outputs over that of the
            outputs, the largest of all outputs; on the data, or on random inputs without any.
    """

    name: str
    format: str
    bytes: int | None
    zipped: int | None
    latency: dict
    metrics: dict
    error: float


@dataclass(frozen=True)
class ExportComparison(Printable):
    """What `compare_exports` measured; `print` shows it as a table.

    Attributes:
        rows: An `ExportSummary` for the model, then one for each file.
        notes: What could not be told, and why.
    """

    rows: tuple
    notes: tuple = ()

    def tables(self):
        """What is printed: a rich table with a row for the model and for each file.

        Latency is given in milliseconds at each batch size.
        """
        first = self.rows[0]
        titles = [f"ms at {size}" for size in first.latency]
        rows = table(
            ("", "format"),
            ("bytes", "zipped", *titles, *first.metrics, "error"),
            first.name,
            self.notes,
        )
        for row in self.rows:
            cells = (
                count(row.bytes),
                count(row.zipped),
                *(milliseconds(value).removesuffix(" ms") for value in row.latency.values()),
                *(number(value) for value in row.metrics.values()),
                f"{row.error:.1g}",
            )
            rows.add_row(row.name, row.format, *cells)
        return [rows]


def compare_exports(
    model, paths, data=None, *, metrics=None, input_shapes=None, batch_sizes=(1, 32)
):
    """Measures a model and what it was exported to: bytes, metrics and latency of each file.

    Metrics are those of what the files give on the data: through the LiteRT interpreter,
    onnxruntime, or the signature of a SavedModel. Latencies are medians of calls, all in turns
    within one run, each runtime with the threads it takes by default (LiteRT one, the others all).

    Args:
        model: The Functional or built Sequential model that was exported.
        paths: One path or a list of them, of any format of `tfprune.export`.
        data: `(x, y)`, or a dataset of batches, to evaluate metrics on.
        metrics: What `compile` takes as `metrics`; by default what the model was compiled with.
        input_shapes: The sizes to take for dynamic dimensions, as in `tfprune.coupling.costs`; by
            default those of `data`.
        batch_sizes: The batch sizes to measure latency at; empty for none.

    Returns:
        An `ExportComparison`.

    Raises:
        ValueError: If there is no exported model at a path, its inputs or outputs are not those of
            the model, or there is `data` but neither `metrics` nor a compiled model.
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
    paths = [paths] if isinstance(paths, (str, pathlib.Path)) else list(paths)
    contenders = [_of_model(model), *map(load, paths)]
    _check_inputs(contenders, paths)
    judge = None if data is None else _judge(model, metrics)
    batches, targets, weights = _collected(model, data, input_shapes)
    outputs = [_outputs(contender, batches) for contender in contenders]
    _check_outputs(outputs, paths)
    if input_shapes is None and data is not None:
        input_shapes = shapes_in(data)
    notes = []
    times = _latencies(model, contenders, input_shapes, batch_sizes, notes)
    nothing = FileSize(None, None)
    sizes = [nothing, *map(file_size, paths)]
    rows = [
        ExportSummary(
            name=name,
            format=contender.format,
            bytes=size.bytes,
            zipped=size.zipped,
            latency={batch_size: found[index] for batch_size, found in times.items()},
            metrics={} if judge is None else judge(given, targets, weights),
            error=max(relative_error(outputs[0][key], given[key]) for key in outputs[0]),
        )
        for index, (name, contender, size, given) in enumerate(
            zip(_names(model, paths), contenders, sizes, outputs, strict=True)
        )
    ]
    return ExportComparison(tuple(rows), tuple(notes))


# Running -----------------------------------------------------------------------------------------


def _of_model(model):
    """The model behind the face of an exported file."""
    inputs = keras.tree.flatten(_keras.input_structure(model))
    return Exported(
        "model", {tensor.name: tuple(tensor.shape) for tensor in inputs}, by_name(model)
    )


def _names(model, paths):
    return [model.name, *(pathlib.Path(path).name for path in paths)]


def _check_inputs(contenders, paths):
    names = list(contenders[0].shapes)
    for path, contender in zip(paths, contenders[1:], strict=True):
        if not set(contender.shapes) <= set(names):
            raise ValueError(
                "Argument `paths` must name files which take the inputs of the model, as "
                f"`tfprune.export` writes them: {names}. Received: path={str(path)!r} with the "
                f"inputs {list(contender.shapes)}."
            )


def _check_outputs(outputs, paths):
    names = list(outputs[0])
    for path, given in zip(paths, outputs[1:], strict=True):
        if set(given) != set(names):
            raise ValueError(
                "Argument `paths` must name files which give the outputs of the model, as "
                f"`tfprune.export` writes them: {names}. Received: path={str(path)!r} with the "
                f"outputs {list(given)}."
            )


def _collected(model, data, input_shapes):
    """The inputs in batches, as arrays by name; all targets, all sample weights."""
    if data is None:
        sizes = _sizes(model, input_shapes)
        arrays = keras.tree.flatten(random_inputs(model, sizes, _BATCH))
        return [_typed(model, arrays)], None, None
    check_data(data)
    if isinstance(data, (tuple, list)):
        given = [data]
    else:
        given = data if isinstance(data, tf.data.Dataset) else (data[i] for i in range(len(data)))
    parts = [keras.utils.unpack_x_y_sample_weight(tuple(part)) for part in given]
    if any(y is None for _, y, _ in parts):
        raise ValueError("Argument `data` must hold targets. Received: inputs alone.")
    batches = [_typed(model, keras.tree.flatten(x)) for x, _, _ in parts]
    targets = keras.tree.map_structure(lambda *y: np.concatenate(y), *(y for _, y, _ in parts))
    if any(weight is None for _, _, weight in parts):
        return batches, targets, None
    weights = keras.tree.map_structure(lambda *w: np.concatenate(w), *(w for _, _, w in parts))
    return batches, targets, weights


def _sizes(model, input_shapes):
    sizes = sized_inputs(model, input_shapes)
    if any(None in size for size in sizes):
        raise ValueError(
            "Argument `input_shapes` or `data` must be given for a model whose inputs have dynamic "
            f"sizes. Received: model={model.name!r}, inputs of the sizes {sizes}."
        )
    return sizes


def _typed(model, arrays):
    inputs = keras.tree.flatten(_keras.input_structure(model))
    return {
        tensor.name: np.asarray(array, None if tensor.dtype == "string" else tensor.dtype)
        for tensor, array in zip(inputs, arrays, strict=True)
    }


def _outputs(contender, batches):
    """What a contender gives for all batches, by output name, one array each.

    Where its batch is fixed, the last one is filled up with samples that are cut off again.
    """
    fixed = _fixed(contender)
    found = []
    for arrays in batches:
        length = len(next(iter(arrays.values())))
        for start in range(0, length, fixed or _BATCH):
            part = {name: arrays[name][start : start + (fixed or _BATCH)] for name in arrays}
            kept = min(fixed or _BATCH, length - start)
            if fixed:
                part = {name: np.resize(a, (fixed, *a.shape[1:])) for name, a in part.items()}
            outputs = contender.run({name: part[name] for name in contender.shapes})
            found.append({name: output[:kept] for name, output in outputs.items()})
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def _fixed(contender):
    """The batch which a contender fixes, None if it takes any."""
    return next((shape[0] for shape in contender.shapes.values() if shape[0]), None)


def _latencies(model, contenders, input_shapes, batch_sizes, notes):
    """For each batch size the median seconds of a call of each contender, None if it takes none."""
    found = {}
    for batch_size in batch_sizes:
        found[batch_size] = [None] * len(contenders)
        fits = [i for i, c in enumerate(contenders) if _fixed(c) in (None, batch_size)]
        if len(fits) < len(contenders):
            notes.append(f"{NOTHING} at a batch of {batch_size}: the file fixes another batch")
        arrays = keras.tree.flatten(random_inputs(model, _sizes(model, input_shapes), batch_size))
        inputs = _typed(model, arrays)
        calls = [_call(contenders[i], inputs) for i in fits]
        for i, seconds in zip(fits, medians(calls), strict=True):
            found[batch_size][i] = seconds
    return found


def _call(contender, inputs):
    given = {name: inputs[name] for name in contender.shapes}
    return lambda: contender.run(given)


# Metrics -----------------------------------------------------------------------------------------


def _judge(model, metrics):
    """A function from outputs, targets and weights to the metrics by name."""
    arguments = {"metrics": metrics}
    if metrics is None:
        compiled = _keras.compile_arguments(model)
        arguments = {name: compiled.get(name) for name in ("metrics", "weighted_metrics")}
        if not any(arguments.values()):
            raise ValueError(
                "Argument `metrics` must be given, because the model is not compiled with any. "
                f"Received: model={model.name!r}, metrics=None. Pass `metrics=['accuracy']`, say."
            )
    names = output_names(model)
    structure = _keras.functional(model).output
    outputs = keras.tree.flatten(structure)
    inputs = [keras.Input(tensor.shape[1:], dtype=tensor.dtype) for tensor in outputs]
    same = [keras.layers.Identity(name=n)(t) for n, t in zip(names, inputs, strict=True)]
    judge = WithoutLoss(inputs, keras.tree.pack_sequence_as(structure, same))
    judge.compile(**arguments)

    def metrics_of(given, targets, weights):
        arrays = [given[name] for name in names]
        found = judge.evaluate(arrays, targets, sample_weight=weights, verbose=0, return_dict=True)
        return {name: float(value) for name, value in found.items() if name != "loss"}

    return metrics_of
