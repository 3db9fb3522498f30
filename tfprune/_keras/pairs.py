"""A model beside one that was rebuilt from its configuration: layer by layer, variable by variable.

Private here, and why:

* `_layers`, `_trainable_variables`, `_non_trainable_variables` and `_seed_generators` of a layer:
  what it holds itself, without what the layers inside it hold, in the order in which it was made.
"""

import keras

from tfprune._keras.graphs import functional, operations
from tfprune._keras.layers import states


def layer_pairs(old, new, without=(), *, models=False):
    """The layers of a model, each with its counterpart in a model rebuilt from its config.

    Args:
        old, new: The models.
        without: The ids of layers of `old` that have no counterpart, though the name is there.
        models: Whether nested models are among the pairs, besides the layers in them.
    """
    graph = functional(old)
    if graph is None:
        yield old, new
        for ours, theirs in zip(old._layers, new._layers, strict=True):
            yield from layer_pairs(ours, theirs)
        return
    counterparts = {operation.name: operation for operation in operations(new)}
    for operation in graph.operations:
        is_layer = isinstance(operation, keras.layers.Layer) and id(operation) not in without
        if is_layer and operation.name in counterparts:
            counterpart = counterparts[operation.name]
            if models and functional(operation) is not None:
                yield operation, counterpart
            yield from layer_pairs(operation, counterpart, without, models=models)


def variable_pairs(old, new, without=()):
    """The variables of a model, each with its counterpart; a variable the new one adds has none.

    The arguments are those of `layer_pairs`.
    """
    seen = set()
    for ours, theirs in layer_pairs(old, new, without):
        if id(ours) in seen:
            continue
        seen.add(id(ours))
        yield from own_variable_pairs(ours, theirs)
        for seed, other in zip(ours._seed_generators, theirs._seed_generators, strict=True):
            yield seed.state, other.state
        yield from zip(states(ours), states(theirs), strict=True)


def own_variable_pairs(layer, counterpart):
    """The weights that a layer holds itself, each with its counterpart."""
    # By place, because weights without a name are numbered anew, and names may come twice.
    ours, theirs = own_variables(layer), own_variables(counterpart)
    if len(theirs) > len(ours):
        theirs = [variable for variable in theirs if variable.name != "bias"]
    return zip(ours, theirs, strict=True)


def own_variables(layer):
    """The variables that a layer holds itself, without those of the layers inside."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]
