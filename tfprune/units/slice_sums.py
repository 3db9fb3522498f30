"""Sums over the weight slices of each coupled unit, as tensors with gradients."""

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.analysis import couple
from tfprune.masks import layer_filter
from tfprune.masks.setting import masked_layers


class SliceSums:
    """Sums over the trainable weight slices of each unit, as a group lasso takes them.

    Attributes:
        coupling: The units of the model.
        units: An array of the units that are penalised.
        sizes: For each of these the number of elements in its slices.
    """

    def __init__(self, model, only, exclude):
        self.coupling = couple(model)
        self.units = np.array(_selected_units(model, self.coupling, only, exclude), int)
        if not self.units.size:
            raise ValueError(
                "The model has no units that can go and could be penalised. "
                f"Received: model={model.name!r}, only={only!r}, exclude={exclude!r}."
            )
        self._index = np.full(self.coupling.size, len(self.units))
        self._index[self.units] = np.arange(len(self.units))
        trainable = {id(variable) for variable in model.trainable_variables}
        self._pieces = {
            (id(piece.variable), piece.axis, piece.labels.tobytes()): piece
            for piece in self.coupling.slices
            if id(piece.variable) in trainable and (self._indices(piece) < len(self.units)).any()
        }
        self._live = {
            id(mask.weight): mask.live
            for layer in masked_layers(model)
            for mask in layer.masks_by_name.values()
        }
        self.keep(lambda piece: True, "a trainable weight")

    def keep(self, wanted, what):
        """Restricts the sums to those slices for which `wanted(slice)` is True."""
        self._pieces = {key: piece for key, piece in self._pieces.items() if wanted(piece)}
        if not self._pieces:
            raise ValueError(f"No unit that can go has {what}, so there is nothing to penalise.")
        self.sizes = np.zeros(len(self.units) + 1)
        for piece in self._pieces.values():
            indices = piece.broadcast(self._indices(piece)).reshape(-1)
            self.sizes += np.bincount(indices, minlength=len(self.sizes))
        self.sizes = self.sizes[:-1]

    @property
    def variables(self):
        """The weights that have any of the slices."""
        return list({id(p.variable): p.variable for p in self._pieces.values()}.values())

    def squares(self):
        """The sum of the squares of each unit's elements, a tensor `(units,)`."""
        return self.total(keras.ops.square)

    def total(self, function):
        """The sum of a function of each unit's elements."""
        values = {id(v): function(keras.ops.cast(self._read(v), "float32")) for v in self.variables}
        return sum(self._by_unit(p, values[id(p.variable)]) for p in self._pieces.values())

    def _read(self, variable):
        value, live = _keras.uncast(variable), self._live.get(id(variable))
        return value if live is None else _keras.mask_gradient(value, _keras.uncast(live))

    def _by_unit(self, piece, values):
        indices = self._indices(piece)
        if indices.ndim == 1:
            others = [axis for axis in range(len(values.shape)) if axis != piece.axis]
            values = keras.ops.sum(values, axis=others)
        else:
            indices, values = piece.broadcast(indices).reshape(-1), keras.ops.reshape(values, (-1,))
        sums = keras.ops.segment_sum(values, indices.astype("int32"), len(self.units) + 1)
        return sums[:-1]

    def _indices(self, piece):
        return self._index[self.coupling.roots[piece.labels]]


def _selected_units(model, coupling, only, exclude):
    is_selected = layer_filter.set_predicate(model, only, exclude)
    return [
        unit
        for unit_set in coupling.sets
        if is_selected(unit_set)
        for unit, reason in zip(unit_set.units.tolist(), unit_set.pinned, strict=True)
        if reason is None
    ]
