"""Sets the masks of a model and counts what they prune and freeze."""

import functools
from dataclasses import dataclass

import keras
import numpy as np

from tfprune import _keras
from tfprune._tools.checks import check_model
from tfprune.layers import Masked


def set_masks(model, layer, weight, *, trainable=None, frozen=None, optimizer=None):
    """Sets the trainable and the frozen mask of one weight, in place.

    Pruned elements become 0. The optimizer's slots of every element whose masks change start anew,
    so a regrown element starts at 0 without momentum. Nothing is retraced or recompiled. Masks
    change in no other way.

    Args:
        model: The model which holds the layer, or a layer by itself.
        layer: A layer of `tfprune.layers`, or its name.
        weight: The weight's name in `layer.trainable_masks`, as `"kernel"`.
        trainable: Which elements are kept; the others are pruned. A boolean array of the weight's
            shape, or anything that indexes such an array (`numpy.s_[:, 3]`, `[0, 2]`, `True` for
            all): the elements it picks are True, the others False. `None` leaves the mask.
        frozen: Which elements keep their value bit for bit, given in the same way.
        optimizer: The optimizer of a custom training loop; by default `model.optimizer`.

    Raises:
        ValueError: If there is no such layer or weight, the layer carries no masks, or a mask
            does not fit the weight. Nothing is changed then.

    Example:

    >>> import numpy as np
    >>> import tfprune
    >>> model = keras.Sequential([keras.Input((3,)), tfprune.layers.Dense(2, name="d")])
    >>> tfprune.set_masks(model, "d", "kernel", frozen=np.s_[:, 0])  # freeze the first unit
    >>> np.asarray(model.get_layer("d").frozen_masks["kernel"])[0]
    array([ True, False])
    """
    check_model(model, or_layer=True)
    layer = find_layer(model, layer)
    mask = _mask_of(layer, weight)
    if trainable is not None:
        before = _keras.values(mask.trainable)
        trainable = _as_mask(trainable, before, "trainable", layer, weight)
    if frozen is not None:
        frozen = _as_mask(frozen, _keras.values(mask.frozen), "frozen", layer, weight)
    optimizer = getattr(model, "optimizer", None) if optimizer is None else optimizer
    assign_masks(mask, trainable=trainable, frozen=frozen, optimizer=optimizer)


def assign_masks(mask, *, trainable=None, frozen=None, optimizer=None):
    """Sets the masks of a `WeightMask`, as `set_masks` does, without checks.

    Args:
        mask: `WeightMask`.
        trainable, frozen: Boolean arrays of the weight's shape; `None` leaves the mask.
        optimizer: An optimizer that may have slots of the weight, or `None`.
    """
    pairs = ((trainable, mask.trainable), (frozen, mask.frozen))
    changed = [after != _keras.values(before) for after, before in pairs if after is not None]
    if any(elements.any() for elements in changed):
        mask.set(trainable, frozen)
        if optimizer is not None:
            _keras.reset_slots(optimizer, mask.weight, functools.reduce(np.logical_or, changed))


def find_layer(model, layer, argument="layer"):
    """Returns the layer of a model, nested models included, for a layer of it or a name.

    A name is that of a layer, or, for layers inside layers, that after which reports call it:
    `"block_dense"` for `dense` in `block`.

    Raises:
        ValueError: If there is none, or the name is that of several.
    """
    layers = _keras.all_layers(model)
    if not isinstance(layer, str):
        if any(layer is other for other in layers):
            return layer
        name = getattr(layer, "name", layer)
        hint = (
            " It has another layer of this name; give the name instead, or take the layer from it."
        )
        raise ValueError(
            f"Argument `{argument}` must be a layer of the model, or its name. Received: "
            f"{argument}={name!r}, model={model.name!r}."
            + (hint if any(other.name == name for other in layers) else "")
        )
    found = [other for other in layers if other.name == layer]
    found = found or [other for other, name in _keras.named_layers(model) if name == layer]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            f"Argument `{argument}` names {len(found)} layers of the model; pass the layer itself. "
            f"Received: {argument}={layer!r}."
        )
    masked = masked_layers(model)
    shown = masked or [o for o in layers[1:] if not isinstance(o, keras.layers.InputLayer)]
    names = ", ".join(repr(other.name) for other in shown[:20])
    raise ValueError(
        f"Argument `{argument}` must be a layer of the model, or its name. "
        f"Received: {argument}={layer!r}. "
        f"{'Layers that carry masks' if masked else 'Layers of the model'}: {names or 'none'}."
    )


def masked_layers(model):
    """Returns the layers of a model that carry masks, each once, in the model's order."""
    return [layer for layer in _keras.all_layers(model) if _carries_masks(layer)]


def _carries_masks(layer):
    return isinstance(layer, Masked) and layer.carries_masks


