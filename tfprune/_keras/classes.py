"""Classes of Keras that are not in its public API.

Private here, and why:

* `keras.src.ops`: the classes of operations, of which `keras.ops` shows the functions only; those
  on images stand in a module of their own;
* two modules of `keras.src.applications`: the layers which they define for their models.
"""

from keras.src import ops as raw_operations
from keras.src.applications import convnext, inception_resnet_v2
from keras.src.ops import image


def raw_operation(name):
    """The class of the operation behind a function of `keras.ops`: `Matmul`, `Einsum`."""
    return getattr(raw_operations, name)


def operation_classes(*names):
    """The classes of raw operations, those that this version of Keras has."""
    return [getattr(m, name) for name in names for m in (raw_operations, image) if hasattr(m, name)]


def is_stock(cls):
    """Whether a class is one of Keras or a drop-in layer of this package, not one of a user."""
    return cls.__module__.split(".")[0] == "keras" or cls.__module__.startswith("tfprune.layers")


def application_layers(*names):
    """Layer classes which `keras.applications` keeps to itself, those that there are."""
    modules = (convnext, inception_resnet_v2)
    return [getattr(m, name) for m in modules for name in names if hasattr(m, name)]
