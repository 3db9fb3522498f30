"""Operations of a graph as products of the rows of an input with the matrix of a weight.

    outputs = rows @ matrix, for each group

A matrix product has a row for each position. A convolution has a row for each place of its window,
which holds the patch of inputs there; grouped and depthwise ones have groups.
"""

import math
import string
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfprune.criteria.patches import patches, same_paddings


class NoProductError(Exception):
    """An operation that takes a weight is no product of it with rows of an input; says why."""


@dataclass(frozen=True, eq=False)
class Product:
    """A product of an input with a weight.

    Attributes:
        operand: The input, a tensor of the graph.
        steps: How the array of the weight becomes (groups, rows, columns), see `moved`.
        groups, row_size: Integers, how many groups there are, and inputs of the matrix.
    """

    operand: tf.Tensor
    steps: tuple
    groups: int
    row_size: int

    def count(self, rows, part):
        """How many of the rows of a part of the examples have outputs, in each group."""
        return tf.shape(rows)[1]


@dataclass(frozen=True, eq=False)
class Contraction(Product):
    """A sum over shared axes: a product of matrices, or an `einsum`.

    Attributes:
        subscripts: The letters of the operand's axes.
        group_letters, row_letters, other_letters: Those along which there are groups, the inputs
            of the weight, and those that the outputs have too. The others are summed over.
    """

    subscripts: str
    group_letters: str
    row_letters: str
    other_letters: str

    @property
    def key(self):
        """Equal for products with the same rows."""
        rank = len(self.subscripts)
        is_last = (self.row_letters, self.groups) == (self.subscripts[-1], 1)
        if is_last and len(self.other_letters) == rank - 1:
            return _source(self.operand, keeps_last=True), self.operand.dtype
        letters = self.subscripts, self.group_letters, self.row_letters, self.other_letters
        return _source(self.operand), self.operand.dtype, *letters

    def examples(self):
        """The operand as (examples, groups, rows of the matrix), and the size of an example."""
        order = self.other_letters + self.group_letters + self.row_letters
        tensor = self.operand
        if order != self.subscripts:
            tensor = tf.einsum(f"{self.subscripts}->{order}", tensor)
        shape = self.groups, self.row_size
        return tf.reshape(tensor, [-1, *shape]), math.prod(shape)

    def rows(self, examples, part):
        """Rows of a part of the examples as (groups, examples, rows of the matrix)."""
        return tf.transpose(examples[part], [1, 0, 2])


