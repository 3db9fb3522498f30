"""Removal of dead units: masks and zeros -> liveness -> a smaller model that computes the same."""

import functools
import warnings

from tfprune import _keras
from tfprune._tools.checks import check_model, one_of
from tfprune.masks.straight_through import check_no_transforms
from tfprune.rebuild.fake_quantization import (
    fake_quantizers,
    with_operations,
    with_rounded_weights,
)
from tfprune.rebuild.same_class import rebuild_same_class, rescaled_floats
from tfprune.stripping.check import check_equal
from tfprune.stripping.inlining import sized_by_config
from tfprune.stripping.liveness import Liveness
from tfprune.stripping.partly_masked import warn_of_partly_masked, warn_of_twins
from tfprune.stripping.strip_report import joined


def strip(
    model,
    *,
    custom_layers=None,
    same_class=False,
    check=True,
    data=None,
    return_report=False,
):
    """Returns a smaller model of stock Keras layers, without the units that have no effect.

    Use it after training with masks, before export. A unit is removed if masks, zeros and constants
    prove that it has no effect: its value reaches no output of the model, or it is a constant that
    can be folded into the biases of its consumers. It does not matter where the zeros come from;
    the model need not carry masks at all. Units that are masked in one layer, and cannot go because
    they are coupled with units of others that are not, are named in a warning.

    Composite layers whose configs can say their new sizes stay layers of their classes. Others are
    inlined (`tfprune.stripping.inlining`), if their `call` can be traced for any size and uses no
    weights but those of its layers. Other layers of your own classes stay what they are, and are
    resized in place where that is proven to be right.

    Of a subclassed model whose config cannot say the new sizes, the Functional model of its `call`
    in inference mode is returned. It is compiled as the model is if that trains with Keras's own
    `train_step`, and else not compiled. One that cannot be inlined stays a model of its class, with
    its own `train_step`. Parts that the `call` of such a model does not use, as a head that only
    its `train_step` calls, stay what they are, with the units that they may read.

    Args:
        model: Any Keras model that is built, of `tfprune.layers` or of stock layers, masked or not.
            It is not changed.
        custom_layers: What becomes of composite layers and subclassed models: `"keep"`, they stay
            objects of their classes, resized in place, and a subclassed model trains on with its
            own `train_step`; `"inline"`, they are inlined or refused. By default they stay where
            their own configs can make them so small; else they are inlined where that is possible,
            and else resized in place.
        same_class: Whether the result is made by the model's own class, from its config with
            smaller numbers, so that its config, caches and presets say its new sizes: a `CausalLM`
            of KerasHub stays one that generates. Prune with `selection="same_class"`, which keeps
            what a config can say.
        check: Whether to run both models and compare their outputs. Those that differ from call to
            call of the same model, also with a fixed seed, are not compared; a warning names them.
        data: Examples to compare on, instead of random inputs: `x`, `(x,)`, `(x, y)` or a dataset
            of such batches. All are run.
        return_report: Whether to return a `StripReport` as well.

    Returns:
        The smaller model, of stock layers and your own, with names, compile state and optimizer
        slots kept; with `return_report=True`, the model and the report.

    Raises:
        ValueError: If the model cannot be traced or rebuilt, with the layer and the reason; if no
            config of its class says the new sizes, with `same_class=True`; if weights are not
            finite or are still trained behind masks, or the model runs on no inputs that were
            tried.
        RuntimeError: If the outputs differ, which would be a bug in this function.

    Example:

    >>> import keras
    >>> import tfprune
    >>> model = keras.Sequential([
    ...     keras.Input((3,)),
    ...     tfprune.layers.Dense(4, activation="relu", name="hidden"),
    ...     tfprune.layers.Dense(2, name="logits")])
    >>> tfprune.set_masks(model, "logits", "kernel", trainable=[0, 2])
    >>> small, report = tfprune.strip(model, return_report=True)
    >>> print(report)
    hidden: 4 -> 2 units
    logits: 2 -> 2 units
    parameters: 26 -> 14
    """
    check_model(model)
    one_of("custom_layers", custom_layers, (None, "keep", "inline"))
    check_no_transforms(model)
    model = with_rounded_weights(model)
    keep = True if custom_layers == "keep" else ()
    if same_class:
        if custom_layers == "inline":
            raise ValueError(
                "A model of the same class has the layers of its class, so none can be inlined. "
                "Received: same_class=True, custom_layers='inline'."
            )
        _refuse_fake_quantizers(model)
        return _of_same_class(model, check, data, return_report)
    if custom_layers is None and sized_by_config(model):
        keep = _from_config(model)
    passes = [Liveness(model, keep=keep, wholly=custom_layers == "inline")]
    small = passes[0].rebuilt()
    while passes[-1].may_uncover_more:
        further = Liveness(small, keep=keep)
        if not further.changes or further.size >= passes[-1].size:
            break
        passes.append(further)
        small = further.rebuilt()
    small = with_operations(small)
    warn_of_partly_masked(passes[0].coupling, passes[0].needed)
    warn_of_twins(passes[0].coupling, passes[0].needed)
    checked = check_equal(model, small, data) if check else None
    _warn_of_not_compared(model, checked)
    if not return_report:
        return small
    return small, functools.reduce(joined, (each.report(small, checked) for each in passes))


def _refuse_fake_quantizers(model):
    found = fake_quantizers(model)
    if found:
        raise ValueError(
            "A model of the same class has no place for the fake quantisation of activations. "
            f"Received: same_class=True, model={model.name!r} with the layer {found[0].name!r}. "
            "Leave `same_class` out."
        )


def _of_same_class(model, check, data, return_report):
    """The smaller model that the class of the model makes from its config."""
    liveness = Liveness(model, keep=True)
    floats = rescaled_floats(model, liveness.rebuilt())
    small = rebuild_same_class(liveness.model, liveness.kept_units, liveness.folds, floats)
    warn_of_partly_masked(liveness.coupling, liveness.needed)
    checked = check_equal(model, small, data) if check else None
    _warn_of_not_compared(model, checked)
    return (small, liveness.report(small, checked)) if return_report else small


def _warn_of_not_compared(model, checked):
    if checked is not None and checked.not_compared:
        warnings.warn(
            f"Outputs of {model.name!r} are not deterministic, so they were not compared: "
            f"{list(checked.not_compared)}.",
            stacklevel=3,
        )


def _from_config(model):
    """The composite layers of a model whose configs can make them as small as they become.

    Returns:
        Their names; True if that is all of them.
    """
    try:
        liveness = Liveness(model, keep=True)
        small = liveness.rebuilt()
        check_equal(model, small)
    except Exception:  # the user's own code may fail in any way; then it is inlined, if it can be
        return ()
    others = {layer.name for layer in _keras.not_from_config(small, strictly=True)}
    others |= liveness.idle_layers  # inlined, they become smaller
    names = {call.operation.name for call in liveness.coupling.trace.in_place.values()} - others
    return True if _keras.functional(model) is None and names else tuple(sorted(names))
