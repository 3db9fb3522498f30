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
from keras.src import ops as raw_operations
from keras.src.applications import convnext, inception_resnet_v2
from keras.src.backend.common.variables import AutocastScope
from keras.src.models.functional import Functional
from keras.src.saving.keras_saveable import KerasSaveable

_thread = threading.local()


# Reading and writing variables ------------------------------------------------------------------


class MaskedVariable(keras.Variable):
    """A variable whose reads inside its layer's `call` stop the gradient of masked elements."""

    as_in_checkpoint = None

    @property
    def value(self):
        read = getattr(_thread, "reads", {}).get(id(self))
        return super().value if read is None else self._maybe_autocast(read)

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


def is_read_through(variable):
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


def guard(variable, kept, live):
    """Makes `variable` a `MaskedVariable` into which nobody writes where `live` is False.

    `kept` is False where the variable is 0, also after a TensorFlow checkpoint is restored.

    Optimizers, weight decay, moving averages, constraints, `set_weights` and the user all end in
    the assign methods of the `tf.Variable`; replacing those on the instance covers each of them,
    in each replica, and costs one selection a write.
    """
    variable.__class__ = MaskedVariable
    variable.kept, kept.prunes = kept, variable
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
    for component, live_component in pairs:
        for name, write in _GUARDED_WRITES.items():
            setattr(component, name, functools.partial(write, component, live_component))


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


def own_trainable_variables(layer):
    """The weights of a layer and its sub-layers that were made trainable.

    Those of a layer with `trainable=False` too: it may become trainable after it is built.
    """
    made = {id(v) for part in all_layers(layer) for v in part._trainable_variables}
    return [variable for variable in layer.weights if id(variable) in made]


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
        if index is not None:
            found += [(part, name, s[index]) for name, s in _slot_lists(part) if is_slot(s[index])]
    return found


def _slot_lists(optimizer):
    """The list attributes of an optimizer with a place for each trainable variable."""
    size = len(getattr(optimizer, "_trainable_variables_indices", {}))
    for name, values in vars(optimizer).items():
        is_state = name not in ("_variables", "_trainable_variables")
        if is_state and isinstance(values, list) and len(values) == size:
            yield name, values


