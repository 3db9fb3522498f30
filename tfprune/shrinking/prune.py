"""Prunes a dense model to a small one in one call."""

from tfprune._tools import progress
from tfprune.shrinking.accuracy_search import smallest_within
from tfprune.shrinking.prepared import Prepared
from tfprune.units.budgets import Accuracy


def prune(
    model,
    target,
    data=None,
    *,
    criterion="auto",
    selection="auto",
    recover="auto",
    effort="fast",
    epochs=0,
    only=None,
    exclude=None,
    return_report=False,
    verbose=0,
    **fit,
):
    """Returns a small model of a dense one: prunes units, recovers accuracy, strips, fine-tunes.

    1. With data, the statistics of batch normalisations are put right if those of the dense model
       are stale, as after a short training (`tfprune.recalibrate`).
    2. The units with the lowest scores are pruned until the target is met (`tfprune.prune_units`).
    3. With data, the remaining weights of each layer are fitted to the outputs of the dense model
       (`tfprune.reconstruct`), and batch normalisations get new statistics. Neither needs labels.
    4. The units are removed, and the result is checked (`tfprune.strip`).
    5. With `epochs`, the small model is fine-tuned, alone or by distillation from the dense one
       (`tfprune.distill`), and has the weights of its best epoch in the end.

    Of steps 1, 3 and 5 the better is kept of the model before and after it: that of lower loss or,
    where there are no labels or the model is not compiled with a loss, that whose outputs are
    nearer to those of the dense model. This is measured on `validation_data` or, without it, on a
    fifth of `data`, at most 1,000 examples, which is not trained on; with fewer than 80 examples,
    on all of `data`. The report says what was kept, and why.

    The model given is not changed. For gradual pruning while a model trains, see
    `tfprune.callbacks.PruneUnits` and `tfprune.fit_and_shrink`.

    Args:
        model: Any Keras model that is built; compiled, to be trained or evaluated.
        target: A budget of `tfprune.budgets` (`MACs(0.5)`, `Latency(2.0)`) or a float, the fraction
            of units to prune, see `tfprune.prune_units`; or `tfprune.budgets.Accuracy(drop=0.01)`,
            for the smallest model within a drop of accuracy, which takes about six times as long.
        data: `(x, y)`, or a `tf.data.Dataset` or `keras.utils.PyDataset` of batches, for criteria
            that are measured, for recovery, and for training.
        criterion: Which units go first, see `tfprune.prune_units`. Scores of a criterion given by
            name, or as a callable, are divided by their mean in each layer, so that layers can be
            ranked together, save those of "layerwise_obs" and "second_order", which can be as they
            are; an object says so itself. "auto": where there is data and recovery,
            "layerwise_obs", or what `effort` finds; else "magnitude".
        selection: See `tfprune.prune_units`. "auto": all layers are ranked together, by
            "layerwise_obs" as "greedy" does it, by the error for the cost that is saved, and by
            others as "global" does. With "same_class", all blocks keep equally many units and the
            result is made by the model's own class, from its config with smaller numbers
            (`tfprune.strip(same_class=True)`): a task of KerasHub stays one that generates and has
            presets. With
            `tfprune.Selection(blocks=True)` depth and width share the budget: the least important
            residual blocks go first (`tfprune.prune_blocks`), none, one, two and so on, the units
            of what is left until the budget is met, and the best of these models is taken, judged
            as the steps are.
        recover: How accuracy is recovered: a name or a sequence among "reconstruct", "recalibrate"
            and "distill" (in the training of `epochs`). "auto": "reconstruct" and "recalibrate"
            where there is data. `None` or `()` for nothing.
        effort: How long `criterion="auto"` searches; `report.seconds` says how long all took.
            "fast": one criterion, at once; where the model or the data lack what "layerwise_obs"
            needs, the best after recovery of "magnitude", "l2" and "second_order" (without labels
            "activation_variance"), judged as the steps are. "best": the best of all of these, and
            of "layerwise_obs" in four rounds: a little is pruned, layers are fitted to the dense
            model, units are measured anew. It takes about eight times as long. A criterion by name
            or object is used at once or, with "best", in rounds, whichever is better.
        epochs: Integer, the epochs of fine-tuning; of data without labels towards the outputs of
            the dense model, see `tfprune.distill`.
        only, exclude: See `tfprune.prune_units`; layers are those of `model`.
        return_report: Whether to return a `PruneReport` as well.
        verbose: 0 is quiet, 1 shows progress: on a terminal one bar for each stage, on stderr;
            elsewhere the names of the stages and Keras's bars.
        **fit: Further arguments of `keras.Model.fit` for that training (`callbacks`,
            `batch_size`, ...). `validation_data` is also what is evaluated on after each stage, by
            default a part of `data` that is held out, and `validation_split` says how much that
            is; the batch size holds for recovery too. Besides, `quantize="int8"` quantizes the
            small model in the end, by Keras's `model.quantize`: kernels of dense layers and
            embeddings become int8. It is measured as the stage "int8" of the report, with its
            bytes, and a decision names the layers that stay floats, as convolutions do.

    Returns:
        The small model, of stock Keras layers, compiled as `model` is; where the class of `model`
        has steps of its own, of that class if its sizes can be changed, and with
        `selection="same_class"` in any case. With `return_report=True`,
        the model and the report.

    Raises:
        ValueError: If an argument is out of its range, data is missing, the budget cannot be met,
            or none that was tried holds the drop (the error says what can). Nothing is changed
            then.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import tfprune
    >>> model = keras.Sequential([
    ...     keras.Input((8,)),
    ...     keras.layers.Dense(32, activation="relu", name="hidden"),
    ...     keras.layers.Dense(4)])
    >>> x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    >>> small, report = prune(model, tfprune.budgets.MACs(0.5), (x,), return_report=True)
    >>> report.macs.ratio, small.get_layer("hidden").units
    (0.5, 16)
    """
    with progress.shown(verbose) as verbose:
        prepared = Prepared(
            model,
            data,
            criterion=criterion,
            selection=selection,
            recover=recover,
            effort=effort,
            epochs=epochs,
            only=only,
            exclude=exclude,
            verbose=verbose,
            **fit,
        )
        if isinstance(target, Accuracy):
            small, report = smallest_within(prepared, target)
        else:
            small, report = prepared.to(target)
    return (small, report) if return_report else small
