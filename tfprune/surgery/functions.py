"""Single edits of a model: each function is a plan of one edit, made at once."""

from tfprune.surgery.plan import edit


def resize(
    model,
    changes,
    *,
    criterion="magnitude",
    relaxed=False,
    split=None,
    time_limit=60.0,
    verbose=0,
):
    """Changes how many units layers have; all that is coupled follows.

    Which units go is one integer programme: it keeps the units that are worth most, subject to the
    sizes that are asked for and to all couplings. New units begin without effect, so that a
    growing model computes what it computed: what makes them is random, with bias 0, in norms
    gamma and moving variance 1, beta and moving mean 0; what uses them is 0. So the first training
    step moves what uses them, and all further ones both. `plan.effects` of `edit` tells where this
    cannot be, as where LayerNormalization counts them.

    Args:
        model: A Functional or built Sequential model. It is not touched.
        changes: Dict from what is resized to its size, an integer, or to a difference from
            `tfprune.surgery.by`. What is resized is a layer or operation or its name, for its
            output; `tfprune.surgery.inputs_of(layer)`; or a pair of a layer and the name of its
            units where it makes several kinds, as `(attention, "heads")`.
        criterion: What units are worth: see `tfprune.criteria.units`; for those that are measured
            on data, a `tfprune.units.scores.UnitScores` that brings the data along.
        relaxed: Whether sizes that cannot be met are met as nearly as they can be.
        split: `tfprune.surgery.Split()` for new units that are copies of old ones.
        time_limit: Seconds for the choice of units.
        verbose: 0 is quiet; 1 says so where many units are to be chosen among.

    Returns:
        A new model of the same kind, with every weight that has a place in it, the compile state
        and the optimizer's slots.

    Raises:
        ValueError: If a size cannot be met, with the nearest that can, or an argument is wrong.
        RuntimeError: If the choice takes too long.

    Example:

    >>> import keras
    >>> model = keras.Sequential([
    ...     keras.Input((3,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(2)])
    >>> [layer.units for layer in resize(model, {"hidden": 6}).layers]
    [6, 2]

    Reference:
        NaiveNASflux, https://github.com/DrChainsaw/NaiveNASflux.jl.
    """
    plan = edit(
        model,
        criterion=criterion,
        relaxed=relaxed,
        split=split,
        time_limit=time_limit,
        verbose=verbose,
    )
    plan.resize(changes)
    return plan.model


def shrink(model, criterion, *, time_limit=60.0, verbose=0):
    """Takes out all units of negative utility that can be spared.

    No sizes are named: the criterion says what is worth keeping. Where all utilities are negative,
    every layer keeps the unit that is worth most.

    Args:
        model, time_limit, verbose: As in `resize`.
        criterion: A criterion with values below 0, as a callable: see `tfprune.criteria.units`.

    Returns:
        A new model.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> model = keras.Sequential([
    ...     keras.Input((3,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(2)])
    >>> def every_second(weights):
    ...     return np.array([-1, 1, -1, 1])
    >>> [layer.units for layer in shrink(model, every_second).layers]
    [2, 2]
    """
    plan = edit(model, criterion=criterion, time_limit=time_limit, verbose=verbose)
    plan.shrink()
    return plan.model


def insert(model, after, layers, init="identity"):
    """Puts layers behind a layer: all that took what it gives takes what the last of them gives.

    Args:
        model: A Functional or built Sequential model. It is not touched.
        after: A layer or operation, or its name.
        layers: A layer or a list of layers, one after the other, with names of their own. Those
            that are built keep their weights.
        init: "identity" for weights with which each gives what it takes, so that the model computes
            the same; "default" for what their initializers make.

    Returns:
        A new model.

    Raises:
        ValueError: If a layer has no identity, or does not fit.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> model = keras.Sequential([
    ...     keras.Input((3,)), keras.layers.Dense(4, activation="relu", name="hidden"),
    ...     keras.layers.Dense(2)])
    >>> deeper = insert(model, "hidden", keras.layers.Dense(4, activation="relu"))
    >>> x = np.ones((1, 3))
    >>> len(deeper.layers), bool((deeper(x) == model(x)).numpy().all())
    (3, True)
    """
    plan = edit(model)
    plan.insert(after, layers, init)
    return plan.model


