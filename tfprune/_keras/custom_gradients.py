"""Custom gradients that are kept by the graph that they were traced in.

TensorFlow registers each custom gradient that is traced under a name of its own, for good. The
gradient holds tensors of its graph, so the graph stays too, with all that it has captured: one for
each `tf.function` that was ever traced over a masked weight, or over `tf.nn.silu`.

Private here: `gradient_registry`, in which they are registered, its class, whose method is wrapped
and does what it did but within `gradients_kept_by_graphs`, and the names that they get.
"""

import contextlib
import functools
import threading
import weakref

import tensorflow as tf
from tensorflow.python.framework.ops import gradient_registry
from tensorflow.python.framework.registry import Registry

_thread = threading.local()

_PREFIX = "CustomGradient-"


class _KeptByGraph:
    """What is registered in place of a gradient: it finds the gradient in its graph."""

    def __init__(self, graph, name, gradient):
        if not hasattr(graph, "custom_gradients"):
            graph.custom_gradients = {}
        graph.custom_gradients[name] = gradient
        self.name = name
        self.graph = weakref.ref(graph, lambda _: gradient_registry._registry.pop(name, None))

    def __call__(self, operation, *upstream):
        return self.graph().custom_gradients[self.name](operation, *upstream)


@functools.cache
def _watch_registry():
    stock = Registry.register

    @functools.wraps(stock)
    def register(registry, candidate, name=None):
        is_custom = registry is gradient_registry and str(name).startswith(_PREFIX)
        if is_custom and getattr(_thread, "is_open", False):
            candidate = _KeptByGraph(tf.compat.v1.get_default_graph(), name, candidate)
        stock(registry, candidate, name)

    Registry.register = register


@contextlib.contextmanager
def gradients_kept_by_graphs():
    """While open, on this thread, custom gradients that are traced go with the graph around them.

    They are what they were for as long as the graph is there.
    """
    _watch_registry()
    before, _thread.is_open = getattr(_thread, "is_open", False), True
    try:
        yield
    finally:
        _thread.is_open = before