def element_mask(layer, weight, given, argument="index"):
    """Returns the boolean array of a weight's shape that indices or a boolean array mean.

    Args:
        layer: A layer of `tfprune.layers`.
        weight: The weight's name.
        given: As in `set_masks`.
        argument: What the user calls it, for errors.

    Raises:
        ValueError: If the layer has no such weight with masks, or `given` does not fit it.
    """
    before = _keras.values(_mask_of(layer, weight).trainable)
    return _as_mask(given, before, argument, layer, weight)


def _mask_of(layer, weight):
    if not isinstance(layer, Masked):
        inner = [sub.name for sub in _keras.all_layers(layer) if isinstance(sub, Masked)]
        changed = "; ".join(_keras.changed_kernels(layer))
        if inner:
            hint = f"Its sub-layers {inner} do: pass one of them."
        elif changed:
            hint = f"{changed}."
        else:
            hint = "Make the model prunable with `tfprune.prunable(model)` first."
        raise ValueError(
            f"The layer carries no masks. Received: layer={layer.name!r} "
            f"({type(layer).__name__}). {hint}"
        )
    masks = layer.masks_by_name
    if not layer.built:
        raise ValueError(
            f"The layer is not built, so it has no masks yet. Received: layer={layer.name!r}. "
            "Call the model once or build it."
        )
    if weight not in masks:
        raise ValueError(
            f"Argument `weight` must be one of {sorted(masks)}. "
            f"Received: weight={weight!r}, layer={layer.name!r}."
        )
    return masks[weight]


def _as_mask(given, before, argument, layer, weight):
    """The boolean array that `given` stands for."""
    if keras.ops.is_tensor(given) or isinstance(given, keras.Variable):
        given = keras.ops.convert_to_numpy(given)
    if isinstance(given, (list, np.ndarray)) and np.asarray(given).dtype == bool:
        mask = np.asarray(given)
        if mask.shape != before.shape:
            raise ValueError(
                f"Argument `{argument}` must be a boolean array of the weight's shape "
                f"{before.shape}. Received: shape={mask.shape}, layer={layer.name!r}, "
                f"weight={weight!r}."
            )
        return mask
    if isinstance(given, np.ndarray) and not np.issubdtype(given.dtype, np.integer):
        raise ValueError(
            f"Argument `{argument}` must be a boolean array, indices or slices. "
            f"Received: array of dtype {given.dtype}, layer={layer.name!r}, weight={weight!r}."
        )
    mask = np.zeros(before.shape, bool)
    try:
        mask[given] = True
    except (IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f"Argument `{argument}` must index an array of the weight's shape {before.shape}. "
            f"Received: {given!r} ({error}), layer={layer.name!r}, weight={weight!r}."
        ) from error
    return mask


_NOT_KERNELS = ("bias", "gamma", "beta", "scale", "alpha")
"""The names of biases, of the scales and shifts of norms, and of the slopes of PReLU."""


def is_kernel(name, shape):
    """Whether a weight is a kernel or an embedding: of two axes at least, no bias and no scale.

    Example:

    >>> is_kernel("kernel", (3, 2)), is_kernel("bias", (2,))
    (True, False)
    """
    return len(shape) >= 2 and not name.endswith(_NOT_KERNELS)


def mask_zeros(model):
    """Prunes the elements of kernels and embeddings that are exactly 0, in place, so they stay 0.

    Args:
        model: A model of which layers carry masks.

    Example:

    >>> import tfprune
    >>> dense = tfprune.layers.Dense(2, kernel_initializer="identity", name="d")
    >>> model = keras.Sequential([keras.Input((2,)), dense])
    >>> mask_zeros(model)
    >>> dense.trainable_masks["kernel"].numpy().tolist()
    [[True, False], [False, True]]
    """
    for layer in masked_layers(model):
        for name, mask in layer.masks_by_name.items():
            value = _keras.values(mask.weight)
            if is_kernel(name, value.shape):
                kept = _keras.values(mask.trainable) & (value != 0)
                assign_masks(mask, trainable=kept, optimizer=getattr(model, "optimizer", None))


@dataclass(frozen=True)
class MaskCounts:
    """Number of elements in the masked weights of a model, and of those pruned and frozen."""

    elements: int
    pruned: int
    frozen: int

    @property
    def sparsity(self):
        """The pruned fraction of all elements that carry masks."""
        return self.pruned / self.elements if self.elements else 0.0


def count_masks(model):
    """Counts pruned and frozen elements over all masked weights of a model.

    Example:

    >>> import tfprune
    >>> model = keras.Sequential([keras.Input((4,)), tfprune.layers.Dense(2, name="d")])
    >>> tfprune.set_masks(model, "d", "kernel", trainable=[0, 1])
    >>> tfprune.masks.count_masks(model)
    MaskCounts(elements=10, pruned=4, frozen=0)
    """
    masks = [mask for layer in masked_layers(model) for mask in layer.masks_by_name.values()]
    return MaskCounts(
        elements=sum(int(np.prod(mask.weight.shape)) for mask in masks),
        pruned=sum(int(np.sum(~_keras.values(mask.trainable))) for mask in masks),
        frozen=sum(int(np.sum(_keras.values(mask.frozen))) for mask in masks),
    )
