"""Whether a call of a layer that is being run, or traced, is one of training.

Private here: Keras's call context, a global attribute, which alone knows it within a layer whose
`call` has no argument `training`.
"""

from keras.src.backend.common import global_state


def is_training():
    """Whether the outermost layer that is being called was called with `training=True`."""
    context = global_state.get_global_attribute("current_call_ctx")
    return context is not None and bool(context.get_value("training"))
