"""Checks of the arguments of `prune`."""

import inspect

import keras

from tfprune._tools.checks import check_integer, is_number
from tfprune.measuring.data import labels_given
from tfprune.recovery.unlabelled import check_unlabelled

_RECOVERIES = ("reconstruct", "recalibrate", "distill")
_FIT = set(inspect.signature(keras.Model.fit).parameters) - {
    *("self", "x", "y", "epochs", "verbose")
}
_BESIDES = {"batch_size", "validation_split", "validation_batch_size", "validation_steps"}
"""What is used without a training too, or says nothing of one."""


def checked_recovery(recover, data):
    """The names of the ways to recover, in a tuple.

    Raises:
        ValueError: If one is unknown, or there is no data for it.
    """
    if isinstance(recover, str) and recover == "auto":
        return _RECOVERIES[:2] if data is not None else ()
    recover = (recover,) if isinstance(recover, str) else tuple(recover or ())
    unknown = [name for name in recover if name not in _RECOVERIES]
    if unknown:
        raise ValueError(
            f'Argument `recover` must be "auto" or hold names among {_RECOVERIES}. '
            f"Received: {unknown}."
        )
    if recover and data is None:
        raise ValueError(
            "Recovery is measured on data. "
            f"Received: recover={recover}, data=None. Pass `data=(x,)` or a dataset."
        )
    return recover


def check_fit(given, data, epochs):
    """Refuses arguments for `fit` that it does not take, or that the data cannot have."""
    for name in ("batch_size", "validation_split"):
        if given.get(name) and not isinstance(data, (tuple, list)):
            raise ValueError(
                f"Argument `{name}` is for data in arrays. "
                f"Received: {name}={given[name]}, data of type {type(data).__name__}."
            )
    if given.get("batch_size") is not None:
        check_integer("batch_size", given["batch_size"])
    split = given.get("validation_split") or 0
    if not is_number(split) or not 0 <= split < 1:
        raise ValueError(
            f"Argument `validation_split` must be from 0 to below 1. Received: {split!r}."
        )
    callbacks = keras.tree.flatten(given.get("callbacks") or [])
    if not all(isinstance(each, keras.callbacks.Callback) for each in callbacks):
        raise ValueError(
            "Argument `callbacks` must be a `keras.callbacks.Callback` or a list of them. "
            f"Received: callbacks={given['callbacks']!r}."
        )
    if given.get("sample_weight") is not None:
        raise ValueError(
            "Sample weights are a part of the data, of which some is held out. Received: "
            "sample_weight. Pass `data=(x, y, sample_weight)`."
        )
    unknown = sorted(set(given) - _FIT)
    if unknown:
        raise TypeError(
            "Arguments must be those of `prune` or `keras.Model.fit`. "
            f"Received: {unknown}. Arguments of the criterion go to "
            '`criterion=tfprune.criteria.L1(aggregate="max")`, those of the selection to '
            '`selection=tfprune.Selection("global", round_to=8)`.'
        )
    unused = [] if epochs else sorted(n for n in set(given) - _BESIDES if given[n] is not None)
    if unused:
        raise ValueError(
            "Arguments of `fit` are for the training, and there is none. "
            f"Received: {unused}, epochs={epochs}. Pass `epochs` too, or leave them out."
        )


def check_training(model, data, epochs, recover, given):
    """Refuses to train without data, on labels without a loss, or to lead no training.

    Returns:
        Whether the dense model leads the training: where that is asked for, or there are no labels.
    """
    check_integer("epochs", epochs, least=0)
    has_labels = data is not None and bool(epochs) and labels_given(data)
    if epochs and (data is None or (has_labels and not model.compiled)):
        raise ValueError(
            "Training needs `data`, and labels a compiled model; data without labels, `(x,)`, is "
            "trained on towards the outputs of the dense model. "
            f"Received: epochs={epochs}, data of type {type(data).__name__}, model={model.name!r} "
            f"({'compiled' if model.compiled else 'not compiled'})."
        )
    if "distill" in recover and not epochs:
        raise ValueError(
            "The dense model can lead a training only where there is one. "
            f"Received: recover={recover}, epochs=0. Pass `epochs` too."
        )
    if epochs and not has_labels:
        check_unlabelled(data, given)
    return "distill" in recover or not has_labels
