"""What is inside the functions that a graph of TensorFlow calls.

Private here, and why:

* `tf.Graph._get_function`, the graph of a function that is called, which has no public access;
* `dismantle_func_graph`, by which TensorFlow frees the graph of a function that nobody calls again;
  it does so by itself for the outermost function alone;
* `keras.src.backend.tensorflow.nn.conv`, which runs grouped convolutions in a function of its own.
"""

import contextlib

import keras
import tensorflow as tf
from keras.src.backend.tensorflow import nn
from tensorflow.python.framework.func_graph import FuncGraph, dismantle_func_graph


def called_graph(operation):
    """The graph of the function that an operation of a graph calls, or None.

    The inputs of the graph are those of the operation, in order.
    """
    if operation.type not in ("PartitionedCall", "StatefulPartitionedCall"):
        return None
    function = operation.graph._get_function(operation.get_attr("f").name)
    return getattr(function, "graph", None)


@contextlib.contextmanager
def kernels_read_outside():
    """While open, convolutions read their kernels before they run in a function of their own.

    Else the function would read the variable, and nothing that stands for it outside.
    """
    stock = nn.conv

    def conv(inputs, kernel, *args, **kwargs):
        if isinstance(kernel, keras.Variable):
            kernel = tf.convert_to_tensor(kernel)
        return stock(inputs, kernel, *args, **kwargs)

    nn.conv = conv
    try:
        yield
    finally:
        nn.conv = stock


def free_graph(graph):
    """Frees the graph of a function that is not called again, which would stay for good."""
    if isinstance(graph, FuncGraph):
        dismantle_func_graph(graph)
