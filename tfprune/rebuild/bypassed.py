"""Models in which parts of the graph are bypassed and removed."""

import keras

from tfprune import _keras
from tfprune.rebuild import convert, copied_state
from tfprune.rebuild.dead_calls import without_dead_calls


def bypassed(model, blocks):
    """Returns a new model without some parts of its graph; weights and compile state stay.

    Args:
        model: A Functional or built Sequential model. It is not changed.
        blocks: Objects with a `path`, the names of the nested models around, and a `part` that has
            `start` and `end`, symbolic tensors in the graph there, and `nodes`, the calls between.

    Returns:
        The new model: what a part takes goes on in place of what it gives, and calls that nothing
        needs any more are gone. Layers carry masks as before.
    """
    by_path = {}
    for block in blocks:
        by_path.setdefault(block.path, []).append(block.part)
    parts_of = {path: (_model_at(model, path), parts) for path, parts in by_path.items()}

    def restructure(config, path):
        return bypass(config, *parts_of[path]) if path in parts_of else config

    new = convert.rebuilt(model, lambda config, _: config, restructure=restructure)
    copied_state.copy_weights(model, new)
    copied_state.copy_compile_state(model, new)
    return new


def bypass(config, inner, parts):
    """The config of a model without some parts of its graph.

    Args:
        config: The config. It is not changed.
        inner: The model.
        parts: Objects with `start`, `end` and `nodes`, as in `bypassed`.
    """
    unmasked = [part for part in parts if _drops_mask(part)]
    if "input_layers" not in config:
        if unmasked:
            raise ValueError(
                "A layer that drops the mask of steps cannot be removed from a Sequential "
                f"model. Received: model={inner.name!r}, "
                f"layer={unmasked[0].nodes[0].operation.name!r}. Build it as a Functional one."
            )
        names = {node.operation.name for part in parts for node in part.nodes}
        layers = [each for each in config["layers"] if each["config"]["name"] not in names]
        return {**config, "layers": layers}
    places = _places(inner)
    replaced = {places[id(part.end)][:2]: places[id(part.start)] for part in parts}
    added = []
    for part in unmasked:
        added.append(_without_mask(places[id(part.end)][0], places[id(part.start)]))
        replaced[places[id(part.end)][:2]] = added[-1]["name"], 0, 0
    config = {**config, "layers": [*config["layers"], *added]}
    return without_dead_calls(config, {}, replaced=replaced)


def _drops_mask(part):
    """Whether a part takes a mask of steps along with its tensor and gives none, as `x + y` does.

    If the tensor with the mask took the place of that without, later layers would see the mask.
    """
    return _keras.carries_mask(part.start) and not _keras.carries_mask(part.end)


def _without_mask(name, history):
    """The serialised operation `tensor + 0.0`, which gives a tensor without its mask."""
    operation = _keras.raw_operation("Add")(name=f"{name}_without_mask")
    config = keras.saving.serialize_keras_object(operation)
    tensor = {"shape": [None], "dtype": "float32", "keras_history": list(history)}
    tensor = {"class_name": "__keras_tensor__", "config": tensor}
    return {
        **config,
        "name": operation.name,
        "config": {"name": operation.name, **config["config"]},
        "inbound_nodes": [{"args": (tensor, 0.0), "kwargs": {}}],
    }


def place_of(model, tensor):
    """The name of the operation, the call and the output of a symbolic tensor, as in a config."""
    return _places(model)[id(tensor)]


def _places(model):
    """For each symbolic tensor in a graph, by id, its call and place as a config has them."""
    graph = _keras.functional(model)
    inputs = zip(graph.inputs, _keras.input_layers(graph), strict=True)
    places = {id(tensor): (layer.name, 0, 0) for tensor, layer in inputs}
    for node, index in _keras.nodes(graph):
        for place, tensor in enumerate(node.outputs):
            places[id(tensor)] = node.operation.name, index, place
    return places


def _model_at(model, path):
    for name in path:
        (model,) = [each for each in _keras.operations(model) if each.name == name]
    return model
