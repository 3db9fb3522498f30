"""Single edits of sizes: units, kernels, depth multipliers."""

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
