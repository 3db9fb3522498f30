"""Which layers of a residual block are to be zero, so that the block computes the identity.

From the end of the block the stream is followed back to its start, through norms and activations.
What is added to it at each addition must be zero: then the last layer with weights there is set to
zero, the projection of a branch or the norm after it (`gamma` and `beta`).
"""

import keras

from tfprune import _keras
from tfprune.blocks.streams import graph_inside, graph_of
from tfprune.coupling.composite import filled
from tfprune.coupling.layer_runs import NotTracedError, is_composite, symbolic

_ADDITIONS = (keras.layers.Add, *_keras.operation_classes("Add"))
_PRODUCTS = (keras.layers.Multiply, *_keras.operation_classes("Multiply"))
_NORMS = (
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
    keras.layers.GroupNormalization,
    keras.layers.RMSNormalization,
)
_ATTENTION = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)
_LINEAR = tuple(
    getattr(keras.layers, name)
    for name in (
        *("Dense", "EinsumDense"),
        *(f"Conv{n}D" for n in (1, 2, 3)),
        *(f"{kind}Conv{n}D" for n in (1, 2) for kind in ("Depthwise", "Separable")),
    )
)


class NoIdentityError(ValueError):
    """A block cannot be made the identity."""


def zeroed_weights(part):
    """The weights that are zero in a block that computes the identity, in the model that it is of.

    Args:
        part: The `tfprune.blocks.streams.Part`.

    Raises:
        NoIdentityError: If there are none, with the reason.
    """
    layers = _Branches(part.nodes, {}, part.start).of_stream(part.end)
    return [weight for layer in dict.fromkeys(layers) for weight in _weights_of(layer)]


def _weights_of(layer):
    if isinstance(layer, _ATTENTION):
        (layer,) = [each for each in _keras.all_layers(layer) if each.name == "attention_output"]
    return list(layer.trainable_weights)


class _Branches:
    """The calls of a block, or inside one of its layers, from the end back to the start."""

    def __init__(self, nodes, originals, start):
        self.originals, self.start = originals, start
        self.makers = {id(tensor): node for node in nodes for tensor in node.outputs}

    def of_stream(self, tensor):
        """The layers that are to be zero so that a tensor is the start."""
        if tensor is self.start:
            return []
        node = self.makers.get(id(tensor))
        if node is None:
            raise NoIdentityError("what it gives does not come from what it takes")
        given = _keras.data_of(node)
        if isinstance(node.operation, _ADDITIONS):
            stream = [each for each in given if self._is_of_stream(each)]
            if not stream:
                raise NoIdentityError(f"nothing that {node.operation.name!r} adds is the stream")
            first = next((each for each in stream if each is self.start), stream[0])
            others = [each for each in given if each is not first]
            return self.of_stream(first) + [z for each in others for z in self.of_branch(each)]
        inside = self._inside(node)
        if inside is not None:
            branches, ends = inside
            return branches.of_stream(ends[0])
        if len(given) != 1:
            raise NoIdentityError(f"{node.operation.name!r} joins the stream with something else")
        return self.of_stream(given[0])  # a norm or activation, which is tried

    def _is_of_stream(self, tensor):
        """Whether the stream leads to a tensor by additions, norms and activations alone."""
        try:
            self.of_stream(tensor)
        except NoIdentityError:
            return False
        return self._has_no_branch(tensor)

    def _has_no_branch(self, tensor):
        """Whether no layer with a matrix is between the start and a tensor, but in additions."""
        while tensor is not self.start:
            node = self.makers[id(tensor)]
            if isinstance(node.operation, _ADDITIONS) or self._inside(node) is not None:
                return True
            if isinstance(node.operation, (*_LINEAR, *_ATTENTION)):
                return False
            (tensor,) = _keras.data_of(node)
        return True

    def of_branch(self, tensor):
        """The layers that are to be zero so that a tensor is."""
        node = self.makers.get(id(tensor))
        if node is None:
            raise NoIdentityError("it adds something that comes from outside of it")
        operation = self.originals.get(id(node.operation), node.operation)
        given = _keras.data_of(node)
        is_linear = isinstance(operation, _LINEAR) and _gives_zero_for_zero(operation)
        is_norm = isinstance(operation, _NORMS) and operation.trainable_weights
        if is_linear or is_norm or isinstance(operation, _ATTENTION):
            return [operation]
        inside = self._inside(node)
        if inside is not None:
            branches, ends = inside
            return branches.of_branch(ends[0])
        if isinstance(operation, _PRODUCTS) and given:
            for each in given:
                try:
                    return self.of_branch(each)
                except NoIdentityError as error:
                    reason = error
            raise reason
        if isinstance(operation, (*_ADDITIONS, keras.layers.Concatenate)) or len(given) == 1:
            return [layer for each in given for layer in self.of_branch(each)]
        raise NoIdentityError(f"{operation.name!r} gives what no weights can set to 0")

    def _inside(self, node):
        """The calls in a composite layer or model, and what it gives; None of other layers."""
        operation = node.operation
        try:
            if _keras.functional(operation) is not None:
                graph = graph_of(operation)
            elif is_composite(operation):
                graph = graph_inside(operation, *filled(node, {}))
            else:
                return None
        except NotTracedError:
            return None
        given, start = symbolic(filled(node, {})), None
        for outer, inner in zip(given, graph.inputs, strict=False):
            start = inner if outer is self.start or start is None else start
        originals = {
            key: self.originals.get(id(each), each) for key, each in graph.originals.items()
        }
        return _Branches(graph.nodes, originals, start), graph.outputs


def _gives_zero_for_zero(layer):
    """Whether the activation of a layer gives 0 for 0."""
    value = keras.ops.convert_to_numpy(layer.activation(keras.ops.zeros((1, 2))))
    return not value.any()
