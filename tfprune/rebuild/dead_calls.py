"""Inputs that do nothing, and what then leads nowhere, taken out of a model's config."""

from tfprune import _keras


def without_dead_calls(config, dropped):
    """Takes inputs of calls out of the config of a Functional model.

    A call of which one input is left goes itself: what it gave is that input. What no output of
    the model needs any more goes too.

    Args:
        config: The config, as `model.get_config()` gives it. It is not changed.
        dropped: Dict from the name of an operation and the place of a call among its
            `inbound_nodes` to the places of the inputs that go.

    Returns:
        The new config.
    """
    graph = _Graph(config, dropped)
    layers = [graph.without_unneeded(layer) for layer in config["layers"]]
    return {
        **config,
        "layers": [layer for layer in layers if layer is not None],
        "output_layers": _map_ends(config["output_layers"], graph.moved_end),
    }


class _Graph:
    """The calls of a config by name and place, and where the tensors they gave come from now."""

    def __init__(self, config, dropped):
        self.layers = {layer["name"]: layer for layer in config["layers"]}
        # Inputs and outputs of the whole count the calls of a nested Functional model from 1.
        self.first = {n: int(_keras.is_functional_config(c)) for n, c in self.layers.items()}
        self.dropped = dropped
        self.aliases = {}
        for (name, place), places in dropped.items():
            left = [t for i, t in enumerate(self._inputs(name, place)) if i not in places]
            if len(left) == 1:
                self.aliases[name, place] = left[0]
        self.needed = set()
        _map_ends(config["output_layers"], self._need_end)
        _map_ends(config["input_layers"], self._need_end)

    def _inputs(self, name, place):
        node = self.layers[name]["inbound_nodes"][place]
        return [_history(leaf) for leaf in _leaves(node) if _is_tensor(leaf)]

    def _source(self, history):
        """Where a tensor comes from when calls with one input left are gone."""
        name, place, tensor = history
        while (name, place) in self.aliases:
            name, place, tensor = self.aliases[name, place]
        return name, place, tensor

    def _need_end(self, end):
        name, index, tensor = end
        stack = [(name, index - self.first[name], tensor)]
        while stack:
            name, place, _ = self._source(stack.pop())
            if (name, place) not in self.needed:
                self.needed.add((name, place))
                if self.layers[name]["inbound_nodes"]:
                    gone = self.dropped.get((name, place), ())
                    inputs = enumerate(self._inputs(name, place))
                    stack.extend(history for i, history in inputs if i not in gone)
        return list(end)

    def moved(self, history):
        """The name, place and tensor of what stands in the place of a tensor."""
        name, place, tensor = self._source(history)
        before = sum((name, other) in self.needed for other in range(place))
        return [name, before, tensor]

    def moved_end(self, end):
        """The same for an output of the whole."""
        name, index, tensor = end
        name, place, tensor = self.moved((name, index - self.first[name], tensor))
        return [name, self.first[name] + place, tensor]

    def without_unneeded(self, layer):
        """The config of a layer with the calls that are needed; None if there are none."""
        name, nodes = layer["name"], layer["inbound_nodes"]
        if not nodes:
            return layer if (name, 0) in self.needed else None
        kept = [
            self._rewritten(node, self.dropped.get((name, place), ()))
            for place, node in enumerate(nodes)
            if (name, place) in self.needed
        ]
        return {**layer, "inbound_nodes": kept} if kept else None

    def _rewritten(self, node, gone):
        place = -1

        def visit(value):
            nonlocal place
            if _is_tensor(value):
                place += 1
                history = self.moved(_history(value))
                return {**value, "config": {**value["config"], "keras_history": history}}
            if isinstance(value, dict):
                return {key: visit(item) for key, item in value.items()}
            if isinstance(value, (list, tuple)):
                items = []
                for item in value:
                    is_gone = _is_tensor(item) and place + 1 in gone
                    if is_gone:
                        place += 1
                    else:
                        items.append(visit(item))
                return type(value)(items)
            return value

        return visit(node)


def _is_tensor(value):
    return isinstance(value, dict) and value.get("class_name") == "__keras_tensor__"


def _history(value):
    return tuple(value["config"]["keras_history"])


def _leaves(value):
    """The serialised tensors and other leaves of a node, in order."""
    if _is_tensor(value) or not isinstance(value, (dict, list, tuple)):
        return [value]
    items = value.values() if isinstance(value, dict) else value
    return [leaf for item in items for leaf in _leaves(item)]


def _map_ends(structure, function):
    """Applies a function to each `[name, index, tensor]` of input or output layers."""
    if isinstance(structure, dict):
        return {key: _map_ends(item, function) for key, item in structure.items()}
    if len(structure) == 3 and isinstance(structure[0], str):
        return function(tuple(structure))
    return [_map_ends(item, function) for item in structure]
