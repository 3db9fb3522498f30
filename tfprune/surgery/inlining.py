"""Inlines custom layers where an edit names, or resizes, what is inside them.

The layers inside are named after the layer around them: `block_wide` for `wide` in `block`. All
other custom layers stay what they are.
"""

import dataclasses

import keras

from tfprune import _keras
from tfprune.blocks.find import layers_around_blocks
from tfprune.coupling.layer_runs import is_composite
from tfprune.coupling.model_trace import trace
from tfprune.stripping.inlining import with_inlined
from tfprune.surgery.edits import RemoveBlock, Resize
from tfprune.surgery.lookup import walk_operations


class InlinedModel:
    """A model of which custom layers are inlined as they are needed.

    Args:
        model: Any Keras model that is built. It is not changed. Of a subclassed model, the graph of
            its `call` is taken, with all such layers inlined.

    Attributes:
        graph: The model as a graph: the one given, or a copy.
        ends: For the names of inlined layers, the names of the operations that make their input,
            and their output.

    Raises:
        ValueError: If it is subclassed and has no graph.
    """

    def __init__(self, model):
        self.graph, self.ends, self._now = model, {}, {}
        if _keras.functional(model) is None:
            _refuse_without_graph(model)
            self._inline(_inside(model))

    def _inline(self, layers):
        ends = {}
        self.graph, originals = with_inlined(self.graph, layers, ends)
        now = {id(old): new for new, old in originals.items()}
        before = {key: now.get(id(layer), layer) for key, layer in self._now.items()}
        self._now = {**now, **before}
        self.ends = {name: (_last(a, ends), _last(b, ends)) for name, (a, b) in self.ends.items()}
        self.ends.update(ends)

    def inline_around(self, given, argument="layer"):
        """Inlines what is around a layer, if that is no operation of `graph` but inside of one.

        Args:
            given: A layer of the model given, its name, or its name once inlined.
            argument: What the argument is called in errors.

        Returns:
            The layer in `graph`, or `given` if nothing has it inside.

        Raises:
            ValueError: If several have the name, or what is around it cannot be inlined.
        """
        given = self.layer(given)
        operations = [operation for _, operation in walk_operations(self.graph)]
        name = given if isinstance(given, str) else getattr(given, "name", None)
        if name in self.ends or any(given is each or given == each.name for each in operations):
            return given
        closed = [each for each in operations if _keras.functional(each) is None]
        target = given if not isinstance(given, str) else self._named(given, closed, argument)
        outer = [each for each in closed if target in _inside(each)]
        if not outer:
            return given
        around = [each for each in with_those_inside(outer) if target in _inside(each)]
        self._inline(filter(is_composite, around))
        now = self._now.get(id(target))
        if not any(now is each for _, each in walk_operations(self.graph)):
            raise ValueError(_refusal(self.graph, target, outer[-1], argument))
        return now

    def inline_around_blocks(self):
        """Inlines the layers that hold several residual blocks."""
        around = layers_around_blocks(self.graph)
        if around:
            self._inline(around)

    def layer(self, given):
        """The layer of `graph` for one of the model given; what else is given as it is."""
        return self._now.get(id(given), given)

    def inline_resized(self, kept_units):
        """Inlines the layers in which units come or go, but for those that are resized in place.

        Args:
            kept_units: The `KeptUnits` of `graph`.

        Returns:
            Whether there are any.
        """
        coupling = kept_units.coupling
        changed = kept_units.counts != 1
        changed[list(kept_units.grown)] = True
        resized = {id(p.layer) for p in coupling.slices if changed[coupling.roots[p.labels]].any()}
        around = [
            layer
            for layer in _composite_layers(self.graph)
            if id(layer) not in coupling.trace.in_place
            and not resized.isdisjoint(map(id, _inside(layer)))
        ]
        if around:
            self._inline(around)
        return bool(around)

    def _named(self, name, closed, argument):
        """The layer inside others that has a name, also one after those around it, or None."""
        found = [layer for each in closed for layer in _inside(each) if layer.name == name]
        around = [e for e in closed if is_composite(e) and name.startswith(f"{e.name}_")]
        if not found and around:
            names = self._names_once_inlined(around)
            found = [layer for layer, its_name in names.items() if its_name == name]
        found = list(dict.fromkeys(found))
        if len(found) > 1:
            around = [each for each in closed if not set(found).isdisjoint(_inside(each))]
            names = self._names_once_inlined(filter(is_composite, around))
            names = [repr(names[layer]) for layer in found if layer in names]
            by_name = f", or its name with those around it: {', '.join(names)}" if names else ""
            raise ValueError(
                f"Argument `{argument}` names {len(found)} layers, in "
                f"{', '.join(repr(each.name) for each in around)}. "
                f"Received: {argument}={name!r}. Give the layer itself{by_name}."
            )
        return found[0] if found else None

    def _names_once_inlined(self, layers):
        """The names that the layers inside of custom ones have once these are inlined."""
        flat, originals = with_inlined(self.graph, with_those_inside(layers))
        made = (each for _, each in walk_operations(flat) if each in originals)
        return {originals[each]: each.name for each in made}


