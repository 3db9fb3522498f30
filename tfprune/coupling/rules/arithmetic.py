"""Element-wise operations, of one or more tensors and constant arrays.

Operands broadcast against each other from the last axis. Units that meet are coupled. An operand
that is broadcast over units, such as a gate of one channel, is none of them and is pinned.
"""

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.calls import Tensor
from tfprune.coupling.labels import FIXED, placed
from tfprune.coupling.rules.base import Rule, pin_inputs, rule, unknown_outputs
from tfprune.coupling.rules.block_labels import (
    block,
    counts_along,
    fit_output,
    resized,
    shrunk,
    with_batch_axes,
    without_batch_axis,
)


class Elementwise(Rule):
    """A continuous function of the elements that meet."""

    def label(self, call, inputs, labels):
        name, (output,) = call.operation.name, call.outputs
        arrays = with_batch_axes(call, inputs)
        reason = self.pin_reason(call)
        joined = None if reason else broadcast_labels(call, arrays, labels)
        if joined is not None:
            joined = without_batch_axis(
                output, block(labels, joined, f"{name!r} joins other units")
            )
            reason = f"{name!r} moves its units to the batch axis"
        if joined is None:
            return pin_inputs(call, arrays, labels, reason)
        call.memo["shape"] = joined.shape
        return [joined if call.in_place else self._spread(call, joined, [], labels)]

    def label_arrays(self, call, inputs, outputs, labels):
        """Couples weights with the units they meet, or makes theirs those of the output.

        A constant that is the same all along an axis has as many positions as its code makes, so
        it fixes none; whether the code follows is shown by running it, see `resized_proofs`.
        """
        is_literal = labels.is_literal(call)
        (output,), (result,) = call.outputs, outputs
        rank, reason = len(output.shape), f"{call.operation.name!r} joins it with fixed channels"
        found = [
            (place + rank - array.ndim, vector)
            for array in call.arrays
            for place, vector in enumerate(labels.along_axes(array))
            if vector is not None
            and (is_literal or getattr(array, "axes", None) or not _is_uniform(array, place))
        ]
        labels.took_constants |= not is_literal
        made = [(axis, vector) for axis, vector in found if (vector != FIXED).any()]
        if made or not is_literal:
            result = self._spread(call, result, made, labels)
        for axis, vector in found:
            is_along = axis > 0 and result.shape[axis - 1] != 1
            labels.unite(vector, result.reshape(-1) if is_along else FIXED, reason)
        return [result]

    def _spread(self, call, result, made, labels):
        """The labels of the output where arrays spread tensors of one unit or none along an axis.

        Units of the output begin there: those of weights, or new ones. Of several axes of constants
        the first is taken, since heads come before positions.

        Args:
            call: The `Call`.
            result: The label array of the output without them.
            made: The axes of arrays with units, counted in the output, and the labels along each.
            labels: The `Labels` to record in.
        """
        (output,), name = call.outputs, call.operation.name
        rank = len(output.shape)
        shapes = [left_padded(tensor.shape, rank) for tensor in call.inputs]
        spread = [
            axis
            for axis in range(1, rank)
            if output.shape[axis] != 1 and all(shape[axis] == 1 for shape in shapes)
        ]
        if result.size != 1 or not spread or "shape" not in call.memo:
            return result
        made = [(axis, vector) for axis, vector in made if axis in spread]
        axis, vector = (made or [(spread[0], None)])[0]
        vector = labels.fresh(output.shape[axis]) if vector is None else vector
        labels.pin(result, f"{name!r} spreads it over other units")
        result = placed(vector, axis - 1, rank - 1)
        call.memo["shape"] = result.shape
        return result

    def pin_reason(self, call):
        """Returns why all units are pinned, or None."""

    def constants(self, call, inputs):
        (output,) = call.outputs
        if "shape" not in call.memo:
            return unknown_outputs(call)
        arrays = dict(zip(call.inputs, with_batch_axes(call, inputs), strict=True))
        operands = [
            arrays[o] if isinstance(o, Tensor) else np.asarray(o, "float64")
            for o in _operands(call)
        ]
        values = self.combine(call, arrays, operands)
        values = np.where(np.isfinite(values), values, np.nan)
        return [fit_output(output, values, call.memo["shape"])]

    def combine(self, call, arrays, operands):
        """Returns the operation of constants; NaN where it is not known.

        Args:
            call: The `Call`.
            arrays: For each input tensor its constants, with the batch axis.
            operands: All operands in order: these arrays, and those among the arguments.
        """
        known = ~np.isnan(sum(np.where(np.isnan(o), o, 0.0) for o in operands))
        if not known.any():
            return np.where(known, 0.0, np.nan)

        def value(leaf):
            return np.nan_to_num(arrays[leaf], nan=1.0) if isinstance(leaf, Tensor) else leaf

        args, kwargs = keras.tree.map_structure(value, (list(call.args), call.data_kwargs))
        values = np.asarray(call.operation.call(*args, **kwargs), "float64")
        return np.where(known, values, np.nan)

    def rewrite(self, node, call, sizes):
        """Resizes the arrays among the arguments."""
        if "shape" in call.memo:
            edit_arguments(
                node, call, lambda given, serialised: _resized(given, serialised, call, sizes)
            )


