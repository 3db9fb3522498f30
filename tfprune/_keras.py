"""The one file that touches what Keras and TensorFlow keep private.

Everything else in the package speaks to Keras through its public face. What stands here, and why:

* `MaskedVariable`: a `keras.Variable` which a layer can read through its mask;
* `guard`: writes of a variable which leave masked elements alone, whoever writes;
* `SavedState`: state that Keras and TensorFlow save with a layer without counting it as weights;
* `slots`: the state which an optimizer holds for each weight;
* `calls`: the operations of a functional model in the order they run.
"""

import contextlib
import functools
import threading

import keras
import tensorflow as tf
from keras.src.models.functional import Functional
from keras.src.saving.keras_saveable import KerasSaveable

_thread = threading.local()


# Reading and writing variables ------------------------------------------------------------------


class MaskedVariable(keras.Variable):
    """A variable whose reads inside its layer's `call` stop the gradient of masked elements."""

    @property
    def value(self):
        read = getattr(_thread, "reads", {}).get(id(self))
        return super().value if read is None else self._maybe_autocast(read)


@contextlib.contextmanager
def reading(tensors):
    """While open, `variable.value` gives `tensors[id(variable)]`, on this thread alone."""
    before = getattr(_thread, "reads", {})
    _thread.reads = {**before, **tensors}
    try:
        yield
    finally:
        _thread.reads = before


def is_read_through(variable):
    """Whether a layer that is being called has opened `variable` for reading already."""
    return id(variable) in getattr(_thread, "reads", {})


def raw(variable):
    """The `tf.Variable` under a Keras variable, without casts."""
    return variable._value


@contextlib.contextmanager
def unguarded():
    """While open, guarded variables take any value, on this thread alone."""
    before = getattr(_thread, "unguarded", False)
    _thread.unguarded = True
    try:
        yield
    finally:
        _thread.unguarded = before


def guard(variable, live):
    """Makes `variable` a `MaskedVariable` into which nobody writes where `live` is False.

    Optimizers, weight decay, moving averages, constraints, `set_weights` and the user all end in
    the assign methods of the `tf.Variable`; replacing those on the instance covers each of them,
    in each replica, and costs one selection a write.
    """
    variable.__class__ = MaskedVariable
    strategy = tf.distribute.get_strategy()
    pairs = zip(
        strategy.experimental_local_results(variable._value),
        strategy.experimental_local_results(live._value),
        strict=True,
    )
    for component, live_component in pairs:
        for name, write in _GUARDED_WRITES.items():
            setattr(component, name, functools.partial(write, component, live_component))


def _stock(component, name):
    return functools.partial(getattr(type(component), name), component)


def _guarded_assign(component, live, value, *args, **kwargs):
    if not getattr(_thread, "unguarded", False):
        value = tf.where(live, tf.cast(value, component.dtype), component)
    return _stock(component, "assign")(value, *args, **kwargs)


def _guarded_increment(name):
    def write(component, live, delta, *args, **kwargs):
        delta = tf.cast(delta, component.dtype)
        return _stock(component, name)(tf.where(live, delta, _zero(delta)), *args, **kwargs)

    return write


def _guarded_scatter_increment(name):
    def write(component, live, slices, *args, **kwargs):
        return _stock(component, name)(masked_slices(slices, live), *args, **kwargs)

    return write


def _guarded_scatter_update(component, live, slices, *args, **kwargs):
    rows = tf.where(
        tf.gather(live, slices.indices), slices.values, tf.gather(component, slices.indices)
    )
    slices = tf.IndexedSlices(rows, slices.indices, slices.dense_shape)
    return _stock(component, "scatter_update")(slices, *args, **kwargs)


_GUARDED_WRITES = {
    "assign": _guarded_assign,
    "assign_add": _guarded_increment("assign_add"),
    "assign_sub": _guarded_increment("assign_sub"),
    "scatter_add": _guarded_scatter_increment("scatter_add"),
    "scatter_sub": _guarded_scatter_increment("scatter_sub"),
    "scatter_update": _guarded_scatter_update,
}


