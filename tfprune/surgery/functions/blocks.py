"""Single edits of residual blocks."""

from tfprune.surgery.plan import edit


def remove_block(model, block):
    """Returns a new model without a residual block: what the block took goes on in its place.

    Blocks are those that `tfprune.prune_blocks` removes by their scores.

    Args:
        model: Any Keras model that is built. It is not changed. Of a subclassed model, the
            Functional model of its `call` is edited.
        block: A layer or operation in the block, or its name; or the name of the block, as in the
            report of `tfprune.prune_blocks`: that of the last operation in it.

    Returns:
        A new model.

    Raises:
        ValueError: If there is no such block, or something else uses what is computed in it.

    Example:

    >>> import keras
    >>> x = inputs = keras.Input((4,))
    >>> for number in range(2):
    ...     y = keras.layers.Dense(4, activation="relu", name=f"dense_{number}")(x)
    ...     x = keras.layers.Add(name=f"sum_{number}")([x, y])
    >>> model = keras.Model(inputs, x)
    >>> [layer.name for layer in remove_block(model, "dense_0").layers][1:]
    ['dense_1', 'sum_1']
    """
    plan = edit(model)
    plan.remove_block(block)
    return plan.model


def repeat_block(model, block, times=1, *, init="identity"):
    """Returns a deeper model, in which a residual block comes again behind itself.

    The layers that come have the weights of those in the block. By default the last projections of
    its branches, or the norms after them, are zero, so that they add nothing and the model computes
    the same; that is checked. They are trained like all others: the first step moves what is zero.

    Args:
        model, block: As in `remove_block`.
        times: Integer, how often the block is repeated.
        init: "identity", or "copy" for the weights of the block without zeros.

    Returns:
        A new model. The layers that come have names as `dense_repeat`, `dense_repeat_2`.

    Raises:
        ValueError: If there is no such block, its layers are called elsewhere too, or it cannot
            begin as the identity, as where a norm comes after the sum.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> x = inputs = keras.Input((4,))
    >>> for number in range(2):
    ...     y = keras.layers.Dense(4, name=f"dense_{number}")(x)
    ...     x = keras.layers.Add(name=f"sum_{number}")([x, y])
    >>> model = keras.Model(inputs, x)
    >>> deeper, x = repeat_block(model, "sum_1"), np.ones((1, 4))
    >>> len(deeper.layers), bool((deeper(x) == model(x)).numpy().all())
    (7, True)

    Reference:
        T. Chen, I. Goodfellow, J. Shlens, "Net2Net: Accelerating Learning via Knowledge Transfer",
        https://arxiv.org/abs/1511.05641.
    """
    plan = edit(model)
    plan.repeat_block(block, times, init=init)
    return plan.model
