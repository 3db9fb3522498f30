"""Calls of criteria with the inputs that they request by the names of their arguments.

>>> def wide(weights, scale=1.0):
...     return weights * scale
>>> call(wide, {"layer": "dense", "weights": 3.0, "seed": 7})
3.0
"""

import inspect
from collections.abc import Callable

import keras

from tfprune._tools.registry import Registry


def registry(names, expected):
    """The `Registry` of criteria with some names.

    Args:
        names: Dict from names to functions or classes.
        expected: String, what else is accepted, for errors.
    """
    expected = f"one of {sorted(names)}, {expected}"
    return Registry(Callable, argument="criterion", expected=expected, names=names)


def check(criterion, offered, rule, values=0):
    """Raises a `ValueError` where a criterion requires an argument that is not offered.

    Args:
        criterion: Callable.
        offered: The names of the arguments it may request.
        rule: What it may request, as a sentence for the error.
        values: Integer, how many arguments it is given first, whatever their names are.

    Example:

    >>> check(lambda kernel, seed: kernel, ["seed"], "It may request `seed`.", values=1)
    """
    required = [
        parameter.name
        for parameter in _parameters(criterion, values)
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    unknown = sorted(set(required) - set(offered))
    if unknown:
        raise ValueError(
            f"{rule} Received: criterion={criterion!r}, which also requires {unknown}."
        )


def call(criterion, offered, *values):
    """Calls a criterion with some values and with the offered arguments that it requests.

    Args:
        criterion: Callable.
        offered: Dict of arguments by name.
        *values: What comes first, whatever the names of these arguments are.

    Returns:
        What the criterion returns.

    Example:

    >>> call(lambda kernel: kernel + 1, {"seed": 7}, 2)
    3
    """
    names = requested(criterion, offered, len(values))
    return criterion(*values, **{name: offered[name] for name in names})


def requested(criterion, names, values=0):
    """The names, of those given, that a criterion has arguments for.

    Args:
        criterion: Callable.
        names: A sequence of names.
        values: Integer, how many arguments it is given first, whatever their names are.

    Example:

    >>> requested(lambda kernel, seed: kernel, ["kernel", "seed"], values=1)
    ['seed']
    """
    parameters = {parameter.name for parameter in _parameters(criterion, values)}
    return [name for name in names if name in parameters]


def _parameters(criterion, values):
    """The parameters of a callable after those that are given by place."""
    return list(inspect.signature(criterion).parameters.values())[values:]


def resolve_seed(criterion):
    """The seed of a criterion, drawn from Keras's global seed where it requests one and has none.

    Example:

    >>> resolve_seed(len) is None
    True
    """
    seed = getattr(criterion, "seed", None)
    if seed is None and requested(criterion, ["seed"]):
        state = keras.random.SeedGenerator().state  # the seed it drew, and a counter
        return int(keras.ops.convert_to_numpy(state)[0])
    return seed
