"""Criteria for weights: pure functions from a weight's values to a score for each element.

A criterion gets the array of values first, and `seed` if it has an argument of that name: a list
of integers which differs from weight to weight and stays the same from update to update. It
returns an array of the weight's shape, higher = keep. Any such function will do:

>>> def far_from_one(weight):
...     return np.abs(weight - 1)
>>> score(get(far_from_one), np.array([1.0, 3.0]))
array([0., 2.])
"""

import numpy as np

from tfprune.criteria import asking


def magnitude(weight):
    """The absolute value: what is close to 0 goes first.

    Args:
        weight: Array of any shape.

    Returns:
        |weight|, an array of the same shape.

    Example:

    >>> magnitude(np.array([-3.0, 1.0]))
    array([3., 1.])
    """
    return np.abs(weight)


def random(weight, seed=None):
    """Uniform numbers from 0 to 1, whatever the values are.

    With the same seed an element has the same score at every update, so training that was
    interrupted goes on with the masks it would have had.

    Args:
        weight: Array of any shape.
        seed: Integer or sequence of integers; `None` draws anew at every call.

    Returns:
        An array of the weight's shape.

    Example:

    >>> bool((random(np.zeros(3), seed=7) == random(np.ones(3), seed=7)).all())
    True
    """
    return np.random.default_rng(seed).random(np.shape(weight), dtype=np.float32)


_ALL = {"magnitude": magnitude, "random": random}


def get(identifier):
    """The criterion meant by an identifier.

    Args:
        identifier: "magnitude" or "random"; a callable, as the module describes it; or the
            configuration of a callable.

    Raises:
        ValueError: If there is no such criterion, or it asks for something unknown.

    Example:

    >>> get("magnitude") is magnitude
    True
    """
    criterion = asking.find(identifier, _ALL, "a callable from a weight's values to scores")
    rule = "A criterion must take the weight's values and, if it wants one, a `seed`."
    asking.check(criterion, ["seed"], rule, values=1)
    return criterion


def serialize(criterion):
    """The name of a criterion of this module, or the configuration of another callable.

    Example:

    >>> serialize(magnitude)
    'magnitude'
    """
    return asking.serialize(criterion, _ALL)


def score(criterion, weight, seed=None):
    """The scores of one weight, with what the criterion asks for.

    Args:
        criterion: A callable, as `get` returns it.
        weight: Array of the weight's values.
        seed: What is passed on to a criterion that asks for `seed`.

    Returns:
        An array of the weight's shape.

    Raises:
        ValueError: If the scores are not of the weight's shape.
    """
    scores = np.asarray(asking.call(criterion, {"seed": seed}, weight))
    if scores.shape != weight.shape:
        raise ValueError(
            f"A criterion must return scores of the weight's shape {weight.shape}. "
            f"Received: shape={scores.shape}, criterion={criterion!r}."
        )
    return scores
