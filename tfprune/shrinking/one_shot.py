"""Pruning of units in one shot with recovery, by one criterion or the best of several."""

from dataclasses import dataclass

import keras
import tensorflow as tf

from tfprune.coupling.failures import core
from tfprune.criteria import units as criteria
from tfprune.masks import layer_filter
from tfprune.recovery import recalibrate, reconstruct
from tfprune.shrinking.judging import Decision, is_lower
from tfprune.shrinking.settled_norms import copy_statistics, has_norms
from tfprune.stripping.prunable import prunable
from tfprune.units.prune_units import prune_units
from tfprune.units.selection import selection as selections

WITHOUT_LABELS = ("magnitude", "l2", "activation_variance")
"""The criteria that "auto" tries. What is best differs from network to network."""

WITH_LABELS = ("magnitude", "l2", "second_order")

NORMALIZED = {"second_order": None}
"""It estimates a change of the loss: scores of different layers can be compared as they are."""

_LACKS = (ValueError, TypeError, LookupError, tf.errors.OpError)
"""What a criterion raises that needs what the model or the data lack."""


@dataclass(frozen=True, eq=False)
class Pruned:
    """A masked model whose units were pruned, after recovery.

    Attributes:
        masked: The model.
        counts: What `prune_units` returned.
        metrics: The metrics of the model.
        stages: A dict from a stage to the metrics of the model that was kept after it.
        decisions: A `Decision` for each stage of recovery.
    """

    masked: keras.Model
    counts: tuple
    metrics: dict | None
    stages: dict
    decisions: tuple


class OneShot:
    """Prunes copies of a model.

    Args:
        model: The model given.
        dense: The same with statistics of batch normalization that fit the data.
        judge: A `Judge`.
        recover: Tuple of names.
        examples: The data to recover with.
        batch_size, verbose: As for `tfprune.reconstruct`.
        **arguments: Those of `tfprune.prune_units`; layers are those of the model given.
    """

    def __init__(self, model, dense, judge, recover, examples, batch_size, verbose, **arguments):
        self.model, self.dense, self.judge = model, dense, judge
        self.examples, self.arguments = examples, {**arguments, "verbose": verbose}
        self.recover = [name for name in ("reconstruct", "recalibrate") if name in recover]
        self.options = {"batch_size": batch_size, "verbose": verbose}

    def by(self, criterion, masked=None):
        """The `Pruned` model by one criterion.

        Args:
            criterion: A `tfprune.criteria.Criterion`.
            masked: What `prunable` made of the model, or None to make it.
        """
        masked = prunable(self.model) if masked is None else masked
        if self.dense is not self.model:
            copy_statistics(self.dense, masked)
        of_masked, arguments = layer_filter.Counterparts(self.model, masked), {**self.arguments}
        arguments |= {name: of_masked.filter(arguments[name]) for name in ("only", "exclude")}
        selection = selections.get(arguments.pop("selection")).for_copy(of_masked)
        target = arguments.pop("target")
        counts = prune_units(masked, target, criterion, selection=selection, **arguments)
        metrics = self.judge.metrics(masked)
        stages, decisions = {"pruned": metrics}, []
        for name in self.recover if any(each.pruned for each in counts) else ():
            if name == "recalibrate" and not has_norms(masked):
                stages[name] = metrics
                continue
            recovered = self._recovered(name, masked)
            after = self.judge.metrics(recovered)
            decisions.append(self.judge.decide(name, metrics, after))
            if decisions[-1].kept:
                masked, metrics = recovered, after
            stages[name] = metrics
        return Pruned(masked, counts, metrics, stages, tuple(decisions))

    def by_best(self, masked):
        """The best `Pruned` model of those by the criteria of "auto".

        Only the first criterion is taken where nothing is measured or recovered, and where no unit
        is pruned.
        """
        names = WITH_LABELS if self.judge.uses_loss else WITHOUT_LABELS
        best = self.by(criterion_of(names[0]), masked)
        if best.metrics is None or not self.recover or not best.decisions:
            return best
        value, chosen, others = self.judge.value(best.metrics), names[0], {}
        others[chosen] = f"{value:.4g}"
        for name in names[1:]:
            try:
                tried = self.by(criterion_of(name))
            except _LACKS as error:
                others[name] = core(str(error)).split(". ")[0]
                continue
            found = self.judge.value(tried.metrics)
            others[name] = f"{found:.4g}"
            if is_lower(found, value):
                best, value, chosen = tried, found, name
        found = ", ".join(f"{name} {value}" for name, value in others.items())
        decision = Decision(
            f"criterion {chosen!r}", True, f"{self.judge.what} by criterion: {found}"
        )
        return Pruned(
            best.masked, best.counts, best.metrics, best.stages, (decision, *best.decisions)
        )

    def _recovered(self, name, masked):
        """The masked model after a recovery."""
        if name == "reconstruct":
            return reconstruct(masked, self.dense, self.examples, **self.options)
        return recalibrate(masked, self.examples, **self.options)


def criterion_of(identifier):
    """A criterion whose scores are made comparable between layers."""
    normalize = NORMALIZED.get(identifier, "mean") if isinstance(identifier, str) else "mean"
    return criteria.get(identifier, normalize=normalize)
