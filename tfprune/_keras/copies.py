"""A copy of a model, object by object, without constructors and without configs.

Private here, and why:

* `_inbound_nodes`, `_outbound_nodes` and `_keras_history`: the graph, whose calls and symbolic
  tensors are copied with the layers, so that it need not be run again;
* the keys of `_nodes` (the id of an operation and the place of the call) and of the slots of an
  optimizer (`_unique_id` of a `tf.Variable`), which name objects that have copies;
* `_value`, `_shape`, `_dtype` and `_initialize` of a variable, which make its counterpart directly;
* `_distribute_strategy` and the functions that `fit`, `evaluate` and `predict` compiled;
* `_clone` of a `tf.function`, `_default_value` of a lookup table.
"""

import contextlib

import keras
import numpy as np
import tensorflow as tf

from tfprune._keras.deep_copies import DeepCopy
from tfprune._keras.graphs import functional, is_symbolic
from tfprune._keras.masked_variables import guard, is_guarded
from tfprune._keras.subclassed import keep_calls
from tfprune._keras.variable_values import raw

_CALLS = ("_inbound_nodes", "_outbound_nodes")
_COMPILED = ("train_function", "test_function", "predict_function")


class Originals(dict):
    """For each object of a copy, by id, the original; no other object gets such an id meanwhile.

    Args:
        copies: Pairs of an original and its copy, which are held: some of them, such as symbolic
            tensors, nothing else holds while the copy runs.
    """

    def __init__(self, copies):
        super().__init__({id(copy): original for original, copy in copies})
        self.held = copies


def copied_objects(model, new_value=None, shared=()):
    """A model copied with all it holds.

    Layers, variables, models, optimizers, metrics, containers and objects of the user's classes
    are copied, each once. Tensors, lookup tables that do not change and objects of TensorFlow,
    NumPy and the standard library are shared, and so are functions, but for those whose closure
    refers to something that is copied: they refer to the copy.

    Args:
        model: Any Keras model.
        new_value: Function of a variable; returns the value of its copy, of any shape and dtype, or
            None for the one it has.
        shared: Objects that are not copied either.

    Returns:
        The pairs of an object and its copy, the model first.
    """
    copy = ModelCopy(new_value, shared)
    strategy = getattr(model, "_distribute_strategy", None)
    with contextlib.nullcontext() if strategy is None else strategy.scope(), tf.init_scope():
        copy.copy(model)
        copy.finish()
    return copy.pairs()


class ModelCopy(DeepCopy):
    """One copy of a model: layers and variables first, then the calls of its graph."""

    def __init__(self, new_value=None, shared=()):
        super().__init__()
        self.new_value = new_value
        self.copies.update({id(value): value for value in shared})
        self.tensors = []  # symbolic ones, which came out of calls
        self.operations, self.tf_variables, self.guarded = [], [], []
        self.ways_of_kinds = {
            keras.Variable: self._variable,
            tf.Variable: self._tf_variable,
            tf.types.experimental.PolymorphicFunction: self._tf_function,
            tf.lookup.experimental.MutableHashTable: self._table,
            keras.initializers.Initializer: self._initializer,
            keras.KerasTensor: self._tensor,
            keras.Operation: self._operation,
            **self.ways_of_kinds,
        }

    def finish(self):
        """Copies the calls of the graph, and lets keys made of ids name the copies."""
        for tensor in self.tensors:  # grows meanwhile
            operation, index, _ = tensor._keras_history
            self.copy(operation)
            self.copy(operation._inbound_nodes[index])
        keys, places = {id(old): id(self.copies[id(old)]) for old in self.originals}, {}
        for old in self.operations:
            places.update(self._with_calls(old, self.copies[id(old)]))
        for old in self.tf_variables:
            keys[old._unique_id] = self.copies[id(old)]._unique_id
        for (operation, old), new in places.items():
            keys[f"{operation}_ib-{old}"] = f"{keys[operation]}_ib-{new}"
        self.rename(keys)
        for tensor in self.tensors:
            operation, index, output = tensor._keras_history
            history = self.copies[id(operation)], places[id(operation), index], output
            self.copies[id(tensor)]._keras_history = type(tensor._keras_history)(*history)
        for variable in self.guarded:
            new = self.copies[id(variable)]
            guard(new, new.kept, new.live)

    def _with_calls(self, old, new):
        """Lists the copied calls of an operation; pairs of the place of each, before and now."""
        for name in _CALLS:
            calls = (self.copies.get(id(node)) for node in getattr(old, name))
            vars(new)[name] = [call for call in calls if call is not None]
        kept = [i for i, node in enumerate(old._inbound_nodes) if id(node) in self.copies]
        return {(id(old), before): now for now, before in enumerate(kept)}

    def _object(self, value, without=()):
        return super()._object(value, {*without, *getattr(type(value), "not_in_copies", ())})

    def _operation(self, operation):
        self.operations.append(operation)
        if not isinstance(operation, keras.Model):
            return self._object(operation, _CALLS)
        new = self._object(operation, (*_CALLS, *_COMPILED))
        vars(new).update(dict.fromkeys(_COMPILED))
        if functional(operation) is None:
            keep_calls(operation, new)
        if getattr(operation, "_distribute_strategy", None) is not None:
            vars(new)["_distribute_strategy"] = tf.distribute.get_strategy()
        return new

    def _tensor(self, tensor):
        if not _has_history(tensor):
            return self._object(tensor)
        self.tensors.append(tensor)
        return self._object(tensor, {"_keras_history"})

    def _initializer(self, initializer):
        # It only reads its arrays, which may be as large as the weights.
        arrays = [v for v in vars(initializer).values() if isinstance(v, np.ndarray)]
        self.copies.update({id(array): array for array in arrays})
        return self._object(initializer)

    def _variable(self, variable):
        new = self.enter(variable, object.__new__(type(variable)))
        vars(new)["_value"] = None
        self._copy_attributes(variable, new, {"_value"})
        if is_guarded(variable) and new.kept is not variable.kept:
            self.guarded.append(variable)
        if raw(variable) is not None:
            value = None if self.new_value is None else self.new_value(variable)
            if value is None:
                value = raw(variable)
            else:
                new._shape = tuple(value.shape)
                new._dtype = keras.backend.standardize_dtype(value.dtype)
            new._initialize(tf.convert_to_tensor(value))
            self.tf_variables.append(raw(variable))
            self.enter(raw(variable), raw(new))
        return new

    def _tf_variable(self, variable):
        name, value = variable.name.split(":")[0], tf.convert_to_tensor(variable)
        new = tf.Variable(value, trainable=variable.trainable, dtype=variable.dtype, name=name)
        self.tf_variables.append(variable)
        return self.enter(variable, new)

    def _tf_function(self, function):
        inner = self.copy(function.python_function)
        if inner is function.python_function:
            return function
        return self.enter(function, function._clone(inner))

    def _table(self, table):
        new = type(table)(table.key_dtype, table.value_dtype, table._default_value)
        new.insert(*table.export())
        return self.enter(table, new)


def _has_history(value):
    """Whether a value is a symbolic tensor that came out of a call."""
    return is_symbolic(value) and getattr(value, "_keras_history", (None,))[0] is not None


def call_directly(layer, function):
    """Lets calls of a layer of a copy be calls of a function, of which Keras notes nothing."""
    layer.__class__ = type(
        type(layer).__name__,
        (type(layer),),
        {"__call__": lambda _, *args, **kwargs: function(*args, **kwargs)},
    )
