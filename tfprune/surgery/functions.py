"""Single edits of a model. Each function returns the model of a plan with one edit."""

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
    """Returns a new model whose layers have other numbers of units; coupled layers follow.

    An integer program selects the units to remove: it keeps those of the highest scores under the
    sizes that are asked for and all couplings. If possible none is removed, else if possible none
    is added; units come in other layers too where that is what it takes. New units begin without
    effect, so that a growing model computes the same. Their incoming weights are random, with bias
    0, in normalization layers gamma and moving variance 1, beta and moving mean 0; their outgoing
    weights are 0. So the first training step changes the outgoing weights, and all later ones both.
    Where new units change the function, as LayerNormalization counts them, `plan.effects` of
    `tfprune.surgery.edit` says so.

    Args:
        model: Any Keras model that is built. It is not changed. Of a subclassed model, the
            Functional model of its `call` is edited.
        changes: Dict with integers as values, the new sizes, or what `by`, `to`, `at_least`,
            `at_most` and `multiple_of` of `tfprune.surgery` give, or lists of these. The keys are
            layers, operations or their names, for their outputs; pairs of a layer and the name of
            its units where it makes several kinds, as `(attention, "heads")`; or what is counted by
            `inputs_of`, `new_in` and `total_of` of `tfprune.surgery`. The model's own inputs and
            outputs keep their sizes but where they are named: an output by the layer that gives it,
            an input by its input layer or as `inputs_of(model)`. Fewer channels of an input are
            those of the largest weights.
        criterion: The score of units: see `tfprune.criteria.units`. For criteria that are measured
            on data, a `tfprune.units.scores.UnitScores` with the data.
        relaxed: Boolean. Whether sizes that cannot be met are met as nearly as possible; for single
            sizes, see `tfprune.surgery.by`.
        split: `tfprune.surgery.Split()` to make new units copies of old ones.
        time_limit: Seconds for the selection of units.
        verbose: 0 is quiet; 1 prints a message where there are many units to select from.

    Returns:
        A new model of the same kind, with the weights, the compile state and the optimizer's slots
        of the old one.

    Raises:
        ValueError: If a size cannot be met, with the nearest that can, or an argument is wrong.
            Where only more units are asked for, also if they can only be met by removing trained
            ones; then ask for these too, as `{"joined": by(+1), "branch": by(-1)}`.
        RuntimeError: If the selection takes longer than `time_limit`.

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
    """Returns a new model without the units of negative score, where layers can spare them.

    Use it where a criterion, not a size, says which units to keep. Where all scores of a layer are
    negative, it keeps the unit of the highest.

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


