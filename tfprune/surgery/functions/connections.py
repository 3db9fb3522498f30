"""Single edits of the inputs of operations that take several."""

from tfprune.surgery.plan import edit


def connect(model, source, target, *, position=None, fit=None):
    """Returns a new model in which an Add, Concatenate or the like has another input.

    After a concatenation, the weights for the new channels begin at 0, so the model computes the
    same. What is added to its result, multiplied with it or takes it gets as many new channels. If
    the result cannot have more, as it is an output of the model, the inputs share what it has. For
    element-wise operations sizes are made equal where they can be.

    Args:
        model: A Functional model. It is not changed.
        source: The layer or operation whose output is added, or its name.
        target: The layer that takes it, of those that take a list of tensors, or its name.
        position: Integer, the index of the new input among the others; by default it is the last.
        fit: How sizes are made equal, as in `remove`. A concatenation that is fitted by "shrink"
            has no more channels than before, and by "grow" all of the new input besides.

    Returns:
        A new model.

    Raises:
        ValueError: If source and target do not fit together, or not that way.

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
    plan.connect(source, target, position=position, fit=fit)
    return plan.model


def disconnect(model, source, target, *, position=None):
    """Returns a new model in which an Add, Concatenate or the like has one input less.

    Where one input of a sum or the like is left, the operation is removed too; a concatenation
    stays. A branch that leads nowhere is removed. The channels of a concatenation go from what is
    added to its result, multiplied with it or takes it. If they cannot, as in an output of the
    model, the other inputs become larger instead.

    Args:
        model: A Functional model. It is not changed.
        source: The layer or operation whose output is the input to remove, or its name.
        target: The layer that takes it, of those that take a list of tensors, or its name.
        position: Integer, the index of the input where the source is several of them; by default it
            is the last of these.

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
    plan.disconnect(source, target, position=position)
    return plan.model
