"""Freezing and unfreezing of single elements, slices, weights and layers."""

from tfprune import _keras
from tfprune._tools.checks import check_model
from tfprune.layers import Masked
from tfprune.masks.setting import element_mask, find_layer, set_masks


def freeze(model, layer, weight=None, index=True, *, optimizer=None):
    """Freezes elements of weights in place: training leaves their values as they are, bit for bit.

    Use it to fine-tune a part of a layer. Elements that are frozen already stay frozen. Nothing is
    retraced; the optimizer's slots of the frozen elements become 0.

    Args:
        model: The model which holds the layer.
        layer: A layer of `tfprune.layers`, its name, or a nested model or composite layer for all
            of them inside it.
        weight: The weight's name, as "kernel" or "bias". Default: all weights of the layer.
        index: Which elements of the weight: anything that indexes an array of its shape, such as
            `numpy.s_[:, 3]`, `(0, 2)` or a boolean array. Default: all.
        optimizer: The optimizer of a custom training loop; by default `model.optimizer`.

    Raises:
        ValueError: If there is no such layer or weight, the layer carries no masks, or the index
            does not fit. Nothing is changed then.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import tfprune
    >>> model = keras.Sequential([keras.Input((8, 8, 3)), tfprune.layers.Conv2D(4, 3, name="c")])
    >>> freeze(model, "c", "kernel", np.s_[:, :, 2, 0])  # of filter 0, the one over channel 2
    >>> freeze(model, "c", "bias")
    >>> tfprune.masks.count_masks(model)
    MaskCounts(elements=112, pruned=0, frozen=13)
    >>> unfreeze(model, "c", "kernel")
    >>> tfprune.masks.count_masks(model).frozen
    4
    """
    check_model(model)
    for part, name, selected in _selected(model, layer, weight, index):
        set_masks(model, part, name, frozen=_frozen(part, name) | selected, optimizer=optimizer)


def unfreeze(model, layer, weight=None, index=True, *, optimizer=None):
    """Unfreezes elements of weights in place: they are trained again, with optimizer slots at 0.

    Args:
        model, layer, weight, index, optimizer: As in `tfprune.freeze`.

    Raises:
        ValueError: As `tfprune.freeze`.

    Example:

    >>> import keras
    >>> import tfprune
    >>> model = keras.Sequential([keras.Input((4,)), tfprune.layers.Dense(2, name="d")])
    >>> freeze(model, "d")
    >>> unfreeze(model, "d", "kernel", [0, 1])  # the first two rows
    >>> model.get_layer("d").frozen_masks["kernel"].numpy().tolist()
    [[False, False], [False, False], [True, True], [True, True]]
    """
    check_model(model)
    for part, name, selected in _selected(model, layer, weight, index):
        set_masks(model, part, name, frozen=_frozen(part, name) & ~selected, optimizer=optimizer)


def _selected(model, layer, weight, index):
    """For each weight that is meant: its layer, its name, the elements as a boolean array."""
    layer = find_layer(model, layer)
    if weight is not None:
        return [(layer, weight, element_mask(layer, weight, index))]
    if index is not True:
        raise ValueError(
            "Argument `index` picks elements of one weight, so `weight` must name it. "
            f"Received: layer={layer.name!r}, weight=None, index={index!r}."
        )
    parts = [part for part in _keras.all_layers(layer) if isinstance(part, Masked)]
    names = [(part, name) for part in parts for name in part.masks_by_name]
    if not names:
        raise ValueError(
            f"The layer has no weights that carry masks. Received: layer={layer.name!r} "
            f"({type(layer).__name__}). Make the model prunable with `tfprune.prunable(model)`, "
            "and build it if it is not built yet."
        )
    return [(part, name, element_mask(part, name, True)) for part, name in names]


def _frozen(layer, weight):
    return _keras.values(layer.masks_by_name[weight].frozen)