def _last(name, ends):
    """The name of the operation that makes the output of one that may be inlined now."""
    return ends[name][1] if name in ends else name


def renamed(edit, ends):
    """An edit with what has taken the place of layers that are inlined.

    Args:
        edit: The edit.
        ends: See `InlinedModel`.

    Raises:
        ValueError: If it is one of such a layer as a whole.
    """
    if isinstance(edit, Resize):
        return edit.renamed(ends)
    changes = {}
    for argument in ("after", "source", "layer", "target", "before", "block"):
        given = getattr(edit, argument, None)
        names = {given} if isinstance(given, str) else set(given or ())
        inlined = names & set(ends)
        if not inlined:
            continue
        (name, *_) = inlined
        if argument in ("after", "source") or isinstance(edit, RemoveBlock):
            changes[argument] = ends[name][1]
        else:
            raise ValueError(
                "A layer is inlined, because layers inside it are edited or resized, so it cannot "
                "be edited as a whole in the same plan, and nothing was changed. Received: "
                f"{argument}={name!r}, to {edit.describe()[0]}. Make one model after the other."
            )
    return dataclasses.replace(edit, **changes) if changes else edit


def with_all_inlined(model):
    """The model with all custom layers inlined that can be; itself if there are none."""
    around = _composite_layers(model)
    return with_inlined(model, around)[0] if around else model


def with_graph(model):
    """The model, or the graph of the `call` of a subclassed one."""
    return InlinedModel(model).graph


def _refuse_without_graph(model):
    if id(model) in trace(model).in_place:
        raise ValueError(
            f"The model has no graph that can be edited: the `call` of its class "
            f"{type(model).__name__} uses weights of its own, or what it computes depends on the "
            f"size of an input. Received: model={model.name!r}. Remove its units with "
            "`tfprune.prune_units` and `tfprune.strip`, or build it as a Functional model."
        )


def _refusal(model, layer, outer, argument):
    """Why a layer inside of another cannot be edited by itself."""
    traced = trace(model)
    reason = "it is edited as a whole"
    if any(call.operation.name == outer.name for call in traced.in_place.values()):
        reason = (
            "its `call` uses weights of its own, does something else in training, or what it "
            "computes depends on the size of an input, so it cannot be inlined"
        )
    for call in traced.calls:
        if call.operation.name == outer.name and call.not_traced:
            reason = f"its `call` cannot be traced, because {call.not_traced}"
    return (
        "A layer inside of another cannot be edited by itself, and nothing was changed. "
        f"Received: {argument}={layer.name!r}, in {outer.name!r} ({type(outer).__name__}). "
        f"Reason: {reason}. Name {outer.name!r}, or replace it; `tfprune.prune_units` and "
        "`tfprune.strip` remove units in it too."
    )


def _inside(operation):
    is_layer = isinstance(operation, keras.layers.Layer)
    return _keras.all_layers(operation)[1:] if is_layer else []


def with_those_inside(layers):
    """Layers and all that are inside them, each once."""
    return list(dict.fromkeys(each for layer in layers for each in [layer, *_inside(layer)]))


def _composite_layers(model):
    """The custom layers that hold others, in a model and in each other."""
    operations = [operation for _, operation in walk_operations(model)]
    return list(filter(is_composite, with_those_inside(filter(is_composite, operations))))
