"""Variables which are read through a mask, and which nobody writes masked elements of.

Private here, and why:

* `keras.Variable`: `_maybe_autocast` and `AutocastScope`, to read as a layer does and without its
  casts; `_deferred_initialize`, since a variable may be made after its layer is built;
  `_restore_from_tensors`, since TensorFlow restores weights and masks in any order;
* `ControlFlowFuncGraph`, the graph of a branch or a loop, which may use tensors from outside;
* `Adafactor.assign`, which divides 0 by 0 where masks are.
"""

import contextlib
import functools
import threading

import keras
import tensorflow as tf
from keras.src.backend.common.variables import AutocastScope
from tensorflow.python.ops.control_flow_v2_func_graphs import ControlFlowFuncGraph

from tfprune._keras.custom_gradients import gradients_kept_by_graphs
from tfprune._keras.variable_values import raw

_thread = threading.local()

_BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")


class MaskedVariable(keras.Variable):
    """A variable whose gradient is 0 in masked elements, wherever it is used.

    `masks` is the `WeightMask` that it belongs to.
    """

    as_in_checkpoint = None

    @property
    def value(self):
        read = getattr(_thread, "reads", {}).get(id(self))
        if read is None:
            return super().value
        # A `call` that is a `tf.function` is traced once and used in several graphs.
        return self._maybe_autocast(read if _is_readable_here(read) else self.masks.read())

    def __tf_tensor__(self, dtype=None, name=None):
        with self._masked_outside_of_calls():
            return super().__tf_tensor__(dtype, name)

    @contextlib.contextmanager
    def _masked_outside_of_calls(self):
        """While open, `value` has the masked gradient, also where no layer that holds it is called.

        `value` alone must give the variable itself then: Keras takes gradients with respect to it.
        """
        if is_being_read(self):
            yield
            return
        with reading({id(self): mask_gradient(uncast(self), uncast(self.live))}):
            yield

    def _restore_from_tensors(self, restored_tensors):
        # TensorFlow restores the weight before its mask or after, or a checkpoint without masks.
        with unguarded():
            restored = super()._restore_from_tensors(restored_tensors)
            if tf.executing_eagerly() and not tf.reduce_all(self.kept):
                self.as_in_checkpoint = tf.identity(raw(self))
                self.zero_pruned(self.as_in_checkpoint)
        return restored

    def zero_pruned(self, value):
        """Assigns `value` with zeros where the mask prunes."""
        self.assign(tf.where(self.kept, value, _zero(value)))


def _is_readable_here(tensor):
    """Whether a tensor is one of the function that is being traced, or of a loop around it."""
    if not tf.is_symbolic_tensor(tensor):
        return tf.executing_eagerly()  # a function that is traced would keep its value for good
    graph = tf.compat.v1.get_default_graph()
    while graph is not tensor.graph and isinstance(graph, ControlFlowFuncGraph):
        graph = graph.outer_graph
    return graph is tensor.graph


def _masked_operator(name):
    stock = getattr(keras.Variable, name)

    @functools.wraps(stock)
    def operator(self, *args):
        with self._masked_outside_of_calls():
            return stock(self, *args)

    return operator


for _name in ("getitem", "neg", "pos", "abs", *(s + n for n in _BINARY for s in ("", "r"))):
    setattr(MaskedVariable, f"__{_name}__", _masked_operator(f"__{_name}__"))


class MaskVariable(keras.Variable):
    """A boolean variable that changes inside `unguarded` alone, so that nothing gets around it."""

    prunes = None

    def assign(self, value):
        if not getattr(_thread, "unguarded", False):
            raise ValueError(
                "A mask cannot be assigned to, because the weight and the optimizer would not "
                f"follow. Received: variable={self.path!r}. Use `tfprune.set_masks`."
            )
        return super().assign(value)

    def _deferred_initialize(self):
        super()._deferred_initialize()
        if hasattr(self, "guards_when_made"):
            guard(*self.guards_when_made, self)

    def _restore_from_tensors(self, restored_tensors):
        with unguarded():
            restored = super()._restore_from_tensors(restored_tensors)
            weight = self.prunes
            if weight is not None and weight.as_in_checkpoint is not None:
                weight.zero_pruned(weight.as_in_checkpoint)
                weight.as_in_checkpoint = None
        return restored


@contextlib.contextmanager
def reading(tensors):
    """While open, `variable.value` gives `tensors[id(variable)]`, on this thread alone."""
    before = getattr(_thread, "reads", {})
    _thread.reads = {**before, **tensors}
    try:
        yield
    finally:
        _thread.reads = before


def is_being_read(variable):
    """Whether a layer that is being called has opened `variable` for reading already."""
    return id(variable) in getattr(_thread, "reads", {})


