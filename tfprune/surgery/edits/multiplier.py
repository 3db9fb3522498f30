"""Changes how many outputs depthwise convolutions have for each input channel."""

from dataclasses import dataclass

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.analysis import couple
from tfprune.coupling.kept_units import NEW
from tfprune.surgery.edits.base import Edit
from tfprune.surgery.edits.connect import effects_of_channels
from tfprune.surgery.edits.kernel import plain_number
from tfprune.surgery.lookup import calls_of, find_operation, units_along
from tfprune.surgery.sizes import Difference

_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)


@dataclass(frozen=True)
class ResizeDepthMultiplier(Edit):
    """Changes a depth multiplier, see `tfprune.surgery.resize_depth_multiplier`.

    `multiplier` is the new one, or with `is_relative` the difference.
    """

    layer: str
    multiplier: int
    is_relative: bool = False

    alone = True

    @classmethod
    def of(cls, layer, depth_multiplier):
        """The edit of arguments of `tfprune.surgery.resize_depth_multiplier`."""
        is_relative = isinstance(depth_multiplier, Difference)
        return cls(layer, plain_number(depth_multiplier), is_relative)

    def check(self, model):
        _, layer = find_operation(model, self.layer)
        if not isinstance(layer, (*_DEPTHWISE, *_SEPARABLE)):
            raise ValueError(
                "Only a depthwise or separable convolution has a depth multiplier. "
                f"Received: layer={layer.name!r} ({type(layer).__name__})."
            )
        new = self._new(layer) if isinstance(self.multiplier, int) else None
        if new is None or isinstance(self.multiplier, bool) or new < 1:
            raise ValueError(
                "Argument `depth_multiplier` must be an integer above 0, or a difference that "
                f"leaves one, `tfprune.surgery.by(+1)`. Received: {self.multiplier!r}, for layer "
                f"{layer.name!r} with {layer.depth_multiplier}."
            )
        if isinstance(layer, _DEPTHWISE) and new != layer.depth_multiplier:
            _check_users(model, layer)

    def _new(self, layer):
        return self.multiplier + (layer.depth_multiplier if self.is_relative else 0)

    def draft(self, model, draft):
        path, layer = find_operation(model, self.layer)
        new = self._new(layer)

        def resized(config):
            return {**config, "config": {**config["config"], "depth_multiplier": new}}

        draft.layer_edits.setdefault(id(layer), []).append(resized)
        kept = kept_outputs(layer, new)  # (channels, new multiplier)
        first = np.arange(len(kept))[:, None] * layer.depth_multiplier
        positions = np.where(kept == NEW, NEW, first + kept).reshape(-1)
        kernel, rank = _depthwise_kernel(layer), len(layer.kernel_size) + 2
        draft.gathered[id(kernel)] = {rank - 1: kept.reshape(*[1] * (rank - 2), *kept.shape)}
        if isinstance(layer, _SEPARABLE):
            draft.gathered[id(layer.pointwise_kernel)] = {rank - 2: positions}
            return
        draft.positions(model, path, layer)[:] = positions.tolist()
        if layer.bias is not None:
            draft.gathered[id(layer.bias)] = {0: positions}

    def effects(self, model):
        _, layer = find_operation(model, self.layer)
        new = self._new(layer)
        if new < layer.depth_multiplier:
            return [f"{self.layer!r} loses outputs of each channel"]
        is_same = new == layer.depth_multiplier or isinstance(layer, _SEPARABLE)
        return [] if is_same else effects_of_channels(model, layer)

    def describe(self):
        how = f"by {self.multiplier:+d}" if self.is_relative else f"to {self.multiplier}"
        return "resize depth multiplier", self.layer, how


def kept_outputs(layer, multiplier):
    """For each channel the old outputs that stay, in their order, then `NEW` for those that come.

    Those of the highest utility stay: `||W||_2 + |b|`, and in a separable convolution
    `||W||_2 ||P||_2` with the row P of the pointwise kernel.

    Args:
        layer: A depthwise or separable convolution.
        multiplier: How many outputs each channel is to have.

    Returns:
        An integer array of shape (channels, multiplier).
    """
    kernel = np.asarray(_keras.raw(_depthwise_kernel(layer)), "float64")
    kernel = kernel.reshape(-1, *kernel.shape[-2:])
    utility = np.linalg.norm(kernel, axis=0)  # (channels, old multiplier)
    if isinstance(layer, _SEPARABLE):
        rows = np.asarray(_keras.raw(layer.pointwise_kernel), "float64")
        rows = rows.reshape(-1, rows.shape[-1])
        utility = utility * np.linalg.norm(rows, axis=1).reshape(utility.shape)
    elif layer.bias is not None:
        utility = utility + np.abs(np.asarray(_keras.raw(layer.bias))).reshape(utility.shape)
    best = np.argsort(-utility, axis=1, kind="stable")[:, :multiplier]
    new = np.full((len(best), multiplier - best.shape[1]), NEW)
    return np.concatenate([np.sort(best, axis=1), new], axis=1)


def _depthwise_kernel(layer):
    return layer.depthwise_kernel if isinstance(layer, _SEPARABLE) else layer.kernel


def _check_users(model, layer):
    """Raises a `ValueError` where what takes the outputs of a layer needs them as many."""
    coupling = couple(model, [layer])
    for call in calls_of(coupling, layer):
        units = np.unique(units_along(coupling, call.outputs[0]))
        reasons = [coupling.pins[unit] for unit in units.tolist() if unit in coupling.pins]
        reasons += [
            f"they are joined with those of {piece.layer.name!r}"
            for piece in coupling.slices
            if piece.makes and np.isin(coupling.roots[piece.labels], units).any()
        ]
        channels = _depthwise_kernel(layer).shape[-2]
        reasons += [
            f"{len(side)} groups in {grouping.layer.name!r} would hold parts of a channel"
            for grouping in coupling.groupings
            for side in grouping.sides
            if channels % len(side) and np.isin(coupling.roots[side], units).any()
        ]
        if reasons:
            raise ValueError(
                "The number of outputs of the layer cannot change, and nothing was changed. "
                f"Received: layer={layer.name!r}. Reason: {reasons[0]}."
            )
