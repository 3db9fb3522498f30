"""Access to private attributes of Keras and TensorFlow, in this package only.

The other packages use the public API of Keras, and the functions below. Each file lists the private
attributes it uses, and why.
"""

from tfprune._keras.call_context import is_training
from tfprune._keras.classes import (
    application_layers,
    is_stock,
    operation_classes,
    raw_operation,
    raw_operations,
)
from tfprune._keras.configs import (
    custom_objects_of,
    has_numbers,
    in_nested,
    with_functions,
    without_shapes,
)
from tfprune._keras.convolutions import kernels_read_outside, strides_outside
from tfprune._keras.copies import Originals, call_directly, copied_objects
from tfprune._keras.custom_gradients import gradients_kept_by_graphs
from tfprune._keras.custom_steps import has_own_steps, take_class
from tfprune._keras.deep_copies import replace_references
from tfprune._keras.fake_quantization import (
    FAKE_QUANTIZATION,
    fake_quantization_config,
    has_fake_quantization,
)
from tfprune._keras.fitting import (
    begin_at,
    build_in_fit,
    callback_list,
    data_of_fit,
    global_seed,
)
from tfprune._keras.function_graphs import called_graph, free_graph
from tfprune._keras.graphs import (
    all_operations,
    calls_functions_of_layers,
    carries_mask,
    data_of,
    functional,
    graph_config,
    input_layers,
    input_structure,
    is_functional_config,
    is_saved_as_graph,
    is_symbolic,
    line_of,
    mask_of,
    nodes,
    nodes_between,
    not_asked_for_configs,
    operations,
    output_structure,
    part_of,
    source_of,
)
from tfprune._keras.initial_values import without_values, zeros_as_initial_values
from tfprune._keras.layers import (
    all_layers,
    attention_projections,
    can_be_quantized,
    changed_kernel,
    changed_kernels,
    count_weights,
    guarded_variables,
    let_infer_shapes,
    let_say_shapes,
    maskable_variables,
    named_layers,
    own_trainable_variables,
    quantization,
    quantized_layers,
    recurrent_states,
    say_no_outputs,
    say_outputs,
    sub_layers,
    takes_mask,
    weight_bytes,
    wrap_methods,
)
from tfprune._keras.legacy import (
    has_legacy_graph,
    legacy_build_shape,
    legacy_calls_on,
    legacy_children,
    legacy_node,
    legacy_own_weights,
    legacy_structures,
    legacy_takes_training,
    legacy_weights_as,
    without_new_calls,
)
from tfprune._keras.masked_variables import (
    MaskVariable,
    guard,
    is_being_read,
    is_guarded,
    live_elements,
    mask_gradient,
    observe_gradient,
    reading,
    uncast,
    unguard,
    unguarded,
)
from tfprune._keras.optimizers import (
    JointUpdate,
    compile_arguments,
    copy_optimizer_state,
    reset_slots,
    variable_index,
)
from tfprune._keras.pairs import layer_pairs, own_variable_pairs, own_variables, variable_pairs
from tfprune._keras.precision import half_precision, in_precision
from tfprune._keras.random_numbers import called_in_inference, fixed_seed, unchanged
from tfprune._keras.saving import SavedState, weights_in_memory, without_compile_state
from tfprune._keras.sizes import (
    become,
    build_again,
    config_fits,
    float_numbers,
    forget_input_shape,
    not_from_config,
    plain_attributes,
    resize_variable,
    set_input_shape,
    set_number,
    set_path,
    whole_numbers,
)
from tfprune._keras.subclassed import (
    built_inputs,
    built_shapes,
    called_on,
    check_parts_built,
    has_own_call,
    has_stock_compile,
    has_stock_train_step,
    models_inside,
    note_call,
    renew_optimizers,
    required_arguments,
)
from tfprune._keras.tensorflow_calls import tensorflow_on_symbols
from tfprune._keras.traced_weights import (
    UnreadableError,
    forbid_reading,
    is_index,
    symbolic_weights,
)
from tfprune._keras.tracing import (
    einsums_in_lower_case,
    inferring_shapes,
    noting_lines,
    noting_losses,
)
from tfprune._keras.training import BackedUp, Relay, leave_strategy
from tfprune._keras.variable_values import (
    is_constant,
    is_finite,
    is_same_value,
    raw,
    values,
)
