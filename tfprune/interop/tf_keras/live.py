"""Describes a `tf_keras` model that is at hand as an object.

The graph is read from the model itself, so nothing is lost that its config does not hold. Layers
that are not Keras's own are traced: their `call` is run on symbolic tensors, which gives a graph of
stock layers and TensorFlow operations. Their classes need no `get_config`.
"""

import collections
import inspect
import json
import warnings
from dataclasses import replace

import keras
import tensorflow as tf

from tfprune import _keras
from tfprune.interop.tf_keras.call_tracing import applied, traced
from tfprune.interop.tf_keras.description import (
    OWN_WEIGHT,
    WRAPPER,
    Call,
    LayerDescription,
    ModelDescription,
    Output,
    Weight,
    leaves,
    mapped,
)
from tfprune.interop.tf_keras.graphs import (
    NotTracedError,
    is_symbolic,
    like,
    ordered_calls,
    tensors_in,
)
from tfprune.interop.tf_keras.layers import has_layer

_ENDS_WITH_ACTIVATION = {"Activation", "Dense", "EinsumDense", "Conv", "Conv2D"}
"""Layers that apply `activation` last, with their subclasses."""


def described_model(model, known=()):
    """The `ModelDescription` of a model of `tf_keras`.

    Args:
        model: The model, built. A subclassed one is traced.
        known: Names of classes that are not traced.

    Raises:
        ValueError: If the model is not built, or is subclassed and cannot be traced.
    """
    layers = [each for each in model.submodules if hasattr(each, "_inbound_nodes")]
    with _keras.without_new_calls([model, *layers]):
        reading = _Reading(model, frozenset(known))
        try:
            return reading.model(model) if is_graph(model) else reading.subclassed(model)
        except NotTracedError as error:
            raise ValueError(f"Cannot take over {model.name!r}: {error}.") from error


