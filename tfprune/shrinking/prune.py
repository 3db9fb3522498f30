"""Prunes a dense model to a small one in one call."""

import time
from dataclasses import dataclass

import keras

from tfprune import _keras
from tfprune._tools.checks import check_model, one_of
from tfprune._tools.finite import check_finite_data, check_finite_weights
from tfprune._tools.tables import Change, Printable, changed, count, number, short, table
from tfprune.coupling.costs import total_macs
from tfprune.criteria import LayerwiseOBS
from tfprune.masks import layer_filter
from tfprune.measuring.data import check_fits, running
from tfprune.measuring.metrics import fit_arguments
from tfprune.recovery import distill, recalibrate
from tfprune.shrinking import depths
from tfprune.shrinking.held_out import count_examples, hold_out
from tfprune.shrinking.judging import Decision, Judge, KeepBest
from tfprune.shrinking.one_shot import EFFORTS, OneShot, criterion_of
from tfprune.shrinking.prune_arguments import check_fit, check_training, checked_recovery
from tfprune.shrinking.settled_norms import (
    STALE,
    has_norms,
    stale_from,
    staleness,
)
from tfprune.stripping.prunable import prunable
from tfprune.stripping.strip import strip
from tfprune.stripping.strip_report import StripReport
from tfprune.units.selection import selection as selections


@dataclass(frozen=True)
class PruneReport(Printable):
    """The report of `prune`; prints as tables.

    Attributes:
        target: The target, in words.
        strip: The `StripReport` of what was removed, layer by layer.
        units, parameters, macs: Before and after, each a `Change`; MACs are None where they are
            not known. Units are those of the model without `blocks`.
        stages: A dict from a stage ("dense", "dense, recalibrated", "pruned", "reconstruct",
            "recalibrate", "fine-tuned") to the metrics of the model that was kept after it, a dict
            from name to float. Without labels, or of a model that is not compiled with a loss,
            that is "error", how far the outputs are from the dense model's, relative. Empty where
            there is no data.
        decisions: For each stage that could be dropped a `Decision`: whether its result was kept,
            and why.
        blocks: The names of the residual blocks that were removed. Their layers are not in `strip`.
        effort: The argument.
        seconds: How long all took.
    """

    target: str
    strip: StripReport
    units: Change
    parameters: Change
    macs: Change
    stages: dict
    decisions: tuple = ()
    blocks: tuple = ()
    effort: str = EFFORTS[0]
    seconds: float = 0.0

    def tables(self):
        """The rich tables that are printed: the layers, the model, the stages."""
        gone = [f"without the blocks {', '.join(self.blocks)}"] if self.blocks else ()
        layers = table(("layer",), ("units",), notes=gone)
        for layer in self.strip.layers:
            layers.add_row(layer.name, changed(Change(layer.before, layer.after), short))
        total = table(("total",), ("before", "after", "ratio"))
        changes = {"units": self.units, "parameters": self.parameters, "MACs": self.macs}
        for name, change in changes.items():
            ratio = "" if change.ratio is None else f"{change.ratio:.3g}"
            total.add_row(name, count(change.before), count(change.after), ratio)
        first = f"{self.target}, in {self.seconds:.3g} s with effort={self.effort!r}"
        if not self.stages:
            return [first, "", layers, "", total]
        names = list(self.stages["dense"])
        stages = table(("stage",), names, notes=[str(each) for each in self.decisions])
        for stage, metrics in self.stages.items():
            stages.add_row(stage, *(number(metrics.get(name)) for name in names))
        return [first, "", layers, "", total, "", stages]


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
            of units to prune; see `tfprune.prune_units`.
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
        verbose: 0 is quiet, 1 shows progress.
        **fit: Further arguments of `keras.Model.fit` for that training (`callbacks`,
            `batch_size`, ...). `validation_data` is also what is evaluated on after each stage, by
            default a part of `data` that is held out, and `validation_split` says how much that
            is; the batch size holds for recovery too.

    Returns:
        The small model, of stock Keras layers, compiled as `model` is; where the class of `model`
        has steps of its own, of that class if its sizes can be changed, and with
        `selection="same_class"` in any case. With `return_report=True`,
        the model and the report.

    Raises:
        ValueError: If an argument is out of its range, data is missing, or the budget cannot be
            met (the error says what can). Nothing is changed then.

    Example:

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
    start = time.perf_counter()
    check_model(model)
    one_of("effort", effort, EFFORTS)
    validation_data = fit.pop("validation_data", None)
    for given in (data, validation_data):
        if given is not None:
            check_fits(model, given)
    recover = checked_recovery(recover, data)
    check_fit(fit, data)
    is_led = check_training(model, data, epochs, recover)
    check_finite_weights(model)
    check_finite_data("data", data)
    check_finite_data("validation_data", validation_data)
    is_free = isinstance(selection, str) and selection == "auto"
    selection = selections.get("global" if is_free else selection, with_blocks=True)
    if selection.blocks:
        depths.check(selection, target, data)
    batch_size = fit.get("batch_size")
    judged, rest, name = _parts(data, validation_data, fit.pop("validation_split", None))
    judge = Judge(model, judged, name)
    masked, given = prunable(model), model
    stages, decisions = {"dense": judge.metrics(model)}, []
    if "recalibrate" in recover and has_norms(model):
        settled = recalibrate(model, rest, batch_size=batch_size, verbose=verbose)
        metrics, decision = _settle(judge, stages["dense"], model, settled, rest)
        decisions.append(decision)
        if decision.kept:
            stages["dense, recalibrated"] = metrics
            model = judge.dense = settled
    is_auto = isinstance(criterion, str) and criterion == "auto"
    criterion = None if is_auto else criterion_of(criterion)
    fits = is_auto or isinstance(criterion, LayerwiseOBS)  # then it is not to see what is judged on
    measured = rest if fits else data

    def pruned_units(dense, of=None, masked=None, **arguments):
        arguments["data"] = measured
        one_shot = OneShot(
            of or dense, dense, judge, recover, rest, batch_size, verbose, **arguments
        )
        if is_auto:
            return one_shot.by_best(masked, effort)
        return one_shot.by_effort(criterion, masked, effort)

    arguments = {
        "target": target,
        "selection": None if is_free else selection,
        "only": only,
        "exclude": exclude,
    }
    deep, blocks = given, ()
    if selection.blocks:
        if model is not given:
            of_model = layer_filter.Counterparts(given, model)
            arguments["selection"] = selection.for_copy(of_model)
            arguments |= {name: of_model.filter(arguments[name]) for name in ("only", "exclude")}
        arguments |= {"data": rest, "verbose": verbose}
        found = depths.at_best_depth(model, pruned_units, judge, **arguments)
        pruned, deep, blocks = found.pruned, found.dense, found.blocks
        decisions.append(found.decision)
    else:
        pruned = pruned_units(model, given, masked, **arguments)
    masked, counts, metrics = pruned.masked, pruned.counts, pruned.metrics
    stages |= pruned.stages
    decisions += pruned.decisions
    small, removed = _stripped(masked, deep, selection.scope == "same_class")
    if epochs:
        _check_steps(small, given, epochs)
        watched = judged if judge.uses_loss else validation_data
        arguments = {"validation_data": watched, "epochs": epochs, "verbose": verbose}
        small, best = _trained(small, model, rest, is_led, {**fit, **arguments}, judge, metrics)
        stages["fine-tuned"] = after = judge.metrics(small)
        note = f"epoch {best} of {epochs}: " if best else "no epoch is better: "
        reason = judge.decide("fine-tuned", metrics, after, note).reason
        decisions.append(Decision("fine-tuned", bool(best), reason))
    if not return_report:
        return small
    units = sum(each.units for each in counts)
    shapes = getattr(target, "input_shapes", None)
    report = PruneReport(
        target=_in_words(target),
        strip=removed,
        units=Change(units, units - sum(each.pruned for each in counts)),
        parameters=Change(model.count_params(), small.count_params()),
        macs=Change(*(total_macs(each, shapes) for each in (model, small))),
        stages={} if stages["dense"] is None else stages,
        decisions=tuple(decisions),
        blocks=blocks,
        effort=effort,
        seconds=time.perf_counter() - start,
    )
    return small, report


