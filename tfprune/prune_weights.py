"""Masks for weights in one step: which weights, how many elements of each, which of them."""

import math
from dataclasses import dataclass

import keras
import numpy as np

from tfprune import _keras, choices
from tfprune.criteria import weights as criteria
from tfprune.criteria.asking import drawn_seed
from tfprune.layers import Masked
from tfprune.masks import MaskCounts, masked_layers, set_masks
from tfprune.patterns import pruned_count, top_k_mask

PREDICATE = "(layer, weight_name) -> bool"
"""What a predicate over weights takes and returns."""

_NOT_KERNELS = ("bias", "gamma", "beta", "scale", "alpha")
"""What the biases of layers, the scales and shifts of norms and the slopes of PReLU are named."""


def prune_weights(model, sparsity, criterion="magnitude", *, only=None, exclude=None, seed=None):
    """Prunes weights now: in each, the elements with the lowest scores, exactly to the sparsity.

    What is pruned already stays so and counts: a sparsity that has been reached changes nothing.
    Elements that are frozen, and weights of layers with `trainable=False`, are never pruned. All
    masks are computed before the first is set, so an error leaves the model as it was.

    Args:
        model: A model of drop-in layers, see `tfprune.prunable`.
        sparsity: Float from 0 to 1, for each weight. Below 1 at least one element of each is
            kept; at 1 none is.
        criterion: "magnitude", "random", or a callable; see `tfprune.criteria.weights`.
        only: What to prune: a sequence of layers or layer names, for their kernels and
            embeddings, those of layers inside them included; or a predicate
            `(layer, weight_name) -> bool`, which then decides about every weight that carries
            masks, biases and the scales of norms too. Default: all kernels and embeddings.
        exclude: What not to prune, of what `only` says, given in the same way.
        seed: Integer, for criteria which draw; the same seed gives the same masks.

    Returns:
        `MaskCounts` over the weights that were chosen.

    Raises:
        ValueError: If there is nothing to prune, a layer is unknown, scores are NaN or infinite,
            or frozen elements leave too few to prune. Nothing is changed then.

    Example:

    >>> import tfprune
    >>> model = keras.Sequential([keras.Input((4,)), tfprune.layers.Dense(2, name="d")])
    >>> prune_weights(model, 0.5)
    MaskCounts(elements=8, pruned=4, frozen=0)
    >>> bool((model.get_layer("d").kernel == 0).numpy().sum() == 4)
    True
    """
    weights = select_weights(model, only, exclude)
    criterion = criteria.get(criterion)
    masks = weight_masks(weights, sparsity, criterion, drawn_seed(seed, criterion))
    apply_masks(model, weights, masks)
    return count_weights(weights)


@dataclass(frozen=True)
class PrunableWeight:
    """A weight of a layer, by the name under which it carries its masks."""

    layer: keras.Layer
    name: str

    @property
    def variable(self):
        """The weight itself."""
        return self.layer.masked_weights[self.name]

    @property
    def trainable_mask(self):
        """A boolean array: False = pruned."""
        return np.asarray(self.layer.trainable_masks[self.name])

    @property
    def frozen_mask(self):
        """A boolean array: True = keeps its value."""
        return np.asarray(self.layer.frozen_masks[self.name])

    @property
    def is_kernel(self):
        """Whether it is a kernel or an embedding: of two axes at least, no bias and no scale."""
        return len(self.variable.shape) >= 2 and not self.name.endswith(_NOT_KERNELS)


def select_weights(model, only=None, exclude=None):
    """The weights that `prune_weights` prunes, each once; its `only` and `exclude` explain.

    Raises:
        ValueError: If there is none, or a layer is unknown.
    """
    every = [
        PrunableWeight(layer, n) for layer in masked_layers(model) for n in layer.masks_by_name
    ]
    if not every:
        raise ValueError(
            "The model has no weights that carry masks, so nothing can be pruned. "
            f"Received: model={model.name!r}. Make it prunable with `tfprune.prunable(model)`, "
            "and build it if it is not built yet."
        )
    choices.check(only, exclude, PREDICATE)
    is_chosen = choices.chooser(only, model, default=True, parts=_prunable_parts)
    is_excluded = choices.chooser(exclude, model, default=False, parts=_masked_parts)
    weights = [
        weight
        for weight in every
        if (weight.is_kernel or callable(only))  # layers stand for their kernels
        and is_chosen(weight.layer, weight.name)
        and not is_excluded(weight.layer, weight.name)
        and weight.variable.trainable
    ]
    if not weights:
        raise ValueError(
            "No weight is left to prune: the layers chosen have no kernels, are excluded, or have "
            f"`trainable=False`. Received: only={only!r}, exclude={exclude!r}, "
            f"model={model.name!r}."
        )
    return weights


def _masked_parts(layer):
    return [part for part in _keras.all_layers(layer) if isinstance(part, Masked)]


def _prunable_parts(layer):
    parts = _masked_parts(layer)
    if not parts and layer.weights:
        raise ValueError(
            "Argument `only` holds a layer whose weights carry no masks. "
            f"Received: layer={layer.name!r} ({type(layer).__name__}). "
            "Make the model prunable with `tfprune.prunable(model)`."
        )
    return parts


def weight_masks(weights, sparsity, criterion, seed):
    """The trainable masks that bring each weight to a sparsity; nothing is changed.

    Args:
        weights: `PrunableWeight`s, from `select_weights`.
        sparsity: Float from 0 to 1.
        criterion: Callable, from `tfprune.criteria.weights.get`.
        seed: Integer, from `drawn_seed`; each weight gets it with its place in the list.

    Returns:
        A list of boolean arrays, `None` where a weight is sparse enough already.

    Raises:
        ValueError: If scores are not finite or frozen elements leave too few to prune.
    """
    masks = []
    for place, weight in enumerate(weights):
        kept = weight.trainable_mask
        if np.count_nonzero(~kept) >= pruned_count(sparsity, kept.size):
            masks.append(None)
            continue
        try:
            scores = criteria.score(criterion, np.asarray(weight.variable), [seed, place])
            mask = top_k_mask(scores, sparsity, trainable=kept, frozen=weight.frozen_mask)
        except ValueError as error:
            raise ValueError(
                f"Cannot prune weight {weight.name!r} of layer {weight.layer.name!r}. {error}"
            ) from error
        masks.append(mask)
    return masks


def apply_masks(model, weights, masks, optimizer=None):
    """Sets the masks that `weight_masks` returned."""
    for weight, mask in zip(weights, masks, strict=True):
        if mask is not None:
            set_masks(model, weight.layer, weight.name, trainable=mask, optimizer=optimizer)


def count_weights(weights):
    """`MaskCounts` over some weights."""
    kept = sum(int(np.count_nonzero(weight.trainable_mask)) for weight in weights)
    elements = sum(math.prod(weight.variable.shape) for weight in weights)
    frozen = sum(int(np.count_nonzero(weight.frozen_mask)) for weight in weights)
    return MaskCounts(elements=elements, pruned=elements - kept, frozen=frozen)