class _Reading:
    """Reads one model; it knows which variables are masks, and of which weights."""

    def __init__(self, model, known):
        self.known = known
        self.masks, self.of_wrappers = {}, set()
        for wrapper in model.submodules:
            if type(wrapper).__name__ == WRAPPER:
                self.of_wrappers.add(id(wrapper.pruning_step))
                for weight, mask, threshold in wrapper.pruning_vars:
                    self.masks[id(weight)] = mask.numpy() != 0
                    self.of_wrappers |= {id(mask), id(threshold)}

    def model(self, model):
        """A Functional or Sequential model."""
        if not _is_a(model, "Sequential"):
            inputs, outputs = _keras.legacy_structures(model)
            _check_complete(model, inputs, outputs)
            return self.graph(model.name, inputs, outputs, trainable=model.trainable)
        shape, layers = _keras.legacy_build_shape(model), list(model.layers)
        calls = collections.defaultdict(list)
        if model.inputs:
            for layer, *call in ordered_calls(model.outputs, model.inputs):
                calls[id(layer)].append(call)
            layers.insert(0, _keras.legacy_node(model.inputs[0])[0])
        described = tuple(self.layer(layer, calls=calls[id(layer)]) for layer in layers)
        return ModelDescription(model.name, described, input_shape=shape, is_sequential=True)

    def subclassed(self, model):
        """A model whose class has a `call` of its own: traced, unless the class is known."""
        args, kwargs = symbolic_inputs(model)
        inputs = [leaf for leaf in leaves((args, kwargs)) if is_symbolic(leaf)]
        inputs = inputs[0] if len(inputs) == 1 else inputs
        if self.is_known(model):
            described = self.graph(model.name, inputs, model(*args, **kwargs))
            return replace(described, is_one_layer=True)
        try:
            return self.graph(model.name, inputs, **vars(traced(model, args, kwargs)))
        except NotTracedError as error:
            raise ValueError(
                "Cannot take over a subclassed model. "
                f"Received: model={model.name!r} ({type(model).__name__}), {error}. "
                + _what_to_do(model)
            ) from error

    def graph(self, name, inputs, outputs, weights=(), trainable=True):
        """The calls between symbolic tensors; some of these may stand for weights."""
        keys, layers, calls = {}, {}, collections.defaultdict(list)
        own = {id(_keras.legacy_node(tensor)[0]): weight for tensor, weight in weights}
        tensors = {id(weight): tensor for tensor, weight in weights}

        def reference(value):
            found = _keras.legacy_node(tensors.get(id(value), value))
            return _constant(value) if found is None else Output(keys[id(found[0])], *found[1:3])

        def note(layer):
            if id(layer) not in keys:
                variable = own.get(id(layer))
                name = layer.name if variable is None else _own_name(variable)
                keys[id(layer)] = _unused(name, layers)
                layers[keys[id(layer)]] = layer
            return keys[id(layer)]

        for tensor in tf.nest.flatten(inputs):
            note(_keras.legacy_node(tensor)[0])
        for layer, place, args, kwargs in ordered_calls(outputs, [inputs, [t for t, _ in weights]]):
            key = note(layer)
            if args is not None:
                calls[key].append((place, args, kwargs))
        described = tuple(
            self.weight(own[id(each)], key, tensors[id(own[id(each)])].dtype)
            if id(each) in own
            else self.layer(each, key, calls[key], reference)
            for key, each in layers.items()
        )
        ends = [mapped(structure, reference) for structure in (inputs, outputs)]
        return ModelDescription(name, described, *ends, trainable=trainable)

    def layer(self, layer, key="", calls=(), reference=None):
        """A layer with its calls: places, args and kwargs with symbolic tensors."""
        inner = layer
        while type(inner).__name__ == WRAPPER:
            inner = inner.layer
        described = LayerDescription(
            name=key if key and inner is layer else inner.name,
            serialised=_serialised(inner, self.is_known(inner)),
            identity=id(inner),
            key=key or layer.name,
        )
        found = {}
        if is_graph(inner) and not self.is_known(inner):
            found["model"] = self.model(inner)
        elif self.is_known(inner) or (_is_stock(inner) and not self.has_own_activation(inner)):
            found["weights"] = self.weights(inner)
        else:
            try:
                found["model"] = self.traced(inner, calls)
            except NotTracedError as error:
                found |= {"weights": self.weights(inner), "problem": str(error)}
            else:
                calls = [(place, (tensors_in(a, k),), {}) for place, a, k in calls]
        if reference is None:  # in a Sequential model
            return LayerDescription(**{**vars(described), **found})
        try:
            found["calls"] = tuple(Call(p, *mapped((a, k), reference)) for p, a, k in calls)
        except NotTracedError as error:
            raise NotTracedError(f"{layer.name!r} ({type(layer).__name__}) {error}") from error
        return LayerDescription(**{**vars(described), **found})

    def traced(self, layer, calls):
        """The graph that stands for a layer which is called in these ways."""
        if not calls:
            raise NotTracedError("its model has not been called, so its inputs are unknown")
        if len({repr(mapped((a, k), _kind)) for _, a, k in calls}) > 1:
            raise NotTracedError("it is called in several ways")
        _, args, kwargs = calls[0]
        inputs = {
            id(tensor): like(tensor) for tensor in leaves((args, kwargs)) if is_symbolic(tensor)
        }
        given = mapped((args, kwargs), lambda leaf: inputs.get(id(leaf), leaf))
        if _is_stock(layer) and type(layer).__name__ != "Activation":
            return self.split(layer, given)
        return self.graph(layer.name, tensors_in(*given), **vars(traced(layer, *given)))

    def split(self, layer, given):
        """The graph of a layer without its activation, and of its activation, a Python function."""
        import tf_keras

        function, layer.activation = layer.activation, tf_keras.activations.linear
        try:
            outputs = applied(function, layer(*given[0], **given[1]))
            return self.graph(layer.name, tensors_in(*given), outputs)
        finally:
            layer.activation = function

    def has_own_activation(self, layer):
        """Whether the activation that ends a layer is a Python function of the user's."""
        function = getattr(layer, "activation", None)
        name = getattr(function, "__name__", "")
        ends = _ENDS_WITH_ACTIVATION & {cls.__name__ for cls in type(layer).__mro__}
        is_own = not getattr(function, "__module__", "").startswith(("tf_keras.", "keras."))
        is_named = getattr(function, "__module__", "").startswith("tensorflow.") and hasattr(
            keras.activations, name
        )
        is_function = inspect.isfunction(function)
        return bool(ends) and is_function and is_own and not is_named and name not in self.known

    def is_known(self, layer):
        """Whether Keras 3 has a class in place of a layer's own one."""
        names = _class_names(type(layer))
        return any(n in self.known or keras.saving.get_registered_object(n) for n in names)

    def weight(self, variable, key, dtype):
        """A weight that a traced layer holds itself, with the dtype in which it is used."""
        is_mixed = dtype != variable.dtype
        config = {
            "trainable": variable.trainable,
            "shape": tuple(variable.shape),
            "dtype": f"mixed_{dtype.name}" if is_mixed else dtype.name,
        }
        return LayerDescription(
            name=key,
            serialised={"class_name": OWN_WEIGHT, "config": config},
            identity=id(variable),
            weights=(self.value(variable),),
            key=key,
        )

    def value(self, variable):
        """A weight as it is described."""
        path = variable.name.split(":")[0]
        return Weight(path, variable.numpy(), self.masks.get(id(variable)))

    def weights(self, layer):
        """The weights of a layer that stays one."""
        return tuple(
            self.value(variable)
            for variable in layer.trainable_weights + layer.non_trainable_weights
            if id(variable) not in self.of_wrappers
        )


