"""What is inside the functions that a graph of TensorFlow calls.

Private here, and why:

* `tf.Graph._get_function`, the graph of a function that is called, which has no public access;
* `dismantle_func_graph`, by which TensorFlow frees the graph of a function that nobody calls again;
  it does so by itself for the outermost function alone.
"""

from tensorflow.python.framework.func_graph import FuncGraph, dismantle_func_graph


def called_graph(operation):
    """The graph of the function that an operation of a graph calls, or None.

    The inputs of the graph are those of the operation, in order.
    """
    if operation.type not in ("PartitionedCall", "StatefulPartitionedCall"):
        return None
    function = operation.graph._get_function(operation.get_attr("f").name)
    return getattr(function, "graph", None)


def free_graph(graph):
    """Frees the graph of a function that is not called again, which would stay for good."""
    if isinstance(graph, FuncGraph):
        dismantle_func_graph(graph)
