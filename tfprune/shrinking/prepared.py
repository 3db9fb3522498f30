"""Preparation of a dense model for `prune` and `pareto`, done once for several targets."""

import functools
import time

import keras

from tfprune import _keras
from tfprune._tools import progress
from tfprune._tools.checks import check_model, one_of
from tfprune._tools.finite import check_finite_data, check_finite_weights
from tfprune._tools.tables import Change
from tfprune.coupling.costs import total_macs
from tfprune.criteria import LayerwiseOBS
from tfprune.masks import layer_filter
from tfprune.measuring.data import (
    as_tuple,
    check_ends,
    check_fits,
    check_kind,
    fit_arguments,
    has_labels,
    running,
)
from tfprune.measuring.replicas import replicas_of
from tfprune.recovery import distill, recalibrate
from tfprune.shrinking import depths
from tfprune.shrinking.held_out import count_examples, hold_out
from tfprune.shrinking.judging import Decision, Judge, KeepBest
from tfprune.shrinking.one_shot import EFFORTS, OneShot, criterion_of
from tfprune.shrinking.prune_arguments import (
    check_fit,
    check_training,
    checked_recovery,
)
from tfprune.shrinking.prune_report import PruneReport
from tfprune.shrinking.quantized import check_quantize, quantized
from tfprune.shrinking.stale_statistics import (
    STALE,
    has_norms,
    stale_from,
    staleness,
)
from tfprune.stripping.prunable import prunable
from tfprune.stripping.strip import strip
from tfprune.units.accuracy import check_target
from tfprune.units.selection import selection as selections


