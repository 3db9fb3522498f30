"""Stock layers to drop-in layers and back: the same model, by way of its config."""

import inspect

import keras

from tfprune import _keras
from tfprune.layers import DROP_INS

_DROP_IN_NAMES = {stock.__name__: drop_in for stock, drop_in in DROP_INS.items()}


def prunable(model, *, only=None, exclude=None):
    """The same model made of layers that carry masks.

    Weights, compile state and optimizer slots are kept; the model given is not touched.

    Args:
        model: A Functional or built Sequential model, nested ones included.
        only: Layers or names of layers to convert; by default all that have a drop-in class.
        exclude: Layers or names of layers to leave as they are.

    Returns:
        A new model of the same kind.

    Raises:
        ValueError: If the model is subclassed, or a layer named is not in it.

    Example:

    >>> import tfprune
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="d")])
    >>> masked = tfprune.prunable(model)
    >>> sorted(masked.get_layer("d").trainable_masks)
    ['bias', 'kernel']
    """
    _check_graph(model)
    names = {layer.name for layer in _keras.all_layers(model)}
    only = names if only is None else _named(only, names, "only")
    exclude = set() if exclude is None else _named(exclude, names, "exclude")

    def edit(config, operation):
        if operation.name in only and operation.name not in exclude:
            return _to_drop_in(config, exclude)
        return config

    new = rebuilt(model, edit)
    copy_weights(model, new)
    copy_compile_state(model, new)
    return new


def _check_graph(model):
    if _keras.functional(model) is not None:
        return
    if isinstance(model, keras.Sequential):
        raise ValueError(
            "The Sequential model is not built, so its shapes are unknown. "
            f"Received: model={model.name!r}. Add `keras.Input(shape)` first, or call the model "
            "on data once."
        )
    raise ValueError(
        "Argument `model` must be a Functional or Sequential model, whose layers can be exchanged. "
        f"Received: model={getattr(model, 'name', model)!r} ({type(model).__name__}). Either use "
        "`from tfprune import layers` where the model makes its layers, or build a Functional one: "
        "`inputs = keras.Input(shape)`, `keras.Model(inputs, model.call(inputs))`."
    )


def _named(layers, names, argument):
    if isinstance(layers, (str, keras.layers.Layer)):
        layers = [layers]
    chosen = {layer if isinstance(layer, str) else layer.name for layer in layers}
    unknown = sorted(chosen - names)
    if unknown:
        raise ValueError(
            f"Argument `{argument}` must hold layers of the model or their names. "
            f"Received: {unknown}. The model has: {sorted(names)}."
        )
    return chosen


def _to_drop_in(config, exclude=()):
    """A serialised layer with its class, and those of the layers in it, exchanged."""
    if config.get("class_name") in _DROP_IN_NAMES and config.get("module") == "keras.layers":
        if config["config"].get("name") in exclude:
            return config
        drop_in = _DROP_IN_NAMES[config["class_name"]]
        names = {"module": drop_in.__module__, "registered_name": f"tfprune>{drop_in.__name__}"}
        config = {**config, **names}
    return _in_nested(config, lambda inner: _to_drop_in(inner, exclude))


def to_stock(config):
    """A serialised layer with drop-in classes, its own and those in it, made stock again."""
    if str(config.get("registered_name")).startswith("tfprune>"):
        config = {**config, "module": "keras.layers", "registered_name": None}
    return _in_nested(config, to_stock)


def _in_nested(config, convert):
    """Applies `convert` to the serialised layers among the arguments of a layer."""
    arguments = config.get("config")
    if not isinstance(arguments, dict):
        return config

    def visit(value):
        if isinstance(value, dict) and "class_name" in value and "config" in value:
            return convert(value)
        if isinstance(value, (list, tuple)):
            return [visit(item) for item in value]
        return value

    return {**config, "config": {name: visit(value) for name, value in arguments.items()}}


# A model from its edited config -----------------------------------------------------------------