def uncast(variable):
    """What `variable.value` gives outside of `reading`, in the dtype of the variable.

    That is not `raw` in a stateless call, nor before a variable is made that Keras makes late.
    """
    with AutocastScope(None), reading({id(variable): None}):
        return variable.value


def is_guarded(variable):
    """Whether `variable` carries masks already."""
    return isinstance(variable, MaskedVariable)


def live_elements(variable):
    """A boolean tensor of its shape: False where masks hold an element, True without masks."""
    if is_guarded(variable):
        return uncast(variable.live)
    return tf.ones(variable.shape, "bool")


@contextlib.contextmanager
def unguarded():
    """While open, guarded variables take any value, on this thread alone."""
    before = getattr(_thread, "unguarded", False)
    _thread.unguarded = True
    try:
        yield
    finally:
        _thread.unguarded = before


def guard(variable, kept, live):
    """Makes `variable` a `MaskedVariable` into which nobody writes where `live` is False.

    `kept` is False where the variable is 0, also after a TensorFlow checkpoint is restored.

    Optimizers, weight decay, moving averages, constraints, `set_weights` and the user all end in
    the assign methods of the `tf.Variable`; replacing those on the instance covers each of them,
    in each replica, and costs one selection a write.
    """
    variable.__class__ = MaskedVariable
    variable.kept, kept.prunes, variable.live = kept, variable, live
    _divide_by_no_zero_in_adafactor()
    if raw(live) is None:  # Built while Keras traces symbolically; it makes the variables later.
        live.guards_when_made = variable, kept
        return
    strategy = tf.distribute.get_strategy()
    pairs = zip(
        strategy.experimental_local_results(raw(variable)),
        strategy.experimental_local_results(raw(live)),
        strict=True,
    )
    writes = _GUARDED_WRITES
    if tf.inside_function():  # as when a `train_step` builds a layer
        writes = {**writes, "assign": _guarded_late_assign}
    for component, live_component in pairs:
        for name, write in writes.items():
            setattr(component, name, functools.partial(write, component, live_component))


def unguard(variable):
    """Makes a guarded variable a plain one again, with the value it has."""
    variable.__class__ = MaskedVariable.__base__
    for name in ("kept", "live", "masks"):
        vars(variable).pop(name, None)
    for component in tf.distribute.get_strategy().experimental_local_results(raw(variable)):
        for name in _GUARDED_WRITES:
            vars(component).pop(name, None)


def _divide_by_no_zero_in_adafactor():
    """Keeps Keras's Adafactor from turning a whole kernel into NaN, once any weight has masks.

    Its second moment is an outer product of a row and a column factor. Where a whole row and a
    whole column of the gradient are 0, as in a pruned unit with a pruned input, the product
    underflows to 0 and the step is 0 / 0; its norm, by which all steps of the kernel are divided,
    is NaN then. The step of a zero gradient is 0 whatever it is divided by, so 1 stands in. All
    else that Adafactor assigns is positive: nothing changes where it did not fail.
    """
    if "assign" not in vars(keras.optimizers.Adafactor):
        keras.optimizers.Adafactor.assign = _assign_positive


def _assign_positive(optimizer, variable, value):
    super(keras.optimizers.Adafactor, optimizer).assign(
        variable, tf.where(value == 0, tf.ones_like(value), value)
    )


def _stock(component, name):
    return functools.partial(getattr(type(component), name), component)


def _guarded_assign(component, live, value, *args, **kwargs):
    if not getattr(_thread, "unguarded", False):
        value = tf.where(live, tf.cast(value, component.dtype), component)
    return _stock(component, "assign")(value, *args, **kwargs)


def _guarded_late_assign(component, live, value, *args, **kwargs):
    """For a variable made in a `tf.function`, which assigns its initial value before the masks."""
    if not getattr(_thread, "unguarded", False):
        value = tf.cast(value, component.dtype)
        value = tf.cond(
            component.is_initialized(), lambda: tf.where(live, value, component), lambda: value
        )
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


def mask_gradient(value, live):
    """`value` itself; its gradient is 0 where `live` is False."""
    if isinstance(value, tf.distribute.DistributedValues):  # of a mirrored model, outside of steps
        value, live = tf.convert_to_tensor(value), tf.convert_to_tensor(live)
    with gradients_kept_by_graphs():
        return _mask_gradient(value, live)


@tf.custom_gradient
def _mask_gradient(value, live):
    def gradient(upstream):
        if isinstance(upstream, tf.IndexedSlices):
            return masked_slices(upstream, live), None
        return tf.where(live, upstream, _zero(upstream)), None

    return tf.identity(value), gradient


def observe_gradient(value, observer):
    """`value` itself; the backward pass calls `observer(value, gradient)` with its gradient."""

    @tf.custom_gradient
    def passed(value):
        def gradient(upstream):
            observer(value, upstream)
            return upstream

        return tf.identity(value), gradient

    with gradients_kept_by_graphs():
        return passed(value)
