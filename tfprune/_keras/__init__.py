"""The one place which touches what Keras and TensorFlow keep private.

Everything else in the package speaks to Keras through its public face, and to this package through
the names below. Each file says which private attributes it touches, and why.
"""

from tfprune._keras.classes import (
    application_layers,
    operation_classes,
    raw_operation,
    raw_operations,
)
from tfprune._keras.graphs import (
    all_operations,
    functional,
    graph_config,
    input_layers,
    input_structure,
    is_functional_config,
    is_symbolic,
    nodes,
    operations,
    operations_between,
    output_structure,
)
from tfprune._keras.layers import (
    all_layers,
    attention_projections,
    count_weights,
    own_trainable_variables,
    recurrent_states,
)
from tfprune._keras.optimizers import (
    JointUpdate,
    compile_arguments,
    copy_optimizer_state,
    reset_slots,
    variable_index,
)
from tfprune._keras.pairs import layer_pairs, variable_pairs
from tfprune._keras.saving import SavedState, without_compile_state
from tfprune._keras.training import Relay
from tfprune._keras.variables import (
    MaskVariable,
    guard,
    is_guarded,
    is_read_through,
    live_elements,
    raw,
    read_through,
    reading,
    uncast,
    unguarded,
    values,
    watched,
)

__all__ = [
    "JointUpdate",
    "MaskVariable",
    "Relay",
    "SavedState",
    "all_layers",
    "all_operations",
    "application_layers",
    "attention_projections",
    "compile_arguments",
    "copy_optimizer_state",
    "count_weights",
    "functional",
    "graph_config",
    "guard",
    "input_layers",
    "input_structure",
    "is_functional_config",
    "is_guarded",
    "is_read_through",
    "is_symbolic",
    "layer_pairs",
    "live_elements",
    "nodes",
    "operation_classes",
    "operations",
    "operations_between",
    "output_structure",
    "own_trainable_variables",
    "raw",
    "raw_operation",
    "raw_operations",
    "read_through",
    "reading",
    "recurrent_states",
    "reset_slots",
    "uncast",
    "unguarded",
    "values",
    "variable_index",
    "variable_pairs",
    "watched",
    "without_compile_state",
]
