"""Layer-wise reconstruction: fits each layer to the dense model's outputs by least squares."""

import contextlib
import warnings
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from tfprune import _keras
from tfprune._tools.checks import check_model, is_number
from tfprune.coupling.following_norms import following_norms
from tfprune.coupling.model_trace import trace
from tfprune.criteria.captured_activations import capture_inputs, capture_preactivations
from tfprune.measuring.data import as_tuple
from tfprune.measuring.data_pass import DataPass, Untracked
from tfprune.recovery.copy_model import copy_model, with_graph
from tfprune.recovery.following_norms import FollowingNorm
from tfprune.recovery.least_squares import Sums, solve
from tfprune.recovery.matrix_forms import as_columns, form_of
from tfprune.recovery.output_error import output_errors
from tfprune.recovery.reconstruction_report import (
    ReconstructedLayer,
    ReconstructionReport,
    SkippedLayer,
)
from tfprune.recovery.ridge_selection import HELD_OUT, is_better, is_held_out, select_ridge
from tfprune.recovery.unit_provenance import UnitProvenance, by_path

MOST_UNKNOWNS = 8192
"""The most inputs of a layer, all taps counted: their products take a gigabyte then."""

LEAST_ROWS = 16
"""The fewest examples to fit to, times positions, where the ridge is selected: with fewer, the
error on those held out says little."""

EXACT = 1e-6
"""The relative error below which a layer is not changed: it is rounding in single precision."""


