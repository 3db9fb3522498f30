"""What layers hold: layers inside them, weights, states.

Private here, and why:

* `_layers`: the layers inside a layer, which Keras lists for models alone;
* `_trainable_variables`: what was made trainable, whether or not the layer is trainable now;
* `_call_has_mask_arg`: whether wrappers hand the mask of time steps on to a layer.
"""

import functools
import itertools

import keras
import tensorflow as tf

from tfprune._keras.deep_copies import DeepCopy
from tfprune._keras.masked_variables import is_guarded
from tfprune._keras.variable_values import raw


def all_layers(layer):
    """`layer` and the layers in it, nested ones too, each once, in the order they were made."""
    layers, seen, stack = [], set(), [layer]
    while stack:
        current = stack.pop()
        if id(current) not in seen:
            seen.add(id(current))
            layers.append(current)
            stack.extend(reversed(current._layers))
    return layers


def named_layers(model):
    """The layers of a model, each with a name that tells which layers are around it.

    A layer in a layer that is no model is named after both: `block_dense` for `dense` in `block`.
    """
    found, stack = {}, [(model, "")]
    while stack:
        layer, prefix = stack.pop()
        if id(layer) not in found:
            found[id(layer)] = layer, prefix + layer.name
            inner = "" if isinstance(layer, keras.Model) else f"{prefix}{layer.name}_"
            stack.extend((part, inner) for part in reversed(layer._layers))
    return list(found.values())


def sub_layers(layer):
    """The layers that a layer holds itself, in the order they were assigned, but for inputs."""
    inputs = keras.layers.InputLayer  # a Sequential model makes one when it is built
    return [part for part in layer._layers if not isinstance(part, inputs)]


def own_trainable_variables(layer, inner=True):
    """The weights of a layer, and of its sub-layers if `inner`, that were made trainable.

    Those of a layer with `trainable=False` too: it may become trainable after it is built.
    """
    own, *parts = [part._trainable_variables for part in all_layers(layer)]
    if not inner:
        of_parts = {id(variable) for variables in parts for variable in variables}
        return [variable for variable in own if id(variable) not in of_parts]
    made = {id(variable) for variables in (own, *parts) for variable in variables}
    return [variable for variable in layer.weights if id(variable) in made]


def maskable_variables(layer, inner=True):
    """Those of `own_trainable_variables` that are floats, without those of quantized layers."""
    quantized = {id(v) for part in quantized_layers(layer) for v in part.variables}
    return [
        variable
        for variable in own_trainable_variables(layer, inner)
        if id(variable) not in quantized and keras.backend.is_float_dtype(variable.dtype)
    ]


def guarded_variables(layer):
    """The variables with masks of a layer and of the layers in it, each once."""
    found = (v for part in all_layers(layer) for v in part._trainable_variables if is_guarded(v))
    return list({id(variable): variable for variable in found}.values())


def recurrent_states(model):
    """What stateful recurrent layers remember; Keras does not count it as weights."""
    return [state for layer in all_layers(model) for state in states(layer)]


def states(layer):
    """What a stateful recurrent layer remembers; empty for any other layer."""
    is_stateful = isinstance(layer, keras.layers.RNN) and layer.stateful
    return keras.tree.flatten(layer.states) if is_stateful and layer.states else []


def count_weights(model):
    """How many elements the weights of a model have."""
    return int(sum(int(tf.size(raw(weight))) for weight in model.weights))


def weight_bytes(model):
    """How many bytes the weights of a model take."""
    sizes = (int(tf.size(raw(weight))) * raw(weight).dtype.size for weight in model.weights)
    return int(sum(sizes))


def wrap_methods(layer):
    """Wraps `build` and `quantize` of a layer in the way in which Keras does when it makes one."""
    unmade = _unmade(type(layer))
    copy = DeepCopy()
    copy.enter(unmade, layer)
    for name in ("build", "quantize"):
        vars(layer)[name] = copy.copy(vars(unmade)[name])


@functools.cache
def _unmade(cls):
    return cls.__new__(cls)


def let_infer_shapes(layer):
    """Lets Keras run the `call` of a layer for the shapes of its outputs, whatever its class says.

    Returns:
        Whether its class says them by itself; otherwise nothing is changed.
    """
    says = type(layer).compute_output_shape is not keras.Layer.compute_output_shape
    is_asked = type(layer).compute_output_spec is keras.Layer.compute_output_spec
    if says and is_asked:
        by_running = keras.Layer.compute_output_shape.__get__(layer)
        vars(layer)["compute_output_shape"] = by_running
    return says and is_asked


def let_say_shapes(layer):
    """Lets the class of a layer say the shapes of its outputs again, see `let_infer_shapes`."""
    vars(layer).pop("compute_output_shape", None)


def say_outputs(layer, outputs):
    """Gives the symbolic outputs of the next calls of a layer, so that Keras does not run it.

    Args:
        layer: The layer.
        outputs: For each call in turn, a list of symbolic tensors. After the last comes the first
            again, since a Sequential model calls its layers anew for each that is added. If empty,
            nothing is changed.
    """
    if not outputs:
        return
    outputs = itertools.cycle(outputs)

    def compute_output_spec(*args, **kwargs):
        made = next(outputs)
        return made[0] if len(made) == 1 else made

    vars(layer)["compute_output_spec"] = compute_output_spec


def say_no_outputs(layer):
    """Lets a layer say the shapes of its outputs again, see `say_outputs`."""
    vars(layer).pop("compute_output_spec", None)


def attention_projections(layer):
    """The projections of an attention layer by name: query, key, value, attention_output, gate."""
    return {part.name: part for part in layer._layers if isinstance(part, keras.layers.EinsumDense)}


def takes_mask(layer):
    """Whether the `call` of a layer has an argument `mask`."""
    return layer._call_has_mask_arg


def quantization(layer):
    """How Keras has quantized a layer, as "int8" or "gptq"; None if it has not.

    A policy such as "int8_from_float32" says so of every layer, also of those that Keras does not
    quantize.
    """
    if type(layer).quantized_build is keras.layers.Layer.quantized_build:
        return None
    return layer.quantization_mode


def can_be_quantized(layer):
    """Whether `quantize` of Keras does something to a layer, which it has not done yet."""
    is_known = type(layer).quantized_build is not keras.layers.Layer.quantized_build
    return is_known and layer.built and quantization(layer) is None


def quantized_layers(layer):
    """A layer, if Keras has quantized it, and the layers in it that it has."""
    return [part for part in all_layers(layer) if quantization(part)]


def changed_kernel(layer):
    """Why a layer computes with something else than its kernel, for messages; None if it does not.

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, name="d")])
    >>> model.quantize("int8")
    >>> changed_kernel(model.get_layer("d"))
    "'d' is quantized (int8), which comes after pruning"
    """
    mode = quantization(layer)
    if mode:
        return f"{layer.name!r} is quantized ({mode}), which comes after pruning"
    return f"{layer.name!r} has LoRA" if getattr(layer, "lora_enabled", False) else None


def changed_kernels(model):
    """The reasons of all layers in a model, see `changed_kernel`."""
    return [reason for reason in map(changed_kernel, all_layers(model)) if reason]
