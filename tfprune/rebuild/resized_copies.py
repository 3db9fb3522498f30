"""Layers of Keras that a smaller model has as copies, so that they need not be made anew.

To make a layer from its config and to build it takes several times as long as to copy it, with the
weights that it is to have. That is done where it is known what a layer holds that depends on sizes:
its weights, the input shape it was built for, and arguments that are attributes of the same name.
"""

import keras

from tfprune import _keras
from tfprune.coupling.rules import Rule, has_rule, rule_of
from tfprune.layers import DROP_INS
from tfprune.layers.masked import Masked
from tfprune.masks.in_place import take_masks_off

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


class ResizedCopies:
    """The layers of a model that are copied, and how the copies get their sizes.

    Args:
        model: The model.
        operations: Its operations and those of the models in it.
        calls: For each operation, by id, its calls.
        sizes: The `Sizes` of the new model.
        new_value: Function of a weight; returns its value in the new model, or None if it stays.
        folds: As in `rebuild`. A layer to which they add a bias is not copied.
    """

    def __init__(self, model, operations, calls, sizes, new_value, folds):
        self._calls, self._sizes, self._new_value = calls, sizes, new_value
        with_new_bias = {
            id(fold.layer) for each in folds.values() for fold in each if fold.layer.bias is None
        }
        self._layers = {
            id(layer): layer
            for layer in operations
            if id(layer) in calls
            and id(layer) not in with_new_bias
            and (_is_plain(layer) or _is_without_sizes(layer))
        }
        everywhere = _keras.all_operations(model)
        layers = [each for each in everywhere if isinstance(each, keras.layers.Layer)]
        while tied := self._tied_to_others(layers):
            for layer in tied:
                del self._layers[layer]
        self._weights = {id(w) for layer in self._layers.values() for w in layer.weights}
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
        """Whether a layer is copied and resized."""
        return id(layer) in self._layers

    def new_value(self, variable):
        """The value of a copied variable in the new model, or None if it stays."""
        return self._new_value(variable) if id(variable) in self._weights else None

    @property
    def masks(self):
        """The objects that hold the masks of the layers, which are not copied."""
        found = []
        for layer in self._layers.values():
            if isinstance(layer, Masked):
                masks = layer.masks_by_name.values()
                found += [vars(layer)["_weight_masks"], *masks] if masks else []
                found += [each for mask in masks for each in (mask.trainable, mask.live)]
                found += [mask.weight.regularizer for mask in masks]
        return [each for each in found if each is not None]

    def resize(self, layer, copy):
        """Sets the sizes of the copy of a layer, which has its new weights already."""
        if not _is_plain(layer):
            _keras.build_again(copy)
            return
        if isinstance(layer, Masked):
            take_masks_off(copy, [weight for weight in copy.weights if _keras.is_guarded(weight)])
        call, arguments = self._calls[id(layer)][0], {}
        rule_of(layer).resize(arguments, call, self._sizes)
        for name, value in arguments.items():
            setattr(copy, name, value)
        _keras.set_input_shape(copy, self._sizes.of_tensor(call.inputs[0]))
        _keras.set_path(copy)
        self._done.update(map(id, copy.weights))

    def is_done(self, variable):
        """Whether a variable of the new model has its value."""
        return id(variable) in self._done


def _is_plain(layer):
    """Whether a layer holds nothing that depends on sizes but what the text above says."""
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
