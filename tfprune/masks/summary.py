"""The sparsity, frozen fraction and pattern of each masked weight of a model."""

from dataclasses import dataclass

import numpy as np

from tfprune._tools.checks import check_model
from tfprune._tools.tables import Printable, share, table
from tfprune.masks.setting import count_masks, masked_layers
from tfprune.masks.skipping import skipped_layers
from tfprune.patterns import matrix_axes, pattern_of


@dataclass(frozen=True)
class WeightSummary:
    """The masks of one weight.

    Attributes:
        layer: The name of the layer that carries the masks.
        weight: The name of the weight there, as in `layer.trainable_masks`.
        shape: The shape of the weight.
        sparsity: The fraction of its elements that are pruned.
        frozen: The fraction of its elements that are frozen.
        pattern: The pattern of the trainable mask, see `tfprune.patterns.pattern_of`.
    """

    layer: str
    weight: str
    shape: tuple
    sparsity: float
    frozen: float
    pattern: str


@dataclass(frozen=True)
class Summary(Printable):
    """The result of `tfprune.summary`; `print` shows it as a table.

    Attributes:
        name: The model's name.
        weights: A `WeightSummary` for each weight that carries masks, in the model's order.
        elements: How many elements they have together.
        sparsity: The fraction of these that are pruned.
        frozen: The fraction of these that are frozen.
        notes: The layers whose weights are skipped where weights or units are pruned, and why.
    """

    name: str
    weights: tuple
    elements: int
    sparsity: float
    frozen: float
    notes: tuple = ()

    def tables(self):
        """What is printed: a rich table of the weights."""
        text = ("layer", "weight", "shape", "pattern")
        rows = table(text, ("sparsity", "frozen"), self.name, self.notes)
        for one in self.weights:
            shares = share(one.sparsity), share(one.frozen)
            rows.add_row(one.layer, one.weight, str(one.shape), one.pattern, *shares)
        rows.add_section()
        total = f"{self.elements:,} elements", "", share(self.sparsity), share(self.frozen)
        rows.add_row("total", "", *total, style="bold")
        return [rows]


def summary(model):
    """Returns the sparsity, the frozen fraction and the mask pattern of each weight of a model.

    Args:
        model: A model of drop-in layers, see `tfprune.prunable`.

    Returns:
        A `Summary`, which prints itself as a table.

    Example:

    >>> import keras
    >>> import tfprune
    >>> model = keras.Sequential([keras.Input((4,)), tfprune.layers.Dense(3, name="d")])
    >>> tfprune.set_masks(model, "d", "kernel", trainable=np.s_[:, 1:])
    >>> kernel, bias = tfprune.summary(model).weights
    >>> round(kernel.sparsity, 3), kernel.pattern, bias.pattern
    (0.333, 'units', 'dense')
    """
    check_model(model)
    counts = count_masks(model)
    layers = masked_layers(model)
    return Summary(
        name=model.name,
        weights=tuple(_of_weight(layer, name) for layer in layers for name in layer.masks_by_name),
        elements=counts.elements,
        sparsity=counts.sparsity,
        frozen=counts.frozen / counts.elements if counts.elements else 0.0,
        notes=tuple(f"{', '.join(names)}: {why}" for why, names in skipped_layers(model).items()),
    )


def _of_weight(layer, name):
    kept = np.asarray(layer.trainable_masks[name])
    return WeightSummary(
        layer=layer.name,
        weight=name,
        shape=kept.shape,
        sparsity=float(1 - kept.mean()),
        frozen=float(np.asarray(layer.frozen_masks[name]).mean()),
        pattern=pattern_of(kept, _matrix(layer, name)),
    )


def _matrix(layer, name):
    """The matrix form of a weight, None where it has none."""
    try:
        return matrix_axes(layer, name)
    except ValueError:
        return None
