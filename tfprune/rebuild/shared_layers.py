"""Layers that stand in several graphs of a model, such as in two nested models, and stay one.

Keras writes the config of such a layer into each graph. Here it is made once, where it stands
first, and the graphs after that refer to its calls by later places, since there are calls already.
"""

from collections import Counter

import keras

from tfprune import _keras
from tfprune.coupling.time_steps import innermost
from tfprune.rebuild.dead_calls import is_tensor, map_ends


def shared_operations(model):
    """The ids of operations, nested models included, that stand in more than one graph."""
    counts, graphs, stack = Counter(), set(), [model]
    while stack:
        graph = stack.pop()
        if id(graph) in graphs:
            continue
        graphs.add(id(graph))
        operations = _keras.operations(graph)
        operations += [innermost(each) for each in operations if innermost(each) is not each]
        counts.update(map(id, operations))
        stack.extend(each for each in operations if _keras.functional(each) is not None)
    return {operation for operation, count in counts.items() if count > 1}


class SharedLayers:
    """Makes the layers of shared configs once, and keeps count of their calls.

    Args:
        model: The model that is rebuilt.
    """

    def __init__(self, model):
        self.operations = shared_operations(model)
        self.calls = Counter()
        made = {}

        class Shared:
            """The class that a config names in place of that of a shared layer."""

            @classmethod
            def from_config(cls, config):
                if config["key"] not in made:
                    layer = keras.saving.deserialize_keras_object(config["layer"], safe_mode=False)
                    made[config["key"]] = layer
                return made[config["key"]]

        self.custom_objects = {"Shared": Shared}

    def wrapped(self, config, operation):
        """The config of an operation; that of a shared one in a wrapper which makes it once."""
        if id(operation) not in self.operations:
            return config
        identity = {"name": operation.name, "key": id(operation), "layer": config}
        outer = {k: v for k, v in config.items() if k in ("name", "inbound_nodes")}
        names = {"class_name": "Shared", "registered_name": "Shared", "module": None}
        return {**names, "config": identity, **outer}

    def counted(self, config, operations):
        """The config of a graph, with references to calls after those that were made before.

        Args:
            config: The config; configs of the models in the graph have been counted.
            operations: Dict from name to operation.
        """
        if not self.operations:
            return config
        before = {n: self.calls[id(o)] for n, o in operations.items() if self.calls[id(o)]}
        for layer in config["layers"]:
            operation = operations.get(layer["config"]["name"])
            self.calls[id(operation)] += len(layer.get("inbound_nodes", [None]))
        is_graph = "output_layers" in config  # a Sequential model refers to no calls
        return _moved(config, before) if before and is_graph else config


def _moved(config, before):
    """The config of a graph with the places of calls moved by how many there were before."""

    def end(given):
        name, place, tensor = given
        return [name, place + before.get(name, 0), tensor]

    def tensor(value):
        if is_tensor(value):
            history = end(value["config"]["keras_history"])
            return {**value, "config": {**value["config"], "keras_history": history}}
        if isinstance(value, dict):
            return {name: tensor(part) for name, part in value.items()}
        return [tensor(part) for part in value] if isinstance(value, (list, tuple)) else value

    layers = [
        {**layer, "inbound_nodes": tensor(layer["inbound_nodes"])} for layer in config["layers"]
    ]
    ends = {name: map_ends(config[name], end) for name in ("input_layers", "output_layers")}
    return {**config, "layers": layers, **ends}
