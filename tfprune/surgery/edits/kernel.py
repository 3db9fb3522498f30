"""Resizes the kernels of convolutions."""

import itertools
from dataclasses import dataclass

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.kept_units import NEW
from tfprune.coupling.model_trace import trace
from tfprune.surgery.edits import padding
from tfprune.surgery.edits.base import Edit
from tfprune.surgery.lookup import find_operation
from tfprune.surgery.sizes import Difference, Wanted


@dataclass(frozen=True)
class ResizeKernel(Edit):
    """Changes the kernel size of a convolution, see `tfprune.surgery.resize_kernel`.

    `is_relative` tells of each axis whether `kernel_size` is the difference to the present size.
    `padding` is a string, or a number or pair for each axis.
    """

    layer: str
    kernel_size: int | tuple
    padding: str | int | tuple | None = None
    is_relative: bool | tuple = False

    @classmethod
    def of(cls, layer, kernel_size, padding):
        """The edit of arguments of `tfprune.surgery.resize_kernel`."""
        given = tuple(kernel_size) if isinstance(kernel_size, (list, tuple)) else kernel_size
        size = keras.tree.map_structure(plain_number, given)
        is_relative = keras.tree.map_structure(lambda n: isinstance(n, Difference), given)
        if isinstance(padding, str):
            padding = padding.lower()  # as Keras takes it
        elif padding is not None:
            padding = keras.tree.map_structure(plain_number, _as_tuples(padding))
        return cls(layer, size, padding, is_relative)

    def check(self, model):
        path, layer = find_operation(model, self.layer)
        if not isinstance(getattr(layer, "kernel_size", None), (tuple, list)):
            raise ValueError(
                "Only a layer with a window has a kernel size. "
                f"Received: layer={layer.name!r} ({type(layer).__name__})."
            )
        rank = len(layer.kernel_size)
        given = _along_axes(self.kernel_size, rank)
        is_integer = all(isinstance(n, int) and not isinstance(n, bool) for n in given)
        if len(given) != rank or not is_integer or min(self._size(layer)) < 1:
            raise ValueError(
                f"Argument `kernel_size` must be {rank} positive integers, or one, or differences "
                "that leave such, `tfprune.surgery.by(+2)`. Received: kernel_size="
                f"{self._given}, layer={layer.name!r} of {tuple(layer.kernel_size)}."
            )
        if self.padding is not None:
            padding.check(self.padding, layer)

    def draft(self, model, draft):
        path, layer = find_operation(model, self.layer)
        if any(id(variable) in draft.windows for variable in windowed_variables(layer)):
            raise ValueError(
                "A plan can resize the kernel of a layer once. "
                f"Received: layer={layer.name!r}, twice. Give the last size."
            )

        def resized(config):
            arguments = {**config["config"], "kernel_size": self._size(layer)}
            if self.padding is not None:
                arguments["padding"] = "valid" if self._is_explicit else self.padding
            return {**config, "config": arguments}

        draft.layer_edits.setdefault(id(layer), []).append(resized)
        fronts = self._fronts(model, path, layer)
        for variable in windowed_variables(layer):
            kernel = np.asarray(_keras.raw(variable))
            indices = window_indices(
                kernel, self._size(layer), self._padding(layer) == "causal", fronts
            )
            draft.windows[id(variable)] = dict(enumerate(indices))
        if self._is_explicit:
            padding.pad(model, path, layer, padding.borders(self.padding, layer), draft)

    def _size(self, layer):
        rank = len(layer.kernel_size)
        given, is_relative = (_along_axes(e, rank) for e in (self.kernel_size, self.is_relative))
        pairs = zip(layer.kernel_size, given, is_relative, strict=True)
        return tuple(n + old if relative else n for old, n, relative in pairs)

    @property
    def _given(self):
        """The size as it was given, for messages."""
        if not isinstance(self.kernel_size, (list, tuple)):
            if not isinstance(self.kernel_size, int):
                return repr(self.kernel_size)
            return f"by({self.kernel_size:+d})" if self.is_relative else str(self.kernel_size)
        is_relative = _along_axes(self.is_relative, len(self.kernel_size))
        pairs = zip(self.kernel_size, is_relative, strict=True)
        return f"({', '.join(f'by({n:+d})' if relative else str(n) for n, relative in pairs)})"

    @property
    def _is_explicit(self):
        return self.padding is not None and not isinstance(self.padding, str)

    def _padding(self, layer):
        return layer.padding if self.padding is None or self._is_explicit else self.padding

    def _fronts(self, model, path, layer):
        """How many taps of 0 come before the old ones along each axis, as explicit padding says.

        It is a list, with None where old taps cannot stay over the positions that they were over.
        """
        rank = len(layer.kernel_size)
        if not self._is_explicit:
            return [None] * rank
        before = padding.layer_before(model, path, layer)
        current = padding.current_borders(model, layer, before)
        if current is None:
            return [None] * rank
        new = padding.borders(self.padding, layer)
        fronts = []
        for k, old, d, (front, _), (was, _) in zip(
            self._size(layer), layer.kernel_size, padding.dilation(layer), new, current, strict=True
        ):
            taps, rest = divmod(front - was, d)
            fronts.append(taps if not rest and 0 <= taps <= k - old else None)
        return fronts

    def effects(self, model):
        path, layer = find_operation(model, self.layer)
        before, after = self._shapes(model, path, layer)
        if before != after:
            return [f"{self.layer!r} gives {after[1:]} in place of {before[1:]}"]
        if any(new < old for new, old in zip(self._size(layer), layer.kernel_size, strict=True)):
            return [f"{self.layer!r} loses taps"]
        if self._keeps_function(model, path, layer):
            return []
        return [f"the window of {self.layer!r} moves"]

    def _keeps_function(self, model, path, layer):
        """Whether the old taps stay over the same positions of the input."""
        if self._is_explicit:
            return None not in self._fronts(model, path, layer)
        if self._padding(layer) != layer.padding:
            return False
        if layer.padding == "causal":
            return True
        pairs = list(zip(self._size(layer), layer.kernel_size, strict=True))
        strides = layer.strides if isinstance(layer.strides, (tuple, list)) else (layer.strides,)
        is_covered = all(s <= old for s, (_, old) in zip(strides, pairs, strict=False))
        return layer.padding == "same" and is_covered and all((a - b) % 2 == 0 for a, b in pairs)

    def _shapes(self, model, path, layer):
        """The shapes of the output before and after."""
        calls = trace(model).calls
        call = next(call for call in calls if call.operation is layer)
        config = {**layer.get_config(), "kernel_size": self._size(layer)}
        config["padding"] = "valid" if self._is_explicit else self._padding(layer)
        other, given = type(layer).from_config(config), call.inputs[0]
        if self._is_explicit:
            zeros = padding.layer_before(model, path, layer)
            if zeros is not None:
                given = next(call for call in calls if call.operation is zeros).inputs[0]
            pairs = padding.borders(self.padding, layer)
            made = padding.zero_padding(model, layer, pairs, None)
            made = keras.saving.deserialize_keras_object(made)
            given = made(keras.KerasTensor(given.shape, given.dtype))
        outputs = other(keras.KerasTensor(given.shape, given.dtype))
        return call.outputs[0].shape, keras.tree.flatten(outputs)[0].shape

    def describe(self):
        shown = "" if self.padding is None else f", padding={self.padding}"
        return "resize kernel", self.layer, f"to {self._given}{shown}"


