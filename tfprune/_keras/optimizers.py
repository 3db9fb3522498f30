"""The state which an optimizer holds for each weight, and what a model was compiled with.

Private here, and why:

* `_trainable_variables_indices` and `_var_key` of an optimizer: the place of a weight in the lists
  of slots;
* these lists, attributes like `_momentums`: their names tell what a slot is and where it starts;
* `_get_variable_index`: the same place, for an optimizer of ours as for Keras's own;
* `_backend_update_step` of an optimizer: where all gradients of a step are still together;
* `_compile_config` of a model: the arguments of `compile`, the objects themselves.
"""

import keras
import tensorflow as tf

from tfprune._keras.variable_values import raw


def slots(optimizer, weight):
    """The slots an optimizer holds for a weight: (optimizer, name of its list, variable).

    A slot stands in a list attribute of the optimizer, at the weight's place among the trainable
    variables. Inner optimizers are looked into.
    """
    found = []
    for part in _optimizer_parts(optimizer):
        indices = getattr(part, "_trainable_variables_indices", {})
        index = indices.get(part._var_key(weight)) if part.built else None
        if index is not None:
            found += [(part, name, s[index]) for name, s in _slot_lists(part) if is_slot(s[index])]
    return found


def _slot_lists(optimizer):
    """The list attributes of an optimizer with a place for each trainable variable."""
    size = len(getattr(optimizer, "_trainable_variables_indices", {}))
    for name, values in vars(optimizer).items():
        is_state = name not in ("_variables", "_trainable_variables")
        if is_state and isinstance(values, list) and len(values) == size:
            yield name, values


def is_slot(value):
    """Whether a value is a variable, and not the None of a weight without a slot."""
    return isinstance(value, keras.Variable)


def _optimizer_parts(optimizer):
    parts = [optimizer]
    inner = getattr(optimizer, "inner_optimizer", None)
    for part in [inner, *(getattr(optimizer, "optimizers", None) or [])]:
        if part is not None:
            parts.extend(_optimizer_parts(part))
    return parts


def reset_slots(optimizer, weight, changed):
    """Sets the slots of a weight back to where they start, in the elements that `changed` picks.

    Slots which are not of the weight's shape (Adafactor's factors) cannot be reset by element.
    """
    changed = tf.convert_to_tensor(changed)
    for part, attribute, slot in slots(optimizer, weight):
        if tuple(slot.shape) == tuple(weight.shape):
            start = _slot_start(part, attribute, weight)
            is_number = isinstance(start, (int, float))
            start = tf.constant(start, slot.dtype) if is_number else tf.cast(start, slot.dtype)
            slot.assign(tf.where(changed, start, raw(slot)))


def _slot_start(optimizer, attribute, weight):
    # Not in every Keras that the package supports.
    schedule_free = getattr(keras.optimizers, "ScheduleFreeAdamW", ())
    follows_weight = attribute == "_model_variables_moving_average" or (
        isinstance(optimizer, schedule_free) and attribute == "_momentums"
    )
    if follows_weight:
        return raw(weight)
    if attribute == "_accumulators":
        return optimizer.initial_accumulator_value
    return 0


def copy_optimizer_state(old, new, pairs, take):
    """Copies slots, through `take(weight, value, new slot, name)`, and the counters."""
    for ours, theirs in pairs:
        new_slots = {(name, i): slot for i, (_, name, slot) in enumerate(slots(new, theirs))}
        for i, (_, name, slot) in enumerate(slots(old, ours)):
            value, counterpart = keras.ops.convert_to_numpy(raw(slot)), new_slots[name, i]
            counterpart.assign(take(ours, value, counterpart, name))
    for ours, theirs in zip(_counters(old), _counters(new), strict=True):
        theirs.assign(raw(ours))


def _counters(optimizer):
    """What an optimizer holds besides slots: the step, the learning rate, a loss scale."""
    held = {
        id(slot)
        for part in _optimizer_parts(optimizer)
        for _, values in _slot_lists(part)
        for slot in values
    }
    return [variable for variable in optimizer.variables if id(variable) not in held]


def variable_index(optimizer, variable):
    """The place of a variable among those an optimizer was built with."""
    return optimizer._get_variable_index(variable)


class JointUpdate:
    """A mixin for optimizers whose step of one variable depends on the gradients of all."""

    def joined(self, gradients, variables):
        """The gradients that the variables are updated with, in place of their own."""
        raise NotImplementedError(f"{type(self).__name__} must implement `joined`.")

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        grads = self.joined(grads, trainable_variables)
        super()._backend_update_step(grads, trainable_variables, learning_rate)


def compile_arguments(model):
    """What `model.compile` was called with, the objects themselves; empty if it was not."""
    if not model.compiled:
        return {}
    return dict(model._compile_config.config)