def _stripped(masked, model, same_class):
    """The small model, of the class of the model if that has steps of its own, and the report."""
    small, report = strip(masked, same_class=same_class, return_report=True)
    if same_class or not _keras.has_own_steps(model) or _has_steps_of(small, model):
        return small, report
    try:
        kept, its = strip(masked, custom_layers="keep", return_report=True)
    except ValueError:  # it cannot be resized in place
        return small, report
    is_kept = _has_steps_of(kept, model) and kept.count_params() <= small.count_params()
    return (kept, its) if is_kept else (small, report)


def _has_steps_of(small, model):
    return type(small).train_step is type(model).train_step and small.compiled == model.compiled


def _check_steps(small, model, epochs):
    if not _has_steps_of(small, model):
        raise ValueError(
            "The smaller model is a plain one, so the model's own training step would be lost in "
            "the training: `reconstruct` makes a graph of a subclassed model, or its class cannot "
            "hold other sizes. Received: "
            f"epochs={epochs}, model={model.name!r} ({type(model).__name__}). Pass "
            "`recover=()`, or train the model with `tfprune.callbacks.PruneUnits` and call "
            "`tfprune.strip` at the end."
        )


def _parts(data, validation_data, validation_split):
    """The data to judge on, that to recover and train on, and what the first is called."""
    if validation_data is not None or data is None:
        return validation_data, data, "the validation data"
    rest, held_out = hold_out(data, validation_split)
    if held_out is None:
        return data, data, "the data"
    return held_out, rest, "the held-out data"


def _settle(judge, before, model, settled, data):
    """The metrics of a recalibrated dense model, and whether it is to take the model's place."""
    stage, found = "dense, recalibrated", staleness(model, settled)
    note = f"its statistics are off by {found:.2f} standard deviations; "
    if found < STALE:
        return None, Decision(stage, False, note + "that is little")
    if judge.uses_loss:
        after = judge.metrics(settled)
        return after, judge.decide(stage, before, after, note)
    limit = stale_from(count_examples(data))
    reason = note + f"without labels, that is put right from {limit:.2f} on"
    return before, Decision(stage, found >= limit, reason)


def _trained(small, dense, data, is_led, arguments, judge, metrics):
    """The small model with the weights of its best epoch, and which one that is."""
    best = KeepBest(judge, judge.value(metrics), reads_logs=judge.uses_loss and not is_led)
    callbacks = arguments.pop("callbacks", None)
    arguments["callbacks"] = [*keras.tree.flatten(callbacks or []), best]
    if is_led:
        return distill(small, dense, data, **arguments), best.epoch
    with running(small):
        small.fit(**fit_arguments(data), **arguments)
    check_finite_weights(small, " after training")
    return small, best.epoch


def _in_words(target):
    return f"{target:.0%} of the units pruned" if isinstance(target, float) else str(target)
