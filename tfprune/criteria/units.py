"""Criteria for units: what a neuron or a filter of a layer is worth. Higher = keep.

A criterion is a function which asks for what it needs by the names of its arguments, and returns
one score for each unit of a layer:

* `layer`: the layer that makes the units;
* `weights`: its weights by name, each an array of shape (units, elements of a unit): the columns
  of a kernel, the filters of a convolution, the gates of a recurrent unit;
* `seed`: integers which differ from layer to layer and stay the same from update to update.

>>> def smallest_weight(weights):
...     return np.abs(weights["kernel"]).min(axis=1)
>>> score(get(smallest_weight), None, {"kernel": np.array([[1.0, -2.0], [3.0, 4.0]])})
array([1., 3.])
"""

import numpy as np

from tfprune.criteria import asking
from tfprune.criteria.contribution import ActivationContribution
from tfprune.layers import Masked


def magnitude(weights):
    """The length of a unit's weights: ||w||_2 over its kernels, plus |b|.

    Args:
        weights: Dict of arrays of shape (units, elements).

    Returns:
        An array of shape (units,).

    Example:

    >>> magnitude({"kernel": np.array([[3.0, 4.0], [0.0, 1.0]]), "bias": np.array([[-1.0], [0.0]])})
    array([6., 1.])
    """
    kernels = [w for name, w in weights.items() if not name.endswith("bias")]
    biases = [w for name, w in weights.items() if name.endswith("bias")]
    length = np.sqrt(sum(np.square(w, dtype="float64").sum(axis=1) for w in kernels))
    return length + sum(np.abs(b, dtype="float64").sum(axis=1) for b in biases)


def random(layer, weights, seed=None):
    """Uniform numbers from 0 to 1, the same at every update for the same seed.

    Example:

    >>> weights = {"kernel": np.ones((3, 2))}
    >>> bool((random(None, weights, seed=7) == random(None, weights, seed=7)).all())
    True
    """
    units = len(next(iter(weights.values())))
    return np.random.default_rng(seed).random(units)


_ALL = {
    "magnitude": magnitude,
    "random": random,
    "activation_contribution": ActivationContribution,
}


def get(identifier):
    """The criterion meant by a name, a callable, or the configuration of one.

    Args:
        identifier: "magnitude", "random", "activation_contribution", a callable as the module
            describes it, or a serialised one.

    Raises:
        ValueError: If there is no such criterion, or it asks for something unknown.

    Example:

    >>> get("magnitude") is magnitude
    True
    """
    criterion = asking.find(identifier, _ALL, "a callable which scores the units of a layer")
    rule = "A criterion for units may ask for `layer`, `weights` and `seed`."
    asking.check(criterion, ["layer", "weights", "seed"], rule)
    return criterion


def serialize(criterion):
    """The name of a criterion of this module, or the configuration of another callable.

    Example:

    >>> serialize(magnitude)
    'magnitude'
    """
    return asking.serialize(criterion, _ALL)


def score(criterion, layer, weights, seed=None, family=None):
    """The scores of the units of one layer.

    A criterion that is measured knows what the output of a masked layer shows. Units inside a
    layer, such as the heads of an attention or the cell of a wrapper, are scored by `magnitude`.

    Args:
        criterion: A callable, as `get` returns it.
        layer: The layer.
        weights: Its weights by name, as the module describes them.
        seed: What a criterion that draws starts from.
        family: What the layer calls these units if its output does not show them, else None.

    Returns:
        A float array of shape (units,).

    Raises:
        ValueError: If the scores are not one finite number for each unit.
    """
    is_shown = family is None and isinstance(layer, Masked)
    if isinstance(criterion, ActivationContribution) and not is_shown:
        criterion = magnitude
    offered = {"layer": layer, "weights": weights, "seed": seed}
    scores = np.asarray(asking.call(criterion, offered), "float64")
    units = len(next(iter(weights.values())))
    if scores.shape != (units,) or not np.isfinite(scores).all():
        raise ValueError(
            f"A criterion must return one finite score for each of the {units} units. "
            f"Received: shape={scores.shape}, "
            f"{np.count_nonzero(~np.isfinite(scores))} of them not finite, "
            f"layer={getattr(layer, 'name', layer)!r}."
        )
    return scores