def rebuilt(model, edit):
    """A new model from the config of a model, every layer's part passed through `edit`.

    Args:
        model: A Functional or built Sequential model.
        edit: Function of a serialised operation and the operation; returns the new serialised
            operation. Not called for nested models, but for what is in them.

    Returns:
        The new model with fresh weights.
    """
    config = _edited(model, edit)
    return keras.saving.deserialize_keras_object(
        config, custom_objects=_custom_objects(model), safe_mode=False
    )


def _edited(model, edit):
    """The serialised model with all its operations edited."""
    serialised = _keras.graph_config(model)
    config = serialised["config"]
    operations = {operation.name: operation for operation in _keras.operations(model)}
    layers = []
    for layer_config in config["layers"]:
        operation = operations.get(layer_config["config"]["name"])
        if operation is None:  # the input layer of a Sequential model
            layers.append(_without_shapes(layer_config))
        elif _keras.functional(operation) is not None:
            outer = {k: v for k, v in layer_config.items() if k in ("name", "inbound_nodes")}
            layers.append({**_edited(operation, edit), **outer})
        else:
            layers.append(edit(_without_shapes(layer_config), operation))
    config = {**config, "layers": layers}
    config.pop("build_input_shape", None)
    return {**serialised, "config": config}


def _without_shapes(config):
    """Drops the shapes for which layers were built: the new ones may differ."""
    config = {key: value for key, value in config.items() if key != "build_config"}
    return _in_nested(config, _without_shapes)


def _custom_objects(model):
    """Classes and functions of the model that Keras could not find by name."""
    found = {}
    for operation in _keras.all_operations(model):
        for value in [operation, *vars(operation).values()]:
            named = value if inspect.isfunction(value) or inspect.isclass(value) else type(value)
            module = getattr(named, "__module__", "")
            if not module.startswith(("keras.", "tensorflow.", "builtins", "tfprune.", "numpy")):
                found[getattr(named, "__name__", "")] = named
    return found


# What moves from the old model to the new one ---------------------------------------------------


def _unchanged(_, array, *__):
    return array


def copy_weights(old, new, take=_unchanged):
    """Copies every variable from a model to its rebuilt one.

    Args:
        old: The model.
        new: The model that `rebuilt` made of it.
        take: Function of an old variable and its value; returns the new value.
    """
    for ours, theirs in _keras.variable_pairs(old, new):
        theirs.assign(take(ours, keras.ops.convert_to_numpy(_keras.raw(ours))))
    for ours, theirs in _layer_pairs_with_masks(old, new):
        for name, mask in ours.masks_by_name.items():
            values = (mask.trainable, mask.frozen)
            theirs.masks_by_name[name].set(*(keras.ops.convert_to_numpy(v) for v in values))


def _layer_pairs_with_masks(old, new):
    for ours, theirs in _keras.layer_pairs(old, new):
        if getattr(ours, "masks_by_name", None) and getattr(theirs, "masks_by_name", None):
            yield ours, theirs


def copy_compile_state(old, new, take=_unchanged):
    """Compiles `new` as `old` is, with its own optimizer in the same state.

    Args:
        old: The model; if it is not compiled, nothing happens.
        new: The model that `rebuilt` made of it.
        take: Function of an old weight, the value of one of its slots, and the slot's name;
            returns the new value.
    """
    arguments = _keras.compile_arguments(old)
    if not arguments:
        return
    optimizer = old.optimizer
    if optimizer is not None:
        optimizer = type(optimizer).from_config(optimizer.get_config())
    metrics = {
        key: keras.tree.map_structure(_copied_metric, arguments[key])
        for key in ("metrics", "weighted_metrics")
    }
    new.compile(**{**arguments, **metrics, "optimizer": optimizer})
    if optimizer is not None and old.optimizer.built:
        optimizer.build(new.trainable_variables)
        _keras.copy_optimizer_state(
            old.optimizer, optimizer, list(_keras.variable_pairs(old, new)), take
        )


def _copied_metric(metric):
    if isinstance(metric, keras.metrics.Metric):
        return type(metric).from_config(metric.get_config())
    return metric
