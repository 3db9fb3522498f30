"""Layers of Keras that a smaller model has as copies with their new weights: see `UnchangedCopies`.

What depends on sizes in them is set on the copies, which lose their masks.
"""

from tfprune import _keras
from tfprune.coupling.rules import rule_of
from tfprune.layers.masked import Masked
from tfprune.masks.in_place import take_masks_off
from tfprune.rebuild.unchanged_copies import UnchangedCopies, is_plain


class ResizedCopies(UnchangedCopies):
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
        changed = {
            id(fold.layer) for each in folds.values() for fold in each if fold.layer.bias is None
        }
        changed.update(id(each) for each in operations if id(each) not in calls)
        super().__init__(model, operations, changed)
        self._calls, self._sizes, self._new_value = calls, sizes, new_value
        self._weights = {id(w) for layer in self._layers.values() for w in layer.weights}

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
        if is_plain(layer):
            self._resize(layer, copy)
        super().resize(layer, copy)

    def _resize(self, layer, copy):
        if isinstance(layer, Masked):
            take_masks_off(copy, [weight for weight in copy.weights if _keras.is_guarded(weight)])
        call, arguments = self._calls[id(layer)][0], {}
        rule_of(layer).resize(arguments, call, self._sizes)
        for name, value in arguments.items():
            setattr(copy, name, value)
        _keras.set_input_shape(copy, self._sizes.of_tensor(call.inputs[0]))
        _keras.set_path(copy)
