"""Conversion of a model to one whose layers carry masks."""

import keras

from tfprune import _keras
from tfprune.layers import Masked
from tfprune.masks import layer_filter
from tfprune.masks.first_step import current_step, note_first_step
from tfprune.masks.in_place import mask_in_place, note_masks_inside
from tfprune.masks.setting import mask_zeros
from tfprune.rebuild.copying import copy_model


def prunable(model, *, only=None, exclude=None, keep_zeros=False):
    """Returns a copy of a model whose layers carry masks.

    Everything is kept: the class of the model with its own `train_step`, the names, the weights,
    what is tied, the compile state, the optimizer's slots and step count. Layers are copied as
    objects, so none needs a `get_config`. The model given is not changed, and the two share no
    variable. Layers of Keras become those of `tfprune.layers`; layers of other classes stay what
    they are, and carry masks for every float weight they hold (`tfprune.masks.mask_in_place`).

    Args:
        model: Any `keras.Model` that is built: Functional, Sequential, nested or subclassed.
        only: Layers of the model, names of layers or a predicate `layer -> bool`: what carries
            masks; by default all that has weights. A layer stands for those inside it.
        exclude: What carries none, of what `only` says, given in the same way.
        keep_zeros: Whether the elements of kernels and embeddings that are exactly 0 are pruned, so
            that they stay 0: for a model whose weights were pruned without masks, which would be
            dense again after one step of training. Biases and the scales of norms, which often
            begin with zeros, stay as they are.

    Returns:
        A new model of the same class.

    Raises:
        ValueError: If the model is not built, or a layer named is not in it.

    Example:

    >>> import tfprune
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="d")])
    >>> masked = tfprune.prunable(model)
    >>> sorted(masked.get_layer("d").trainable_masks)
    ['bias', 'kernel']
    """
    _check_built(model)
    layer_filter.check(only, exclude, "layer -> bool")
    is_included, is_excluded = layer_filter.predicates(model, only, exclude)
    chosen = {
        id(layer)
        for layer in _keras.all_layers(model)
        if is_included(layer) and not is_excluded(layer)
    }
    copy = copy_model(model)
    without = [layer for layer in copy.layers.values() if not isinstance(layer, Masked)]
    for layer, counterpart in copy.layers.items():
        (mask_in_place if id(layer) in chosen else note_masks_inside)(counterpart)
    has_optimizer = getattr(model, "optimizer", None) is not None
    note_first_step(without, current_step(copy.model) if has_optimizer else 0)
    if keep_zeros:
        mask_zeros(copy.model)
    return copy.model


def _check_built(model):
    if not isinstance(model, keras.Model):
        raise ValueError(
            "Argument `model` must be a model of Keras 3. "
            f"Received: model={model!r} of type {type(model).__name__}."
        )
    if not (model.built or _is_built_inside(model)):
        raise ValueError(
            "The model is not built, so its weights do not exist yet. "
            f"Received: model={model.name!r} ({type(model).__name__}). Call it on data once, or "
            "add `keras.Input(shape)` first."
        )


def _is_built_inside(model):
    """Whether a model that is never called itself, as its `train_step` calls parts, is built."""
    parts = _keras.all_layers(model)[1:]
    return not isinstance(model, keras.Sequential) and parts and all(p.built for p in parts)
