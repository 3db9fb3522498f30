"""Conversion of a model to one whose layers carry masks.

Outputs are compared only where code of a user is in the model. The copy of a model of stock layers
is compared by its variables and their values, since to run both takes as long as to build one.
"""

import warnings

import keras

from tfprune import _keras
from tfprune._tools.checks import check_model
from tfprune.coupling.model_inputs import call_arguments
from tfprune.layers import Masked
from tfprune.masks import layer_filter
from tfprune.masks.first_step import current_step, note_first_step
from tfprune.masks.in_place import mask_in_place, note_masks_inside
from tfprune.masks.setting import mask_zeros
from tfprune.rebuild.copying import copy_model
from tfprune.stripping.check import check_equal, is_of_stock_layers
from tfprune.stripping.examples import random_batches


def prunable(model, *, only=None, exclude=None, keep_zeros=False):
    """Returns a copy of a model whose layers carry masks.

    Everything is kept: the class of the model with its own `train_step`, the names, the weights,
    what is tied, the compile state, the optimizer's slots and step count. Layers are copied as
    objects, so none needs a `get_config`. The model given is not changed, and the two share no
    variable. Layers of Keras become those of `tfprune.layers`; layers of other classes stay what
    they are, and carry masks for every float weight they hold (`tfprune.masks.mask_in_place`).

    Every variable of the model has one counterpart, with the same value. If layers of your own
    classes or Lambdas are in the model, it is also run on random inputs beside the copy, and their
    outputs must be the same.

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
        ValueError: If the model is not built or cannot be copied, or a layer named is not in it.
        RuntimeError: If values or outputs differ, which would be a bug in this function.

    Example:

    >>> import keras
    >>> import tfprune
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="d")])
    >>> masked = tfprune.prunable(model)
    >>> sorted(masked.get_layer("d").trainable_masks)
    ['bias', 'kernel']
    """
    check_model(model)
    _check_built(model)
    layer_filter.check(only, exclude, "layer -> bool")
    is_included, is_excluded = layer_filter.predicates(model, only, exclude)
    selected = {
        id(layer)
        for layer in _keras.all_layers(model)
        if is_included(layer) and not is_excluded(layer)
    }
    _check_no_lora(layer for layer in _keras.all_layers(model) if id(layer) in selected)
    copy = copy_model(model)
    without = [layer for layer in copy.layers.values() if not isinstance(layer, Masked)]
    for layer, counterpart in copy.layers.items():
        (mask_in_place if id(layer) in selected else note_masks_inside)(counterpart)
    _check_values(copy)
    if not is_of_stock_layers(model):
        _check_outputs(model, copy.model)
    has_optimizer = getattr(model, "optimizer", None) is not None
    note_first_step(without, current_step(copy.model) if has_optimizer else 0)
    if keep_zeros:
        mask_zeros(copy.model)
    return copy.model


def _check_values(copy):
    """Raises an error if a variable of a copy has not the value of the one that it stands for."""
    changed = [old.path for old, new in copy.variables if not _keras.is_same_value(old, new)]
    if changed:
        raise RuntimeError(
            "The masked model does not hold the values of the model. "
            f"Received: model={copy.model.name!r}, variables={changed}. Please report it."
        )


def _check_outputs(model, masked):
    """Raises an error if the two compute different outputs, where there is a way to run them."""
    try:
        call_arguments(model)
    except ValueError:  # such as one that only its own `train_step` calls
        return
    try:
        batches = random_batches(model, sizes=1)
    except ValueError as error:
        warnings.warn(f"`prunable` did not compare outputs. {error}", stacklevel=3)
    else:
        check_equal(model, masked, batches=batches, name="masked")


def _check_built(model):
    if not _keras.has_own_call(model):
        _keras.check_parts_built(model)
    elif not (model.built or _is_built_inside(model)):
        raise ValueError(
            "The model is not built, so its weights do not exist yet. "
            f"Received: model={model.name!r} ({type(model).__name__}). Call it on data once, or "
            "add `keras.Input(shape)` first."
        )


def _check_no_lora(layers):
    for layer in layers:
        if getattr(layer, "lora_enabled", False):
            raise ValueError(
                "Cannot put masks on a layer that has LoRA, because the low-rank product fills "
                f"pruned elements again. Received: layer={layer.name!r}. Build the model without "
                "LoRA, with `layer.kernel`, which is the sum, as its kernel; or leave the layer "
                "out with `exclude`."
            )


def _is_built_inside(model):
    """Whether a model that was never called itself, as its `train_step` calls parts, is built."""
    parts = _keras.all_layers(model)[1:]
    return not isinstance(model, keras.Sequential) and parts and all(p.built for p in parts)
