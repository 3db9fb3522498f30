"""Resizes the kernels of convolutions."""

import itertools
from dataclasses import dataclass

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.kept_units import NEW
from tfprune.coupling.trace import trace
from tfprune.surgery.edits.base import Edit
from tfprune.surgery.lookup import find_operation


@dataclass(frozen=True)
class ResizeKernel(Edit):
    """Changes the kernel size of a convolution, see `tfprune.surgery.resize_kernel`."""

    layer: str
    kernel_size: int | tuple
    padding: str | None = None

    def check(self, model):
        _, layer = find_operation(model, self.layer)
        if not isinstance(getattr(layer, "kernel_size", None), (tuple, list)):
            raise ValueError(
                "Only a layer with a window has a kernel size. "
                f"Received: layer={layer.name!r} ({type(layer).__name__})."
            )
        rank = len(layer.kernel_size)
        size = self._size(layer)
        is_integer = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in size)
        if len(size) != rank or not is_integer:
            raise ValueError(
                f"Argument `kernel_size` must be {rank} positive integers, or one. "
                f"Received: kernel_size={self.kernel_size!r}, layer={layer.name!r}."
            )

    def draft(self, model, draft):
        _, layer = find_operation(model, self.layer)

        def resized(config):
            arguments = {**config["config"], "kernel_size": self._size(layer)}
            if self.padding is not None:
                arguments["padding"] = self.padding
            return {**config, "config": arguments}

        draft.layer_edits.setdefault(id(layer), []).append(resized)
        is_causal = self._padding(layer) == "causal"
        for variable in windowed_variables(layer):
            kernel = np.asarray(_keras.raw(variable))
            indices = window_indices(kernel, self._size(layer), is_causal)
            draft.windows[id(variable)] = dict(enumerate(indices))

    def _size(self, layer):
        given = self.kernel_size
        return (given,) * len(layer.kernel_size) if isinstance(given, int) else tuple(given)

    def _padding(self, layer):
        return layer.padding if self.padding is None else self.padding

    def effects(self, model):
        _, layer = find_operation(model, self.layer)
        before, after = self._shapes(model, layer)
        if before != after:
            return [f"{self.layer!r} gives {after[1:]} in place of {before[1:]}"]
        if any(new < old for new, old in zip(self._size(layer), layer.kernel_size, strict=True)):
            return [f"{self.layer!r} loses taps"]
        return [] if self._keeps_function(layer) else [f"the window of {self.layer!r} moves"]

    def _keeps_function(self, layer):
        """Whether the old taps stay over the same positions of the input."""
        if self._padding(layer) != layer.padding:
            return False
        if layer.padding == "causal":
            return True
        pairs = list(zip(self._size(layer), layer.kernel_size, strict=True))
        strides = layer.strides if isinstance(layer.strides, (tuple, list)) else (layer.strides,)
        is_covered = all(s <= old for s, (_, old) in zip(strides, pairs, strict=False))
        return layer.padding == "same" and is_covered and all((a - b) % 2 == 0 for a, b in pairs)

    def _shapes(self, model, layer):
        call = next(call for call in trace(model).calls if call.operation is layer)
        config = {**layer.get_config(), "kernel_size": self._size(layer)}
        config["padding"] = self._padding(layer)
        other = type(layer).from_config(config)
        given = call.inputs[0]
        outputs = other(keras.KerasTensor(given.shape, given.dtype))
        return call.outputs[0].shape, keras.tree.flatten(outputs)[0].shape

    def describe(self):
        padding = "" if self.padding is None else f", padding={self.padding}"
        size = self.kernel_size if isinstance(self.kernel_size, int) else tuple(self.kernel_size)
        return "resize kernel", self.layer, f"to {size}{padding}"


def windowed_variables(layer):
    """The kernels of a layer whose first axes are those of its window."""
    size = tuple(layer.kernel_size)
    return [
        variable
        for variable in layer.weights
        if tuple(variable.shape[: len(size)]) == size
        and len(variable.shape) == len(size) + 2
        and "pointwise" not in variable.name
    ]


def window_indices(kernel, size, is_causal=False):
    """The old index of each tap of a new window along each of its axes, `NEW` for 0.

    A smaller window keeps the contiguous taps t for which

        sum_t |t - centre| / (1 + mean |W_t|)

    is lowest; the centre of a causal window is its last tap.

    Args:
        kernel: An array (*window, inputs, outputs).
        size: The new window, of as many axes.
        is_causal: Whether the window covers its position and those before it.

    Returns:
        An integer array for each axis of the window.

    Example:

    >>> kernel = np.ones((5, 1, 1))
    >>> kernel[4] = 100.0
    >>> window_indices(kernel, (3,)), window_indices(kernel[:3], (5,))
    ([array([2, 3, 4])], [array([-1,  0,  1,  2, -1])])
    """
    window = kernel.shape[: len(size)]
    offsets = [np.arange(n) - (n - 1) / (1 if is_causal else 2) for n in window]
    distance = np.sqrt(sum(axis**2 for axis in np.meshgrid(*offsets, indexing="ij")))
    cost = distance / (1 + np.abs(kernel.astype("float64")).mean(axis=(-2, -1)))
    starts = [range(max(0, old - new) + 1) for old, new in zip(window, size, strict=True)]

    def part(start):
        return tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))

    def off_centre(start):
        pairs = zip(start, starts, strict=True)
        return sum(len(r) - 1 - s if is_causal else abs(2 * s - len(r) + 1) for s, r in pairs)

    best = min(
        itertools.product(*starts),
        key=lambda start: (round(float(cost[part(start)].sum()), 9), off_centre(start)),
    )
    return [
        _along_axis(start, old, new, is_causal)
        for start, old, new in zip(best, window, size, strict=True)
    ]


def _along_axis(start, old, new, is_causal):
    if new <= old:
        return np.arange(start, start + new)
    front = new - old if is_causal else (new - 1) // 2 - (old - 1) // 2
    return np.concatenate([np.full(front, NEW), np.arange(old), np.full(new - old - front, NEW)])
