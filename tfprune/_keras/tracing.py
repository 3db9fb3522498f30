"""Extensions of Keras that are needed while a `call` is traced on symbolic tensors.

Private here, and why:

* `Node`, the class of calls, to note in which line each was made, and of which shape its outputs
  are where Keras does not announce it (`KerasTensor._shape`);
* `Einsum`, the class, which cannot infer shapes of subscripts in upper case, though it computes
  with them, and `_auto_config`, out of which an operation is made again.
"""

import contextlib
import inspect
import string
import sys
from pathlib import Path

import keras
from keras.src.ops.node import Node
from keras.src.ops.numpy import Einsum

from tfprune._keras.graphs import is_symbolic


@contextlib.contextmanager
def noting_lines(function, parts=()):
    """While open, calls on symbolic tensors note in which line of a Python function they are made.

    They also note the last of `parts`, the layers that are being called then. See `line_of` and
    `part_of`.
    """
    code, stock = getattr(inspect.unwrap(function), "__code__", None), Node.__init__

    def init(node, *args, **kwargs):
        stock(node, *args, **kwargs)
        node.part = parts[-1] if parts else None
        frame = sys._getframe(1)
        while frame is not None and frame.f_code is not code:
            frame = frame.f_back
        if frame is not None:
            node.line = f"line {frame.f_lineno} of {Path(code.co_filename).name}: "

    with _replaced(Node, "__init__", init):
        yield


@contextlib.contextmanager
def inferring_shapes():
    """While open, calls on symbolic tensors of known shapes give tensors of known shapes.

    Some layers of Keras announce less than is known: `EinsumDense` the length as None that its
    argument `output_shape` leaves open.
    """
    stock = Node.__init__

    def init(node, *args, **kwargs):
        stock(node, *args, **kwargs)
        if all(map(_is_static, node.input_tensors)) and not all(map(_is_static, node.outputs)):
            _infer_shapes(node)

    with _replaced(Node, "__init__", init):
        yield


@contextlib.contextmanager
def einsums_in_lower_case():
    """While open, `einsum` of symbolic tensors takes upper case too, as it does of numbers.

    The letters are replaced by others, with which Keras can infer the shape of the result.
    """
    stock = Einsum.__init__

    def init(operation, subscripts, **kwargs):
        subscripts = _in_lower_case(subscripts)
        stock(operation, subscripts, **kwargs)
        if operation._auto_config is not None:
            operation._auto_config.config["subscripts"] = subscripts

    with _replaced(Einsum, "__init__", init):
        yield


def _in_lower_case(subscripts):
    """The same sum, or the subscripts as they are where their order by letters has a meaning."""
    subscripts = subscripts.replace(" ", "")
    upper = sorted({letter for letter in subscripts if letter in string.ascii_uppercase})
    spare = [letter for letter in string.ascii_lowercase if letter not in subscripts]
    if "->" not in subscripts or len(upper) > len(spare):
        return subscripts
    return subscripts.translate(str.maketrans(dict(zip(upper, spare, strict=False))))


@contextlib.contextmanager
def noting_losses():
    """While open, losses that a `call` adds are kept in the list returned if they are symbolic."""
    stock, noted = keras.layers.Layer.add_loss, []

    def add_loss(layer, loss):
        leaves = keras.tree.flatten(loss)
        symbolic = [leaf for leaf in leaves if is_symbolic(leaf)]
        noted.extend(symbolic)
        if not symbolic:
            stock(layer, loss)

    with _replaced(keras.layers.Layer, "add_loss", add_loss):
        yield noted


@contextlib.contextmanager
def _replaced(cls, name, method):
    """While open, a class has another method."""
    stock = getattr(cls, name)
    setattr(cls, name, method)
    try:
        yield
    finally:
        setattr(cls, name, stock)


def _is_static(tensor):
    return None not in tensor.shape


def _infer_shapes(node):
    """Sets the shapes of the outputs of a call to those that TensorFlow infers by tracing it."""
    given = node.arguments
    try:
        found = keras.Operation.compute_output_spec(node.operation, *given.args, **given.kwargs)
    except Exception:  # the operation may fail in any way without its own shape inference
        return
    for tensor, other in zip(node.outputs, keras.tree.flatten(found), strict=True):
        if len(other.shape) == len(tensor.shape):
            tensor._shape = tuple(other.shape)
