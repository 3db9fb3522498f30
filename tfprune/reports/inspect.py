"""`tfprune.inspect`: output shapes, parameters, MACs and sparsity of each layer of a model."""

from dataclasses import dataclass

import keras
import numpy as np

from tfprune._tools.checks import check_model
from tfprune._tools.tables import Printable, count, shape, share, table
from tfprune.coupling.costs import costs
from tfprune.masks.setting import masked_layers
from tfprune.masks.skipping import quantized_layers, skipped_layers


@dataclass(frozen=True)
class LayerSummary:
    """A layer, or an operation without weights, summed over its calls in a model.

    Attributes:
        name: Its name, prefixed by those of the nested models around it: `"encoder/dense"`.
        type: Its class name.
        output_shape: The output shape of its first call, with the batch axis; None where dynamic.
        units: The number of units it makes, None if it makes none.
        parameters: The elements of its weights, without those shared with earlier layers.
        macs: Multiply-accumulates for one sample, None if unknown.
        sparsity: The fraction of its weights' elements that are exactly 0, None without weights.
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
    """The result of `inspect`: the layers of a model and their totals.

    Attributes:
        name: The model's name.
        layers: A `LayerSummary` for each layer and operation, in the order they run.
        parameters: The number of elements of all weights.
        macs: Multiply-accumulates for one sample, None if those of a layer are unknown.
        sparsity: The fraction of all elements that are exactly 0, None without weights.
        notes: What could not be counted, and why; of a masked model, which layers are skipped where
            weights or units are pruned.
    """

    name: str
    layers: tuple
    parameters: int
    macs: int | None
    sparsity: float | None
    notes: tuple = ()

    def tables(self):
        """The rich table of the layers that is printed."""
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

    Use it to see where the parameters and the computation of a model are.

    Args:
        model: Any Keras model that is built; nested models are listed layer by layer.
        input_shapes: Sizes for dynamic dimensions, as in `tfprune.coupling.costs`.

    Returns:
        An `Inspection`; `print` shows it as a table.

    Raises:
        ValueError: If the model has no graph, or `input_shapes` does not fit its inputs.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="d")])
    >>> found = inspect(model)
    >>> found.parameters, found.macs, found.layers[0].output_shape
    (8, 6, (None, 2))
    """
    check_model(model)
    calls = costs(model, input_shapes)
    layers = _by_name(calls)
    return Inspection(
        name=model.name,
        layers=tuple(layers),
        parameters=model.count_params(),
        macs=_sum(layer.macs for layer in layers),
        sparsity=_zeros(model.weights),
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
    has_masks = bool(masked_layers(model))
    skipped = {**skipped_layers(model), **quantized_layers(model)} if has_masks else {}
    notes += [f"{', '.join(names)}: {why}" for why, names in skipped.items()]
    return tuple(notes)
