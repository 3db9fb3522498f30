"""Quantization-aware training: copies of models with fake quantization."""

import keras
import numpy as np

from tfprune import _keras
from tfprune._tools.checks import check_model
from tfprune.layers import FakeQuantize
from tfprune.layers.fake_quantize import WeightQuantizer
from tfprune.masks import layer_filter
from tfprune.masks.setting import is_kernel, masked_layers
from tfprune.masks.skipping import (
    listed,
    quantized_layers,
    warn_of_skipped,
    weights_by_holder,
)
from tfprune.measuring.data_pass import DataPass
from tfprune.quantizing.channels import inner_axes
from tfprune.rebuild.copying import copy_model
from tfprune.rebuild.fake_quantization import fake_quantizers, is_quantize_aware
from tfprune.stripping.prunable import prunable
from tfprune.surgery.edits.base import Draft
from tfprune.surgery.graph import with_inserted
from tfprune.surgery.inlining import with_graph
from tfprune.surgery.restructure import apply_edits


def quantize_aware(
    model, data=None, *, only=None, exclude=None, momentum=0.99, batch_size=None, verbose=0
):
    """Returns a copy of a model that computes as its int8 version will, to be trained so.

    Kernels of dense layers and convolutions are rounded each time they are read, to 255 numbers for
    each output channel, of which 0 is one: pruned elements stay 0. What enters these layers is
    rounded by layers `tfprune.layers.FakeQuantize`, to 256 numbers of a range that follows the data
    while the model trains. Gradients pass through the rounding. The stored weights stay floats and
    carry masks, as those of `tfprune.prunable` do, so all callbacks of tfprune can prune on.

    1. `aware = tfprune.quantize_aware(masked_model)`, and train it, mostly at a low learning rate.
    2. `small = tfprune.strip(aware)` has the rounded values as its weights, and Keras's operations
       `fake_quant_with_min_max_vars` with the ranges found. It needs no tfprune.
    3. `tfprune.export(small, path, quantize="int8", representative_data=x)`: LiteRT takes the
       rounded kernels as they are and the ranges of these operations, and measures those of the
       other tensors. Or `small.quantize("int8")`, for which Keras measures ranges as it runs.

    Rounded are the kernels of `Dense`, `EinsumDense`, `Conv1D` to `Conv3D`, transposed, depthwise
    and separable convolutions, those inside attention and your own layers too. A warning names the
    other layers with kernels, which stay floats. Biases, norms and the outputs of the model are not
    rounded. A range is found at the tensor, so all layers that take it see the rounded values.

    Args:
        model: Any Keras model that is built, masked or not. It is not changed. Of a subclassed
            model, the Functional model of its `call` is taken.
        data: Typical inputs, `(x,)`, `(x, y)` or a dataset of such batches, from which ranges are
            taken at first. Without them they begin with the first batch of training; until
            then, what enters the layers is not rounded.
        only, exclude: Layers whose kernels are rounded, and whose are not: layers, their names or a
            predicate `layer -> bool`.
        momentum: Float, how much of a range stays at each step of training.
        batch_size: Integer, of `data` in arrays; by default 32.
        verbose: 0 is quiet, 1 shows a progress bar over `data`.

    Returns:
        A new model, compiled as `model` is.

    Raises:
        ValueError: If the model is one of these already, has no graph or no such layers, or an
            argument is wrong.

    Example:

    >>> import numpy as np
    >>> import tfprune
    >>> model = keras.Sequential([
    ...     keras.Input((4,), name="x"), keras.layers.Dense(8, activation="relu", name="hidden"),
    ...     keras.layers.Dense(2, name="logits")])
    >>> masked = tfprune.prunable(model)
    >>> counts = tfprune.prune_weights(masked, 0.5)
    >>> aware = quantize_aware(masked, (np.ones((32, 4)),))
    >>> [layer.name for layer in aware.layers]
    ['x_fake_quantize', 'hidden', 'hidden_fake_quantize', 'logits']

    Reference:
        B. Jacob et al., "Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference", https://arxiv.org/abs/1712.05877. With masks, this is
        what TensorFlow Model Optimization calls PQAT.
    """
    check_model(model)
    layer_filter.check(only, exclude, "layer -> bool")
    if is_quantize_aware(model):
        raise ValueError(
            "The model computes with fake quantisation already. "
            f"Received: model={model.name!r}. Train it on as it is."
        )
    FakeQuantize(momentum)  # refuses what is wrong
    copy = copy_model(model).model if masked_layers(model) else prunable(model)
    filters = layer_filter.Counterparts(model, copy)
    filters = [filters.filter(each) for each in (only, exclude)]
    _quantize_kernels(copy, *layer_filter.predicates(copy, *filters))
    graph = with_graph(copy)
    sources, several = _sources(graph)
    new = apply_edits(graph, [_Insertions(graph, sources, momentum)]) if sources else graph
    warn_of_skipped(several)
    if data is not None:
        observe_ranges(new, data, batch_size=batch_size, verbose=verbose)
    return new


