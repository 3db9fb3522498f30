"""Dead-code elimination in a model's config: dropped inputs, empty pieces, calls nothing needs."""

from tfprune import _keras


def without_dead_calls(config, dropped, empty=None, replaced=None):
    """Returns the config of a Functional model without dropped inputs and without dead calls.

    A call that has one input left is removed too, and that input takes the place of its output.
    So is a split that has one piece left. So are all calls that no output of the model needs.

    Args:
        config: The config, as `model.get_config()` gives it. It is not changed.
        dropped: Dict from the name of an operation and the index of a call in its `inbound_nodes`
            to the positions of the inputs that are dropped.
        empty: Dict from the same of splits to a list, which tells of each piece whether it is
            empty. Empty pieces that nothing uses are dropped.
        replaced: Dict from the same of calls to the tensor that takes the place of their output:
            the name of an operation, the index of its call, and that of the output.

    Returns:
        The new config.
    """
    graph = _Graph(config, dropped, empty or {}, replaced or {})
    layers = [graph.without_unneeded(layer) for layer in config["layers"]]
    return {
        **config,
        "layers": [layer for layer in layers if layer is not None],
        "output_layers": map_ends(config["output_layers"], graph.moved_end),
    }


class _Graph:
    """The calls of a config by name and node index, and the sources of tensors after removals."""

    def __init__(self, config, dropped, empty, replaced):
        self.layers = {layer["name"]: layer for layer in config["layers"]}
        # Inputs and outputs of the model count the calls of a nested Functional model from 1.
        self.first = {n: int(_keras.is_functional_config(c)) for n, c in self.layers.items()}
        self.dropped = dropped
        self.aliases = dict(replaced)
        for (name, node), positions in dropped.items():
            left = [t for i, t in enumerate(self._inputs(name, node)) if i not in positions]
            if len(left) == 1:
                self.aliases[name, node] = left[0]
        self.pieces = {}  # by split with dropped pieces, the new place of each that stays
        self._find_needed(config)
        for key, pieces in empty.items():
            self._drop_pieces(key, pieces)
        self._find_needed(config)

    def _find_needed(self, config):
        self.needed, self.used, self.ends = set(), set(), set()
        map_ends(config["output_layers"], self._need_end)
        map_ends(config["input_layers"], self._need_end)

    def _drop_pieces(self, key, empty):
        """Drops pieces of a split that are empty and not used, or the split if one is left."""
        left = [i for i, is_empty in enumerate(empty) if not is_empty or (*key, i) in self.used]
        if len(left) == 1 and (*key, left[0]) not in self.ends:  # outputs keep their names
            (self.aliases[key],) = self._inputs(*key)
        elif len(left) < len(empty) and len(self.layers[key[0]]["inbound_nodes"]) == 1:
            self.pieces[key] = {piece: place for place, piece in enumerate(left)}

    def _inputs(self, name, node):
        leaves = _leaves(self.layers[name]["inbound_nodes"][node])
        return [_history(leaf) for leaf in leaves if is_tensor(leaf)]

    def _source(self, history):
        """The source of a tensor when calls with one input left are removed."""
        name, node, tensor = history
        while (name, node) in self.aliases:
            name, node, tensor = self.aliases[name, node]
        return name, node, tensor

    def _need_end(self, end):
        name, index, tensor = end
        stack = [(name, index - self.first[name], tensor)]
        self.ends.add(self._source(stack[0]))
        while stack:
            name, node, tensor = self._source(stack.pop())
            self.used.add((name, node, tensor))
            if (name, node) not in self.needed:
                self.needed.add((name, node))
                if self.layers[name]["inbound_nodes"]:
                    removed = self.dropped.get((name, node), ())
                    inputs = enumerate(self._inputs(name, node))
                    stack.extend(history for i, history in inputs if i not in removed)
        return list(end)

    def moved(self, history):
        """The name, node index and output index of the tensor that replaces a tensor."""
        name, node, tensor = self._source(history)
        before = sum((name, other) in self.needed for other in range(node))
        return [name, before, self.pieces.get((name, node), {}).get(tensor, tensor)]

    def moved_end(self, end):
        """The same for an output of the model."""
        name, index, tensor = end
        name, node, tensor = self.moved((name, index - self.first[name], tensor))
        return [name, self.first[name] + node, tensor]

    def without_unneeded(self, layer):
        """The config of a layer with its live calls; None if it has none."""
        name, nodes = layer["name"], layer["inbound_nodes"]
        if not nodes:
            return layer if (name, 0) in self.needed else None
        kept = [
            self._rewritten(node, self.dropped.get((name, index), ()))
            for index, node in enumerate(nodes)
            if (name, index) in self.needed
        ]
        if (name, 0) in self.pieces:
            layer = _without_pieces(layer, self.pieces[name, 0])
        return {**layer, "inbound_nodes": kept} if kept else None

    def _rewritten(self, node, removed):
        position = -1

        def visit(value):
            nonlocal position
            if is_tensor(value):
                position += 1
                history = self.moved(_history(value))
                return {**value, "config": {**value["config"], "keras_history": history}}
            if isinstance(value, dict):
                return {key: visit(item) for key, item in value.items()}
            if isinstance(value, (list, tuple)):
                items = []
                for item in value:
                    if is_tensor(item) and position + 1 in removed:
                        position += 1
                    else:
                        items.append(visit(item))
                return type(value)(items)
            return value

        return visit(node)


def _without_pieces(layer, left):
    """The config of a split with the pieces in `left` only; the others are empty."""
    bounds = layer["config"]["indices_or_sections"]
    ends = [end for piece, end in enumerate(bounds) if piece in left]
    new = ends[: len(left) - 1] or 1  # TensorFlow takes no empty list
    return {**layer, "config": {**layer["config"], "indices_or_sections": new}}


def is_tensor(value):
    """Whether a part of a config is a symbolic tensor."""
    return isinstance(value, dict) and value.get("class_name") == "__keras_tensor__"


def _history(value):
    return tuple(value["config"]["keras_history"])


def _leaves(value):
    """The serialised tensors and other leaves of a node, in order."""
    if is_tensor(value) or not isinstance(value, (dict, list, tuple)):
        return [value]
    items = value.values() if isinstance(value, dict) else value
    return [leaf for item in items for leaf in _leaves(item)]


def map_ends(structure, function):
    """Applies a function to each `[name, index, tensor]` of input or output layers."""
    if isinstance(structure, dict):
        return {key: map_ends(item, function) for key, item in structure.items()}
    if len(structure) == 3 and isinstance(structure[0], str):
        return function(tuple(structure))
    return [map_ends(item, function) for item in structure]
