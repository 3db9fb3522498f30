"""Patterns: how scores become a mask. Pure functions of NumPy arrays.

| pattern | what goes as a whole |
|---|---|
| `Unstructured()` | single elements |
| `NM(keep=2, of=4)` | single elements, at most two of four consecutive inputs |
| `Block((4, 1))` | blocks of four inputs x one output |

For groups and blocks a weight is a matrix of inputs x outputs; `matrix.py` has the table.

Example:

>>> import tfprune
>>> layer = tfprune.layers.Conv2D(2, 1)
>>> layer.build((None, 5, 5, 4))
>>> pattern = NM(keep=1, of=4)
>>> scores = abs(layer.kernel.numpy())
>>> mask = pattern.mask(scores, pattern.sparsity, matrix=matrix_axes(layer, "kernel"))
>>> mask.sum(axis=2)
array([[[1, 1]]])
"""

import keras

from tfprune.patterns.block import Block
from tfprune.patterns.detection import pattern_of
from tfprune.patterns.matrix import MatrixAxes, matrix_axes, matrix_rule
from tfprune.patterns.nm import NM
from tfprune.patterns.pattern import Pattern
from tfprune.patterns.top_k import pruned_count, top_k_mask, top_k_masks
from tfprune.patterns.unstructured import Unstructured

_ALL = {cls.__name__: cls for cls in (Unstructured, NM, Block)}


def get(identifier):
    """The pattern meant by an identifier.

    Args:
        identifier: `None` or "unstructured"; a pattern; or the configuration of one.

    Raises:
        ValueError: If it is none of these.

    Example:

    >>> get(None), get("unstructured"), get(NM(keep=2, of=4))
    (Unstructured(), Unstructured(), NM(keep=2, of=4, axis=-2))
    """
    if identifier is None or (isinstance(identifier, str) and identifier == "unstructured"):
        return Unstructured()
    if isinstance(identifier, dict):
        identifier = deserialize(identifier)
    if isinstance(identifier, Pattern):
        return identifier
    raise ValueError(
        'Argument `pattern` must be "unstructured", a pattern with its arguments, such as '
        "`tfprune.patterns.NM(keep=2, of=4)` or `tfprune.patterns.Block((4, 1))`, or its "
        f"configuration. Received: pattern={identifier!r}."
    )


def serialize(pattern):
    """The configuration of a pattern.

    Example:

    >>> serialize(NM(keep=2, of=4))["config"]
    {'keep': 2, 'of': 4, 'axis': -2}
    """
    return keras.saving.serialize_keras_object(pattern)


def deserialize(config, custom_objects=None):
    """A pattern out of its configuration.

    Args:
        config: Dict, as `serialize` returns it; `{"class_name": ..., "config": ...}` is enough.
        custom_objects: Dict of names to classes which are not registered with Keras.

    Example:

    >>> deserialize({"class_name": "Block", "config": {"shape": [4, 1]}})
    Block(shape=(4, 1), pooling='mean')
    """
    return keras.saving.deserialize_keras_object(config, {**_ALL, **(custom_objects or {})})