def observe_ranges(model, data, *, batch_size=None, verbose=0):
    """Widens the ranges of the layers `FakeQuantize` of a model to what passes through on data."""
    layers = fake_quantizers(model)
    for layer in layers:
        layer.observes = True
    try:
        data_pass = DataPass(model, needs_loss=False)
        data_pass.run(data, verbose, batch_size)
    finally:
        for layer in layers:
            del layer.observes
    for layer in layers if data_pass.replicas.has_others else ():
        found = data_pass.replicas.gathered([np.asarray(layer.low), np.asarray(layer.high)])
        layer.low.assign(found[:, 0].min())
        layer.high.assign(found[:, 1].max())


def _quantizer(weight):
    return weight.masks.quantizer if _keras.is_guarded(weight) else None


def _quantize_kernels(model, is_included, is_excluded):
    """Lets the layers of a masked model read rounded kernels, and warns of those that cannot."""
    found = False
    for layer in _keras.all_layers(model):
        if is_included(layer) and not is_excluded(layer):
            for weight in _keras.own_variables(layer):
                axes = inner_axes(layer, weight) if _keras.is_guarded(weight) else None
                if axes is not None:
                    weight.masks.quantizer = WeightQuantizer(axes)
                    found = True
    left_out = quantized_layers(model, lambda x: is_included(x) and not is_excluded(x))
    for layer, name, weights in weights_by_holder(model):
        selected = is_included(layer) and not is_excluded(layer)
        plain = [w for w in weights if is_kernel(w.name, w.shape) and _quantizer(w) is None]
        if selected and plain:
            reason = f"no fake quantisation is known for the weights of {type(layer).__name__}"
            left_out.setdefault(reason, []).append(name)
    if not found:
        raise ValueError(
            "The model has no kernels that can be rounded to int8: dense layers and convolutions "
            f"have such. Received: model={model.name!r}. Left out: {listed(left_out) or 'all'}."
        )
    warn_of_skipped(left_out, stacklevel=4)


# Where ranges are found --------------------------------------------------------------------------


def _sources(model, path=()):
    """The operations whose outputs enter layers with rounded kernels, or are joined with others.

    Returns:
        A dict from the names of the nested models around and the name of an operation to the
        dtype of its output; and one from a reason to names of layers of which an input is not
        rounded.
    """
    found, several = {}, {}
    for node, _ in _keras.nodes(_keras.functional(model)):
        operation = node.operation
        if _keras.functional(operation) is not None:
            inner, reasons = _sources(operation, (*path, operation.name))
            found.update(inner)
            several.update(reasons)
        elif _rounds_inputs(node):
            for tensor in _keras.data_of(node):
                source, outputs = _keras.source_of(tensor)
                if outputs > 1:
                    reason = f"what enters it is one of several outputs of {source.name!r}"
                    several.setdefault(f"{reason}, which stays as it is", []).append(operation.name)
                else:
                    found[(path, source.name)] = tensor.dtype
    return found, several


def _rounds_inputs(node):
    """Whether a call has rounded kernels, or joins several tensors, as an addition does."""
    operation = node.operation
    weights = operation.weights if isinstance(operation, keras.layers.Layer) else []
    return any(map(_quantizer, weights)) or len(_keras.data_of(node)) > 1


class _Insertions:
    """The edit that puts a layer `FakeQuantize` behind each source."""

    alone = False
    keeps_shapes = True

    def __init__(self, model, sources, momentum):
        self.sources, self.momentum = sources, momentum
        self.taken = {layer.name for layer in _keras.all_layers(model)}

    def describe(self):
        """What is done, to what, and how."""
        return "insert fake quantisation after", ", ".join(name for _, name in self.sources), ""

    def draft(self, model, draft: Draft):
        """Adds the changes of the graph."""
        for (path, name), dtype in self.sources.items():
            layer = FakeQuantize(self.momentum, name=self._new_name(name), dtype=dtype)
            draft.new_layers.append(layer)
            draft.graph_edits.append((path, _inserted(name, layer)))

    def _new_name(self, name):
        new, number = f"{name}_fake_quantize", 1
        while new in self.taken:
            new, number = f"{name}_fake_quantize_{number}", number + 1
        self.taken.add(new)
        return new


def _inserted(name, layer):
    serialised = keras.saving.serialize_keras_object(layer)

    def restructure(config):
        outputs = {key: config[key] for key in ("output_layers",) if key in config}
        return {**with_inserted(config, name, [serialised]), **outputs}

    return restructure