def _is_uniform(array, axis):
    return bool((array == array.take([0], axis=axis)).all())


def broadcast_labels(call, arrays, labels):
    """Unites the labels that meet in an element-wise operation.

    Args:
        call: The `Call`, with one output.
        arrays: The label array of each input tensor, with the batch axis.
        labels: The `Labels` to record in.

    Returns:
        The label array of the output, with the batch axis; None if every operand is
        broadcast over units of another.
    """
    name, (output,) = call.operation.name, call.outputs
    rank = len(output.shape)
    operands = [
        (left_padded(t.shape, rank), array.reshape(left_padded(array.shape, rank)))
        for t, array in zip(call.inputs, arrays, strict=True)
    ]
    is_labelled = np.any([np.array(array.shape) != 1 for _, array in operands], axis=0)
    joined = []
    for shape, array in operands:
        is_broadcast = any(
            size == 1 and full != 1 and has_units
            for size, full, has_units in zip(shape, output.shape, is_labelled, strict=True)
        )
        if is_broadcast:
            # It meets all units of an axis: uniting it with them would couple them all.
            labels.pin(array, f"{name!r} spreads it over other units")
        else:
            joined.append(array)
    if not joined:
        return None
    along = [tuple(np.flatnonzero(np.array(array.shape) != 1)) for array in joined]
    if any(a and b and not set(a) & set(b) for a in along for b in along):
        for array in joined:  # to unite all with all would leave one unit, which cannot go
            labels.pin(array, f"{name!r} joins units of several axes")
        return max(zip(along, joined, strict=True), key=lambda pair: pair[0])[1]
    result = joined[0]
    for array in joined[1:]:
        labels.unite(result, array, f"{name!r} joins it with fixed channels")
        result = np.where(result == FIXED, array, result)
    return shrunk(result)


def left_padded(shape, rank):
    """A shape with axes of size 1 in front, as broadcasting sees it."""
    return (1,) * (rank - len(shape)) + tuple(shape)


def edit_arguments(node, call, edit):
    """Replaces the arguments of a serialised call by `edit(argument, serialised)`."""
    node["args"] = tuple(map(edit, call.args, node["args"]))
    node["kwargs"] = {k: edit(call.kwargs.get(k), v) for k, v in node["kwargs"].items()}


def _resized(argument, serialised, call, sizes):
    if isinstance(argument, (Tensor, list, tuple)) or np.ndim(argument) == 0:
        return serialised
    (output,), shape = call.outputs, np.shape(argument)
    counts = {
        axis: counts_along(sizes, output, axis + len(output.shape) - len(shape))
        for axis in range(len(shape))
        if shape[axis] != 1
    }
    return resized(serialised, {axis: c for axis, c in counts.items() if c is not None})


def _operands(call):
    for argument in [*call.args, *call.data_kwargs.values()]:
        if isinstance(argument, (list, tuple)):
            yield from argument
        elif isinstance(argument, Tensor) or not isinstance(argument, (str, type(None))):
            yield argument


@rule(
    *_keras.operation_classes(
        *"Subtract Maximum Minimum Fmax Fmin Arctan2 Hypot Logaddexp Logaddexp2 Power".split(),
        *"Absolute Abs Fabs Negative Square Sqrt Rsqrt Cbrt Reciprocal Exp Exp2 Expm1".split(),
        *"Log Log1p Log2 Log10 Sin Cos Tan Arcsin Arccos Arctan Sinh Cosh Tanh".split(),
        *"Arcsinh Arccosh Arctanh Sinc Deg2rad Rad2deg Erf Erfc Erfinv I0".split(),
        *"Relu Relu6 Sigmoid SparseSigmoid Softplus Softsign SoftShrink SparsePlus Silu".split(),
        *"Squareplus LogSigmoid LeakyRelu HardSigmoid HardSilu Elu Selu Gelu Celu".split(),
        *"TanhShrink HardTanh Copy StopGradient ConvertToTensor".split(),
    )
)
class Continuous(Elementwise):
    """Functions of one operand or more whose values in double and single precision agree."""


@rule(keras.layers.Multiply, *_keras.operation_classes("Multiply"))
class Product(Elementwise):
    """A product: 0 wherever any factor is.

    A weight that is multiplied with numbers makes units, as of `x[..., None] * weight`.
    """

    def label_arrays(self, call, inputs, outputs, labels):
        (output,), (result,) = call.outputs, outputs
        rank = len(output.shape)
        shapes = [left_padded(tensor.shape, rank) for tensor in call.inputs]
        for array in call.arrays:
            for axis, vector in enumerate(labels.along_axes(array), rank - array.ndim):
                is_new = axis > 0 and vector is not None and (vector != FIXED).any()
                if is_new and result.size == 1 and {shape[axis] for shape in shapes} == {1}:
                    labels.made_by_weights.append(vector)
                    result = placed(vector, axis - 1, rank - 1)
                    call.memo["shape"] = result.shape
        return super().label_arrays(call, inputs, [result], labels)

    def combine(self, call, arrays, operands):
        is_zero = np.logical_or.reduce(np.broadcast_arrays(*[o == 0 for o in operands]))
        return np.where(is_zero, 0.0, super().combine(call, arrays, operands))