@dataclass(frozen=True, eq=False)
class Window(Product):
    """A convolution.

    Attributes:
        window, strides, dilations: Tuples, a number for each axis of positions.
        paddings: Zeros before and after each; None for "same".
        channels_first: Whether the channels are the second axis of the operand.
        is_real: Tensor (examples, places), 0 for places of the window whose outputs are cut off;
            None if there are none.
    """

    window: tuple
    strides: tuple
    dilations: tuple
    paddings: tuple | None
    channels_first: bool
    is_real: tf.Tensor | None

    @property
    def key(self):
        """Equal for products with the same rows."""
        options = self.window, self.strides, self.dilations, self.paddings
        return _source(self.operand), self.operand.dtype, *options, self.groups

    def examples(self):
        """The operand with the channels at the end, and the size of the patches of an example."""
        tensor, rank = self.operand, len(self.window)
        if self.channels_first:
            tensor = tf.transpose(tensor, [0, *range(2, rank + 2), 1])
        positions = tf.reduce_prod(tf.shape(tensor)[1:-1] // tf.constant(self.strides) + 1)
        return tensor, positions * math.prod(self.window) * tensor.shape[-1]

    def rows(self, examples, part):
        """The patches as (groups, examples * places, rows of the matrix)."""
        examples, options = examples[part], (self.window, self.strides, self.dilations)
        paddings = self.paddings
        if paddings is None:
            paddings = same_paddings(examples, *options)
        rows = patches(examples, *options, paddings, self.groups)
        if self.is_real is None:
            return rows
        return rows * tf.reshape(tf.cast(self.is_real[part], rows.dtype), [1, -1, 1])

    def count(self, rows, part):
        """How many of the rows of a part of the examples have outputs, in each group."""
        if self.is_real is None:
            return super().count(rows, part)
        return tf.reduce_sum(self.is_real[part])


def moved(array, steps, library=np):
    """An array after steps that move its elements, a view of it where NumPy can make one.

    Args:
        array: Array or tensor of the shape of a weight.
        steps: Pairs: `("reshape", shape)`, `("transpose", axes)` or `("index", indices)`, with the
            arguments of a slice as a tuple.
        library: NumPy, or TensorFlow for a tensor.

    Example:

    >>> moved(np.arange(4), (("reshape", (2, 2)), ("transpose", (1, 0)))).tolist()
    [[0, 2], [1, 3]]
    """
    for name, argument in steps:
        if name == "index":
            array = array[tuple(slice(*i) if isinstance(i, tuple) else i for i in argument)]
        else:
            array = getattr(library, name)(array, argument)
    return array


def product(operation, position, steps, resolve):
    """The `Product` that an operation of a graph makes of an operand that is a weight.

    Args:
        operation: An operation of TensorFlow.
        position: Which of its inputs is the weight.
        steps: What was done to the weight before, see `moved`.
        resolve: Function from an input of the operation to the tensor of the outer graph.

    Raises:
        NoProductError: If it makes none.
    """
    kind = operation.type
    if kind in ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"):
        terms = _subscripts_of_matmul(operation)
    elif kind == "Einsum" and len(operation.inputs) == 2:
        terms = _subscripts_of_einsum(operation)
    elif kind in ("Conv2D", "Conv3D", "DepthwiseConv2dNative") and position == 1:
        return _convolution(operation, steps, resolve)
    else:
        raise NoProductError(_reason(kind))
    *operands, result = terms
    return _contraction(operation, position, operands, result, steps, resolve)


def _contraction(operation, position, operands, result, steps, resolve):
    weight, x = operation.inputs[position], operation.inputs[1 - position]
    letters, of_x = operands[position], operands[1 - position]
    shape = weight.shape.as_list()
    alone = [i for i, c in enumerate(letters) if shape[i] == 1 and c not in _core(operation)]
    if alone:  # broadcast along batches
        letters = "".join(c for i, c in enumerate(letters) if i not in alone)
        shape = [size for i, size in enumerate(shape) if i not in alone]
        steps = (*steps, ("reshape", tuple(shape)))
    groups = [c for c in letters if c in of_x and c in result]
    rows = [c for c in letters if c in of_x and c not in result]
    columns = [c for c in letters if c not in of_x and c in result]
    is_plain = len(set(letters)) == len(letters) and len(set(of_x)) == len(of_x)
    size_of = dict(zip(letters, shape, strict=True))
    unequal = [c for c in groups if x.shape[of_x.index(c)] not in (None, size_of[c])]
    if not rows or unequal or not is_plain or len(groups + rows + columns) < len(letters):
        raise NoProductError(f"the operation {operation.type} sums over none of its axes alone")
    order = tuple(letters.index(c) for c in (*groups, *rows, *columns))
    sizes = tuple(math.prod(size_of[c] for c in part) for part in (groups, rows, columns))
    return Contraction(
        operand=resolve(x),
        steps=(*steps, ("transpose", order), ("reshape", sizes)),
        groups=sizes[0],
        row_size=sizes[1],
        subscripts=of_x,
        group_letters="".join(groups),
        row_letters="".join(rows),
        other_letters="".join(c for c in of_x if c in result and c not in letters),
    )


def _core(operation):
    """The letters of the axes that are no batches in a product of matrices; all of an `einsum`."""
    return string.ascii_letters if operation.type == "Einsum" else "xyz"


def _subscripts_of_matmul(operation):
    """The letters of both operands and of the result."""
    is_plain = operation.type == "MatMul"
    flags = ("transpose_a", "transpose_b") if is_plain else ("adj_x", "adj_y")
    turned = [operation.get_attr(flag) for flag in flags]
    ranks = [len(operand.shape) for operand in operation.inputs]
    batches = [string.ascii_lowercase[20 - (rank - 2) : 20] for rank in ranks]
    cores = [core[::-1] if turn else core for core, turn in zip(("xy", "yz"), turned, strict=True)]
    return batches[0] + cores[0], batches[1] + cores[1], max(batches, key=len) + "xz"


def _subscripts_of_einsum(operation):
    operands, result = operation.get_attr("equation").decode().replace(" ", "").split("->")
    operands = operands.split(",")
    if "..." in "".join(operands):
        used = set("".join(operands))
        spare = [letter for letter in string.ascii_letters if letter not in used]
        ranks = [
            len(x.shape) - len(o.replace("...", "")) if "..." in o else 0
            for x, o in zip(operation.inputs, operands, strict=True)
        ]
        names = "".join(spare[: max(ranks)])
        operands = [
            o.replace("...", names[len(names) - rank :])
            for o, rank in zip(operands, ranks, strict=True)
        ]
        result = result.replace("...", names)
    return *operands, result


def _convolution(operation, steps, resolve):
    x, kernel = operation.inputs
    *window, inputs, filters = kernel.shape.as_list()
    layout = operation.get_attr("data_format").decode()
    channels_first = layout.startswith("NC")
    axes = [layout.index(letter) for letter in ("HW" if len(window) == 2 else "DHW")]
    strides, dilations = (
        tuple(operation.get_attr(name)[axis] for axis in axes) for name in ("strides", "dilations")
    )
    padding = operation.get_attr("padding").decode()
    paddings = None
    if padding != "SAME":
        explicit = operation.get_attr("explicit_paddings") if padding == "EXPLICIT" else None
        paddings = tuple(
            (explicit[2 * a], explicit[2 * a + 1]) if explicit else (0, 0) for a in axes
        )
    taps = math.prod(window)
    is_depthwise = operation.type == "DepthwiseConv2dNative"
    if is_depthwise:
        groups, shape = inputs, (taps, inputs, filters)
    else:
        groups = x.shape[layout.index("C")] // inputs
        shape = (taps * inputs, groups, filters // groups)
    return Window(
        operand=resolve(x),
        steps=(*steps, ("reshape", shape), ("transpose", (1, 0, 2))),
        groups=groups,
        row_size=taps if is_depthwise else taps * inputs,
        window=tuple(window),
        strides=strides,
        dilations=dilations,
        paddings=paddings,
        channels_first=channels_first,
        is_real=_is_real(operation),
    )


def _is_real(operation):
    """Which places of the window have outputs that are not cut off, see `Window`.

    Where TensorFlow divides dilated inputs into examples without dilation, it fills these up.
    """
    after = operation.outputs[0].consumers()
    while len(after) == 1 and after[0].type in ("Squeeze", "Identity", "Reshape"):
        after = after[0].outputs[0].consumers()
    back = next((each for each in after if each.type == "BatchToSpaceND"), None)
    if back is None:
        return None
    if back.graph is not tf.compat.v1.get_default_graph():
        raise NoProductError("it is used inside a `tf.function`, in a dilated convolution")
    shape = tf.concat([tf.shape(back.outputs[0])[:-1], [1]], 0)
    real = tf.space_to_batch(tf.ones(shape), *back.inputs[1:])
    return tf.reshape(real, [tf.shape(real)[0], -1])


def _source(tensor, keeps_last=False):
    """A reference to the tensor out of which one was only cast, or reshaped in its first axes."""
    while tensor.op.type in ("Identity", "Cast", *(["Reshape"] if keeps_last else [])):
        before = tensor.op.inputs[0]
        is_kept = before.shape.rank and before.shape[-1] is not None
        if tensor.op.type == "Reshape" and not (is_kept and _last_is(tensor, before.shape[-1])):
            break
        tensor = before
    return tensor.ref()


def _last_is(tensor, size):
    """Whether the last axis of a reshaped tensor has a size, as far as the graph says."""
    shape = tf.get_static_value(tensor.op.inputs[1], partial=True)
    given = None if shape is None else shape[-1]
    return size in (given, tensor.shape[-1] if tensor.shape.rank else None)


_REASONS = {
    ("Gather", "ResourceGather"): "its rows are looked up, not multiplied with inputs",
    ("While", "StatelessWhile", "Scan"): "it is used in a loop, as over time steps",
    ("If", "StatelessIf", "Case", "StatelessCase"): "it is used under a condition",
    ("Conv2DBackpropInput", "Conv3DBackpropInput"): "it is the kernel of a transposed convolution",
}


def _reason(kind):
    """Why an operation of some kind is no product."""
    for kinds, reason in _REASONS.items():
        if kind.rstrip("V23") in kinds:
            return reason
    return f"the operation {kind} takes it, which is no product of inputs with a matrix"
