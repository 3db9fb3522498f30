"""Edits of the graph in a model's config: layers put in, inputs added."""

from tfprune import _keras
from tfprune.rebuild.dead_calls import without_dead_calls


def with_inserted(config, name, layers):
    """The config of a model with layers behind one of its operations.

    All that took what the operation gives, the outputs of the model too, takes what the last layer
    gives. An operation that is called several times has the layers behind each call.

    Args:
        config: The config of a Functional or Sequential model. It is not changed.
        name: The name of the operation.
        layers: The serialised layers.
    """
    if "input_layers" not in config:
        place = [_name(layer) for layer in config["layers"]].index(name) + 1
        return {**config, "layers": [*config["layers"][:place], *layers, *config["layers"][place:]]}
    (entry,) = [layer for layer in config["layers"] if layer["name"] == name]
    calls = range(len(entry["inbound_nodes"]) or 1)
    first = int(_keras.is_functional_config(entry))
    last = _name(layers[-1])

    def moved(history):
        ours, place, tensor = history
        return [last, place, 0] if ours == name and tensor == 0 else list(history)

    def moved_end(history):
        ours, place, tensor = history
        return [last, place - first, 0] if ours == name and tensor == 0 else list(history)

    new, source = [], name
    for layer in layers:
        nodes = [{"args": (_tensor(source, call),), "kwargs": {}} for call in calls]
        new.append({**layer, "name": _name(layer), "inbound_nodes": nodes})
        source = _name(layer)
    kept = []
    for layer in config["layers"]:
        nodes = [_mapped(node, moved) for node in layer["inbound_nodes"]]
        kept.append({**layer, "inbound_nodes": nodes})
        if layer["name"] == name:
            kept.extend(new)
    return {**config, "layers": kept, "output_layers": _ends(config["output_layers"], moved_end)}


def with_input(config, name, source):
    """The config with another input, the last, of an operation that takes a list of tensors."""

    def extended(node):
        (tensors, *rest) = node["args"] if node["args"] else [None]
        if tensors is None:
            key = next(iter(node["kwargs"]))
            return {**node, "kwargs": {**node["kwargs"], key: [*node["kwargs"][key], added]}}
        return {**node, "args": ([*tensors, added], *rest)}

    added = _tensor(source, 0)
    layers = [
        {**layer, "inbound_nodes": [extended(node) for node in layer["inbound_nodes"]]}
        if layer["name"] == name
        else layer
        for layer in config["layers"]
    ]
    return {**config, "layers": layers}


def without_inputs(config, name, places):
    """The config without some inputs of an operation, given by their places, and what they need."""

    def shortened(node):
        (tensors, *rest) = node["args"]
        return {**node, "args": ([t for i, t in enumerate(tensors) if i not in places], *rest)}

    layers = [
        {**layer, "inbound_nodes": [shortened(node) for node in layer["inbound_nodes"]]}
        if layer["name"] == name
        else layer
        for layer in config["layers"]
    ]
    return without_dead_calls({**config, "layers": layers}, {})


def without(config, name):
    """The config of a Sequential model without a layer."""
    layers = [layer for layer in config["layers"] if _name(layer) != name]
    return {**config, "layers": layers}


def _name(layer):
    return layer["config"]["name"]


def _tensor(name, call):
    history = {"shape": [None], "dtype": "float32", "keras_history": [name, call, 0]}
    return {"class_name": "__keras_tensor__", "config": history}


def _mapped(value, moved):
    """A serialised call with the places that its tensors come from mapped."""
    if isinstance(value, dict):
        if value.get("class_name") == "__keras_tensor__":
            history = moved(value["config"]["keras_history"])
            return {**value, "config": {**value["config"], "keras_history": history}}
        return {key: _mapped(item, moved) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_mapped(item, moved) for item in value)
    return value


def _ends(structure, function):
    if isinstance(structure, dict):
        return {key: _ends(item, function) for key, item in structure.items()}
    if len(structure) == 3 and isinstance(structure[0], str):
        return function(structure)
    return [_ends(item, function) for item in structure]