@rule(*_keras.operation_classes("Divide", "TrueDivide", "DivideNoNan"))
class Quotient(Elementwise):
    """A quotient: 0 wherever the numerator is; what is divided by is taken not to be 0."""

    def label_arrays(self, call, inputs, outputs, labels):
        if getattr(call.args[-1], "axes", None):
            vectors = [v for v in labels.along_axes(call.args[-1]) if v is not None]
            reason = f"{call.operation.name!r} divides by a weight, which then cannot be 0"
            return pin_inputs(call, [*outputs, *vectors], labels, reason)
        return super().label_arrays(call, inputs, outputs, labels)

    def combine(self, call, arrays, operands):
        is_zero = (operands[0] == 0) & (operands[1] != 0)
        return np.where(is_zero, 0.0, super().combine(call, arrays, operands))


@rule(
    *_keras.operation_classes(
        *"Signbit Floor Ceil Round Trunc Heaviside Mod Fmod FloorDivide Nextafter Isclose".split(),
        *"Isnan Isinf Isfinite Isneginf Isposinf Isreal NanToNum".split(),
        *"LogicalAnd LogicalOr LogicalXor LogicalNot Gcd Lcm Ldexp".split(),
        *"BitwiseAnd BitwiseOr BitwiseXor BitwiseNot BitwiseInvert".split(),
        *"BitwiseLeftShift BitwiseRightShift LeftShift RightShift".split(),
        *"Threshold HardShrink SaturateCast".split(),
    )
)
class Step(Elementwise):
    """Discontinuous functions, so that the value at a rounded constant is not known."""

    def combine(self, call, arrays, operands):
        return np.full(np.broadcast_shapes(*(o.shape for o in operands)), np.nan)


@rule(*_keras.operation_classes(*"Sign Greater GreaterEqual Less LessEqual Equal NotEqual".split()))
class Comparison(Elementwise):
    """Steps whose value is known at 0, which is not rounded."""

    def combine(self, call, arrays, operands):
        zeros = {tensor: np.where(a == 0, 0.0, np.nan) for tensor, a in arrays.items()}
        places = {id(array): tensor for tensor, array in arrays.items()}
        given = [zeros[places[id(o)]] if id(o) in places else o for o in operands]
        return super().combine(call, zeros, given)


@rule(*_keras.operation_classes("Cast"))
class Cast(Elementwise):
    """A cast; constants are known between floating-point types only."""

    def combine(self, call, arrays, operands):
        types = (call.inputs[0].dtype, call.outputs[0].dtype)
        is_close = all("float" in dtype for dtype in types)
        return operands[0] if is_close else np.full_like(operands[0], np.nan)


@rule(*_keras.operation_classes("Clip"))
class Clip(Elementwise):
    """The nearest number between two bounds."""

    def pin_reason(self, call):
        if np.ndim(call.operation.x_min) or np.ndim(call.operation.x_max):
            return f"{call.operation.name!r} has bounds for each unit"
        return None


@rule(*_keras.operation_classes("Where"))
class Where(Elementwise):
    """One of two operands, by a condition; a constant where both hold the same."""

    def pin_reason(self, call):
        if len(list(_operands(call))) != 3:
            return f"{call.operation.name!r} counts where it holds"
        return None

    def combine(self, call, arrays, operands):
        _, one, other = np.broadcast_arrays(*operands)
        return np.where(one == other, one, np.nan)


@rule(*_keras.operation_classes("ZerosLike", "OnesLike", "FullLike"))
class Filled(Elementwise):
    """The same number everywhere, in the shape of a tensor."""

    def combine(self, call, arrays, operands):
        known = [np.zeros_like(operands[0]), *operands[1:]]
        arrays = {tensor: np.zeros_like(array) for tensor, array in arrays.items()}
        return super().combine(call, arrays, known)


@rule(*_keras.operation_classes("Glu"))
class GatedLinearUnit(Elementwise):
    """`a * sigmoid(b)` of the two halves a and b along an axis; a unit has an index in both."""

    def label(self, call, inputs, labels):
        (array,) = with_batch_axes(call, inputs)
        axis = call.operation.axis % array.ndim
        value, gate = _halves(array, axis)
        labels.unite(value, gate, f"{call.operation.name!r} gates it with fixed channels")
        if axis == 0:
            return [inputs[0]]
        call.memo["shape"] = value.shape[1:]
        return [value[0]]

    def combine(self, call, arrays, operands):
        value, gate = _halves(operands[0], call.operation.axis % operands[0].ndim)
        return np.where(value == 0, 0.0, value / (1 + np.exp(-gate)))


def _halves(array, axis):
    size = array.shape[axis]
    return (array, array) if size == 1 else np.split(array, 2, axis)
