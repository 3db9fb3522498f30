"""`TimeDistributed` over a model or a layer of a user's class, as the calls that it stands for.

Time is folded into the batch axis, what is inside is called once, and time is unfolded again. So
what is inside is analysed, counted and measured as everywhere else.
"""

import keras

from tfprune import _keras
from tfprune.coupling.calls import Call, Tensor
from tfprune.coupling.rules import has_rule
from tfprune.coupling.rules.time_steps import FoldTime, UnfoldTime


def at_each_step(operation):
    """What a `TimeDistributed` calls at each step, if it is analysed by itself, else None.

    A layer with a rule is not: the rule of `TimeDistributed` applies that.
    """
    if not isinstance(operation, keras.layers.TimeDistributed):
        return None
    layer = operation.layer
    is_by_itself = _keras.functional(layer) is not None or not has_rule(layer)
    return layer if is_by_itself or at_each_step(layer) is not None else None


def innermost(operation):
    """What one or several `TimeDistributed` around each other call; the operation if it is none."""
    inner = at_each_step(operation)
    return operation if inner is None else innermost(inner)


def hides_mask(call):
    """Whether masks of steps within a time step reach a model inside, whose trace lacks them."""
    masks = [tensor for tensor in call.masks if len(tensor.shape) > 2]
    return bool(masks) and _keras.functional(innermost(call.operation)) is not None


def folded(call):
    """The calls that fold time into the batch axis, and the arguments of what is inside.

    Args:
        call: A `Call` of a `TimeDistributed`.

    Returns:
        A list of `Call`, the positional and the keyword arguments.
    """
    layer, arguments = call.operation.layer, {"inputs": call.inputs[0]}
    if call.masks and _keras.takes_mask(layer) and _keras.functional(layer) is None:
        arguments["mask"] = call.masks[0]
    calls = []
    for name, tensor in arguments.items():
        ending = "steps" if name == "inputs" else f"steps_of_{name}"
        operation = FoldTime(name=f"{call.operation.name}_{ending}")
        shape = (None, *tensor.shape[2:])
        outputs = (Tensor(shape, tensor.dtype),)
        calls.append(Call(operation, (tensor,), {}, outputs, call.parents, call.node_index))
        arguments[name] = outputs[0]
    return calls, [arguments.pop("inputs")], arguments


def unfolded(call, output):
    """The call that unfolds time again, for the output of what is inside."""
    operation = UnfoldTime(name=f"{call.operation.name}_sequence")
    arguments = (output, call.inputs[0])
    return Call(operation, arguments, {}, call.outputs, call.parents, call.node_index)
