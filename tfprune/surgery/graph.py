"""Edits of the graph in a model's config: layers inserted or removed, inputs added or removed."""

import copy

from tfprune import _keras


def with_inserted(config, name, layers, before=None):
    """The config of a model with layers inserted after one of its operations.

    Whatever took the output of the operation takes that of the last layer. Where the operation is
    called several times, the layers are called after each call.

    Args:
        config: The config of a Functional or Sequential model. It is not changed.
        name: The name of the operation.
        layers: The serialised layers.
        before: The names of the operations that take it, with that of the model for its outputs;
            None for all.
    """
    if "input_layers" not in config:
        index = [_name(layer) for layer in config["layers"]].index(name) + 1
        return {**config, "layers": [*config["layers"][:index], *layers, *config["layers"][index:]]}
    (entry,) = [layer for layer in config["layers"] if layer["name"] == name]
    calls = range(len(entry["inbound_nodes"]) or 1)
    first = int(_keras.is_functional_config(entry))
    if before is None:
        before = {config["name"], *(layer["name"] for layer in config["layers"])}
    last = _name(layers[-1])

    def redirected(history, first=0):
        operation, call, tensor = history
        is_output = operation == name and tensor == 0
        return [last, call - first, 0] if is_output else list(history)

    new, source = [], name
    for layer in layers:
        nodes = [{"args": (_tensor(source, call),), "kwargs": {}} for call in calls]
        new.append({**layer, "name": _name(layer), "inbound_nodes": nodes})
        source = _name(layer)
    kept = []
    for layer in config["layers"]:
        nodes = layer["inbound_nodes"]
        if layer["name"] in before:
            nodes = [_map_histories(node, redirected) for node in nodes]
        kept.append({**layer, "inbound_nodes": nodes})
        if layer["name"] == name:
            kept.extend(new)
    outputs = config["output_layers"]
    if config["name"] in before:
        outputs = _map_outputs(outputs, lambda history: redirected(history, first))
    return {**config, "layers": kept, "output_layers": outputs}


def with_layer_before(config, name, layer):
    """The config with a layer before each call of an operation, for its first input.

    Args:
        config: The config of a Functional or Sequential model. It is not changed.
        name: The name of the operation.
        layer: The serialised layer.
    """
    layers, added = [], _name(layer)
    for each in config["layers"]:
        if _name(each) != name:
            layers.append(each)
            continue
        if "inbound_nodes" not in each:
            layers += [layer, each]
            continue
        firsts, nodes = [], []
        for index, node in enumerate(each["inbound_nodes"]):
            first, *rest = node["args"]
            firsts.append({"args": (first,), "kwargs": {}})
            nodes.append({**node, "args": (_tensor(added, index), *rest)})
        layers.append({**layer, "name": added, "inbound_nodes": firsts})
        layers.append({**each, "inbound_nodes": nodes})
    return {**config, "layers": layers}


def with_repeated(config, start, end, repetitions):
    """The config with a part of its graph once more behind itself, as often as asked.

    Args:
        config: The config of a Functional or Sequential model. It is not changed.
        start, end: What the part takes and what it gives: the name of an operation, the index of
            its call, and that of the output.
        repetitions: For each, a dict from the names of the operations in the part to the new ones.
    """
    made, last = [], tuple(end)
    for names in repetitions:
        before = {tuple(start): last}
        for layer in config["layers"]:
            if _name(layer) in names:
                made.append(_renamed(layer, names, before))
        last = (names[end[0]], *end[1:])
    places = [place for place, layer in enumerate(config["layers"]) if _name(layer) in names]
    if "input_layers" not in config:
        index = places[-1] + 1
        return {**config, "layers": [*config["layers"][:index], *made, *config["layers"][index:]]}
    first = {layer["name"]: int(_keras.is_functional_config(layer)) for layer in config["layers"]}

    def redirected(history, offset=0):
        name, call, tensor = history
        is_end = (name, call - offset * first[name], tensor) == tuple(end)
        return [last[0], last[1] + offset * first[end[0]], last[2]] if is_end else list(history)

    inside, layers = set(repetitions[0]), []
    for place, layer in enumerate(config["layers"]):
        nodes = layer["inbound_nodes"]
        if layer["name"] not in inside:
            nodes = [_map_histories(node, redirected) for node in nodes]
        layers.append({**layer, "inbound_nodes": nodes})
        if place == places[-1]:
            layers.extend(made)
    outputs = _map_outputs(config["output_layers"], lambda history: redirected(history, 1))
    return {**config, "layers": layers, "output_layers": outputs}


def _renamed(layer, names, moved):
    """A serialised operation under a new name, with the names and places of what it takes."""

    def history(given):
        name, *rest = given
        return list(moved.get(tuple(given), (names.get(name, name), *rest)))

    new = copy.deepcopy({**layer, "config": {**layer["config"], "name": names[_name(layer)]}})
    if "inbound_nodes" in new:
        nodes = [_map_histories(node, history) for node in new["inbound_nodes"]]
        new.update(name=names[_name(layer)], inbound_nodes=nodes)
    return new


def with_inputs(config, name, edges):
    """The config with other inputs to an operation that takes a list of tensors.

    Args:
        config: The config of a Functional model. It is not changed.
        name: The name of the operation.
        edges: For each input the index of an old one, or the name of what gives a new one.
    """

    def chosen(tensors):
        return [tensors[e] if isinstance(e, int) else _tensor(e, 0) for e in edges]

    return _map_tensors(config, name, chosen)


def _map_tensors(config, name, function):
    """The config with the lists of tensors that an operation takes mapped."""

    def mapped(node):
        if node["args"]:
            tensors, *rest = node["args"]
            return {**node, "args": (function(list(tensors)), *rest)}
        key = next(iter(node["kwargs"]))
        return {**node, "kwargs": {**node["kwargs"], key: function(node["kwargs"][key])}}

    return _map_calls(config, name, mapped)


def without_layer(config, name):
    """The config of a Sequential model without a layer."""
    layers = [layer for layer in config["layers"] if _name(layer) != name]
    return {**config, "layers": layers}


def _map_calls(config, name, function):
    """The config with the serialised calls of an operation mapped."""
    layers = [
        {**layer, "inbound_nodes": list(map(function, layer["inbound_nodes"]))}
        if layer["name"] == name
        else layer
        for layer in config["layers"]
    ]
    return {**config, "layers": layers}


def _name(layer):
    return layer["config"]["name"]


def _tensor(name, call):
    history = {"shape": [None], "dtype": "float32", "keras_history": [name, call, 0]}
    return {"class_name": "__keras_tensor__", "config": history}


def _map_histories(value, function):
    """A serialised call with the histories of its tensors (operation, call, index) mapped."""
    if isinstance(value, dict):
        if value.get("class_name") == "__keras_tensor__":
            history = function(value["config"]["keras_history"])
            return {**value, "config": {**value["config"], "keras_history": history}}
        return {key: _map_histories(item, function) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_map_histories(item, function) for item in value)
    return value


def _map_outputs(structure, function):
    if isinstance(structure, dict):
        return {key: _map_outputs(item, function) for key, item in structure.items()}
    if len(structure) == 3 and isinstance(structure[0], str):
        return function(structure)
    return [_map_outputs(item, function) for item in structure]