def plain_number(given):
    """The integer of one of NumPy, or of a difference; bounds are refused."""
    if isinstance(given, Wanted) and not isinstance(given, Difference):
        raise ValueError(f"Give an integer, or a difference: `by(+2)`. Received: {given!r}.")
    given = given.units if isinstance(given, Difference) else given
    return given.item() if isinstance(given, np.integer) else given


def _as_tuples(given):
    return tuple(map(_as_tuples, given)) if isinstance(given, (list, tuple)) else given


def _along_axes(given, rank):
    return tuple(given) if isinstance(given, (list, tuple)) else (given,) * rank


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


def window_indices(kernel, size, is_causal=False, fronts=None):
    """The old index of each tap of a new window along each of its axes, `NEW` for 0.

    A smaller window keeps the contiguous taps t for which

        sum_t |t - centre| / (1 + mean |W_t|)

    is lowest; the centre of a causal window is its last tap.

    Args:
        kernel: An array (*window, inputs, outputs).
        size: The new window, of as many axes.
        is_causal: Whether the window covers its position and those before it.
        fronts: For each axis how many new taps come first where the window grows; None for half.

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
    fronts = [None] * len(size) if fronts is None else fronts
    return [
        _along_axis(start, old, new, is_causal, front)
        for start, old, new, front in zip(best, window, size, fronts, strict=True)
    ]


def _along_axis(start, old, new, is_causal, front):
    if new <= old:
        return np.arange(start, start + new)
    if front is None:
        front = new - old if is_causal else (new - 1) // 2 - (old - 1) // 2
    return np.concatenate([np.full(front, NEW), np.arange(old), np.full(new - old - front, NEW)])
