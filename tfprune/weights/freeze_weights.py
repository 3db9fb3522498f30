"""Freezes elements of weights in one step."""

from tfprune._tools.checks import check_model
from tfprune.masks.skipping import warn_of_skipped
from tfprune.weights.freezing import FreezingMethod
from tfprune.weights.prunable import apply_masks, count_weights, select_weights, skipped_weights


def freeze_weights(
    model,
    target,
    criterion="preconditioned_gradient",
    *,
    distribution="uniform",
    data=None,
    only=None,
    exclude=None,
    verbose=0,
):
    """Freezes elements of the weights of a masked model in place, those with the lowest scores.

    Frozen elements keep their value in training. Afterwards `round(size * target)` elements of each
    weight are frozen. Elements that are frozen already count; where there are more, those with the
    highest scores are unfrozen. Pruned elements are left alone: where fewer than the fraction are
    not pruned, all of these are frozen. All masks are computed before the first is set, so an error
    leaves the model as it was. To freeze on a schedule while a model trains, use
    `tfprune.callbacks.FreezeWeights`.

    Args:
        model: A model of drop-in layers, see `tfprune.prunable`.
        target: Float from 0 to 1, the fraction to freeze; 0 unfreezes everything.
        criterion: Which elements are frozen first:

            * "preconditioned_gradient": the lowest |g / C|, g the mean gradient over the data and
              C the mean over its examples of (g_i - g)^2;
            * "gradient": the lowest |g|;
            * "magnitude": the lowest |w|;
            * "random", or `tfprune.criteria.Random(seed=0)`: random ones;
            * a callable: the lowest of what it returns, see `tfprune.criteria.weights`.
        distribution: "uniform", the fraction for each weight; "global", for all of them together;
            a dict from layers, names or predicates to fractions of their own; or another of
            `tfprune.distributions`.
        data: `(x, y)` or a dataset of batches, for criteria that are measured on data. The layers
            run as in inference; arrays are read in batches of 32.
        only: Weights to freeze: a layer or its name or a sequence of these, for their kernels
            and embeddings; or a predicate `(layer, weight_name) -> bool`, which then decides
            about every weight that carries masks: `lambda layer, name: True` takes biases and the
            scales of norms too. Default: all kernels and embeddings.
        exclude: Weights that are left alone although `only` selects them, given in the same way.
        verbose: 0 is quiet, 1 shows the progress through the data.

    Returns:
        `MaskCounts` over the selected weights.

    Raises:
        ValueError: If there is nothing to freeze, a layer is unknown, a criterion lacks data or
            the model a loss, or scores are NaN or infinite. Nothing is changed then.

    Example:

    >>> import keras
    >>> import tfprune
    >>> model = keras.Sequential([keras.Input((4,)), tfprune.layers.Dense(2, name="d")])
    >>> freeze_weights(model, 0.5, "magnitude")
    MaskCounts(elements=8, pruned=0, frozen=4)
    >>> freeze_weights(model, 0.0, "magnitude").frozen
    0

    Reference:
        S. Mandt, M. Hoffman, D. Blei, "Stochastic Gradient Descent as Approximate Bayesian
        Inference", https://arxiv.org/abs/1704.04289, for the preconditioner 1 / C.
    """
    check_model(model)
    method = FreezingMethod(criterion, distribution=distribution, data=data, verbose=verbose)
    weights = select_weights(model, only, exclude, action="freeze")
    masks = method.masks(model, weights, target, final=target)
    apply_masks(model, weights, masks, kind="frozen")
    warn_of_skipped(skipped_weights(model, only, exclude))
    return count_weights(weights)
