"""One operation run by itself on random inputs, as its call in a model would run it."""

import inspect
import re

import keras
import numpy as np

from tfprune.coupling.calls import Tensor

BATCH, LENGTH = 4, 5
"""What dynamic axes get: the first, and the others."""

MOST_ELEMENTS = 2**22
"""The most elements that the inputs may have."""


class Trials:
    """Runs the operation of a call, leaving its state as it was.

    Args:
        call: The `Call`.
        error: What is raised, with the reason, where it cannot be run.
    """

    def __init__(self, call, error):
        self.call, self.error, self.operation = call, error, call.operation
        self.tensors = (*call.inputs, *call.masks)
        shapes = [self._shape(tensor) for tensor in self.tensors]
        if sum(np.prod(shape, dtype=float) for shape in shapes) > MOST_ELEMENTS:
            raise error("is too large to be tried")

    def _shape(self, tensor):
        first = [BATCH if size is None else size for size in tensor.shape[:1]]
        return (*first, *(LENGTH if size is None else size for size in tensor.shape[1:]))

    def draw(self, scale, seed):
        """Random values by the place of the tensor among the inputs and masks."""
        draw, values = np.random.default_rng(seed), {}
        for place, tensor in enumerate(self.tensors):
            shape = self._shape(tensor)
            if tensor.dtype == "bool":
                values[place] = draw.random(shape) < 0.7
            elif "float" in tensor.dtype:
                values[place] = (draw.normal(size=shape) * scale).astype("float32")
            else:
                values[place] = draw.integers(0, 2, shape)
        return values

    def run(self, values):
        """The outputs as arrays, given an array for each tensor."""
        tensors = {
            tensor: keras.ops.convert_to_tensor(values[place], self._dtype(tensor))
            for place, tensor in enumerate(self.tensors)
        }
        operation = self.operation
        args, kwargs = self._arguments(tensors)
        states = [(v, np.array(v)) for v in getattr(operation, "variables", ())]
        try:
            if isinstance(operation, keras.layers.Layer):
                kwargs = {"training": False, **kwargs}
            outputs = keras.tree.flatten(operation(*args, **kwargs))
            return [keras.ops.convert_to_numpy(output) for output in outputs]
        except Exception as failure:  # the operation may fail in any way
            raise self.error(f"fails when tried: {_first_line(failure)}") from failure
        finally:
            for variable, value in states:
                variable.assign(value)

    def announced(self, values):
        """The shapes of the outputs that it announces for inputs of these shapes."""
        tensors = {
            tensor: keras.KerasTensor(np.shape(values[place]), dtype=tensor.dtype)
            for place, tensor in enumerate(self.tensors)
        }
        args, kwargs = self._arguments(tensors)
        try:
            spec = self.operation.compute_output_spec(*args, **kwargs)
        except Exception as failure:  # as above
            raise self.error(f"fails when tried: {_first_line(failure)}") from failure
        return [tuple(each.shape) for each in keras.tree.flatten(spec)]

    def _arguments(self, tensors):
        changed = {
            old: new
            for tensor in self.tensors
            for old, new in zip(self._shape(tensor), tensors[tensor].shape, strict=True)
            if old != new
        }

        def value(leaf):
            if isinstance(leaf, Tensor):
                return tensors[leaf]
            is_constant = isinstance(leaf, np.ndarray) and getattr(leaf, "axes", None) is None
            return _follows(leaf, changed) if is_constant and self.call.in_place else leaf

        args, kwargs = keras.tree.map_structure(
            value, (list(self.call.args), dict(self.call.kwargs))
        )
        if "training" in inspect.signature(self.operation.call).parameters:
            kwargs["training"] = False
        return args, kwargs

    def _dtype(self, tensor):
        """Raw operations are run in double precision."""
        is_layer = isinstance(self.operation, keras.layers.Layer)
        return "float64" if tensor.dtype == "float32" and not is_layer else tensor.dtype


def _follows(array, changed):
    """A constant in other sizes along the axes on which it is the same, as its code makes it."""
    for axis, size in enumerate(array.shape):
        first = array[(slice(None),) * axis + (slice(1),)]
        if size in changed and (array == first).all():
            array = np.repeat(first, changed[size], axis)
    return array


def _first_line(failure):
    """What an exception says, without the frame that Keras puts around it."""
    text = re.sub(r"\x1b\[\d+m", "", str(failure))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Exception encountered when calling")]
    return lines[0][:200] if lines else type(failure).__name__
