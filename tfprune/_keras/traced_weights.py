"""The weights of a copied layer while it is traced: symbolic, or such that nobody may read them.

Private here, and why:

* the trackers of Keras, which forbid changes of lists and dicts of a layer that is built; they are
  passed by.
"""

import keras


class UnreadableError(Exception):
    """A variable was read that `forbid_reading` was called on."""


class _Unreadable(keras.Variable):
    @property
    def value(self):
        raise UnreadableError(f"it uses the weight {self.path!r} outside of a layer that has it")

    shape = dtype = value


def forbid_reading(variable):
    """Lets a variable of a copy raise an `UnreadableError` when it is used in any way."""
    variable.__class__ = _Unreadable


class _Sliceable(keras.KerasTensor):
    def __getitem__(self, key):
        return super().__getitem__((key,) if isinstance(key, slice) else key)


def _let_slice(tensor):
    """Lets a symbolic tensor be sliced as `tensor[:3]`, which Keras allows for arrays alone."""
    tensor.__class__ = _Sliceable


def is_index(weight):
    """Whether a weight is of whole numbers, such as the indices of positions."""
    return keras.backend.standardize_dtype(weight.dtype) in ("int32", "int64")


def symbolic_weights(layer, with_indices=False):
    """Puts a symbolic tensor in the place of each float weight that a layer of a copy holds itself.

    Those in lists and dicts among its attributes are found too.

    Args:
        layer: The layer.
        with_indices: Whether to do so with weights of whole numbers too.

    Returns:
        A list of pairs of the weight and the tensor.
    """
    found = {}

    def tensor_of(weight):
        if id(weight) not in found:
            tensor = keras.Input(batch_shape=weight.shape, dtype=weight.dtype)
            _let_slice(tensor)
            found[id(weight)] = weight, tensor
        return found[id(weight)][1]

    of_all = vars(keras.layers.Layer())
    own = {name: value for name, value in vars(layer).items() if name not in of_all}
    for values, kind in [(own, dict), *((v, type(v).__mro__) for v in own.values())]:
        kind = kind if kind is dict else next((k for k in (list, dict) if k in kind), None)
        items = () if kind is None else values.items() if kind is dict else enumerate(values)
        for key, value in list(items):
            if isinstance(value, keras.Variable) and (
                keras.backend.is_float_dtype(value.dtype) or (with_indices and is_index(value))
            ):
                target = vars(layer) if values is own else values
                kind.__setitem__(target, key, tensor_of(value))  # past the tracker of Keras
    return list(found.values())