def is_slot(value):
    """Whether a value is a variable, and not the None of a weight without a slot."""
    return isinstance(value, keras.Variable)


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
    # Not in every Keras that the package supports.
    schedule_free = getattr(keras.optimizers, "ScheduleFreeAdamW", ())
    follows_weight = attribute == "_model_variables_moving_average" or (
        isinstance(optimizer, schedule_free) and attribute == "_momentums"
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

    Returns:
        Pairs of a node, which has `operation`, `outputs` and `arguments` with `args` and `kwargs`,
        and its place among the `inbound_nodes` in the config of its operation.
    """
    by_depth = model._nodes_by_depth
    ordered = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
    inside = {id(node) for node in ordered}
    places = {
        id(node): place
        for operation in model.operations
        for place, node in enumerate(n for n in operation._inbound_nodes if id(n) in inside)
    }
    return [(node, places[id(node)]) for node in ordered if not node.is_input]


def input_layers(graph):
    """The input layers of a functional graph, in the order of its inputs."""
    return [tensor._keras_history.operation for tensor in graph.inputs]


def operations(model):
    """The operations of a Functional or Sequential model, layers and others, not of inner ones."""
    return list(functional(model).operations)


def all_operations(model):
    """The operations of a model, of the models in it, and the layers inside layers."""
    found = []
    for operation in operations(model):
        if functional(operation) is not None:
            found.extend(all_operations(operation))
        elif isinstance(operation, keras.layers.Layer):
            found.extend(all_layers(operation))
        else:
            found.append(operation)
    return found


def graph_config(model):
    """A model as serialised, without weights; a subclass of Functional as its plain graph."""
    if isinstance(model, keras.Sequential):
        cls, config = keras.Sequential, keras.Sequential.get_config(model)
    else:
        cls = Functional
        if type(model) is not Functional:
            model = keras.Model(model._inputs_struct, model._outputs_struct, name=model.name)
        config = model.get_config()
    return {
        "module": cls.__module__,
        "class_name": cls.__name__,
        "config": config,
        "registered_name": cls.__name__,
    }


def is_functional_config(config):
    """Whether a serialised operation is a nested Functional model."""
    return config.get("class_name") == Functional.__name__ and "layers" in config["config"]


def layer_pairs(old, new):
    """The layers of a model, each with its counterpart in a model rebuilt from its config."""
    graph = functional(old)
    if graph is None:
        yield old, new
        for ours, theirs in zip(old._layers, new._layers, strict=True):
            yield from layer_pairs(ours, theirs)
        return
    counterparts = {operation.name: operation for operation in operations(new)}
    for operation in graph.operations:
        if isinstance(operation, keras.layers.Layer) and operation.name in counterparts:
            yield from layer_pairs(operation, counterparts[operation.name])


def variable_pairs(old, new):
    """The variables of a model, each with its counterpart; a variable the new one adds has none."""
    seen = set()
    for ours, theirs in layer_pairs(old, new):
        if id(ours) in seen:
            continue
        seen.add(id(ours))
        yield from _own_pairs(_own_variables(ours), _own_variables(theirs))
        for seed, other in zip(ours._seed_generators, theirs._seed_generators, strict=True):
            yield seed.state, other.state
        yield from zip(_states(ours), _states(theirs), strict=True)


def _own_pairs(ours, theirs):
    # By place, because weights without a name are numbered anew, and names may come twice.
    if len(theirs) > len(ours):
        theirs = [variable for variable in theirs if variable.name != "bias"]
    return zip(ours, theirs, strict=True)


def recurrent_states(model):
    """What stateful recurrent layers remember; Keras does not count it as weights."""
    return [state for layer in all_layers(model) for state in _states(layer)]


def _states(layer):
    is_stateful = isinstance(layer, keras.layers.RNN) and layer.stateful
    return keras.tree.flatten(layer.states) if is_stateful and layer.states else []


def _own_variables(layer):
    return [*layer._trainable_variables, *layer._non_trainable_variables]


# Compile state ------------------------------------------------------------------------------------


def compile_arguments(model):
    """What `model.compile` was called with, the objects themselves; empty if it was not."""
    if not model.compiled:
        return {}
    return dict(model._compile_config.config)


def copy_optimizer_state(old, new, pairs, take):
    """Copies slots, through `take(weight, value, new slot, name)`, and the counters."""
    for ours, theirs in pairs:
        new_slots = {(name, i): slot for i, (_, name, slot) in enumerate(slots(new, theirs))}
        for i, (_, name, slot) in enumerate(slots(old, ours)):
            value, counterpart = keras.ops.convert_to_numpy(raw(slot)), new_slots[name, i]
            counterpart.assign(take(ours, value, counterpart, name))
    for ours, theirs in zip(_counters(old), _counters(new), strict=True):
        theirs.assign(raw(ours))


def _counters(optimizer):
    """What an optimizer holds besides slots: the step, the learning rate, a loss scale."""
    held = {
        id(slot)
        for part in _optimizer_parts(optimizer)
        for _, values in _slot_lists(part)
        for slot in values
    }
    return [variable for variable in optimizer.variables if id(variable) not in held]


def count_weights(model):
    """How many elements the weights of a model have."""
    return int(sum(int(tf.size(raw(weight))) for weight in model.weights))


def output_structure(model):
    """The structure (tensor, list, dict) in which a model gives its outputs."""
    return functional(model)._outputs_struct


def is_symbolic(value):
    """Whether a value is a symbolic tensor of Keras."""
    return isinstance(value, keras.KerasTensor)


def operations_between(inputs, outputs):
    """The operations between symbolic tensors; None if some take variables or outside tensors."""
    found, seen, stack = {}, {id(tensor) for tensor in inputs}, list(outputs)
    while stack:
        tensor = stack.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        operation, index, _ = tensor._keras_history
        if operation is None or isinstance(operation, keras.layers.InputLayer):
            return None
        node = operation._inbound_nodes[index]
        leaves = keras.tree.flatten([list(node.arguments.args), dict(node.arguments.kwargs)])
        if any(isinstance(leaf, (keras.Variable, tf.Variable, tf.Tensor)) for leaf in leaves):
            return None
        found[id(operation)] = operation
        stack.extend(node.arguments.keras_tensors)
    return list(found.values())


def input_structure(model):
    """The structure (tensor, list, dict) in which a model takes its inputs."""
    return functional(model)._inputs_struct


# Operations that Keras does not show --------------------------------------------------------------


def raw_operation(name):
    """The class of the operation behind a function of `keras.ops`: `Matmul`, `Einsum`."""
    return getattr(raw_operations, name)


def operation_classes(*names):
    """The classes of raw operations, those that this version of Keras has."""
    return [getattr(raw_operations, name) for name in names if hasattr(raw_operations, name)]


def attention_projections(layer):
    """The projections of an attention layer by name: query, key, value, attention_output, gate."""
    return {part.name: part for part in layer._layers if isinstance(part, keras.layers.EinsumDense)}


def application_layers(*names):
    """Layer classes which `keras.applications` keeps to itself, those that there are."""
    modules = (convnext, inception_resnet_v2)
    return [getattr(m, name) for m in modules for name in names if hasattr(m, name)]


# What is left out of files ------------------------------------------------------------------------


def without_compile_state(model):
    """A view of a model that shares all it has, but is not compiled and has no optimizer."""
    view = object.__new__(type(model))
    vars(view).update(vars(model))
    vars(view).update(compiled=False, optimizer=None, _compile_metrics=None, _loss_tracker=None)
    return view
