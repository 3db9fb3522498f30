"""How a criterion is found, and how it asks for what it needs: by the names of its arguments.

>>> def wide(weights, scale=1.0):
...     return weights * scale
>>> call(wide, {"layer": "dense", "weights": 3.0, "seed": 7})
3.0
"""

import inspect

import keras


def find(identifier, known, what, **options):
    """The criterion meant by a name, a callable, or the configuration of a callable.

    Args:
        identifier: What a user gave as `criterion`.
        known: Dict of the criteria that have a name. A class is instantiated.
        what: What else may be given, for the error: "a callable which ...".
        **options: Arguments of the class.

    Raises:
        ValueError: If there is no such criterion.

    Example:

    >>> find("length", {"length": len}, "a callable") is len
    True
    """
    if isinstance(identifier, dict):
        identifier = keras.saving.deserialize_keras_object(identifier)
    criterion = known.get(identifier) if isinstance(identifier, str) else identifier
    if inspect.isclass(criterion) and criterion in known.values():
        criterion = criterion(**options)
    if not callable(criterion) or inspect.isclass(criterion):
        raise ValueError(
            f"Argument `criterion` must be one of {sorted(known)} or {what}. "
            f"Received: criterion={identifier!r}."
        )
    return criterion


def check(criterion, offered, rule, values=0):
    """Raises a `ValueError` where a criterion requires what it is not offered.

    Args:
        criterion: Callable.
        offered: The names of the arguments it may ask for.
        rule: What it may ask for, as a sentence for the error.
        values: Integer, how many arguments it is given first, whatever their names are.

    Example:

    >>> check(lambda kernel, seed: kernel, ["seed"], "It may ask for `seed`.", values=1)
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
    """Calls a criterion with some values and, of what is offered, with what it asks for.

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
    names = asked(criterion, offered, len(values))
    return criterion(*values, **{name: offered[name] for name in names})


def asked(criterion, names, values=0):
    """Which of some names a criterion has arguments for.

    Args:
        criterion: Callable.
        names: A sequence of names.
        values: Integer, how many arguments it is given first, whatever their names are.

    Example:

    >>> asked(lambda kernel, seed: kernel, ["kernel", "seed"], values=1)
    ['seed']
    """
    parameters = {parameter.name for parameter in _parameters(criterion, values)}
    return [name for name in names if name in parameters]


def asks_for(criterion, name):
    """Whether a criterion has an argument of a name.

    Example:

    >>> asks_for(lambda weights, seed=None: weights, "seed")
    True
    """
    return name in inspect.signature(criterion).parameters


def _parameters(criterion, values):
    """The parameters of a callable after those that are given by place."""
    return list(inspect.signature(criterion).parameters.values())[values:]


def serialize(criterion, known):
    """The name of a criterion that has one, or the configuration of another callable.

    Example:

    >>> serialize(len, {"length": len})
    'length'
    """
    for name, criterion_of_name in known.items():
        if criterion is criterion_of_name or _is_default(criterion, criterion_of_name):
            return name
    return keras.saving.serialize_keras_object(criterion)


def _is_default(criterion, criterion_class):
    """Whether a criterion is what its class gives without arguments."""
    if type(criterion) is not criterion_class:
        return False
    return criterion.get_config() == criterion_class().get_config()


def resolve_seed(criterion):
    """The seed of a criterion; where it has none but asks for one, a seed from Keras's global one.

    Example:

    >>> resolve_seed(len) is None
    True
    """
    seed = getattr(criterion, "seed", None)
    if seed is None and asks_for(criterion, "seed"):
        state = keras.random.SeedGenerator().state  # the seed it drew, and a counter
        return int(keras.ops.convert_to_numpy(state)[0])
    return seed
