"""Judges whether a stage of `prune` has made a model better."""

import math
from dataclasses import dataclass

import keras

from tfprune import _keras
from tfprune.measuring.data import as_tuple, has_labels
from tfprune.measuring.metrics import check_data, metrics_of
from tfprune.recovery.output_error import output_errors


@dataclass(frozen=True)
class Decision:
    """Whether the result of a stage was kept, and why.

    Attributes:
        stage: The name of the stage.
        kept: Whether what it made was kept; else the model before it was.
        reason: What was measured, before and after.
    """

    stage: str
    kept: bool
    reason: str

    def __str__(self):
        return f"{self.stage}: {'kept' if self.kept else 'not kept'}, {self.reason}"


class Judge:
    """Measures models: by their loss, or by how far their outputs are from the dense model's.

    Args:
        dense: The dense model. The loss is taken where it is compiled with one, trains with Keras's
            own `train_step`, and `data` has labels.
        data: What is evaluated on, as `hold_out` gives it; None to measure nothing.
        name: What the data is, for reports.

    Attributes:
        dense: The model that agreement is measured with. It may be replaced.
        data: The argument.
    """

    def __init__(self, dense, data, name):
        self.dense = dense
        self.data = data
        self._name = name
        self.uses_loss = self.has_labels and _has_loss(dense)

    @property
    def measures(self):
        """Whether there is data to measure on."""
        return self.data is not None

    @property
    def has_labels(self):
        """Whether there is data, with labels."""
        return self.data is not None and has_labels(self.data)

    def metrics(self, model):
        """The metrics of a model, a dict from name to float; None without data."""
        if self.data is None:
            return None
        return self.evaluate(model) if self.uses_loss else self.distance(model)

    def evaluate(self, model):
        """The metrics that a model is compiled with, a dict from name to float."""
        if not isinstance(self.data, (tuple, list)):
            check_data(self.data)
        found = metrics_of(model, self.data)
        return {name: float(value) for name, value in found.items()}

    def distance(self, model):
        """How far the outputs of a model are from the dense model's, as {"error": float}."""
        data = as_tuple(self.data)
        return {"error": output_errors([model], self.dense, data, held_out=False)[0]}

    def value(self, metrics):
        """What is to be small, of the metrics of a model."""
        return metrics["loss" if self.uses_loss else "error"]

    @property
    def what(self):
        """What is measured and on which data, in words."""
        return f"{'loss' if self.uses_loss else 'error of the outputs'} on {self._name}"

    def decide(self, stage, before, after, note=""):
        """The `Decision` between the metrics before a stage and after it."""
        old, new = self.value(before), self.value(after)
        reason = f"{note}{self.what} {old:.4g} -> {new:.4g}"
        return Decision(stage, is_lower(new, old), reason)


class KeepBest(keras.callbacks.Callback):
    """Keeps the best weights of a training, those it began with included.

    Args:
        judge: A `Judge`.
        before: Float, what it says of the model before.
        reads_logs: Whether `val_loss` in the logs is what the judge would measure.

    Attributes:
        epoch: Integer, the epoch of the best weights, from 1; 0 for those before.
    """

    def __init__(self, judge, before, reads_logs):
        super().__init__()
        self._judge = judge
        self._reads_logs = reads_logs
        self._best = before
        self.epoch = 0

    def on_train_begin(self, logs=None):
        """Keeps the weights before."""
        self._weights = self.model.get_weights()

    def on_epoch_end(self, epoch, logs=None):
        """Keeps the weights, if they are the best."""
        value = (logs or {}).get("val_loss") if self._reads_logs else None
        self._see(epoch + 1, value)

    def on_train_end(self, logs=None):
        """Restores the best weights."""
        optimizer = getattr(self.model, "optimizer", None)  # a model may not be compiled
        if getattr(optimizer, "use_ema", False):  # `fit` has just written the averages
            self._see(self.params["epochs"], None)
        self.model.set_weights(self._weights)

    def _see(self, epoch, value):
        if value is None:
            value = self._judge.value(self._judge.metrics(self.model))
        if is_lower(value, self._best):
            self._best, self.epoch, self._weights = value, epoch, self.model.get_weights()


def is_lower(new, old):
    """Whether a number is lower than another; not if it is NaN."""
    return new < old or (math.isnan(old) and not math.isnan(new))


def _has_loss(model):
    """Whether a model has a loss that copies of it, which may be plain models, have as well."""
    if not getattr(model, "compiled", False) or not _keras.has_stock_train_step(model):
        return False
    return _keras.compile_arguments(model).get("loss") is not None
