"""Patterns turn the scores of a weight into its mask. Pure functions of NumPy arrays.

| pattern | what is pruned as a whole |
|---|---|
| `Unstructured()` | single elements |
| `Unstructured(compare="output")` | single elements, equally many of each output |
| `NM(keep=2, of=4)` | single elements, so that two of four consecutive inputs stay |
| `Block((4, 1))` | blocks of four inputs x one output |

Outputs, N:M groups and blocks lie in the matrix form of a weight, inputs x outputs; see
`matrix_axes`.

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

from tfprune._tools.registry import Registry
from tfprune.patterns.block import Block
from tfprune.patterns.detection import pattern_of
from tfprune.patterns.matrix import MatrixAxes, matrix_axes, matrix_rule
from tfprune.patterns.nm import NM
from tfprune.patterns.pattern import Pattern
from tfprune.patterns.top_k import pruned_count, top_k_mask, top_k_masks
from tfprune.patterns.unstructured import Unstructured

_REGISTRY = Registry(
    Pattern,
    argument="pattern",
    expected='"unstructured", a pattern with its arguments, such as '
    "`tfprune.patterns.NM(keep=2, of=4)` or `tfprune.patterns.Block((4, 1))`, or its configuration",
    classes=(Unstructured, NM, Block),
    names={None: Unstructured, "unstructured": Unstructured},
)
serialize, deserialize = _REGISTRY.serialize, _REGISTRY.deserialize


def get(identifier, argument="pattern"):
    """Returns the `Pattern` that an identifier means.

    Args:
        identifier: `None` or "unstructured"; a pattern; or the configuration of one.
        argument: String, how the caller calls the argument, for errors.

    Raises:
        ValueError: If it is none of these.

    Example:

    >>> get(None), get(serialize(NM(keep=2, of=4)))
    (Unstructured(compare='weight'), NM(keep=2, of=4, axis=-2))
    """
    return _REGISTRY.get(identifier, argument)
