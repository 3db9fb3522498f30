"""Prunes a dense model to a small one in one call."""

import inspect
from dataclasses import dataclass

import keras

from tfprune import _keras
from tfprune._tools.checks import check_integer
from tfprune._tools.tables import Change, Printable, changed, count, number, short, table
from tfprune.coupling.costs import total_macs
from tfprune.criteria import units as criteria
from tfprune.masks import layer_filter
from tfprune.measuring.metrics import evaluate, fit_arguments
from tfprune.recovery import distill, recalibrate, reconstruct
from tfprune.stripping.prunable import prunable
from tfprune.stripping.strip import strip
from tfprune.stripping.strip_report import StripReport
from tfprune.units.prune_units import prune_units
from tfprune.units.selection import selection as selections

_RECOVERIES = ("reconstruct", "recalibrate", "distill")
_FIT = set(inspect.signature(keras.Model.fit).parameters) - {
    *("self", "x", "y", "epochs", "validation_data", "verbose")
}


@dataclass(frozen=True)
class PruneReport(Printable):
    """The report of `prune`; prints as tables.

    Attributes:
        target: The target, in words.
        strip: The `StripReport` of what was removed, layer by layer.
        units, parameters, macs: Before and after, each a `Change`; MACs are None where they are
            not known.
        stages: A dict from a stage ("dense", "pruned", "reconstruct", "recalibrate",
            "fine-tuned") to the metrics after it, a dict from name to float. Empty where there is
            no data to evaluate on, or the model is not compiled.
    """

    target: str
    strip: StripReport
    units: Change
    parameters: Change
    macs: Change
    stages: dict

    def tables(self):
        """The rich tables that are printed: the layers, the model, the stages."""
        layers = table(("layer",), ("units",))
        for layer in self.strip.layers:
            layers.add_row(layer.name, changed(Change(layer.before, layer.after), short))
        total = table(("total",), ("before", "after", "ratio"))
        changes = {"units": self.units, "parameters": self.parameters, "MACs": self.macs}
        for name, change in changes.items():
            ratio = "" if change.ratio is None else f"{change.ratio:.3g}"
            total.add_row(name, count(change.before), count(change.after), ratio)
        if not self.stages:
            return [self.target, "", layers, "", total]
        names = list(self.stages["dense"])
        stages = table(("stage",), names)
        for stage, metrics in self.stages.items():
            stages.add_row(stage, *(number(metrics.get(name)) for name in names))
        return [self.target, "", layers, "", total, "", stages]


