"""Pruning of units with recovery, by one criterion or the best of several, at once or in rounds."""

import contextlib
from dataclasses import dataclass

import keras
import tensorflow as tf

from tfprune._tools import progress as progress_bars
from tfprune.coupling.failures import core
from tfprune.criteria import LayerwiseOBS
from tfprune.criteria import units as criteria
from tfprune.masks import layer_filter
from tfprune.recovery import recalibrate, reconstruct
from tfprune.shrinking.judging import Decision, is_lower
from tfprune.shrinking.rounds import targets_of_rounds
from tfprune.shrinking.stale_statistics import copy_statistics, has_norms
from tfprune.stripping.prunable import prunable
from tfprune.units.budgets import UnmetError
from tfprune.units.prune_units import prune_by
from tfprune.units.scores import UnitScores
from tfprune.units.selection import selection as selections

EFFORTS = ("fast", "best")

FIRST = "layerwise_obs"
"""The criterion that "auto" takes where the model and the data have what it needs."""

WITHOUT_LABELS = ("magnitude", "l2", "activation_variance")
"""The criteria besides. What is best differs from network to network."""

WITH_LABELS = ("magnitude", "l2", "second_order")

NORMALIZED = {"second_order": None, "layerwise_obs": None}
"""They estimate a change of one error: scores of different layers can be compared as they are."""

ROUND_RIDGE = 1e-2
"""The ridge of the fit after a round, which is not judged."""

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
        target, data, only, exclude: As for `tfprune.prune_units`; layers are those of the model
            given.
        selection: A `Selection`, or None for what suits the criterion.
    """

    def __init__(
        self, model, dense, judge, recover, examples, batch_size, verbose, *, target, selection,
        data, only, exclude,
    ):  # fmt: skip
        self.model, self.dense, self.judge = model, dense, judge
        self.target, self.selection, self.data = target, selection, data
        self.examples, self.layers = examples, {"only": only, "exclude": exclude}
        self.recover = [name for name in ("reconstruct", "recalibrate") if name in recover]
        self.options = {"batch_size": batch_size, "verbose": verbose}

    def by(self, criterion, masked=None, *, in_rounds=False):
        """The `Pruned` model by one criterion.

        Args:
            criterion: A `tfprune.criteria.Criterion`.
            masked: What `prunable` made of the model, or None to make it.
            in_rounds: Whether the target is reached in rounds.
        """
        masked = prunable(self.model) if masked is None else masked
        if self.dense is not self.model:
            copy_statistics(self.dense, masked)
        selection = self._selection(criterion)
        targets = targets_of_rounds(self.target, selection)
        for target, progress in targets[:-1] if in_rounds else ():
            self._prune(masked, criterion, selection, target, progress)
            masked = self._fitted(masked)
        counts = self._prune(masked, criterion, selection, self.target)
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

    def by_best(self, masked, effort):
        """The best `Pruned` model of those by the criteria of "auto".

        With the effort "fast" that is the one by "layerwise_obs" at once, or, where the model or
        the data lack what it needs, the best of those by others. With "best" it is the best of all,
        also of "layerwise_obs" in rounds. Only "magnitude" is taken where nothing is measured or
        recovered, and where no unit is pruned.
        """
        others = WITH_LABELS if self.judge.uses_loss else WITHOUT_LABELS
        if not self.judge.measures or not self.recover:
            return self.by(criterion_of(others[0]), masked)
        tried, found, best = [(FIRST, False)], {}, None
        if effort == "best":
            tried += [(FIRST, True), *((name, False) for name in others)]
        for name, in_rounds in tried:  # which may grow
            label = f"{name} in rounds" if in_rounds else name
            try:
                pruned = self.by(criterion_of(name), masked, in_rounds=in_rounds)
            except UnmetError:
                raise
            except _LACKS as error:
                if name != FIRST and name == others[0]:
                    raise
                found[label] = core(str(error)).split(". ")[0]
                if effort != "best":
                    tried += [(other, False) for other in others if (other, False) not in tried]
                continue
            finally:
                masked = None
            value = self.judge.value(pruned.metrics)
            found[label] = f"{value:.4g}"
            if best is None or is_lower(value, best[0]):
                best = value, label, pruned
            if not pruned.decisions and not any(each.pruned for each in pruned.counts):
                break  # the model meets the target as it is
        _, selected, pruned = best
        listed = ", ".join(f"{name} {value}" for name, value in found.items())
        decision = Decision(
            f"criterion {selected!r}", True, f"{self.judge.what} by criterion: {listed}"
        )
        return Pruned(
            pruned.masked,
            pruned.counts,
            pruned.metrics,
            pruned.stages,
            (decision, *pruned.decisions),
        )

    def by_effort(self, criterion, masked, effort):
        """The `Pruned` model by one criterion; with the effort "best", that in rounds if better."""
        pruned = self.by(criterion, masked)
        if effort != "best" or not self.judge.measures or not self.recover:
            return pruned
        other = self.by(criterion, in_rounds=True)
        values = [self.judge.value(each.metrics) for each in (pruned, other)]
        is_better = is_lower(values[1], values[0])
        reason = f"{self.judge.what} at once {values[0]:.4g}, in rounds {values[1]:.4g}"
        selected = other if is_better else pruned
        decisions = (Decision("rounds", is_better, reason), *selected.decisions)
        return Pruned(
            selected.masked, selected.counts, selected.metrics, selected.stages, decisions
        )

    def _selection(self, criterion):
        """The selection: by prices for what is saved, where the criterion has prices."""
        if self.selection is not None:
            return self.selection
        return selections.get("greedy" if isinstance(criterion, LayerwiseOBS) else "global")

    def _prune(self, masked, criterion, selection, target, progress=1.0):
        """Prunes a masked model in place; gives the counts of units."""
        of_masked = layer_filter.Counterparts(self.model, masked)
        layers = {name: of_masked.filter(each) for name, each in self.layers.items()}
        scoring = UnitScores(criterion, data=self.data, verbose=self.options["verbose"])
        selection = selection.for_copy(of_masked)
        with self._stage("Prune units"):
            return prune_by(
                scoring, masked, target, selection=selection, progress=progress, **layers
            )

    def _fitted(self, masked):
        """The model after a round, its layers fitted to the dense model's where they can be."""
        if "reconstruct" not in self.recover:
            return masked
        with contextlib.suppress(ValueError), self._stage("Reconstruct"):
            return reconstruct(masked, self.dense, self.examples, ridge=ROUND_RIDGE, **self.options)
        return masked

    def _recovered(self, name, masked):
        """The masked model after a recovery."""
        with self._stage(name.capitalize()):
            if name == "reconstruct":
                return reconstruct(masked, self.dense, self.examples, **self.options)
            return recalibrate(masked, self.examples, **self.options)

    def _stage(self, name):
        return progress_bars.stage(name, verbose=self.options["verbose"])


def criterion_of(identifier):
    """A criterion whose scores are made comparable between layers."""
    normalize = NORMALIZED.get(identifier, "mean") if isinstance(identifier, str) else "mean"
    return criteria.get(identifier, normalize=normalize)
