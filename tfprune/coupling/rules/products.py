"""Sums of products over tensors and arrays: einsum, matmul, dot.

Every axis has a letter, as in einsum. Units that share a letter are coupled: over a letter of the
output they are passed on; over a letter that is summed, a unit is needed unless it is 0 in any
operand.
"""

import functools
import string

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.calls import Tensor
from tfprune.coupling.labels import FIXED, placed
from tfprune.coupling.rules.arithmetic import edit_arguments
from tfprune.coupling.rules.base import Need, Rule, fixed, pin_inputs, rule, unknown_outputs
from tfprune.coupling.rules.block_labels import (
    counts_along,
    fit_output,
    resized,
    unit_axis,
    with_batch_axis,
)


class Contraction(Rule):
    """A sum of products over letters that the output does not have."""

    def terms(self, call):
        """The letters of each operand and those of the output; None if not known."""
        raise NotImplementedError

    def label(self, call, inputs, labels):
        name, (output,), terms = call.operation.name, call.outputs, self.terms(call)
        if terms is None or any(len(set(term)) != len(term) for term in (*terms[0], terms[1])):
            reason = f"{name!r} multiplies it in a way that has no rule"
            return pin_inputs(call, inputs, labels, reason)
        units, fixed_letters = _units(call, inputs, terms[0], labels)
        for letter, vectors in units.items():
            for vector in vectors[1:]:
                labels.unite(vectors[0], vector, f"{name!r} multiplies it with fixed channels")
            if letter in fixed_letters:
                labels.pin(vectors[0], f"{name!r} multiplies it with fixed channels")
        for array in inputs:
            if unit_axis(array) is None:
                labels.pin(array, f"{name!r} uses it as a whole")
        call.memo["units"] = {letter: vectors[0] for letter, vectors in units.items()}
        if call.in_place:
            self._mark_weights(call, terms, labels)
        passed = [letter for letter in terms[1] if letter in units]
        kept = passed[-1:]
        if call.in_place:  # of an attention by hand, heads rather than what each has
            kept = [letter for letter in passed if terms[1].index(letter)][:1] or kept
        for letter in (letter for letter in passed if letter not in kept):
            labels.pin(units[letter][0], f"units stand on several axes of the output of {name!r}")
        call.memo["shape"] = fixed(output).shape
        if not passed:
            return [fixed(output)]
        axis = terms[1].index(kept[0])
        if axis == 0:
            labels.pin(units[kept[0]][0], f"{name!r} moves its units to the batch axis")
            return [fixed(output)]
        result = placed(units[kept[0]][0], axis - 1, len(output.shape) - 1)
        call.memo["shape"] = result.shape
        return [result]

    def label_arrays(self, call, inputs, outputs, labels):
        return outputs

    def _mark_weights(self, call, terms, labels):
        """Notes which units the weights among the operands make, and which they use."""
        of_tensors = "".join(
            term
            for operand, term in zip(operands(call), terms[0], strict=True)
            if isinstance(operand, Tensor)
        )
        call.memo["vectors"] = {}
        for operand, term in zip(operands(call), terms[0], strict=True):
            if getattr(operand, "axes", None):
                vectors = labels.along_axes(operand)
                call.memo["vectors"][id(operand)] = vectors
                for letter, vector in zip(term, vectors, strict=True):
                    if vector is not None and letter not in terms[1]:
                        labels.used_by_weights.append(vector)
                    elif vector is not None and letter not in of_tensors:
                        labels.made_by_weights.append(vector)

    def constants(self, call, inputs):
        (output,) = call.outputs
        if "units" not in call.memo:
            return unknown_outputs(call)
        (terms, result), arrays = self.terms(call), iter(inputs)
        letters = result + "".join(sorted(set("".join(terms)) - set(result)))
        sizes, factors = {}, []
        for operand, term in zip(operands(call), terms, strict=True):
            if isinstance(operand, Tensor):
                array = with_batch_axis(operand, next(arrays))
            else:
                array = np.asarray(operand, "float64")
            sizes.update({k: n for k, n in zip(term, operand.shape, strict=True) if n != 1})
            order = sorted(range(len(term)), key=lambda axis, term=term: letters.index(term[axis]))
            shape = [array.shape[term.index(k)] if k in term else 1 for k in letters]
            factors.append(np.transpose(array, order).reshape(shape))
        product = functools.reduce(np.multiply, factors)
        product = np.where(functools.reduce(np.logical_or, [f == 0 for f in factors]), 0.0, product)
        for axis in range(len(result), len(letters)):
            count = 1 if product.shape[axis] != 1 else sizes.get(letters[axis], 1) or np.nan
            product = product.sum(axis=axis, keepdims=True)
            product = np.where(product == 0, 0.0, product * count)
        shape = (*product.shape[: len(result)], *(1,) * (len(output.shape) - len(result)))
        product = product.reshape(shape) if output.shape else product
        return [fit_output(output, product, call.memo["shape"])]

    def needs(self, call, flow):
        needs, terms = [], self.terms(call)
        for letter, labels in call.memo.get("units", {}).items():
            if letter in terms[1]:
                continue
            used = np.ones(labels.shape, bool)
            for operand, term in zip(operands(call), terms[0], strict=True):
                if letter in term:
                    vectors = call.memo.get("vectors", {}).get(id(operand))
                    used &= _is_used(operand, term.index(letter), flow, vectors)
            needs.append(Need(labels, used, f"{call.operation.name!r} sums over it"))
        return needs

    def rewrite(self, node, call, sizes):
        """Resizes the arrays among the operands."""
        counts = {}
        terms = self.terms(call)[0] if "units" in call.memo else ()
        for operand, term in zip(operands(call), terms, strict=False):
            if isinstance(operand, Tensor):
                found = {k: counts_along(sizes, operand, axis) for axis, k in enumerate(term)}
                counts.update({k: c for k, c in found.items() if c is not None})
        by_id = {id(o): t for o, t in zip(operands(call), terms, strict=False)}

        def edit(given, serialised):
            if isinstance(given, Tensor) or id(given) not in by_id:
                return serialised
            axes = {
                axis: counts[k]
                for axis, k in enumerate(by_id[id(given)])
                if k in counts and given.shape[axis] != 1
            }
            return resized(serialised, axes)

        edit_arguments(node, call, edit)


