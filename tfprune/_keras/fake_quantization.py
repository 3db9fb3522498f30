"""Keras's operation of fake quantisation, in a graph.

Private here, and why:

* `FakeQuantWithMinMaxVars`: the class of the operation, which Keras exports as a function alone,
  `keras.quantizers.fake_quant_with_min_max_vars`.
"""

from keras.src.quantizers.quantizers import FakeQuantWithMinMaxVars

from tfprune._keras.graphs import all_operations, functional

FAKE_QUANTIZATION = FakeQuantWithMinMaxVars


def has_fake_quantization(model):
    """Whether the operation is in the graph of a model."""
    is_graph = functional(model) is not None
    return is_graph and any(isinstance(o, FAKE_QUANTIZATION) for o in all_operations(model))


def fake_quantization_config(name, nodes, low, high):
    """The operation as it stands in the config of a graph.

    Args:
        name: Its name.
        nodes: The serialised calls, of which the first argument is kept.
        low, high: Floats, the range.
    """
    return {
        "module": FakeQuantWithMinMaxVars.__module__,
        "class_name": FakeQuantWithMinMaxVars.__name__,
        "registered_name": FakeQuantWithMinMaxVars.__name__,
        "config": {},
        "name": name,
        "inbound_nodes": [{"args": [node["args"][0], low, high], "kwargs": {}} for node in nodes],
    }
