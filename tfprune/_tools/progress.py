"""Progress of long work: one bar for each stage, with its name, on a terminal."""

import contextlib
import contextvars
import math
import os
import sys

import keras
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

_DISPLAY = contextvars.ContextVar("tfprune_progress", default=None)
_BAR = contextvars.ContextVar("tfprune_bar", default=None)
"""The bar that passes over data advance."""


def on_terminal():
    """Whether what is written to stderr is seen on a terminal."""
    return bool(sys.stderr is not None and sys.stderr.isatty())


@contextlib.contextmanager
def shown(verbose):
    """Shows the stages in the block as bars on stderr, where that is a terminal.

    Args:
        verbose: 0 is quiet.

    Yields:
        What `verbose` is for the work in the block: 0 where bars are shown, else as it is.
    """
    if _DISPLAY.get() is not None or not verbose or not on_terminal():
        yield verbose if _DISPLAY.get() is None else 0
        return
    with open(os.dup(sys.stderr.fileno()), "w") as terminal:  # noqa: PTH123 (a descriptor)
        columns = (
            TextColumn("{task.description:<28}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[state]}", markup=False),
        )
        display = Progress(
            *columns, console=Console(file=terminal), redirect_stdout=sys.stdout.isatty()
        )
        token = _DISPLAY.set(display)
        try:
            with display:
                yield 0
        finally:
            _DISPLAY.reset(token)


@contextlib.contextmanager
def stage(name, total=None, *, verbose=0):
    """A stage of work: one bar, which begins anew where the stage comes again.

    Args:
        name: What is done, a few words.
        total: How many steps it has; without it, passes over data in the block advance the bar.
        verbose: Where no bars are shown, 1 prints the name, or Keras's bar of the steps.

    Yields:
        An object with `add(steps)` and `say(text)`.

    Example:

    >>> with stage("Reconstruct", verbose=1) as bar:
    ...     bar.add(1)
    Reconstruct
    """
    display = _DISPLAY.get()
    if display is None:
        if verbose and total is None:
            print(name, flush=True)
        bar = _KerasBar(total, verbose)
    else:
        bar = _Bar(display, name, total)
    token = _BAR.set(bar if display is not None and total is None else None)
    try:
        yield bar
    finally:
        _BAR.reset(token)
    bar.end()


def of_pass(batches):
    """Callbacks for a pass of `evaluate` over data, which advance the bar of the stage.

    Args:
        batches: How many batches it has, infinite where that is not known.
    """
    bar = _BAR.get()
    if bar is None:
        return []
    if math.isfinite(batches):
        bar.expect(batches)
    return [_Pass(bar)]


def of_training():
    """Callbacks for `fit`, which advance the bar of the stage and tell the epoch's metrics."""
    bar = _BAR.get()
    return [] if bar is None else [_Training(bar)]


class _Bar:
    """A bar on the terminal."""

    def __init__(self, display, name, total):
        tasks = {task.description: task.id for task in display.tasks}
        self._display = display
        self._total, self._done = total or 0, 0
        if name in tasks:
            self._task = tasks[name]
            display.reset(self._task, total=total, state="")
        else:
            self._task = display.add_task(name, total=total, state="")

    def add(self, steps):
        self._done += steps
        self._display.update(self._task, completed=self._done)

    def expect(self, steps):
        self._total += steps
        self._display.update(self._task, total=self._total)

    def say(self, text):
        self._display.update(self._task, state=text)

    def end(self):
        done = self._done or 1
        self._display.update(self._task, total=done, completed=done)


class _KerasBar:
    """Keras's bar, or nothing without a total."""

    def __init__(self, total, verbose):
        self._bar = keras.utils.Progbar(total, verbose=verbose) if total and verbose else None
        self._done = 0

    def add(self, steps):
        self._done += steps
        if self._bar is not None:
            self._bar.update(self._done)

    def say(self, text):
        """Nothing: there is no place for it."""

    def end(self):
        if self._bar is not None and self._done:
            self._bar.update(self._done, finalize=True)


class _Pass(keras.callbacks.Callback):
    def __init__(self, bar):
        super().__init__()
        self._bar = bar

    def on_test_batch_end(self, batch, logs=None):
        self._bar.add(1)


class _Training(keras.callbacks.Callback):
    def __init__(self, bar):
        super().__init__()
        self._bar = bar

    def on_train_begin(self, logs=None):
        epochs, steps = self.params.get("epochs"), self.params.get("steps")
        if epochs and steps:
            self._bar.expect(epochs * steps)

    def on_train_batch_end(self, batch, logs=None):
        self._bar.add(1)

    def on_epoch_end(self, epoch, logs=None):
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in (logs or {}).items())
        self._bar.say(f"epoch {epoch + 1}/{self.params.get('epochs')}: {metrics}")
