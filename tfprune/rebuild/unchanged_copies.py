"""Layers of Keras that a new model has as copies, because nothing about them changes.

To make a layer from its config and to build it takes several times as long as to copy it with its
weights. That is done where it is known what a layer holds that depends on sizes.
"""

import keras

from tfprune import _keras
from tfprune.coupling.rules import Rule, has_rule, rule_of
from tfprune.layers import DROP_INS

_WITH_WEIGHTS = (
    keras.layers.Dense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
)
_CLASSES = frozenset({*_WITH_WEIGHTS, *(DROP_INS[cls] for cls in _WITH_WEIGHTS)})


class UnchangedCopies:
    """The layers of a model that a new model has as copies.

    Args:
        model: The model.
        operations: Its operations and those of the models in it.
        changed: The ids of operations that are not copied.
    """

    masks = ()
    """Objects that are not copied with the layers."""

    def __init__(self, model, operations, changed=frozenset()):
        self._layers = {
            id(layer): layer
            for layer in operations
            if id(layer) not in changed and (is_plain(layer) or _is_without_sizes(layer))
        }
        everywhere = _keras.all_operations(model)
        layers = [each for each in everywhere if isinstance(each, keras.layers.Layer)]
        while tied := self._tied_to_others(layers):
            for layer in tied:
                del self._layers[layer]
        self._done = set()

    def _tied_to_others(self, layers):
        """The ids of those that have a weight in common with a layer that is not copied."""
        others = [layer for layer in layers if id(layer) not in self._layers]
        weights = {id(weight) for layer in others for weight in layer.weights}
        return [
            key
            for key, layer in self._layers.items()
            if not weights.isdisjoint(map(id, layer.weights))
        ]

    def takes(self, layer):
        """Whether a layer is copied."""
        return id(layer) in self._layers

    def new_value(self, variable):
        """The value of a copied variable in the new model, or None if it stays."""

    def resize(self, layer, copy):
        """Makes the copy of a layer ready to be called."""
        if not is_plain(layer):
            _keras.build_again(copy)
        self._done.update(map(id, copy.weights))

    def is_done(self, variable):
        """Whether a variable of the new model has its value."""
        return id(variable) in self._done


def is_plain(layer):
    """Whether all that depends on sizes is known in a layer.

    That is its weights, the input shape that it was built for, and attributes with the names of
    arguments.
    """
    return type(layer) in _CLASSES and layer.built and _keras.changed_kernel(layer) is None


def _is_without_sizes(layer):
    """Whether a layer of Keras has a rule which changes nothing in it or in its calls."""
    if not (isinstance(layer, keras.layers.Layer) and _keras.is_stock(type(layer))):
        return False
    if isinstance(layer, keras.layers.InputLayer) or layer.weights or _keras.sub_layers(layer):
        return False
    rule = type(rule_of(layer))
    edits = (rule.resize, rule.rewrite) == (Rule.resize, Rule.rewrite)
    return has_rule(layer) and edits