def prune(
    model,
    target,
    data=None,
    *,
    criterion="auto",
    selection="global",
    recover="auto",
    epochs=0,
    validation_data=None,
    only=None,
    exclude=None,
    return_report=False,
    verbose=0,
    **fit,
):
    """Returns a small model of a dense one: prunes units, recovers accuracy, strips, fine-tunes.

    1. The units with the lowest scores are pruned until the target is met (`tfprune.prune_units`).
    2. With data, the remaining weights of each layer are fitted to the outputs of the dense model
       (`tfprune.reconstruct`), and batch normalisations get new statistics (`tfprune.recalibrate`).
       Neither needs labels.
    3. The units are removed, and the result is checked (`tfprune.strip`).
    4. With `epochs`, the small model is fine-tuned, alone or by distillation from the dense one
       (`tfprune.distill`).

    The model given is not changed. For gradual pruning while a model trains, see
    `tfprune.callbacks.PruneUnits` and `tfprune.fit_and_shrink`.

    Args:
        model: Any Keras model that is built; compiled, to be trained or evaluated.
        target: A budget of `tfprune.budgets` (`MACs(0.5)`, `Latency(2.0)`) or a float, the fraction
            of units to prune; see `tfprune.prune_units`.
        data: `(x, y)`, or a `tf.data.Dataset` or `keras.utils.PyDataset` of batches, for criteria
            that are measured, for recovery, and for training.
        criterion: Which units go first, see `tfprune.prune_units`; "auto" is "magnitude". Scores of
            a criterion given by name, or as a callable, are divided by their mean in each layer, so
            that layers can be ranked together; an object says so itself.
        selection: See `tfprune.prune_units`; here all layers are ranked together by default.
        recover: How accuracy is recovered: a name or a sequence among "reconstruct", "recalibrate"
            and "distill" (in the training of `epochs`). "auto": "reconstruct" and "recalibrate"
            where there is data. `None` or `()` for nothing.
        epochs: Integer, the epochs of fine-tuning.
        validation_data: Data to evaluate on after each stage, and in training; by default `data`.
        only, exclude: See `tfprune.prune_units`; layers are those of `model`.
        return_report: Whether to return a `PruneReport` as well.
        verbose: 0 is quiet, 1 shows progress.
        **fit: Further arguments of `keras.Model.fit` for that training (`callbacks`,
            `batch_size`, ...). The batch size holds for recovery too.

    Returns:
        The small model, of stock Keras layers, compiled as `model` is; with `return_report=True`,
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
    recover = _checked_recovery(recover, data)
    _check_fit(fit, data)
    _check_training(model, data, epochs, recover)
    evaluate = _evaluator(model, validation_data, data)
    stages = {"dense": evaluate(model)}
    masked = prunable(model)
    of_masked = layer_filter.Counterparts(model, masked)
    counts = prune_units(
        masked,
        target,
        criteria.get("magnitude" if criterion == "auto" else criterion, normalize="mean"),
        selection=selections.get(selection).for_copy(of_masked),
        data=data,
        only=of_masked.filter(only),
        exclude=of_masked.filter(exclude),
        verbose=verbose,
    )
    stages["pruned"] = evaluate(masked)
    for name in ("reconstruct", "recalibrate"):
        if name in recover and any(each.pruned for each in counts):
            masked = _recovered(name, masked, model, data, fit.get("batch_size"), verbose)
            stages[name] = evaluate(masked)
    small, removed = strip(masked, return_report=True)
    if epochs:
        arguments = {"validation_data": validation_data, "epochs": epochs, "verbose": verbose}
        small = _trained(small, model, data, "distill" in recover, {**fit, **arguments})
        stages["fine-tuned"] = evaluate(small)
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
    )
    return small, report


def _checked_recovery(recover, data):
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


def _check_fit(given, data):
    if "batch_size" in given and not isinstance(data, (tuple, list)):
        raise ValueError(
            "Argument `batch_size` is for data in arrays. "
            f"Received: batch_size={given['batch_size']}, data of type {type(data).__name__}."
        )
    unknown = sorted(set(given) - _FIT)
    if unknown:
        raise TypeError(
            "Arguments must be those of `prune` or `keras.Model.fit`. "
            f"Received: {unknown}. Arguments of the criterion go to "
            '`criterion=tfprune.criteria.L1(aggregate="max")`, those of the selection to '
            '`selection=tfprune.Selection("global", round_to=8)`.'
        )


def _check_training(model, data, epochs, recover):
    check_integer("epochs", epochs, least=0)
    if epochs and (data is None or not model.compiled):
        raise ValueError(
            "Training needs `data` and a compiled model. "
            f"Received: epochs={epochs}, data of type {type(data).__name__}, model={model.name!r} "
            f"({'compiled' if model.compiled else 'not compiled'})."
        )
    if epochs and not _keras.has_stock_train_step(model):
        raise ValueError(
            "The smaller model is a plain one, so a training step of the model's own would be lost "
            f"in the training. Received: epochs={epochs}, model={model.name!r} "
            f"({type(model).__name__}). Take epochs=0 and train what is returned, or train the "
            "model with `tfprune.callbacks.PruneUnits` and call `tfprune.strip` at the end."
        )
    if "distill" in recover and not epochs:
        raise ValueError(
            "The dense model can lead a training only where there is one. "
            f"Received: recover={recover}, epochs=0. Pass `epochs` too."
        )


def _evaluator(model, validation_data, data):
    """A function from a model to its metrics, or to None where nothing can be evaluated."""
    given = data if validation_data is None else validation_data
    has_labels = not isinstance(given, (tuple, list)) or len(given) > 1
    if given is None or not has_labels or not model.compiled:
        return lambda model: None
    return lambda model: evaluate(model, given) if model.compiled else None


def _recovered(name, masked, dense, data, batch_size, verbose):
    """The masked model after a recovery; itself where there is nothing to recover."""
    options = {"batch_size": batch_size, "verbose": verbose}
    if name == "reconstruct":
        return reconstruct(masked, dense, data, **options)
    layers = _keras.all_layers(masked)
    if not any(isinstance(layer, keras.layers.BatchNormalization) for layer in layers):
        return masked
    return recalibrate(masked, data, **options)


def _trained(small, dense, data, is_led, arguments):
    if is_led:
        return distill(small, dense, data, **arguments)
    small.fit(**fit_arguments(data), **arguments)
    return small


def _in_words(target):
    return f"{target:.0%} of the units pruned" if isinstance(target, float) else str(target)
