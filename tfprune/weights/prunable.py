"""The prunable weights of a model: selection by `only` and `exclude`, masks and counts."""

import math
from dataclasses import dataclass

import keras
import numpy as np

from tfprune import _keras
from tfprune._tools.checks import is_number
from tfprune.layers import Masked
from tfprune.masks import layer_filter, skipping
from tfprune.masks.setting import MaskCounts, assign_masks, is_kernel, masked_layers

PREDICATE = "(layer, weight_name) -> bool"
"""The signature of a predicate over weights."""


@dataclass(frozen=True)
class PrunableWeight:
    """A weight of a layer, by the name under which it carries its masks."""

    layer: keras.Layer
    name: str

    @property
    def mask(self):
        """The masks of the weight, and what is kept with them."""
        return self.layer.masks_by_name[self.name]

    @property
    def variable(self):
        """The weight itself."""
        return self.mask.weight

    @property
    def value(self):
        """The weight as a NumPy array, which is not to be written to."""
        return _keras.values(self.variable)

    @property
    def shape(self):
        """The shape of the weight."""
        return tuple(self.variable.shape)

    @property
    def trainable_mask(self):
        """A boolean array: False = pruned."""
        return _keras.values(self.mask.trainable)

    @property
    def frozen_mask(self):
        """A boolean array: True = keeps its value."""
        return _keras.values(self.mask.frozen)

    @property
    def is_kernel(self):
        """Whether it is a kernel or an embedding: of two axes at least, no bias and no scale."""
        return is_kernel(self.name, self.shape)


def select_weights(model, only=None, exclude=None, *, action="prune", trained=False):
    """The weights that `only` and `exclude` select, each once; see `tfprune.prune_weights`.

    Args:
        model, only, exclude: See `tfprune.prune_weights`.
        action: "prune" or "freeze", for errors.
        trained: Whether those of layers with `trainable=False` are skipped even if `only` names
            the layer.

    Raises:
        ValueError: If there is none, or a layer is unknown.
    """
    every = [
        PrunableWeight(layer, n) for layer in masked_layers(model) for n in layer.masks_by_name
    ]
    if not every:
        raise ValueError(
            f"The model has no weights that carry masks, so there is nothing to {action}. "
            f"Received: model={model.name!r}. Make it prunable with `tfprune.prunable(model)`, "
            "and build it if it is not built yet. "
            f"Skipped: {skipping.listed(skipped_weights(model, only, exclude)) or 'none'}."
        )
    layer_filter.check(only, exclude, PREDICATE)
    is_included = layer_filter.predicate(only, model, "only", default=True, parts=_prunable_parts)
    is_excluded = layer_filter.predicate(
        exclude, model, "exclude", default=False, parts=_masked_parts
    )
    is_named = layer_filter.naming(None if trained else only, model)
    weights = [
        weight
        for weight in every
        if (weight.is_kernel or callable(only))  # layers stand for their kernels
        and is_included(weight.layer, weight.name)
        and not is_excluded(weight.layer, weight.name)
        and skipping.skip_reason(weight.variable, is_named(weight.layer)) is None
    ]
    if not weights:
        why = skipping.listed(skipped_weights(model, only, exclude))
        raise ValueError(
            f"No weight is left to {action}: the layers chosen have no kernels, are excluded, or "
            f"are skipped. Received: only={only!r}, exclude={exclude!r}, model={model.name!r}."
            + (f" Skipped: {why}." if why else "")
        )
    return weights


def skipped_weights(model, only=None, exclude=None):
    """The layers whose kernels `only` and `exclude` select and which are skipped all the same.

    Returns:
        A dict from a reason to names of layers.
    """
    is_included = layer_filter.predicate(only, model, "only", default=True)
    is_excluded = layer_filter.predicate(exclude, model, "exclude", default=False)
    is_named = layer_filter.naming(only, model)

    def is_selected(layer, weight):
        name = weight.name
        return (
            (is_kernel(name, weight.shape) or callable(only))
            and is_included(layer, name)
            and not is_excluded(layer, name)
        )

    named = {id(layer) for layer in _keras.all_layers(model) if is_named(layer)}
    quantized = skipping.quantized_layers(
        model, lambda layer: is_included(layer, "kernel") and not is_excluded(layer, "kernel")
    )
    return {**skipping.skipped_layers(model, named, is_selected), **quantized}


def check_target(target):
    """Raises a `ValueError` unless a target for weights is a number from 0 to 1."""
    if not is_number(target) or not 0 <= target <= 1:  # a NaN compares False
        raise ValueError(
            f"Argument `target` must be a number from 0 to 1. Received: target={target!r}."
        )


def conflict_keys(weights):
    """The `ScheduledCallback.conflict_keys` of weights, with the names for errors."""
    return {
        ("weight", id(weight.variable)): f"weight {weight.name!r} of layer {weight.layer.name!r}"
        for weight in weights
    }


def _masked_parts(layer):
    return [part for part in _keras.all_layers(layer) if isinstance(part, Masked)]


def _prunable_parts(layer):
    parts = _masked_parts(layer)
    if not parts and layer.weights:
        raise ValueError(
            "Argument `only` holds a layer whose weights carry no masks. "
            f"Received: layer={layer.name!r} ({type(layer).__name__}): "
            f"{'; '.join(_keras.changed_kernels(layer)) or skipping.NO_MASKS}."
        )
    return parts


def apply_masks(model, weights, masks, optimizer=None, *, kind="trainable"):
    """Sets masks of a kind, "trainable" or "frozen", save those that are `None`."""
    optimizer = getattr(model, "optimizer", None) if optimizer is None else optimizer
    for weight, mask in zip(weights, masks, strict=True):
        if mask is not None:
            assign_masks(weight.mask, **{kind: mask}, optimizer=optimizer)


def count_weights(weights):
    """`MaskCounts` over some weights."""
    kept = sum(int(np.count_nonzero(weight.trainable_mask)) for weight in weights)
    elements = sum(math.prod(weight.variable.shape) for weight in weights)
    frozen = sum(int(np.count_nonzero(weight.frozen_mask)) for weight in weights)
    return MaskCounts(elements=elements, pruned=elements - kept, frozen=frozen)
