"""The residual blocks of a model."""

import collections
from dataclasses import dataclass

import keras

from tfprune import _keras
from tfprune.blocks.streams import Part, graph_inside, graph_of
from tfprune.coupling.layer_runs import NotTracedError
from tfprune.coupling.model_inputs import call_arguments
from tfprune.masks import layer_filter
from tfprune.stripping.inlining import with_inlined


@dataclass(frozen=True, eq=False)
class Block:
    """A residual block.

    Attributes:
        name: The name of its layer, or of the last operation in it, with those of the nested models
            around it.
        path: The names of the nested models around it.
        part: The part of the graph.
        layers: The layers in it: those of the model that the user gave.
        place: How many blocks run before it, those that are left out or stay included.
    """

    name: str
    path: tuple
    part: Part
    layers: tuple
    place: int


@dataclass(frozen=True, eq=False)
class Blocks:
    """The residual blocks of a model, see `find_blocks`.

    Attributes:
        model: The model in whose graph they are: the one given, or one in which the layers around
            them are inlined.
        blocks: The blocks, in the order in which they run.
        depth: How many there are, those that are left out or stay included.
        stays: For each block or layer with blocks in it that cannot go, a sentence that says why.
    """

    model: keras.Model
    blocks: tuple
    depth: int
    stays: tuple


def find_blocks(model, only=None, exclude=None):
    """Finds the blocks of a model that can be bypassed.

    A block is a part of a residual stream: a layer of a user's or library's class, or a nested
    model, inside which a tensor has something added to it; or as many such additions in the graph
    as repeat with the same operations, there or elsewhere. It has the shape of what it takes, and
    nothing else uses what is computed in it. Layers that hold several blocks are inlined.

    Args:
        model: Any Keras model that is built. It is not changed.
        only, exclude: Blocks are left out unless a layer in them is included, and if one is
            excluded: layers, names or predicates.

    Returns:
        A `Blocks`.

    Raises:
        ValueError: If the model has no graph, or no such block.
    """
    filters = layer_filter.predicates(model, only, exclude)
    graph = _graph(model)
    around = list(_layers_around(graph))
    flat, originals = model, {}
    if around or _keras.functional(model) is None:
        flat, originals = with_inlined(model, around)
    found, names, stays = [], {}, []
    graph = graph if flat is model else graph_of(flat)
    parts = _repeating(_parts(flat, graph))
    for place, (path, part) in enumerate(parts):
        layers = tuple(
            dict.fromkeys(
                originals.get(layer, layer)
                for node in part.nodes
                if isinstance(node.operation, keras.layers.Layer)
                for layer in _keras.all_layers(node.operation)
            )
        )
        last = part.nodes[0 if part.is_layer else -1].operation
        name = "/".join((*path, last.name))
        names[name] = number = names.get(name, 0) + 1
        name += f" (call {number})" if number > 1 else ""
        if part.users:
            users = ", ".join(map(repr, part.users[:3]))
            stays.append(f"{name!r} stays: what is computed in it goes to {users} too.")
        elif any(map(filters[0], layers)) and not any(map(filters[1], layers)):
            found.append(Block(name, path, part, layers, place))
    closed = sorted({layer.name for layer in _layers_around(graph)})
    stays += [f"{name!r} holds blocks, but cannot be inlined." for name in closed]
    if not found:
        selected = "" if only is None and exclude is None else " among those chosen"
        why = "".join(f" {each}" for each in stays[:5])
        raise ValueError(
            f"There is no residual block{selected} that can be bypassed: none that gives the shape "
            "it takes, with something added, and in which nothing else uses what is computed."
            f"{why} Received: model={model.name!r} ({type(model).__name__}), only={only!r}, "
            f"exclude={exclude!r}. Prune units, with `tfprune.prune`."
        )
    return Blocks(flat, tuple(found), len(parts), tuple(stays))


def layers_around_blocks(model):
    """The custom layers of a model that hold several blocks, which are inlined to bypass one."""
    return list(_layers_around(_graph(model)))


def _graph(model):
    graph = graph_of(model)
    if graph is not None:
        return graph
    try:
        return graph_inside(model, *call_arguments(model))
    except NotTracedError as error:
        raise ValueError(
            f"The model has no graph in which blocks could be found, because {error}. "
            f"Received: model={model.name!r}. Build it as a Functional model."
        ) from error


def _layers_around(graph):
    """The composite layers that hold blocks, which are inlined."""
    for node, inside in graph.containers:
        if _keras.functional(node.operation) is None:
            yield graph.originals.get(id(node.operation), node.operation)
        for layer in _layers_around(inside):
            yield graph.originals.get(id(layer), layer)


def _repeating(parts):
    """Those of the parts that are layers, or of which others have the same operations.

    An addition unlike all others may be anything, as that of positions to tokens.
    """
    parts = [(path, part) for path, part in parts if part.is_layer or not part.is_other]
    counts = collections.Counter(part.structure for _, part in parts)
    return [(path, p) for path, p in parts if p.is_layer or counts[p.structure] > 1]


def _parts(model, graph, path=()):
    """The residual parts of a model and of those nested in it, each with its path."""
    inside = {id(node): inner for node, inner in graph.containers}
    ends = {id(part.nodes[-1]): part for part in (*graph.parts, *graph.used_parts)}
    seen = set()
    for node in graph.nodes:
        name = node.operation.name
        if id(node) in ends:
            yield path, ends[id(node)]
        elif (
            id(node) in inside
            and _keras.functional(node.operation) is not None
            and name not in seen  # as that which is called twice
        ):
            seen.add(name)
            yield from _parts(node.operation, inside[id(node)], (*path, name))
