"""Runs the `call` of `tf_keras` layers on symbolic tensors."""

import collections
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfprune import _keras
from tfprune.interop.tf_keras.description import leaves, mapped
from tfprune.interop.tf_keras.graphs import (
    NotTracedError,
    is_symbolic,
    ordered_calls,
    tensors_in,
)


@dataclass(frozen=True)
class TracedCall:
    """What a `call` computes.

    Attributes:
        outputs: A structure of symbolic tensors.
        weights: For each weight of the layer's own, the symbolic input that stands for it, and the
            variable.
    """

    outputs: Any
    weights: tuple = ()


def traced(layer, args, kwargs):
    """Runs the `call` of a layer on symbolic tensors.

    Weights that the layer itself holds become symbolic inputs, integers among them constants.

    Args:
        layer: A layer of `tf_keras`, built.
        args, kwargs: The arguments, with symbolic tensors.

    Raises:
        NotTracedError: If it fails, or if what the layer holds or does would be lost.
    """
    inputs = tensors_in(args, kwargs)
    if isinstance(inputs, list) and not inputs:
        raise NotTracedError("it is called on constants alone")
    own = [w for w in _keras.legacy_own_weights(layer) if w.dtype.is_floating]
    if any(weight.constraint is not None for weight in own) or _has_own_losses(layer):
        raise NotTracedError("its weights have constraints or regularizers, or it adds losses")
    is_free = _keras.legacy_takes_training(layer) and kwargs.get("training") is None
    found = _run(layer, args, {**kwargs, "training": None} if is_free else kwargs, own)
    if is_free:
        in_training = _run(layer, args, {**kwargs, "training": True}, own)
        if _operations(inputs, found) != _operations(inputs, in_training):
            warnings.warn(
                f"The `call` of {layer.name!r} ({type(layer).__name__}) runs other operations in "
                "training. They are not in the new model, which does what it does in inference.",
                stacklevel=2,
            )
    _check_all_used(layer, inputs, found)
    return found


def applied(function, tensor):
    """What an activation gives for a symbolic tensor."""
    try:
        found = function(tensor)
    except Exception as error:  # whatever the user's code raises
        raise NotTracedError(_failure(error).replace("its `call`", "its activation")) from error
    if not is_symbolic(found):
        raise NotTracedError("its activation returns something else than a tensor of its input")
    return found


def _run(layer, args, kwargs, own):
    anchor = tf.nest.flatten(tensors_in(args, kwargs))[0]

    def symbolic(constant):
        zero = tf.reduce_sum(tf.zeros_like(anchor, dtype=tf.int32))
        return tf.cast(zero, constant.dtype) + constant

    inside = [each for each in layer.submodules if getattr(each, "weights", None)]
    inputs = {id(weight): _input_for(weight, layer) for weight in own}
    try:
        with (
            _keras.legacy_calls_on(inside, symbolic),
            _keras.legacy_weights_as(layer, inputs),
        ):
            outputs = layer.call(*args, **kwargs)
        outputs = mapped(outputs, lambda leaf: symbolic(leaf) if _is_eager(leaf) else leaf)
    except Exception as error:  # whatever the user's code raises
        raise NotTracedError(_failure(error)) from error
    if not all(is_symbolic(leaf) for leaf in leaves(outputs)):
        raise NotTracedError("its `call` returns something else than tensors")
    return TracedCall(outputs, tuple((inputs[id(weight)], weight) for weight in own))


def _is_eager(leaf):
    return tf.is_tensor(leaf) and not is_symbolic(leaf) and hasattr(leaf, "numpy")


def _input_for(weight, layer):
    """A symbolic tensor that stands for a weight, of the dtype in which the layer computes."""
    import tf_keras

    dtype = layer.compute_dtype or weight.dtype
    return tf_keras.Input(type_spec=tf.TensorSpec(weight.shape, dtype))


def _has_own_losses(layer):
    if not _keras.legacy_own_weights(layer):
        return False
    return len(layer.losses) > sum(len(each.losses) for each in _keras.legacy_children(layer))


def _check_all_used(layer, inputs, found):
    stands_for = {id(_keras.legacy_node(tensor)[0]): weight for tensor, weight in found.weights}
    used = set()
    for each, *_ in ordered_calls(found.outputs, [inputs, [t for t, _ in found.weights]]):
        used |= {id(weight) for weight in each.weights}
        used.add(id(stands_for.get(id(each))))
    unused = [w.name for w in layer.weights if id(w) not in used and w.dtype.is_floating]
    if unused:
        raise NotTracedError(
            f"what its `call` gives does not depend on its weights {', '.join(unused)}"
        )


def _operations(inputs, found):
    calls = ordered_calls(found.outputs, [inputs, [tensor for tensor, _ in found.weights]])
    return collections.Counter((type(layer), getattr(layer, "symbol", "")) for layer, *_ in calls)


def _failure(error):
    """Where code failed, by the last line that is not in a library, and the exception's words."""
    frames = traceback.extract_tb(error.__traceback__)
    libraries = ("tensorflow", "tf_keras", "tfprune")
    own = [frame for frame in frames if not set(libraries) & set(Path(frame.filename).parts)]
    frame = (own or frames)[-1]
    words = " ".join(str(error).split())[:240]
    place = f"line {frame.lineno} of {Path(frame.filename).name}"
    return f"its `call` cannot be run on symbolic tensors: {place}: {type(error).__name__}: {words}"
