"""Describes a `tf_keras` model that is at hand as an object.

The graph is read from the model itself, so nothing is lost that its config does not hold. Layers
that are not Keras's own are opened: their `call` is run on symbolic tensors, which gives a graph of
stock layers and TensorFlow operations. Their classes need no `get_config`.
"""

import collections
import inspect
import json
import traceback
import warnings
from pathlib import Path

import keras
import tensorflow as tf

from tfprune import _keras
from tfprune.interop.tf_keras.description import (
    WRAPPER,
    Call,
    LayerDescription,
    ModelDescription,
    Output,
    Weight,
    leaves,
    mapped,
)

_ENDS_WITH_ACTIVATION = {"Activation", "Dense", "EinsumDense", "Conv", "Conv2D"}
"""Layers that apply `activation` last, with their subclasses."""


class NotOpenedError(Exception):
    """Raised where the `call` of a layer cannot be run on symbolic tensors; says why."""


def described_model(model, known=()):
    """The `ModelDescription` of a model of `tf_keras`.

    Args:
        model: The model, built. A subclassed one is opened.
        known: Names of classes that are not opened.

    Raises:
        ValueError: If the model is not built, or is subclassed and cannot be opened.
    """
    layers = [each for each in model.submodules if hasattr(each, "_inbound_nodes")]
    with _keras.without_new_calls([model, *layers]):
        reading = _Reading(model, frozenset(known))
        if is_graph(model):
            return reading.model(model)
        return reading.subclassed(model)


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
            return self.graph(model.name, inputs, outputs, model.trainable)
        shape, layers = _keras.legacy_build_shape(model), list(model.layers)
        calls = collections.defaultdict(list)
        if model.inputs:
            for layer, *call in _ordered_calls(model.inputs, model.outputs):
                calls[id(layer)].append(call)
            layers.insert(0, _keras.legacy_node(model.inputs[0])[0])
        described = tuple(self.layer(layer, calls=calls[id(layer)]) for layer in layers)
        return ModelDescription(model.name, described, input_shape=shape, is_sequential=True)

    def subclassed(self, model):
        """A model whose class has a `call` of its own: opened, unless the class is known."""
        args, kwargs = symbolic_inputs(model)
        inputs = [leaf for leaf in leaves((args, kwargs)) if _is_symbolic(leaf)]
        inputs = inputs[0] if len(inputs) == 1 else inputs
        if self.is_known(model):
            return self.graph(model.name, inputs, model(*args, **kwargs))
        try:
            outputs = _opened(model, args, kwargs)
            return self.graph(model.name, inputs, outputs)
        except NotOpenedError as error:
            raise ValueError(
                "Cannot take over a subclassed model. "
                f"Received: model={model.name!r} ({type(model).__name__}), {error}. "
                + _what_to_do(model)
            ) from error

    def graph(self, name, inputs, outputs, trainable=True):
        """The calls between symbolic tensors."""
        keys, layers, calls = {}, {}, collections.defaultdict(list)

        def reference(value):
            found = _keras.legacy_node(value)
            return _constant(value) if found is None else Output(keys[id(found[0])], *found[1:3])

        for layer, place, args, kwargs in _ordered_calls(inputs, outputs):
            if id(layer) not in keys:
                keys[id(layer)] = _unused(layer.name, layers)
                layers[keys[id(layer)]] = layer
            if args is not None:
                calls[keys[id(layer)]].append((place, args, kwargs))
        described = tuple(
            self.layer(each, key, calls[key], reference) for key, each in layers.items()
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
                found["model"] = self.opened(inner, calls)
            except NotOpenedError as error:
                found |= {"weights": self.weights(inner), "problem": str(error)}
            else:
                calls = [(place, (_tensors(a, k),), {}) for place, a, k in calls]
        if reference is None:  # in a Sequential model
            return LayerDescription(**{**vars(described), **found})
        try:
            found["calls"] = tuple(Call(p, *mapped((a, k), reference)) for p, a, k in calls)
        except NotOpenedError as error:
            raise NotOpenedError(f"{layer.name!r} ({type(layer).__name__}) {error}") from error
        return LayerDescription(**{**vars(described), **found})

    def opened(self, layer, calls):
        """The graph that stands for a layer which is called in these ways."""
        if not calls:
            raise NotOpenedError("its model has not been called, so its inputs are unknown")
        if len({repr(mapped((a, k), _kind)) for _, a, k in calls}) > 1:
            raise NotOpenedError("it is called in several ways")
        _, args, kwargs = calls[0]
        inputs = {
            id(tensor): _like(tensor) for tensor in leaves((args, kwargs)) if _is_symbolic(tensor)
        }
        given = mapped((args, kwargs), lambda leaf: inputs.get(id(leaf), leaf))
        if _is_stock(layer) and type(layer).__name__ != "Activation":
            return self.split(layer, given)
        outputs = _opened(layer, *given)
        return self.graph(layer.name, _tensors(*given), outputs)

    def split(self, layer, given):
        """The graph of a layer without its activation, and of its activation, a Python function."""
        import tf_keras

        function, layer.activation = layer.activation, tf_keras.activations.linear
        try:
            outputs = _applied(function, layer(*given[0], **given[1]))
            return self.graph(layer.name, _tensors(*given), outputs)
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

    def weights(self, layer):
        return tuple(
            Weight(
                variable.name.split(":")[0],
                variable.numpy(),
                self.masks.get(id(variable)),
            )
            for variable in layer.trainable_weights + layer.non_trainable_weights
            if id(variable) not in self.of_wrappers
        )


# Opening ------------------------------------------------------------------------------------------


def _opened(layer, args, kwargs):
    """What the `call` of a layer gives for symbolic tensors."""
    own = [weight.name.split(":")[0] for weight in _keras.legacy_own_weights(layer)]
    if own:
        raise NotOpenedError(f"it has weights of its own, not in layers: {', '.join(own)}")
    inputs = _tensors(args, kwargs)
    if isinstance(inputs, list) and not inputs:
        raise NotOpenedError("it is called on constants alone")
    is_free = _keras.legacy_takes_training(layer) and kwargs.get("training") is None
    outputs = _run(layer, args, {**kwargs, "training": None} if is_free else kwargs)
    if is_free:
        in_training = _run(layer, args, {**kwargs, "training": True})
        if _operations(inputs, outputs) != _operations(inputs, in_training):
            warnings.warn(
                f"The `call` of {layer.name!r} ({type(layer).__name__}) runs other operations in "
                "training. They are not in the new model, which does what it does in inference.",
                stacklevel=2,
            )
    reached = {id(w) for each, *_ in _ordered_calls(inputs, outputs) for w in each.weights}
    unused = [weight.name for weight in layer.weights if id(weight) not in reached]
    if unused:
        raise NotOpenedError(
            f"what its `call` gives does not depend on its weights {', '.join(unused)}"
        )
    return outputs


def _applied(function, tensor):
    try:
        found = function(tensor)
    except Exception as error:  # whatever the user's code raises
        raise NotOpenedError(_failure(error).replace("its `call`", "its activation")) from error
    if not _is_symbolic(found):
        raise NotOpenedError("its activation returns something else than a tensor of its input")
    return found


def _run(layer, args, kwargs):
    anchor = tf.nest.flatten(_tensors(args, kwargs))[0]

    def symbolic(constant):
        zero = tf.reduce_sum(tf.zeros_like(anchor, dtype=tf.int32))
        return tf.cast(zero, constant.dtype) + constant

    inside = [each for each in layer.submodules if getattr(each, "weights", None)]
    try:
        with _keras.legacy_calls_on(inside, symbolic):
            outputs = layer.call(*args, **kwargs)
    except Exception as error:  # whatever the user's code raises
        raise NotOpenedError(_failure(error)) from error
    if not all(_is_symbolic(leaf) for leaf in leaves(outputs)):
        raise NotOpenedError("its `call` returns something else than tensors of its inputs")
    return outputs


def _operations(inputs, outputs):
    calls = _ordered_calls(inputs, outputs)
    return collections.Counter((type(layer), getattr(layer, "symbol", "")) for layer, *_ in calls)


def _failure(error):
    """Where code failed, by the last line that is not in a library, and the exception's words."""
    frames = traceback.extract_tb(error.__traceback__)
    libraries = ("tensorflow", "tf_keras", "tfprune")
    own = [frame for frame in frames if not set(libraries) & set(Path(frame.filename).parts)]
    frame = (own or frames)[-1]
    words = " ".join(str(error).split())[:240]
    place = f"line {frame.lineno} of {Path(frame.filename).name}"
    return f"its `call` cannot be run on symbolic tensors: {place}: {type(error).__name__}: {words}"


def _check_complete(model, inputs, outputs):
    reached = {id(layer) for layer, *_ in _ordered_calls(inputs, outputs)}
    beside = [layer for layer in model.layers if id(layer) not in reached]
    if beside:
        raise ValueError(
            "Cannot take over what a model computes beside its outputs (`add_loss`, `add_metric`). "
            f"Received: model={model.name!r}, layer={beside[-1].name!r} "
            f"({type(beside[-1]).__name__}). Pass `tf_keras.Model(model.inputs, model.outputs)` to "
            "leave it out."
        )


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
        (tuple(args), kwargs), lambda leaf: _like(leaf) if hasattr(leaf, "dtype") else leaf
    )