def insert(model, after, layers, *, init="identity", before=None):
    """Returns a new model with layers inserted after a layer.

    What took the output of the layer takes that of the last inserted one: all, the outputs of the
    model too, or only what `before` names.

    Args:
        model: Any Keras model that is built. It is not changed. Of a subclassed model, the
            Functional model of its `call` is edited.
        after: A layer or operation, or its name.
        layers: A layer or a list of layers, one after the other, with new names. Built layers keep
            their weights.
        init: "identity" for weights with which each layer computes the identity, so that the model
            computes the same; "default" for those of their initializers.
        before: A layer or operation that takes the output of `after`, its name, or a list of these:
            all others go on to take the output of `after` itself. The model, or its name, stands
            for its outputs.

    Returns:
        A new model.

    Raises:
        ValueError: If a layer cannot compute the identity, or does not fit, or `before` holds what
            does not take the output of `after`.

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
    plan.insert(after, layers, init, before)
    return plan.model


def remove(model, layer, *, fit=None):
    """Returns a new model without a layer: what took its output takes its input.

    Where both have different sizes, the integer program of `resize` makes them equal: mostly the
    kernels that follow lose rows, or gain rows of 0.

    Args:
        model: Any Keras model that is built. It is not changed. Of a subclassed model, the
            Functional model of its `call` is edited.
        layer: A layer or operation with one input and one output, or its name.
        fit: How sizes are made equal: "shrink" to the smaller, or less; "grow" to the larger, or
            more, with new units; by default any way that keeps most.

    Returns:
        A new model.

    Raises:
        ValueError: If the layer cannot be removed, or sizes do not fit that way.

    Example:

    >>> import keras
    >>> model = keras.Sequential([
    ...     keras.Input((3,)), keras.layers.Dense(5, name="hidden"), keras.layers.Dense(4)])
    >>> remove(model, "hidden").layers[0].kernel.shape
    TensorShape([3, 4])
    """
    plan = edit(model)
    plan.remove(layer, fit=fit)
    return plan.model


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


def resize_kernel(model, layer, kernel_size, *, padding=None):
    """Returns a new model in which a convolution has another kernel size.

    A smaller kernel keeps the contiguous taps for which the sum of
    `|offset from centre| / (1 + mean |W|)` is lowest; a larger one has taps of 0 around the old
    ones. With `padding="same"` the model then computes the same, if sizes stay odd or even and
    strides are no larger than the kernel. With explicit padding it does where the old taps can stay
    over the positions that they were over, and the output keeps its shape.

    Args:
        model: Any Keras model that is built. It is not changed. Of a subclassed model, the
            Functional model of its `call` is edited.
        layer: A layer with a `kernel_size`, or its name.
        kernel_size: Integer, a difference from `tfprune.surgery.by`, or for each axis one of these.
        padding: "same", "valid" or "causal"; by default that of the layer. Or how many zeros pad
            the input at each border: an integer, or for each axis an integer or a pair, as
            `((top, bottom), (left, right))`. Then a `ZeroPadding` layer comes before the layer,
            which has `padding="valid"`; where there is one already, it pads as it says here.

    Returns:
        A new model.

    Raises:
        ValueError: If the layer has no kernel size, or what follows does not fit the new shape.

    Example:

    >>> import keras
    >>> model = keras.Sequential([
    ...     keras.Input((8, 8, 1)), keras.layers.Conv2D(2, 3, padding="same", name="conv")])
    >>> resize_kernel(model, "conv", 5).get_layer("conv").kernel.shape
    TensorShape([5, 5, 1, 2])
    >>> from tfprune.surgery import by
    >>> wide = resize_kernel(model, "conv", (3, by(+1)), padding=((1, 1), (1, 2)))
    >>> wide.get_layer("conv_padding").padding, wide.outputs[0].shape
    (((1, 1), (1, 2)), (None, 8, 8, 2))
    """
    plan = edit(model)
    plan.resize_kernel(layer, kernel_size, padding)
    return plan.model


def resize_depth_multiplier(model, layer, depth_multiplier):
    """Returns a new model in which a depthwise convolution has another depth multiplier.

    That is how many outputs it has for each channel. Those of the highest `||W||_2 + |b|` stay. New
    ones have random taps, bias 0, and outgoing weights of 0, so that a growing model computes the
    same; see `plan.effects` of `tfprune.surgery.edit`. The hidden channels of a separable
    convolution likewise.

    Args:
        model: Any Keras model that is built. It is not changed. Of a subclassed model, the
            Functional model of its `call` is edited.
        layer: A `DepthwiseConv` or `SeparableConv` layer, or its name.
        depth_multiplier: Integer, or a difference from `tfprune.surgery.by`.

    Returns:
        A new model.

    Raises:
        ValueError: If the layer has no depth multiplier, or something needs its outputs to be as
            many as they are, such as a sum with others.

    Example:

    >>> import keras
    >>> model = keras.Sequential([
    ...     keras.Input((8, 8, 3)), keras.layers.DepthwiseConv2D(3, name="each"),
    ...     keras.layers.Conv2D(4, 1, name="all")])
    >>> resize_depth_multiplier(model, "each", 2).get_layer("all").kernel.shape
    TensorShape([1, 1, 6, 4])
    """
    plan = edit(model)
    plan.resize_depth_multiplier(layer, depth_multiplier)
    return plan.model


def replace(model, layer, new_layer, *, keep_weights=True):
    """Returns a new model in which a layer is replaced by another, under the same name.

    Where the new layer has another number of output channels, coupled layers are resized.

    Args:
        model: Any Keras model that is built. It is not changed. Of a subclassed model, the
            Functional model of its `call` is edited.
        layer: The layer to replace, or its name.
        new_layer: The new layer. If it is built it keeps its weights.
        keep_weights: Boolean. Whether a new layer that is not built gets the weights of the old one
            that have the same name and shape.

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