class Prepared:
    """A dense model that is ready to be pruned to one target or several, each from the beginning.

    Args:
        model, data, criterion, selection, recover, effort, epochs, only, exclude, verbose, **fit:
            Those of `tfprune.prune`.

    Raises:
        TypeError: If an argument is unknown.
        ValueError: If an argument is out of its range, or data is missing.

    Attributes:
        model: The model given.
        judge: The `Judge` of models, with the data that is held out.
        verbose: The argument.
    """

    def __init__(
        self, model, data, *, criterion="auto", selection="auto", recover="auto", effort="fast",
        epochs=0, only=None, exclude=None, verbose=0, **fit,
    ):  # fmt: skip
        self._start = time.perf_counter()
        check_model(model)
        one_of("effort", effort, EFFORTS)
        data, validation_data = as_tuple(data), as_tuple(fit.pop("validation_data", None))
        self._quantize = fit.pop("quantize", None)
        check_quantize(self._quantize, model)
        for name, given in (("data", data), ("validation_data", validation_data)):
            if given is not None:
                check_kind(given, name)
                check_fits(model, given, name)
        recover = checked_recovery(recover, data)
        trains_on_all = epochs and fit.get("steps_per_epoch") is None
        if validation_data is None or set(recover) - {"distill"} or trains_on_all:
            check_ends(data)
        check_ends(validation_data, "validation_data")
        check_fit(fit, data, epochs)
        self._is_led = check_training(model, data, epochs, recover, fit)
        if epochs:
            replicas_of(model).check_can_fit()
        check_finite_weights(model)
        check_finite_data("data", data)
        check_finite_data("validation_data", validation_data)
        is_free = isinstance(selection, str) and selection == "auto"
        self.selection = selections.get("global" if is_free else selection, with_blocks=True)
        judged, rest, name = _parts(data, validation_data, fit.pop("validation_split", None))
        self.model, self.judge = model, Judge(model, judged, name)
        self._data, self._rest, self._validation_data = data, rest, validation_data
        self._recover, self._effort, self._epochs = recover, effort, epochs
        self._fit, self.verbose = fit, verbose
        self._filters = {"only": only, "exclude": exclude}
        is_auto = isinstance(criterion, str) and criterion == "auto"
        self._criterion = None if is_auto else criterion_of(criterion)
        self._passed_selection = None if is_free else self.selection

    def check(self, target):
        """Raises a `ValueError` where it is known at once that a target cannot be served."""
        check_target(target)
        if self.selection.blocks:
            depths.check(self.selection, target, self._data)

    @functools.cached_property
    def _settled(self):
        """The dense model with right batch statistics, the stages so far, and the decisions."""
        judge, given = self.judge, self.model
        self._masked = prunable(given)
        stages, decisions = {"dense": judge.metrics(given)}, []
        if "recalibrate" not in self._recover or not has_norms(given):
            return given, stages, decisions
        options = {"batch_size": self._fit.get("batch_size"), "verbose": self.verbose}
        with progress.stage("Recalibrate the dense model", verbose=self.verbose):
            settled = recalibrate(given, self._rest, **options)
        metrics, decision = _settle(judge, stages["dense"], given, settled, self._rest)
        decisions.append(decision)
        if not decision.kept:
            return given, stages, decisions
        stages["dense, recalibrated"] = metrics
        judge.dense = settled
        return settled, stages, decisions

    @property
    def denses(self):
        """The model given, and the same with right batch statistics where its own are stale."""
        settled = self._settled[0]
        return [self.model] if settled is self.model else [self.model, settled]

    def to(self, target):
        """The small model by a target, and its `PruneReport`.

        Raises:
            ValueError: If the target is out of range or cannot be met.
        """
        self.check(target)
        start, self._start = self._start or time.perf_counter(), None
        model, stages, decisions = self._settled
        stages, decisions = dict(stages), list(decisions)
        masked, self._masked = self._masked, None
        given, selection, judge = self.model, self.selection, self.judge
        arguments = {"target": target, "selection": self._passed_selection, **self._filters}
        deep, blocks = given, ()
        if selection.blocks:
            if model is not given:
                of_model = layer_filter.Counterparts(given, model)
                arguments["selection"] = selection.for_copy(of_model)
                arguments |= {
                    name: of_model.filter(arguments[name]) for name in ("only", "exclude")
                }
            arguments |= {"data": self._rest, "verbose": self.verbose}
            found = depths.at_best_depth(model, self._pruned, judge, **arguments)
            pruned, deep, blocks = found.pruned, found.dense, found.blocks
            decisions.append(found.decision)
        else:
            pruned = self._pruned(model, given, masked, **arguments)
        stages |= pruned.stages
        decisions += pruned.decisions
        with progress.stage("Strip", verbose=self.verbose):
            small, removed = _stripped(pruned.masked, deep, selection.scope == "same_class")
        if self._epochs:
            small = self._fine_tuned(small, pruned.metrics, stages, decisions)
        units = sum(each.units for each in pruned.counts)
        shapes = getattr(target, "input_shapes", None)
        parameters = Change(model.count_params(), small.count_params())
        macs = Change(*(total_macs(each, shapes) for each in (model, small)))
        if self._quantize:
            decisions.append(self._quantized(small, stages))
        return small, PruneReport(
            target=_in_words(target),
            strip=removed,
            units=Change(units, units - sum(each.pruned for each in pruned.counts)),
            parameters=parameters,
            macs=macs,
            bytes=Change(*map(_keras.weight_bytes, (model, small))),
            stages={} if stages["dense"] is None else stages,
            decisions=tuple(decisions),
            blocks=blocks,
            effort=self._effort,
            seconds=time.perf_counter() - start,
        )

    def _pruned(self, dense, of=None, masked=None, **arguments):
        """The `Pruned` model of a dense one, by the criterion or the best of several."""
        fits = self._criterion is None or isinstance(self._criterion, LayerwiseOBS)
        arguments["data"] = self._rest if fits else self._data  # not to see what is judged on
        one_shot = OneShot(
            of or dense,
            dense,
            self.judge,
            self._recover,
            self._rest,
            self._fit.get("batch_size"),
            self.verbose,
            **arguments,
        )
        if self._criterion is None:
            return one_shot.by_best(masked, self._effort)
        return one_shot.by_effort(self._criterion, masked, self._effort)

    def _fine_tuned(self, small, metrics, stages, decisions):
        """The small model after training; adds its stage and the decision to those so far."""
        _check_steps(small, self.model, self._epochs)
        judge, epochs = self.judge, self._epochs
        arguments = {"validation_data": self._watched(), "epochs": epochs, "verbose": self.verbose}
        dense, arguments = self._settled[0], {**self._fit, **arguments}
        name = "Distill" if self._is_led else "Fine-tune"
        with progress.stage(name, verbose=self.verbose):
            small, best = _trained(
                small, dense, self._rest, self._is_led, arguments, judge, metrics
            )
        stages["fine-tuned"] = after = judge.metrics(small)
        note = f"epoch {best} of {epochs}: " if best else "no epoch is better: "
        reason = judge.decide("fine-tuned", metrics, after, note).reason
        decisions.append(Decision("fine-tuned", bool(best), reason))
        return small

    def _watched(self):
        """What a training is validated on, if that is what it has a loss for."""
        judge, validation_data = self.judge, self._validation_data
        if judge.uses_loss or not has_labels(self._data):
            return judge.data
        needs_labels = self._is_led or _keras.has_stock_train_step(self.model)
        has_what_it_needs = judge.has_labels or not needs_labels
        return validation_data if has_what_it_needs else None

    def _quantized(self, small, stages):
        """Quantizes the small model; adds the stage, and gives the `Decision`, always to keep."""
        judge, mode = self.judge, self._quantize
        before = judge.metrics(small)
        with progress.stage("Quantize", verbose=self.verbose):
            reason = quantized(small, mode)
        if before is None:
            return Decision(mode, True, reason)
        stages[mode] = judge.metrics(small)
        return Decision(mode, True, judge.decide(mode, before, stages[mode], f"{reason}; ").reason)


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
    arguments["callbacks"] = [
        *keras.tree.flatten(callbacks or []),
        best,
        *progress.of_training(),
    ]
    if is_led:
        return distill(small, dense, data, **arguments), best.epoch
    with running(small):
        small.fit(**fit_arguments(data), **arguments)
    check_finite_weights(small, " after training")
    return small, best.epoch


def _in_words(target):
    return f"{target:.0%} of the units pruned" if isinstance(target, float) else str(target)