def _what_to_do(layer):
    return (
        "Write it as a class of Keras 3 with the same weights, and pass "
        f"`custom_objects={{{type(layer).__name__!r}: ...}}`."
    )


# Graphs -------------------------------------------------------------------------------------------


def _ordered_calls(inputs, outputs):
    """The calls between symbolic tensors in an order in which they can run, inputs among them."""
    given = {id(tensor) for tensor in tf.nest.flatten(inputs)}
    seen, ordered = set(), []
    stack = [(tensor, False) for tensor in reversed(tf.nest.flatten(outputs))]
    stack += [(tensor, False) for tensor in reversed(tf.nest.flatten(inputs))]
    while stack:
        tensor, is_ready = stack.pop()
        layer, place, _, args, kwargs = _keras.legacy_node(tensor)
        if is_ready:
            ordered.append((layer, place, args, kwargs))
        elif (id(layer), place) not in seen:
            seen.add((id(layer), place))
            stack.append((tensor, True))
            if id(tensor) in given:
                continue
            if args is None:
                raise NotOpenedError(
                    f"it uses the tensor of {layer.name!r}, which is none of its inputs"
                )
            stack.extend((leaf, False) for leaf in leaves((args, kwargs)) if _is_symbolic(leaf))
    return ordered


def _tensors(args, kwargs):
    """The different symbolic tensors in arguments; a single one is not in a list."""
    tensors = {id(leaf): leaf for leaf in leaves((args, kwargs)) if _is_symbolic(leaf)}
    return next(iter(tensors.values())) if len(tensors) == 1 else list(tensors.values())


def _like(tensor):
    """A new input of the shape and dtype of a tensor."""
    import tf_keras

    shape = tensor.shape
    return tf_keras.Input(shape[1:], batch_size=shape[0], dtype=tensor.dtype)


def _kind(leaf):
    return (tuple(leaf.shape), leaf.dtype) if _is_symbolic(leaf) else leaf


def _is_symbolic(value):
    return _keras.legacy_node(value) is not None


def _constant(value):
    if isinstance(value, tf.Variable):
        raise NotOpenedError(f"uses the variable {value.name!r}, which no layer holds")
    if tf.is_tensor(value):
        return value.numpy()
    if isinstance(value, tf.DType):
        return value.name
    return value.as_list() if isinstance(value, tf.TensorShape) else value


def _unused(name, names):
    candidate, count = name, 1
    while candidate in names:
        candidate, count = f"{name}_{count}", count + 1
    return candidate


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
    """Whether a layer is of Keras's own class, or computes what that computes."""
    cls = _stock_class(type(layer))
    return cls is not None and cls.__name__ not in ("Lambda", "Layer", "Model")


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