def operands(call):
    """The tensors and arrays that are multiplied."""
    return [
        leaf
        for leaf in keras.tree.flatten([list(call.args), call.data_kwargs])
        if np.ndim(leaf) or isinstance(leaf, Tensor)
    ]


def _units(call, inputs, terms, labels):
    """For each letter the label vectors of the operands, and the letters that are fixed in any.

    Arrays have letters too where they cannot be resized with the tensors.
    """
    arrays, units, fixed_letters = iter(inputs), {}, set()
    for operand, term in zip(operands(call), terms, strict=True):
        if not isinstance(operand, Tensor):
            for letter, vector in zip(term, labels.along_axes(operand), strict=True):
                if call.in_place and vector is not None and (vector != FIXED).any():
                    units.setdefault(letter, []).append(vector)
                elif call.in_place and vector is not None:
                    fixed_letters.add(letter)
            continue
        array = with_batch_axis(operand, next(arrays))
        for axis, letter in enumerate(term):
            if array.shape[axis] != 1:
                units.setdefault(letter, []).append(array.reshape(-1))
            elif operand.shape[axis] != 1:
                fixed_letters.add(letter)
    return units, fixed_letters


def _is_used(operand, axis, flow, vectors=None):
    """For each position along an axis of an operand, whether it is not a constant 0.

    Args:
        operand: A tensor or array.
        axis: The axis.
        flow: The `Flow`.
        vectors: For a weight its labels along each axis: only what makes needed units counts.
    """
    if isinstance(operand, Tensor):
        array = with_batch_axis(operand, flow.constants(operand)) != 0
    else:
        array = np.asarray(operand) != 0
        for other, vector in enumerate(vectors or ()):
            if other != axis and vector is not None:
                array = array & placed(flow.is_needed(vector), other, array.ndim)
    return np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1).any(axis=1)


@rule(*_keras.operation_classes("Einsum"))
class Einsum(Contraction):
    """`einsum`, its ellipsis written out."""

    def terms(self, call):
        subscripts = call.operation.subscripts.replace(" ", "")
        written, arrow, result = subscripts.partition("->")
        written = written.split(",")
        spare = [k for k in string.ascii_letters if k not in subscripts]
        ranks = [len(operand.shape) for operand in operands(call)]
        if len(written) != len(ranks):
            return None
        if not arrow:
            names = sorted(set("".join(written)) - set(".,"))
            result = "..." * ("..." in subscripts)
            result += "".join(k for k in names if "".join(written).count(k) == 1)
        terms = [
            term.replace("...", "".join(spare[: rank - len(term) + 3][::-1]))
            for term, rank in zip(written, ranks, strict=True)
        ]
        longest = len(call.outputs[0].shape) - len(result) + 3
        return terms, result.replace("...", "".join(spare[:longest][::-1]))


@rule(*_keras.operation_classes("Matmul"))
class Matmul(Contraction):
    """Matrices along the last two axes."""

    def terms(self, call):
        ours, theirs = (len(operand.shape) for operand in operands(call))
        if min(ours, theirs) < 2:
            return None
        batch = string.ascii_lowercase[: max(ours, theirs) - 2]
        batches = [batch[len(batch) - rank + 2 :] for rank in (ours, theirs)]
        return [batches[0] + "YX", batches[1] + "XZ"], batch + "YZ"


@rule(*_keras.operation_classes("Dot"))
class DotOperation(Contraction):
    """The last axis of one with the last but one of the other, or its only one."""

    def terms(self, call):
        if len(operands(call)) != 2:
            return None
        ours, theirs = (len(operand.shape) for operand in operands(call))
        axis = max(theirs - 2, 0)
        return _over(ours, theirs, [ours - 1], [axis])


@rule(*_keras.operation_classes("Tensordot"))
class Tensordot(Contraction):
    """Some axes of one with some of the other."""

    def terms(self, call):
        ours, theirs = (len(operand.shape) for operand in operands(call))
        axes = call.operation.axes
        if isinstance(axes, int):
            axes = [range(ours - axes, ours), range(axes)]
        first, second = (np.atleast_1d(list(a) if np.ndim(a) else a) for a in axes)
        return _over(ours, theirs, [a % ours for a in first], [a % theirs for a in second])


@rule(keras.layers.Dot)
class Dot(Contraction):
    """A product for each example, over one axis of either tensor."""

    def terms(self, call):
        if call.operation.normalize:
            return None
        ours, theirs = (len(operand.shape) for operand in operands(call))
        axes = call.operation.axes
        first, second = (axes, axes) if isinstance(axes, int) else axes
        return _over(ours, theirs, [first % ours], [second % theirs], examples=True)


def _over(ours, theirs, first, second, examples=False):
    """Terms for a product over pairs of axes; `examples` if the first axes are the same."""
    left, right = string.ascii_lowercase[:ours], list(string.ascii_uppercase[:theirs])
    if examples:
        right[0] = left[0]
    for a, b in zip(first, second, strict=True):
        right[b] = left[a]
    summed = {left[a] for a in first}
    result = [k for k in left if k not in summed]
    result += [k for k in right if k not in summed and not (examples and k == left[0])]
    return [left, "".join(right)], "".join(result)
