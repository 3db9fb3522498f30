"""Prunes single weights in one step."""

from tfprune._tools.checks import check_model
from tfprune.criteria import obc, sparsegpt
from tfprune.masks.skipping import warn_of_skipped
from tfprune.weights.obc import OBCMethod
from tfprune.weights.prunable import apply_masks, count_weights, select_weights, skipped_weights
from tfprune.weights.pruning import PruningMethod
from tfprune.weights.sparsegpt import SparseGPTMethod


def prune_weights(
    model,
    target,
    criterion="magnitude",
    *,
    pattern=None,
    distribution=None,
    data=None,
    only=None,
    exclude=None,
    verbose=0,
):
    """Prunes single weights of a masked model in place, to a sparsity.

    The elements with the lowest scores are masked, exactly as many as the sparsity says. Elements
    that are pruned already stay pruned and count. Frozen elements are never pruned, and weights of
    layers with `trainable=False` only where `only` names the layer, or one that it is in. Layers
    that are skipped for that, or because they carry no masks, are named in a warning. All masks are
    computed before the first is set, so an error leaves the model as it was. To prune on a schedule
    while a model trains, use `tfprune.callbacks.PruneWeights`.

    Which criterion to take, for a trained model that is not trained afterwards: "obc", with some
    thousand inputs and no labels, keeps most accuracy (on MNIST, of an MLP at a sparsity of 98%,
    several times the accuracy of "second_order" and "magnitude"); "sparsegpt" where layers have
    thousands of inputs and outputs, or for `NM` and `Block`. While a model is trained on,
    "magnitude" on a schedule is hard to beat, and needs no data.

    "obc" and "sparsegpt" also change the weights that are kept, so that the outputs of each layer
    stay what they are as well as they can. All weights that are multiplied with inputs as matrices
    are pruned, in layers of any class: dense and einsum layers, the projections of attention,
    convolutions, weights of one's own. Others (embeddings that are looked up, recurrent kernels,
    kernels of transposed convolutions, weights with a constraint) are named in a warning and left.
    "obc" ranks the weights of all layers together, by what they do to the outputs of the model, and
    prunes in rounds, with a pass over the data for each, and one for each layer in the end; if it
    is interrupted, the model is as it was. See `tfprune.criteria.OBC`. "sparsegpt" goes through
    the model layer by layer (a composite layer, such as a decoder block, counts as one): the inputs
    of each are measured, in one pass over the data, with those before it pruned. Errors are found
    before anything is changed. If it is interrupted, the layers that are done stay pruned; the same
    call goes on with the others. See `tfprune.criteria.SparseGPT`.

    Args:
        model: A model of drop-in layers, see `tfprune.prunable`.
        target: Float from 0 to 1, the sparsity. Below 1 at least one element of each weight is
            kept; at 1 none.
        criterion: "magnitude", "random", "gradient", "second_order", "movement", "synflow",
            "grasp", "wanda", "lamp"; "obc", "sparsegpt"; an object such as
            `tfprune.criteria.Random(seed=0)`; or a callable. See `tfprune.criteria.weights`.
        pattern: `None` for single elements: those of each weight are compared with one another,
            with "wanda" those of each output of it, as its paper does. Or "unstructured", the same
            for all criteria, or a pattern of `tfprune.patterns`: `Unstructured(compare="output")`,
            which prunes equally many of each output, `NM` or `Block`.
        distribution: "uniform", the sparsity for each weight; "erk" or "global", for all of them
            together; a dict from layers, names or predicates `(layer, weight_name) -> bool` to
            sparsities of their own; or a callable. See `tfprune.distributions`. Default: "global"
            with "obc", whose prices of all layers are in one unit, else "uniform".
        data: `(x, y)` or a dataset of batches, for criteria that are measured on data. Arrays are
            read in batches of 32.
        only: Weights to prune: a layer or its name or a sequence of these, for their kernels
            and embeddings, those of layers inside them included; or a predicate
            `(layer, weight_name) -> bool`, which then decides about every weight that carries
            masks, biases and the scales of norms too. Default: all kernels and embeddings.
        exclude: Weights that are not pruned although `only` selects them, given in the same way.
        verbose: 0 is quiet, 1 shows the progress through the data, with "obc" that through rounds
            and layers, with "sparsegpt" that through the layers.

    Returns:
        `MaskCounts` over the selected weights, without those that "obc" and "sparsegpt" leave.

    Raises:
        ValueError: If there is nothing to prune, a layer is unknown, scores are NaN or infinite,
            or frozen elements leave too few to prune. Nothing is changed then.

    Example:

    >>> import keras
    >>> import tfprune
    >>> model = keras.Sequential([keras.Input((4,)), tfprune.layers.Dense(2, name="d")])
    >>> prune_weights(model, 0.5)
    MaskCounts(elements=8, pruned=4, frozen=0)
    >>> bool((model.get_layer("d").kernel == 0).numpy().sum() == 4)
    True
    """
    check_model(model)
    options = {"pattern": pattern, "data": data, "verbose": verbose}
    by_obc, by_sparsegpt = obc.find(criterion), sparsegpt.find(criterion)
    if distribution is None:
        distribution = "uniform" if by_obc is None else "global"
    options["distribution"] = distribution
    skipped = {}
    if by_obc is not None or by_sparsegpt is not None:
        method = (
            SparseGPTMethod(by_sparsegpt, **options)
            if by_obc is None
            else OBCMethod(by_obc, **options)
        )
        weights, skipped = method.prune(model, select_weights(model, only, exclude), target)
    else:
        method = PruningMethod(criterion, **options)
        weights = select_weights(model, only, exclude)
        masks = method.masks(model, weights, target, final=target)
        apply_masks(model, weights, masks)
    warn_of_skipped({**skipped_weights(model, only, exclude), **skipped})
    return count_weights(weights)