def _zero(tensor):
    return tf.zeros((), tensor.dtype)


def masked_slices(slices, live):
    """A sparse gradient with zeros where `live` is False."""
    values = tf.where(tf.gather(live, slices.indices), slices.values, _zero(slices.values))
    return tf.IndexedSlices(values, slices.indices, slices.dense_shape)


@tf.custom_gradient
def read_through(value, live):
    """`value` itself; its gradient is 0 where `live` is False."""

    def gradient(upstream):
        if isinstance(upstream, tf.IndexedSlices):
            return masked_slices(upstream, live), None
        return tf.where(live, upstream, _zero(upstream)), None

    return tf.identity(value), gradient


# State that is saved with a layer ----------------------------------------------------------------


class SavedState(tf.__internal__.tracking.AutoTrackable, KerasSaveable):
    """State which `.keras`, `.weights.h5` and TensorFlow checkpoints keep beside a layer's weights.

    It is not a layer, so `layer.weights`, `get_weights()` and parameter counts do not see it.
    """

    def _obj_type(self):
        return "Operation"


def remember_only(layer, attribute, state):
    """Sets `layer.attribute = state` so that files keep it, though the layer is already built."""
    setattr(layer, attribute, state)


def own_trainable_variables(layer):
    """The variables of a layer and its sub-layers that were made trainable, frozen ones too."""
    return [variable for variable in layer.weights if variable._trainable]


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


# Optimizer slots ----------------------------------------------------------------------------------


def slots(optimizer, weight):
    """The slots an optimizer holds for a weight: (optimizer, name of its list, variable).

    A slot stands in a list attribute of the optimizer, at the weight's place among the trainable
    variables. Inner optimizers are looked into.
    """
    found = []
    for part in _optimizer_parts(optimizer):
        indices = getattr(part, "_trainable_variables_indices", {})
        index = indices.get(part._var_key(weight)) if part.built else None
        if index is None:
            continue
        for attribute, values in vars(part).items():
            if attribute in ("_variables", "_trainable_variables"):
                continue
            is_slots = isinstance(values, list) and len(values) == len(indices)
            if is_slots and isinstance(values[index], keras.Variable):
                found.append((part, attribute, values[index]))
    return found


def _optimizer_parts(optimizer):
    parts = [optimizer]
    inner = getattr(optimizer, "inner_optimizer", None)
    for part in [inner, *(getattr(optimizer, "optimizers", None) or [])]:
        if part is not None:
            parts.extend(_optimizer_parts(part))
    return parts


def reset_slots(optimizer, weight, changed):
    """Sets the slots of a weight back to where they start, in the elements that `changed` picks.

    Slots which are not of the weight's shape (Adafactor's factors) cannot be reset by element.
    """
    for part, attribute, slot in slots(optimizer, weight):
        if tuple(slot.shape) == tuple(weight.shape):
            start = _slot_start(part, attribute, weight)
            slot.assign(tf.where(changed, tf.cast(start, slot.dtype), raw(slot)))


def _slot_start(optimizer, attribute, weight):
    follows_weight = attribute == "_model_variables_moving_average" or (
        isinstance(optimizer, keras.optimizers.ScheduleFreeAdamW) and attribute == "_momentums"
    )
    if follows_weight:
        return raw(weight)
    if attribute == "_accumulators":
        return optimizer.initial_accumulator_value
    return 0


# The graph of a functional model ------------------------------------------------------------------


def functional(model):
    """The functional graph of a Functional or built Sequential model, else None."""
    if isinstance(model, keras.Sequential):
        return model._functional
    return model if isinstance(model, Functional) else None


def nodes(model):
    """The calls of a functional graph in an order in which they can run, inputs left out.

    Each node has `operation`, `outputs` and `arguments` with `args` and `kwargs`.
    """
    by_depth = model._nodes_by_depth
    return [
        node
        for depth in sorted(by_depth, reverse=True)
        for node in by_depth[depth]
        if not node.is_input
    ]