# Classes ------------------------------------------------------------------------------------------


def _is_a(layer, name):
    return any(
        cls.__name__ == name and cls.__module__.startswith("tf_keras.")
        for cls in type(layer).__mro__
    )


def is_graph(layer):
    """Whether a layer is a model that is nothing but its layers."""
    if _is_a(layer, "Sequential"):
        return type(layer).__module__.startswith("tf_keras.") or _keras.has_legacy_graph(layer)
    return _keras.has_legacy_graph(layer)


def _is_stock(layer):
    """Whether a layer computes what one of Keras's own classes computes, which Keras 3 has."""
    cls = _stock_class(type(layer))
    return cls is not None and cls.__name__ != "Lambda" and has_layer(cls.__name__)


def _stock_class(cls):
    """The class of `tf_keras` whose objects compute what those of a class compute, or None."""
    for each in cls.__mro__:
        if each.__module__.startswith("tf_keras."):
            return each
        if {"call", "build", "__call__"} & set(vars(each)):
            return None
    return None


def _class_names(cls):
    import tf_keras

    return cls.__name__, tf_keras.saving.get_registered_name(cls)


def _serialised(layer, is_known):
    """The layer as serialised; without a config where its class cannot say one."""
    cls, stock = type(layer), None if is_known else _stock_class(type(layer))
    plain = {
        "class_name": cls.__name__ if stock is None else stock.__name__,
        "module": cls.__module__ if stock is None else "keras.layers",
        "registered_name": _class_names(cls)[1] if stock is None else None,
        "config": {"name": layer.name},
    }
    if hasattr(layer, "symbol"):  # an operation of TensorFlow
        return {**plain, "config": {"name": layer.name, "function": layer.symbol}}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = (stock or cls).get_config(layer)
            return json.loads(json.dumps({**plain, "config": config}, default=_as_json))
    except (NotImplementedError, TypeError, ValueError):
        return plain


def _as_json(value):
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, tf.TensorShape):
        return value.as_list()
    if isinstance(value, tf.DType):
        return value.name
    if hasattr(value, "get_config"):  # a layer, an initializer, ...
        import tf_keras

        return tf_keras.saving.serialize_keras_object(value)
    raise TypeError(f"{value!r} cannot be said in JSON")


# Helpers ------------------------------------------------------------------------------------------


def symbolic_inputs(model):
    """Arguments on which a subclassed model can be called."""
    specification = model.save_spec()
    if specification is None:
        raise ValueError(
            "The model is subclassed, and not built, so the shapes of its inputs are unknown. "
            f"Received: model={model.name!r} ({type(model).__name__}). Call it on data once."
        )
    args, kwargs = specification
    return mapped(
        (tuple(args), kwargs), lambda leaf: like(leaf) if hasattr(leaf, "dtype") else leaf
    )


def _what_to_do(layer):
    return (
        "Write it as a class of Keras 3 with the same weights, and pass "
        f"`custom_objects={{{type(layer).__name__!r}: ...}}`."
    )


def _check_complete(model, inputs, outputs):
    reached = {id(layer) for layer, *_ in ordered_calls(outputs, inputs)}
    beside = [layer for layer in model.layers if id(layer) not in reached]
    if beside:
        raise ValueError(
            "Cannot take over what a model computes beside its outputs (`add_loss`, `add_metric`). "
            f"Received: model={model.name!r}, layer={beside[-1].name!r} "
            f"({type(beside[-1]).__name__}). Pass `tf_keras.Model(model.inputs, model.outputs)` to "
            "leave it out."
        )


def _kind(leaf):
    return (tuple(leaf.shape), leaf.dtype) if is_symbolic(leaf) else leaf


def _constant(value):
    if isinstance(value, tf.Variable) and not value.dtype.is_floating:
        return value.numpy()
    if isinstance(value, tf.Variable):
        raise NotTracedError(f"uses the variable {value.name!r}, which no layer holds")
    if tf.is_tensor(value):
        return value.numpy()
    if isinstance(value, tf.DType):
        return value.name
    return value.as_list() if isinstance(value, tf.TensorShape) else value


def _own_name(variable):
    return variable.name.split("/")[-1].split(":")[0]


def _unused(name, names):
    candidate, count = name, 1
    while candidate in names:
        candidate, count = f"{name}_{count}", count + 1
    return candidate
