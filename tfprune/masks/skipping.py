"""Skipped layers: which are left out when weights or units are pruned, and the reason."""

import warnings

from tfprune import _keras
from tfprune.layers import DROP_INS

NO_MASKS = "it carries no masks (`tfprune.prunable(model)` makes them)"
NOT_TRAINABLE = "it has `trainable=False` (name it in `only` to prune it all the same)"


def skip_reason(weight, is_named=False):
    """Why a weight is skipped, or None if it is not.

    Args:
        weight: A `keras.Variable` of a layer.
        is_named: Whether the user named the layer in `only`.

    Example:

    >>> import keras
    >>> layer = keras.layers.Dense(2)
    >>> layer.build((None, 3))
    >>> skip_reason(layer.kernel)
    'it carries no masks (`tfprune.prunable(model)` makes them)'
    """
    if not _keras.is_guarded(weight):
        return NO_MASKS
    return None if weight.trainable or is_named else NOT_TRAINABLE


def weights_by_holder(model):
    """The float weights that may carry masks, by the layer that does or would carry them.

    Yields:
        Triples of the layer, its name in reports, and the weights that no layer before it holds.
    """
    seen = set()
    for layer, name in _keras.named_layers(model):
        inner = getattr(layer, "masks_inner_weights", isinstance(layer, tuple(DROP_INS)))
        weights = [
            weight for weight in _keras.maskable_variables(layer, inner) if id(weight) not in seen
        ]
        seen.update(map(id, weights))
        if weights:
            yield layer, name, weights


def skipped_layers(model, only_named=(), of_interest=lambda layer, weight: True):
    """The layers of which weights are skipped, with the reasons.

    Args:
        model: A model, masked or not.
        only_named: The ids of the layers that `only` names.
        of_interest: Predicate over a layer and one of its weights.

    Returns:
        A dict from a reason to the names of layers, in the model's order.

    Example:

    >>> import keras
    >>> import tfprune
    >>> model = keras.Sequential([
    ...     keras.Input((3,)), tfprune.layers.Dense(2, name="a"), keras.layers.Dense(2, name="b")])
    >>> skipped_layers(model)
    {'it carries no masks (`tfprune.prunable(model)` makes them)': ['b']}
    """
    found = {}
    for layer, name, weights in weights_by_holder(model):
        weights = [weight for weight in weights if of_interest(layer, weight)]
        for why in {skip_reason(weight, id(layer) in only_named): None for weight in weights}:
            if why is not None:
                found.setdefault(why, []).append(name)
    return found


def quantized_layers(model, is_selected=lambda layer: True):
    """The layers that Keras has quantized, which carry no masks, with the reasons.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2, name="a")])
    >>> model.quantize("int8")
    >>> quantized_layers(model)
    {'it is quantized (int8), which comes after pruning': ['a']}
    """
    found = {}
    for layer, name in _keras.named_layers(model):
        mode = _keras.quantization(layer)
        if mode and is_selected(layer):
            reason = f"it is quantized ({mode}), which comes after pruning"
            found.setdefault(reason, []).append(name)
    return found


def listed(by_reason, most=8):
    """Layers and reasons as text.

    Example:

    >>> listed({"it is not built": ["a", "b"], "it is an output": ["c"]})
    "'a', 'b': it is not built; 'c': it is an output"
    """
    return "; ".join(f"{_names(names, most)}: {why}" for why, names in by_reason.items())


def _names(names, most):
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def warn_of_skipped(by_reason, stacklevel=3):
    """Warns of layers that are skipped, a dict from a reason to names, if there are any."""
    if by_reason:
        warnings.warn(
            f"Some layers are skipped. {listed(by_reason)}. If that is meant, name them in "
            "`exclude`.",
            stacklevel=stacklevel,
        )
