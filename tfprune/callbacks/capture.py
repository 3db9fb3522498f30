"""Captures snapshots of training at given steps."""

import pathlib
from collections.abc import Iterable

import keras

from tfprune._tools.checks import is_integer
from tfprune._tools.registry import Configurable
from tfprune.callbacks.needs_built import NeedsBuilt
from tfprune.masks.first_step import current_step
from tfprune.masks.rewinding import Snapshot, capture


@keras.saving.register_keras_serializable("tfprune")
class Capture(Configurable, NeedsBuilt):
    """Captures the state of training at given steps, to rewind to one of them later.

    A snapshot is taken when `optimizer.iterations` reaches the step: 0 is before the first. Steps
    before the one at which training begins are skipped. `snapshots` holds the snapshots by step;
    with a `path` they are also written there, see `tfprune.masks.rewinding.Snapshot.load`.

    List the callback before those that change masks, to capture the weights before the change.

    Args:
        steps: An integer of at least 0, or a sequence of them.
        path: The directory for files `step_<step>.npz`. Default: none are written.

    Raises:
        ValueError: If the steps are not integers; while training, if hooks run past a step
            (`steps_per_execution`).

    Example:

    >>> import numpy as np
    >>> import tfprune
    >>> model = keras.Sequential([keras.Input((4,)), tfprune.layers.Dense(2)])
    >>> model.compile("adam", "mse")
    >>> early = Capture([0, 2])
    >>> x, y = np.ones((8, 4)), np.ones((8, 2))
    >>> history = model.fit(x, y, batch_size=2, callbacks=[early], verbose=0)
    >>> early.snapshots
    {0: Snapshot(step=0, weights=2, optimizer=6), 2: Snapshot(step=2, weights=2, optimizer=6)}
    >>> tfprune.rewind(model, early.snapshots[2])
    """

    def __init__(self, steps, path=None):
        super().__init__()
        given = list(steps) if isinstance(steps, Iterable) else [steps]
        if not all(is_integer(step) and step >= 0 for step in given):
            raise ValueError(
                "Argument `steps` must be an integer of at least 0, or a sequence of them. "
                f"Received: steps={steps!r}."
            )
        self.steps = sorted({int(step) for step in given})
        self.path = None if path is None else pathlib.Path(path)
        self.snapshots = {}
        self._ahead = []

    def on_train_begin(self, logs=None):
        """Captures the step at which training begins."""
        self._ahead = [step for step in self.steps if step >= current_step(self.model)]
        self._capture()

    def on_train_batch_end(self, batch, logs=None):
        """Captures the step that has been reached."""
        self._capture()

    def _capture(self):
        if not self._ahead or self._ahead[0] > current_step(self.model):
            return
        step = self._ahead.pop(0)
        if step != current_step(self.model):
            raise ValueError(
                "A step can be captured only where hooks of callbacks run. Received: "
                f"step={step}, but the next hook came at step {current_step(self.model)}. With "
                "`steps_per_execution=n` capture multiples of n."
            )
        self.snapshots[step] = capture(self.model)
        if self.path is not None:
            self.snapshots[step].save(self.path / f"step_{step}.npz")

    def get_state(self):
        """The state for `BackupAndRestore`: the snapshots."""
        return {step: vars(snapshot) for step, snapshot in self.snapshots.items()}

    def set_state(self, state):
        """Gives the state back."""
        self.snapshots = {step: Snapshot(**parts) for step, parts in state.items()}
        self._ahead = [step for step in self._ahead if step not in self.snapshots]

    def get_config(self):
        """The arguments that make this callback again."""
        return {"steps": self.steps, "path": None if self.path is None else str(self.path)}