def reconstruct(
    model, dense, data, *, batch_size=None, ridge="auto", return_report=False, verbose=0
):
    """Returns a copy of the model whose layers are fitted to the dense model by least squares.

    Use it after pruning, before or instead of fine-tuning. For a layer with inputs X, kernel W and
    bias b in the dense model, and inputs X', kernel W'' and bias b'' in the pruned one, kernel and
    bias become W'' + D and b'' + d with

        D, d = argmin || X' (W'' + D) + b'' + d - (X W + b) ||^2 + ridge * sum_i s_i^2 || D_i ||^2

    over examples and positions; s_i^2 is the sum of squared deviations of the i-th input. The
    penalty is independent of the scale of inputs; where inputs depend on one another, or there are
    fewer examples than inputs, the solution is the one nearest to W''. Layers are fitted in the
    order of the model: X' comes from the model with all earlier layers fitted, so that their errors
    are corrected, and the target X W + b from the dense model.

    With few examples, least squares fits them and not the layer. So every fourth example is held
    out: the ridge of each layer is the one whose solution errs least on these, a layer that errs
    no less than before keeps its weights, and so do all where the outputs of the model are no
    nearer to those of the dense one. A warning says for which layers there are fewer examples than
    inputs. A dataset should give its examples in the same order each time.

    Dense layers and convolutions (grouped and depthwise ones too) are fitted, convolutions on the
    patches under their window. Each layer takes one pass over the data. Only sums are kept, in
    double precision: for each layer a square matrix of its inputs (times taps). Masks stay: pruned
    and frozen elements keep their values. Layers with `trainable=False` are skipped.

    The statistics of a batch normalization that alone follows a fitted layer become those of the
    dense model, with the mean lower by the bias d where the layer has none. Other statistics are
    not changed: call `tfprune.recalibrate` afterwards.

    Args:
        model: A masked model after `tfprune.prune_units` or `prune_weights`, or what
            `tfprune.strip` made of it (with its weights not trained since). It is not touched. Of
            a subclassed model the Functional model of its `call` is copied, as `strip` gives it.
        dense: The model before pruning, with layers of the same names. It is not touched.
        data: Arrays as `(x,)` or `(x, y)`, or a dataset of such batches, as `evaluate` takes it;
            a few hundred examples do. It is gone through several times.
        batch_size: Integer, for arrays; Keras's default is 32.
        ridge: Float above 0, the weight of the penalty for all layers, which are then fitted to
            all examples, whatever comes of it; or "auto".
        return_report: Whether to return a `ReconstructionReport` as well.
        verbose: 0 is quiet, 1 shows Keras's progress bar.

    Returns:
        A new model with the same masks, compile state and slots; with `return_report=True`, the
        model and the report.

    Raises:
        ValueError: If the models do not fit together, no layer can be fitted, an argument is out
            of range, or data is not finite.

    Example:

    >>> import numpy as np
    >>> import keras
    >>> import tfprune
    >>> dense = keras.Sequential([
    ...     keras.Input((2,)), keras.layers.Dense(8, name="hidden"), keras.layers.Dense(1)])
    >>> masked = tfprune.prunable(dense)
    >>> counts = tfprune.prune_units(masked, 0.5)
    >>> x = np.random.default_rng(0).normal(size=(50, 2)).astype("float32")
    >>> fitted = tfprune.strip(reconstruct(masked, dense, x))
    >>> fitted.get_layer("hidden").units, np.allclose(fitted(x), dense(x), atol=1e-4)
    (4, True)

    Reference:
        Y. He, X. Zhang, J. Sun, "Channel Pruning for Accelerating Very Deep Neural Networks",
        https://arxiv.org/abs/1707.06168 (inputs from the pruned model, targets from the dense
        one); J.-H. Luo, J. Wu, W. Lin, "ThiNet", https://arxiv.org/abs/1707.06342.
    """
    check_model(model)
    check_model(dense, "dense")
    is_auto = isinstance(ridge, str) and ridge == "auto"
    if not is_auto and (not is_number(ridge) or not 0 < ridge < np.inf):
        raise ValueError(
            f'Argument `ridge` must be "auto" or a number above 0. Received: ridge={ridge!r}.'
        )
    copy = copy_model(with_graph(model))
    provenance = UnitProvenance(copy, dense)
    tasks, skipped = _tasks(copy, provenance)
    if not tasks:
        reasons = "; ".join(f"{item.name!r}: {item.reason}" for item in skipped)
        raise ValueError(
            "No layer can be fitted. The model computes what the dense one does, or its layers "
            f"cannot be reconstructed. Received: model={model.name!r}. Layers: {reasons or 'none'}."
        )
    options = {"batch_size": batch_size, "verbose": verbose}
    runs = [
        task.run(
            copy, provenance.dense, as_tuple(data), ridge=None if is_auto else ridge, **options
        )
        for task in tasks
    ]
    fitted = [run for run in runs if isinstance(run, ReconstructedLayer)]
    skipped += [run for run in runs if isinstance(run, SkippedLayer)]
    if is_auto and fitted:
        before, after = output_errors([model, copy], dense, as_tuple(data), **options)
        if not is_better(before, after, max(task.examples for task in tasks) // HELD_OUT):
            reason = f"the model's outputs would err by {after:.2%} instead of {before:.2%}"
            skipped += [SkippedLayer(layer.name, reason) for layer in fitted]
            copy, fitted = copy_model(with_graph(model)), []
    few = _few([task for task in tasks if task.is_short], is_auto)
    if few and is_auto:
        warnings.warn(few, stacklevel=2)
    report = ReconstructionReport(tuple(fitted), tuple(skipped), few)
    return (copy, report) if return_report else copy


def _few(tasks, is_auto):
    """A sentence about layers for which there were few examples, or None."""
    if not tasks:
        return None
    task = max(tasks, key=lambda task: task.inputs)
    others = f" and {len(tasks) - 1} more layers" if len(tasks) > 1 else ""
    return (
        f"There are few examples to fit {task.name!r}{others} to: {task.examples} for "
        f"{task.inputs} inputs. "
        + ("Their weights moved little, or stay." if is_auto else "The fit may not hold on others.")
        + " Give several times as many."
    )


def _tasks(model, provenance):
    """The layers to fit, in order, and those with other inputs than before that are left."""
    traced = trace(model)
    calls = by_path(traced.calls)
    norms, others = following_norms(traced), following_norms(provenance.coupling.trace)
    changed, tasks, skipped, seen = set(), [], [], set()
    for call in traced.calls:
        theirs = provenance.calls.get(call.path, [])
        is_touched = not theirs or changed.intersection(call.inputs) or _differs(call, theirs[0])
        if is_touched:
            changed.update(call.outputs)
        layer = call.operation
        has_kernel = any(len(w.shape) > 1 for w in getattr(layer, "weights", ()))
        if not is_touched or not has_kernel or id(layer) in seen:
            continue
        seen.add(id(layer))
        reason = _why_not(layer, calls[call.path], theirs)
        if reason is None and _has_removed_beside(provenance, theirs[0]):
            reason = "units were removed along another axis of its inputs"
        name = "/".join(call.path)
        if reason is not None:
            skipped.append(SkippedLayer(name, reason))
        elif changed.intersection(call.inputs) or _is_other_product(layer, theirs[0].operation):
            teacher, outputs = theirs[0].operation, _outputs(provenance, layer, theirs[0])
            pair = norms.get(id(layer)), others.get(id(teacher))
            norm = None if None in pair else FollowingNorm(*pair, outputs)
            tasks.append(_Task(name, layer, teacher, outputs, norm))
    return tasks, skipped


def _differs(call, other):
    """Whether the weights of two operations differ."""
    ours, theirs = (getattr(c.operation, "weights", []) for c in (call, other))
    return len(ours) != len(theirs) or any(
        tuple(a.shape) != tuple(b.shape) or (np.asarray(a) != np.asarray(b)).any()
        for a, b in zip(ours, theirs, strict=True)
    )


def _is_other_product(layer, other):
    """Whether a layer multiplies by other numbers than the dense one, in the outputs it has."""
    ours, theirs = form_of(layer), form_of(other)
    if ours.shape != theirs.shape:
        return True
    trainable, trainable_bias = _trainable(ours)
    differs = ours.to_matrix(np.asarray(layer.kernel) != np.asarray(other.kernel)).any(axis=1)
    if layer.bias is not None:
        bias = 0 if other.bias is None else np.asarray(other.bias)
        differs |= as_columns(ours, np.asarray(layer.bias) != bias)
    return (differs & (trainable.any(axis=1) | trainable_bias)).any()


def _has_removed_beside(provenance, call):
    """Whether a dense layer is called on fewer positions, since these are units of other layers."""
    labels = provenance.coupling.tensor_labels[call.inputs[0]]
    is_removed = not provenance.is_kept(labels).all()
    return isinstance(call.operation, keras.layers.Dense) and labels.shape[-1] == 1 and is_removed


def _why_not(layer, calls, theirs):
    """Why a layer cannot be fitted, or None."""
    form = form_of(layer)
    if form is None:
        return f"a {type(layer).__name__} has no matrix form here"
    if len(theirs) != len(calls) or form_of(theirs[0].operation) is None:
        return "the dense model does not call one of its name as often"
    if not layer.trainable:
        return "it has `trainable=False`"
    if any(v is not None and v.constraint is not None for v in (layer.kernel, layer.bias)):
        return "a weight of it has a constraint"
    if form.shape[1] > MOST_UNKNOWNS:
        return f"it has {form.shape[1]:,} inputs, and {MOST_UNKNOWNS:,} are the most"
    trainable, trainable_bias = _trainable(form)
    if not trainable.any() and not trainable_bias.any():
        return "all of its elements are masked"
    return None


def _trainable(form):
    """Which elements of kernel and bias no mask holds, in the matrix form."""
    layer, masks = form.layer, getattr(form.layer, "masks_by_name", {})
    trainable = np.ones(layer.kernel.shape, bool)
    trainable_bias = np.full(form.shape[0] * form.shape[2], layer.bias is not None)
    if "kernel" in masks:
        trainable = _keras.values(masks["kernel"].live)
    if "bias" in masks:
        trainable_bias = _keras.values(masks["bias"].live)
    return form.to_matrix(trainable), as_columns(form, trainable_bias)


def _outputs(provenance, layer, call):
    """The indices of the dense layer's outputs that the layer has; None for all."""
    if form_of(layer).shape == form_of(call.operation).shape:
        return None
    labels = provenance.coupling.tensor_labels[call.outputs[0]]
    size = np.prod([form_of(call.operation).shape[axis] for axis in (0, 2)])
    return np.flatnonzero(provenance.is_kept(np.broadcast_to(labels.reshape(-1), (size,))))


@dataclass(eq=False)
class _Task:
    """A layer to fit, the dense one, and which outputs of that it has."""

    name: str
    layer: keras.layers.Layer
    teacher: keras.layers.Layer
    outputs: np.ndarray | None
    norm: FollowingNorm | None = None
    """The batch normalization behind it; its mean takes the place of a bias that is missing."""
    examples: int = 0
    inputs: int = 0
    """How many of its inputs are left."""
    is_short: bool = False
    """Whether there are fewer examples, times positions, than inputs."""

    def run(self, model, dense, data, *, ridge, batch_size, verbose):
        """Fits the layer; gives a `ReconstructedLayer` or a `SkippedLayer`.

        `ridge` is None to select one.
        """
        form = form_of(self.layer)
        trainable, trainable_bias = _trainable(form)
        is_absorbed = self.layer.bias is None and self.norm is not None
        if is_absorbed:
            trainable_bias = trainable.any(axis=1)
        data_pass = _Run(model, dense, self, form, holds_out=ridge is None)
        data_pass.run(data, verbose, batch_size)
        sums, held_out = data_pass.sums()
        self.examples = data_pass.examples_read
        self.inputs = int(trainable.any(axis=2).sum(axis=1).max())
        self.is_short = float(sums["count"]) < self.inputs
        if not all(np.isfinite(t).all() for each in (sums, held_out) for t in each.values()):
            raise ValueError(
                "What a layer gets or should give is not finite on the data. "
                f"Received: layer={self.name!r}."
            )
        if ridge is None:
            solution = select_ridge(sums, held_out, trainable, trainable_bias)
        else:
            solution = solve(sums, trainable, trainable_bias, ridge)
        before, after, held = solution.before, solution.after, self.examples // HELD_OUT
        if ridge is None and float(sums["count"]) < LEAST_ROWS:
            held = 0
        if before <= EXACT and (held or ridge is not None):
            return ReconstructedLayer(self.name, before, before, solution.ridge)
        if ridge is None and not (held and is_better(before, after, int(held_out["count"]))):
            fit = self.examples - held
            errors = f"error {before:.2%} -> {after:.2%}"
            reason = f"a fit to {fit} examples does not hold on {held} others: {errors}"
            too_few = f"{self.examples} examples are too few"
            return SkippedLayer(self.name, reason if held else too_few)
        kernel = np.asarray(self.layer.kernel, "float64") + form.to_kernel(solution.kernel)
        self.layer.kernel.assign(kernel)
        if self.layer.bias is not None:
            bias = np.asarray(self.layer.bias, "float64") + solution.bias.reshape(-1)
            self.layer.bias.assign(bias)
        if self.norm is not None:
            fitted = (trainable.any(axis=1) | trainable_bias).reshape(-1)
            self.norm.fit(solution.bias.reshape(-1) * is_absorbed, fitted)
        return ReconstructedLayer(self.name, before, after, solution.ridge)


class _Run(DataPass):
    """Runs both models and adds up what the layer gets, gives and should give."""

    traces_always = False

    def __init__(self, model, dense, task, form, holds_out):
        super().__init__(model, needs_loss=False)
        self._beside = Untracked([dense, task])
        self._added = Untracked([Sums(form), Sums(form)] if holds_out else [Sums(form)])

    def add_batch(self, x, y, sample_weight, size):
        """One batch; a layer that is called several times adds each of its calls."""
        dense, task = self._beside.items
        inputs, outputs, targets = [], [], []
        with contextlib.ExitStack() as stack:
            stack.enter_context(capture_inputs(task.layer, lambda x, _: inputs.append(x)))
            stack.enter_context(capture_preactivations(task.layer, outputs.append))
            stack.enter_context(capture_preactivations(task.teacher, targets.append))
            self(x, training=False)
            dense(x, training=False)
        for given, ours, theirs in zip(inputs, outputs, targets, strict=True):
            if task.outputs is not None:
                is_first = getattr(task.layer, "data_format", "") == "channels_first"
                theirs = tf.gather(theirs, task.outputs, axis=1 if is_first else -1)
            self._add(size, given, ours, theirs)

    def _add(self, size, *tensors):
        fit, *held_out = self._added.items
        if not held_out:
            fit.add(*tensors)
            return
        is_held = is_held_out(tf.shape(tensors[0])[0], size, self.examples_before)
        for sums, selected in ((fit, ~is_held), (held_out[0], is_held)):
            sums.add(*(tf.boolean_mask(tensor, selected) for tensor in tensors))

    def sums(self):
        """The sums by name, over the examples to fit to and those held out."""
        fit, *held_out = (sums.values(self.replicas) for sums in self._added.items)
        return fit, (held_out[0] if held_out else {})
