"""From a dense model to a small one, in one call."""

from dataclasses import dataclass

import keras

from tfprune import _keras
from tfprune._tools.tables import Change, Printable, changed, count, number, short, table
from tfprune.coupling.costs import costs
from tfprune.measuring.metrics import evaluate
from tfprune.recovery import distill, recalibrate, reconstruct
from tfprune.stripping.prunable import prunable
from tfprune.stripping.strip import StripReport, strip
from tfprune.units.prune_units import prune_units

_RECOVERIES = ("reconstruct", "recalibrate")


@dataclass(frozen=True)
class PruneReport(Printable):
    """What `prune` did; prints itself as tables.

    Attributes:
        budget: What was asked for, in words.
        strip: The `StripReport` of what was removed, layer by layer.
        units, parameters, macs: Before and after, each a `Change`; MACs are None where they are
            not known.
        stages: A dict from what was done ("dense", "pruned", "reconstruct", "recalibrate",
            "fine-tuned") to the metrics after it, a dict from name to float. Empty where there is
            no data to evaluate on, or the model is not compiled.
    """

    budget: str
    strip: StripReport
    units: Change
    parameters: Change
    macs: Change
    stages: dict

    def tables(self):
        """What is printed: a rich table of the layers, one of the model, one of the stages."""
        layers = table(("layer",), ("units",))
        for layer in self.strip.layers:
            layers.add_row(layer.name, changed(Change(layer.before, layer.after), short))
        total = table(("total",), ("before", "after", "ratio"))
        changes = {"units": self.units, "parameters": self.parameters, "MACs": self.macs}
        for name, change in changes.items():
            ratio = "" if change.ratio is None else f"{change.ratio:.3g}"
            total.add_row(name, count(change.before), count(change.after), ratio)
        if not self.stages:
            return [self.budget, "", layers, "", total]
        names = list(self.stages["dense"])
        stages = table(("stage",), names)
        for stage, metrics in self.stages.items():
            stages.add_row(stage, *(number(metrics.get(name)) for name in names))
        return [self.budget, "", layers, "", total, "", stages]


