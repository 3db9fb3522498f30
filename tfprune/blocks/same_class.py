"""Models without some blocks, made by the model's own class."""

import math

from tfprune import _keras
from tfprune.masks.setting import masked_layers
from tfprune.rebuild.fewer_layers import models_with_fewer_layers
from tfprune.stripping.check import check_equal


def of_same_class(model, found, removed, small, is_required):
    """The model without some blocks as one of its own class, made from its config.

    Args:
        model: The model.
        found: Its `Blocks`.
        removed: Those of them that are removed.
        small: The Functional model without them, which the result is compared with.
        is_required: Whether it must be of the class.

    Returns:
        The model, and None; or `small` and the reason why the class cannot make it.

    Raises:
        ValueError: If it is required and cannot be made.
    """
    weights = {
        id(weight): weight
        for block in removed
        for layer in block.layers
        for weight in _keras.own_variables(layer)
    }
    places = {block.place for block in removed}
    try:
        if masked_layers(model):
            raise ValueError("The model carries masks, which its class does not make.")
        _check_all_go(found.model, small, weights.values())
        for made in models_with_fewer_layers(model, weights, places, found.depth):
            try:
                check_equal(small, made, name="smaller")
            except RuntimeError as error:
                failure = error
            else:
                return made, None
        raise failure
    except (ValueError, RuntimeError) as error:
        if not is_required:
            return small, str(error)
        raise ValueError(
            f"The class of the model cannot make it without these blocks. {error} "
            f"Received: same_class=True, blocks {[block.name for block in removed]}. Leave "
            "`same_class` out for a Functional model."
        ) from error


def _check_all_go(before, after, weights):
    """Raises a `ValueError` unless the weights are what one of two models lacks."""
    if before.count_params() - after.count_params() != sum(math.prod(w.shape) for w in weights):
        raise ValueError(
            "Layers that go share weights with others, or others go that only they need."
        )
