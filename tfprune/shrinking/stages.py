"""Stages of `fit_and_shrink`: their epochs and targets, and the results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import keras
import numpy as np

from tfprune._tools.checks import check_integer, is_integer, is_number
from tfprune._tools.tables import Change, Printable, changed, count, number, short, table
from tfprune.stripping.strip_report import StripReport
from tfprune.units.accuracy import check_says_how_much

STEPS = 4
"""The number of steps to a single fraction."""


def plan_stages(stages, initial_epoch, epochs):
    """The epochs at whose beginning units are pruned, with the targets.

    Args:
        stages: See `tfprune.fit_and_shrink`.
        initial_epoch, epochs: Integers, as in `fit`.

    Returns:
        A tuple of pairs of an epoch and a target.

    Raises:
        ValueError: If there are none, an epoch is not trained, targets fall, or training is too
            short for so many.

    Example:

    >>> plan_stages(0.8, initial_epoch=0, epochs=10)
    ((1, 0.2), (2, 0.4), (3, 0.6), (5, 0.8))
    >>> plan_stages({2: 0.5, 4: 0.75}, initial_epoch=0, epochs=6)
    ((2, 0.5), (4, 0.75))
    """
    for name, value in (("initial_epoch", initial_epoch), ("epochs", epochs)):
        check_integer(name, value, least=0)
    if isinstance(stages, Mapping):
        pairs = tuple(stages.items())
    else:
        pairs = _spread(stages, initial_epoch, epochs)
    _check_epochs([epoch for epoch, _ in pairs], stages, initial_epoch, epochs)
    _check_targets([target for _, target in pairs], stages)
    return pairs


def _spread(stages, initial_epoch, epochs):
    """Over the first half of training; the other half is left to recover."""
    trained = epochs - initial_epoch
    if is_number(stages):
        steps = max(1, min(STEPS, trained // 2))
        stages = [round(stages * (step + 1) / steps, 12) for step in range(steps)]
    elif not isinstance(stages, Sequence) or isinstance(stages, str):
        stages = [stages]
    size = len(stages)
    if size > 1 and trained < 2 * size:
        raise ValueError(
            "Training is too short to spread the stages over its first half, each at least an "
            f"epoch. Received: {size} stages, {trained} epochs. Train {2 * size} epochs, or say "
            "at which epochs units go: `stages={epoch: target, ...}`."
        )
    return tuple(
        (initial_epoch + (index + 1) * trained // (2 * size), target)
        for index, target in enumerate(stages)
    )


def _check_epochs(epochs_given, stages, initial_epoch, epochs):
    if not epochs_given:
        raise ValueError(f"Argument `stages` must hold a target. Received: stages={stages!r}.")
    for epoch in epochs_given:
        if not is_integer(epoch) or not initial_epoch <= epoch < epochs:
            raise ValueError(
                "Argument `stages` must name epochs that are trained, as integers from "
                f"{initial_epoch} to {epochs - 1}. Received: epoch={epoch!r}, stages={stages!r}."
            )
    if sorted(epochs_given) != list(epochs_given):
        raise ValueError(f"The epochs in argument `stages` must rise. Received: stages={stages!r}.")


def _check_targets(targets, stages):
    for target in targets:
        check_says_how_much(target)
    numbers = [target for target in targets if is_number(target)]
    if not all(0 <= target <= 1 for target in numbers):
        raise ValueError(
            f"The targets in argument `stages` must be from 0 to 1. Received: stages={stages!r}."
        )
    if len(numbers) == len(targets) and sorted(numbers) != numbers:
        raise ValueError(
            "The targets in argument `stages` must rise: each is a fraction of all units that the "
            f"model had, and what is gone does not come back. Received: stages={stages!r}."
        )


@dataclass(frozen=True)
class Stage:
    """The epochs of training with one model.

    Attributes:
        epoch: The first epoch.
        target: The target of its pruning; None before the first.
        units: A `Change`, the units that can go, as they were before the stage and in it.
        parameters: A `Change`, the elements of weights.
        macs: A `Change`, multiply-accumulates for one sample; of None where they are not known.
        seconds: How long pruning and rebuilding took; 0 where nothing went.
        epoch_seconds: How long each epoch took, its validation included. The first has the
            tracing in it.
        report: What the model has of the units of the model given, and the reason for every unit
            that is masked and had to stay: a `tfprune.stripping.strip_report.StripReport`.
    """

    epoch: int
    target: object
    units: Change
    parameters: Change
    macs: Change
    seconds: float
    epoch_seconds: tuple = ()
    report: StripReport | None = field(default=None, repr=False)

    @property
    def seconds_per_epoch(self):
        """The median over the epochs after the first, or that of the only one; None without."""
        times = self.epoch_seconds[1:] or self.epoch_seconds
        return float(np.median(times)) if times else None


@dataclass(frozen=True, eq=False)
class ShrinkResult(Printable):
    """The result of `fit_and_shrink`.

    Attributes:
        model: The small model, compiled and with its optimizer's slots, so it can be trained on.
        history: The `keras.callbacks.History` of all epochs.
        stages: A tuple of `Stage`, in order. There are fewer than given where a callback
            stopped the training.
    """

    model: keras.Model = field(repr=False)
    history: keras.callbacks.History = field(repr=False)
    stages: tuple = ()

    def tables(self):
        """The rich table that is printed, a row for each stage."""
        kept = sum(len(stage.report.kept) for stage in self.stages[-1:] if stage.report)
        notes = (f"{kept} masked units had to stay: see stages[-1].report",) if kept else ()
        columns = ("epochs", "units", "parameters", "MACs", "rebuilt in s", "s / epoch")
        rows = table(("target",), columns, self.model.name, notes)
        for stage in self.stages:
            last = stage.epoch + len(stage.epoch_seconds) - 1
            rows.add_row(
                "none" if stage.target is None else str(stage.target),
                f"{stage.epoch}-{last}",
                changed(stage.units, count),
                changed(stage.parameters, count),
                changed(stage.macs, short),
                f"{stage.seconds:.2f}",
                number(stage.seconds_per_epoch),
            )
        return (rows,)