def remove(model, layer):
    """Takes a layer out: what took its output takes its input.

    Where both have different sizes, the integer programme of `resize` makes them equal: mostly what
    follows loses rows, or gets some that are 0.

    Args:
        model: A Functional or built Sequential model. It is not touched.
        layer: A layer or operation with one input and one output, or its name.

    Returns:
        A new model.

    Raises:
        ValueError: If the layer cannot be spared.

    Example:

    >>> import keras
    >>> model = keras.Sequential([
    ...     keras.Input((3,)), keras.layers.Dense(5, name="hidden"), keras.layers.Dense(4)])
    >>> remove(model, "hidden").layers[0].kernel.shape
    TensorShape([3, 4])
    """
    plan = edit(model)
    plan.remove(layer)
    return plan.model


def connect(model, source, target):
    """Gives an operation that takes a list of tensors, as Add or Concatenate, another one.

    Behind a concatenation, what uses the new channels begins at 0, so the model computes the same.
    For element-wise operations sizes must agree; they are made to where they can be.

    Args:
        model: A Functional model. It is not touched.
        source: The layer or operation that gives the new input, or its name.
        target: The layer that takes it, or its name.

    Returns:
        A new model.

    Raises:
        ValueError: If they do not fit together.

    Example:

    >>> import keras
    >>> inputs = keras.Input((3,))
    >>> a, b, c = (keras.layers.Dense(4, name=name)(inputs) for name in "abc")
    >>> x = keras.layers.Concatenate(name="joined")([a, b])
    >>> x = keras.layers.Add()([keras.layers.Dense(4)(x), c])
    >>> model = keras.Model(inputs, x)
    >>> connect(model, "c", "joined").get_layer("joined").output.shape
    (None, 12)
    """
    plan = edit(model)
    plan.connect(source, target)
    return plan.model


def disconnect(model, source, target):
    """Takes an input from an operation that takes a list of tensors.

    Where one input is left the operation goes by itself; a branch that leads nowhere then goes too.

    Args:
        model: A Functional model. It is not touched.
        source: The layer or operation that gives the input, or its name.
        target: The layer that takes it, or its name.

    Returns:
        A new model.

    Raises:
        ValueError: If the source is no input of the target.

    Example:

    >>> import keras
    >>> inputs = keras.Input((3,))
    >>> a, b, c = (keras.layers.Dense(n, name=name)(inputs) for n, name in zip((3, 4, 5), "abc"))
    >>> joined = keras.layers.Concatenate(name="joined")([a, b, c])
    >>> model = keras.Model(inputs, keras.layers.Dense(2)(joined))
    >>> disconnect(model, "b", "joined").layers[-1].kernel.shape
    TensorShape([8, 2])
    """
    plan = edit(model)
    plan.disconnect(source, target)
    return plan.model


def resize_kernel(model, layer, kernel_size, padding=None):
    """Gives a convolution another window.

    A smaller window keeps the contiguous taps for which the sum of
    `|offset from centre| / (1 + mean |W|)` is lowest; a larger one gets taps of 0 around the old
    ones. With `padding="same"` the model computes the same then, if sizes stay odd or even and
    strides are no larger than the window.

    Args:
        model: A Functional or built Sequential model. It is not touched.
        layer: A layer with a window, or its name.
        kernel_size: Integer or tuple of integers.
        padding: "same", "valid" or "causal"; by default as it is.

    Returns:
        A new model.

    Raises:
        ValueError: If the layer has no window, or what follows does not fit the new shape.

    Example:

    >>> import keras
    >>> model = keras.Sequential([
    ...     keras.Input((8, 8, 1)), keras.layers.Conv2D(2, 3, padding="same", name="conv")])
    >>> resize_kernel(model, "conv", 5).get_layer("conv").kernel.shape
    TensorShape([5, 5, 1, 2])
    """
    plan = edit(model)
    plan.resize_kernel(layer, kernel_size, padding)
    return plan.model


def replace(model, layer, new_layer, *, keep_weights=True):
    """Puts a layer in the place of another, under its name.

    Where the new layer gives another number of channels, all that is coupled is resized.

    Args:
        model: A Functional or built Sequential model. It is not touched.
        layer: The layer that goes, or its name.
        new_layer: The layer that comes. If it is built it keeps its weights.
        keep_weights: Whether it else gets those weights of the old layer that have the same name
            and shape.

    Returns:
        A new model.

    Raises:
        ValueError: If the layer does not fit.

    Example:

    >>> import keras
    >>> model = keras.Sequential([
    ...     keras.Input((3,)), keras.layers.Dense(5, name="hidden"), keras.layers.Dense(4)])
    >>> new = replace(model, "hidden", keras.layers.Dense(6, activation="tanh"))
    >>> [layer.kernel.shape[0] for layer in new.layers]
    [3, 6]
    """
    plan = edit(model)
    plan.replace(layer, new_layer, keep_weights)
    return plan.model