def prune(
    model,
    budget,
    data=None,
    *,
    criterion="magnitude",
    scope="global",
    normalize="mean",
    recover=None,
    epochs=0,
    distilled=False,
    validation_data=None,
    callbacks=None,
    batch_size=None,
    return_report=False,
    verbose=0,
    **options,
):
    """Makes a small model of a dense one: prunes units to a budget, strips, recovers, fine-tunes.

    1. The units with the lowest scores are pruned until the budget is met (`tfprune.prune_units`).
    2. With data, what is left of each layer is fitted to what the dense model computes
       (`tfprune.reconstruct`), and batch normalisations get their statistics anew
       (`tfprune.recalibrate`). Neither needs labels.
    3. The units are removed for real, which is checked (`tfprune.strip`).
    4. With `epochs`, the small model is trained on, alone or led by the dense one
       (`tfprune.distill`).

    For pruning little by little while the model trains, see `tfprune.callbacks.PruneUnits` and
    `tfprune.fit_and_shrink`.

    Args:
        model: A Functional or built Sequential model; compiled, if it shall be trained or
            evaluated. It is not touched.
        budget: What may remain, of `tfprune.budgets`: `MACs(0.5)`, `Latency(2.0)`; or a float, the
            fraction of units to prune.
        data: `(x, y)`, or a `tf.data.Dataset` or `keras.utils.PyDataset` of batches, for criteria
            that are measured, for recovery, and for training.
        criterion, scope, normalize: Which units go first, see `tfprune.prune_units`; here layers
            are ranked together unless said otherwise.
        recover: What is done after pruning, a sequence of "reconstruct" and "recalibrate", in that
            order; by default both where there is data, `()` for neither.
        epochs: Integer, for how long the small model is trained.
        distilled: Whether the dense model leads that training.
        validation_data: Data to evaluate on after each stage, and in training; by default `data`.
        callbacks: Callbacks of that training.
        batch_size: Integer, for data in arrays.
        return_report: Whether to return a `PruneReport` as well.
        verbose: 0 is quiet, 1 shows progress.
        **options: Further arguments of `tfprune.prune_units`: `only`, `exclude`, `round_to`,
            `min_units`, `max_fraction`, `aggregate`, `seed`.

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
    recover = _checked_recovery(recover, data, model)
    _check_training(model, data, epochs, distilled)
    evaluate = _evaluator(model, validation_data, data)
    stages = {"dense": evaluate(model)}
    masked = prunable(model)
    counts = prune_units(
        masked,
        budget,
        criterion,
        scope=scope,
        normalize=normalize,
        data=data,
        batch_size=batch_size,
        verbose=verbose,
        **options,
    )
    stages["pruned"] = evaluate(masked)
    for name in recover if any(each.pruned for each in counts) else ():
        masked = _recovered(name, masked, model, data, batch_size, verbose)
        stages[name] = evaluate(masked)
    small, removed = strip(masked, return_report=True)
    if epochs:
        arguments = {"validation_data": validation_data, "callbacks": callbacks}
        arguments |= {"batch_size": batch_size} if isinstance(data, (tuple, list)) else {}
        small = _trained(small, model, data, epochs, distilled, verbose, arguments)
        stages["fine-tuned"] = evaluate(small)
    if not return_report:
        return small
    units = sum(each.units for each in counts)
    report = PruneReport(
        budget=_in_words(budget),
        strip=removed,
        units=Change(units, units - sum(each.pruned for each in counts)),
        parameters=Change(model.count_params(), small.count_params()),
        macs=Change(*(_macs(each, budget) for each in (model, small))),
        stages={} if stages["dense"] is None else stages,
    )
    return small, report


def _checked_recovery(recover, data, model):
    if recover is None:
        return _RECOVERIES if data is not None else ()
    recover = (recover,) if isinstance(recover, str) else tuple(recover)
    unknown = [name for name in recover if name not in _RECOVERIES]
    if unknown:
        raise ValueError(
            f"Argument `recover` must hold names among {_RECOVERIES}. Received: {unknown}."
        )
    if recover and data is None:
        raise ValueError(
            "Recovery is measured on data. "
            f"Received: recover={recover}, data=None. Pass `data=(x,)` or a dataset."
        )
    return tuple(name for name in _RECOVERIES if name in recover)


def _check_training(model, data, epochs, distilled):
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 0:
        raise ValueError(
            f"Argument `epochs` must be a non-negative integer. Received: epochs={epochs!r}."
        )
    if epochs and (data is None or not model.compiled):
        raise ValueError(
            "Training needs `data` and a compiled model. "
            f"Received: epochs={epochs}, data of type {type(data).__name__}, model={model.name!r} "
            f"({'compiled' if model.compiled else 'not compiled'})."
        )
    if distilled and not epochs:
        raise ValueError(
            "The dense model can lead a training only where there is one. "
            f"Received: distilled={distilled}, epochs=0. Pass `epochs` too."
        )


def _evaluator(model, validation_data, data):
    """A function of a model which gives its metrics, or None where nothing can be evaluated."""
    given = data if validation_data is None else validation_data
    has_labels = not isinstance(given, (tuple, list)) or len(given) > 1
    if given is None or not has_labels or not model.compiled:
        return lambda model: None
    return lambda model: evaluate(model, given)


def _recovered(name, masked, dense, data, batch_size, verbose):
    """The masked model after a recovery; itself where there is nothing to recover."""
    options = {"batch_size": batch_size, "verbose": verbose}
    if name == "reconstruct":
        return reconstruct(masked, dense, data, **options)
    layers = _keras.all_layers(masked)
    if not any(isinstance(layer, keras.layers.BatchNormalization) for layer in layers):
        return masked
    return recalibrate(masked, data, **options)


def _trained(small, dense, data, epochs, distilled, verbose, arguments):
    arguments = {**arguments, "epochs": epochs, "verbose": verbose}
    if distilled:
        return distill(small, dense, data, **arguments)
    is_arrays = isinstance(data, (tuple, list))
    given = dict(zip(("x", "y", "sample_weight"), data, strict=False)) if is_arrays else {"x": data}
    small.fit(**given, **arguments)
    return small


def _macs(model, budget):
    counted = [call.macs for call in costs(model, getattr(budget, "input_shapes", None))]
    return None if None in counted else sum(counted)


def _in_words(budget):
    return f"{budget:.0%} of the units pruned" if isinstance(budget, float) else str(budget)
