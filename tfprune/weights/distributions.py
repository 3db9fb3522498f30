"""Distributions: the sparsity of each weight, given the sparsity of all weights together.

A distribution is a pure function of the weights and the overall sparsity that returns a sparsity
for each weight. "global" is no such function: it ranks the elements of all weights together.

>>> def dense_first(weights, sparsity):
...     return [0.0, *[sparsity] * (len(weights) - 1)]
>>> get(dense_first)([None, None], 0.5)
[0.0, 0.5]
"""

from collections.abc import Callable

import numpy as np

from tfprune._tools.checks import is_number
from tfprune._tools.registry import Registry
from tfprune.masks import layer_filter

__all__ = ["GLOBAL", "erk", "get", "serialize", "uniform"]

GLOBAL = "global"
"""The name of the distribution in which all weights are ranked together."""


def uniform(weights, sparsity):
    """The same sparsity for each weight.

    Example:

    >>> uniform([None, None], 0.5)
    [0.5, 0.5]
    """
    return [sparsity] * len(weights)


def erk(weights, sparsity):
    """Erdos-Renyi-Kernel (ERK): small and narrow weights stay denser.

    The density of a weight of shape (n_1, ..., n_r) is

        epsilon * (n_1 + ... + n_r) / (n_1 * ... * n_r)

    with the epsilon at which all weights together have the sparsity; a weight which that would
    make denser than 1 stays dense, and the others make up for it.

    Args:
        weights: Objects with a `shape`.
        sparsity: Float from 0 to 1.

    Returns:
        A list of floats.

    Example:

    >>> shapes = [np.empty((3, 3, 2, 4)), np.empty((40, 50)), np.empty((50, 2))]
    >>> [round(sparsity, 3) for sparsity in erk(shapes, 0.5)]
    [0.0, 0.543, 0.0]

    Reference:
        U. Evci et al., "Rigging the Lottery: Making All Tickets Winners",
        https://arxiv.org/abs/1911.11134, section 3.
    """
    sizes = np.array([np.prod(weight.shape) for weight in weights], float)
    raw = np.array([np.sum(weight.shape) / np.prod(weight.shape) for weight in weights])
    left = (1 - sparsity) * sizes.sum()
    is_dense = np.zeros(len(sizes), bool)
    while True:
        share = left - sizes[is_dense].sum()
        wanted = (raw * sizes)[~is_dense].sum()
        densities = np.where(is_dense, 1.0, raw * max(share, 0.0) / wanted if wanted else 1.0)
        too_dense = (densities > 1) & ~is_dense
        if not too_dense.any():
            return [float(1 - density) for density in densities]
        is_dense |= too_dense


_ALL = {"uniform": uniform, "erk": erk, GLOBAL: GLOBAL}
_REGISTRY = Registry(
    (Callable, str),
    argument="distribution",
    expected=f"one of {sorted(_ALL)}, a dict from layers to sparsities, or a callable "
    "`(weights, sparsity) -> sparsities`",
    names=_ALL,
)


def get(identifier):
    """Returns the distribution that an identifier means.

    Args:
        identifier: "uniform", "erk" or "global"; a callable `(weights, sparsity) -> sparsities`
            over objects with `shape`, `layer` and `name`; or a dict from layers, names or
            predicates `(layer, weight_name) -> bool` to sparsities.

    Raises:
        ValueError: If it is none of these.

    Example:

    >>> get("erk") is erk
    True
    """
    if not isinstance(identifier, dict) or {"class_name", "config"} <= identifier.keys():
        return _REGISTRY.get(identifier)
    for key, value in identifier.items():
        if not is_number(value) or not 0 <= value <= 1:
            raise ValueError(
                "Argument `distribution` as a dict must give a number from 0 to 1 for each "
                f"layer. Received: {key!r}: {value!r}."
            )
    return identifier


def serialize(distribution):
    """The name of a distribution of this module, the dict by names, or a callable's configuration.

    Example:

    >>> serialize(erk), serialize({"conv": 0.5})
    ('erk', {'conv': 0.5})
    """
    if isinstance(distribution, dict):
        return layer_filter.serialize_keys("distribution", distribution)
    return _REGISTRY.serialize_by_name(distribution)


def check_end(distribution, schedule):
    """Raises a `ValueError` if a distribution needs a schedule with an end, and it has none.

    Args:
        distribution: From `get`.
        schedule: A `tfprune.schedules.Schedule`.
    """
    if isinstance(distribution, dict) and schedule.final is None:
        raise ValueError(
            "A dict as `distribution` says what each layer has in the end, so the schedule "
            f"must have one. Received: schedule={schedule!r}. Give it an `end_step`."
        )


def allocate(distribution, model, weights, sparsity, final):
    """The sparsity of each weight.

    Args:
        distribution: From `get`, not "global".
        model: The model.
        weights: `PrunableWeight`s of it.
        sparsity: Float from 0 to 1, the overall sparsity now.
        final: Float, the overall sparsity in the end. A dict gives the sparsities of layers in the
            end; before, they are in proportion to `sparsity / final`.

    Returns:
        A list of floats from 0 to 1.

    Raises:
        ValueError: If a layer is unknown, a predicate matches nothing, or a sparsity is out of its
            range.
    """
    if isinstance(distribution, dict):
        return _by_weight(distribution, model, weights, sparsity, final)
    found = [float(value) for value in distribution(weights, sparsity)]
    if len(found) != len(weights) or not all(0 <= value <= 1 for value in found):
        raise ValueError(
            f"A distribution must return {len(weights)} numbers from 0 to 1, one for each weight. "
            f"Received: {found}, distribution={distribution!r}."
        )
    return found


def _by_weight(given, model, weights, sparsity, final):
    """Later keys win over earlier ones; weights that none names get the sparsity itself."""
    found = [sparsity] * len(weights)
    progress = sparsity / final if final else 0.0
    for key, value in given.items():
        matches = layer_filter.predicate(key, model, "distribution")
        indices = [i for i, weight in enumerate(weights) if matches(weight.layer, weight.name)]
        if not indices:
            raise ValueError(
                "Argument `distribution` names a layer none of whose weights is pruned. "
                f"Received: {getattr(key, 'name', key)!r}."
            )
        for index in indices:
            found[index] = min(1.0, value * progress)
    return found
