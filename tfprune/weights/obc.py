"""Optimal brain compression of the weights of a model in rounds; see `tfprune.criteria.OBC`.

The model stays as it is, the dense one, until all is done: the weights of the pruned model are
variables beside it, which take the place of its weights in passes over data. So an error, or an
interruption, leaves the model as it was.

Before the last round all layers are fitted on one pass over data, the one that gave the prices;
what that leaves of errors the next round sees. In the last, each block is measured with those
before it fitted. So there are about as many passes as rounds and blocks.
"""

import contextlib
import math

import keras
import numpy as np

from tfprune import _keras, patterns
from tfprune._tools.finite import NotFiniteError
from tfprune._tools.memory import release_memory
from tfprune.criteria.dense_moments import DensePass
from tfprune.criteria.kernel_biases import kernel_biases
from tfprune.criteria.weight_uses import moved, write
from tfprune.patterns import Unstructured, top_k_mask, top_k_masks
from tfprune.weights import distributions
from tfprune.weights.multiplied import blocks, check_data_given, multiplied
from tfprune.weights.obs_prices import fitted, prices
from tfprune.weights.prunable import apply_masks, check_target
from tfprune.weights.scores import error_context

MOST_INPUTS = 2**13
"""The most inputs of a matrix: the sums of so many take 1 GiB."""

MOST_BYTES = 2**31
"""About how much memory the sums take that are measured in one pass over the data."""


class OBCMethod:
    """Prunes weights of a model by optimal brain compression.

    Args:
        options: `tfprune.criteria.OBC`.
        pattern, distribution, data, verbose: See `tfprune.prune_weights`.

    Raises:
        ValueError: If an argument is wrong, or two do not go together.
    """

    def __init__(self, options, *, pattern=None, distribution="global", data=None, verbose=0):
        self.options, self.data, self.verbose = options, data, verbose
        self.distribution = distributions.get(distribution)
        pattern = patterns.get(pattern)
        if type(pattern) is not Unstructured or pattern.uses_matrix:
            raise ValueError(
                "OBC prunes single elements, of the outputs of a layer as many as their prices "
                f"say. Received: pattern={pattern!r}. Take the criterion 'sparsegpt' for `NM`, "
                "`Block` and equally many of each output."
            )
        check_data_given(data, by="OBC")

    def prune(self, model, weights, target):
        """Prunes weights to a sparsity, in place.

        Args:
            model: The model.
            weights: `PrunableWeight`s of it.
            target: Float from 0 to 1.

        Returns:
            The weights that were ranked, and a dict from a reason to the names of weights that
            were left out.

        Raises:
            ValueError: If it cannot be done. Nothing is changed then.
        """
        check_target(target)
        tasks, skipped = multiplied(model, weights, self.data, MOST_INPUTS, by="OBC")
        pruned = [weight for weight, _ in tasks]
        selection = _Selection(self.distribution, model, pruned, target)
        # What frozen elements make impossible is found before anything is measured.
        last = selection.masks([np.abs(weight.value) for weight in pruned], 1.0)
        if any(map(_differs, last, selection.kept)):
            fit = _Rounds(self, model, tasks)
            fit.run(selection, 1 if target == 1 else self.options.rounds)
            fit.apply(selection.kept)
        return pruned, skipped


def _differs(mask, other):
    return not np.array_equal(mask, other)


class _Selection:
    """The masks of all weights, round by round.

    Attributes:
        kept: A list of boolean arrays, what is kept now.
    """

    def __init__(self, distribution, model, weights, target):
        self.weights = weights
        self.kept = [weight.trainable_mask for weight in weights]
        self.frozen = [weight.frozen_mask for weight in weights]
        self._is_global = distribution is distributions.GLOBAL
        self._target = target
        if self._is_global:
            self._densities = [_density(self.kept)]
            self._sparsities = [target]
        else:
            self._densities = [_density([mask]) for mask in self.kept]
            self._sparsities = distributions.allocate(
                distribution, model, weights, target, final=target
            )

    def masks(self, scores, progress):
        """The masks of a round.

        Args:
            scores: List of arrays of prices.
            progress: Float, the number of the round over that of all: what is left of the elements
                at the start falls by the same factor from round to round.
        """
        sparsities = [
            sparsity if progress == 1 else 1 - density * ((1 - sparsity) / density) ** progress
            for sparsity, density in zip(self._sparsities, self._densities, strict=True)
        ]
        # An element that is left in no round before may be missing in the last: never more go.
        sparsities = [min(pair) for pair in zip(sparsities, self._sparsities, strict=True)]
        if not self._is_global:
            found = []
            for weight, *arrays, sparsity in zip(
                self.weights, scores, self.kept, self.frozen, sparsities, strict=True
            ):
                with error_context(weight):
                    score, kept, frozen = arrays
                    found.append(top_k_mask(score, sparsity, trainable=kept, frozen=frozen))
            return found
        try:
            return top_k_masks(
                scores, sparsities[0], trainable=self.kept, frozen=self.frozen, keep_one=True
            )
        except ValueError as error:
            raise ValueError(f"Cannot prune the weights together. {error}") from error


def _density(masks):
    size = sum(mask.size for mask in masks)
    return max(sum(map(np.count_nonzero, masks)), 1) / max(size, 1)


class _Rounds:
    """The values of a pruned model beside the dense one."""

    def __init__(self, method, model, tasks):
        self.options, self.data, self.verbose = method.options, method.data, method.verbose
        self.model = model
        self.tasks = [(weight, use, number) for number, (weight, use) in enumerate(tasks)]
        self.biases = _free_biases(model, self.tasks)
        variables = [weight.variable for weight, _, _ in self.tasks]
        variables += [bias.variable for bias in self.biases.values()]
        self.values = {}
        for variable in variables:
            options = {"trainable": False, "autocast": False, "dtype": variable.dtype}
            value = keras.Variable(_keras.values(variable), **options)
            self.values[id(variable)] = variable, value

    def run(self, selection, rounds):
        """Prunes and fits, round by round."""
        portions, lots = _portions(self.tasks), blocks(self.model, self.tasks)
        progress = keras.utils.Progbar(rounds + len(lots), verbose=self.verbose, unit_name="pass")
        with contextlib.ExitStack() as stack:
            passes = [stack.enter_context(self._pass(each, effects=True)) for each in portions]
            for number in range(1, rounds + 1):
                scores = [None] * len(self.tasks)
                for portion, data_pass in zip(portions, passes, strict=True):
                    moments, effects = self._measured(portion, data_pass)
                    for (weight, use, place), effect in zip(portion, effects, strict=True):
                        scores[place] = self._prices(weight, use, selection, place, moments, effect)
                self._prune(selection, scores, number / rounds)
                progress.update(number)
                for portion, data_pass in zip(portions, passes, strict=True):
                    if number < rounds:
                        if len(portions) > 1:  # else what was measured is all there
                            moments, _ = self._measured(portion, data_pass)
                        self._fit(portion, selection, moments)
        del moments
        for number, lot in enumerate(lots, rounds + 1):
            with self._pass(lot) as data_pass:
                moments, _ = self._measured(lot, data_pass)
            self._fit(lot, selection, moments)
            progress.update(number)
        release_memory()

    def _prune(self, selection, scores, share):
        """Lets a round select the masks, and sets what they prune to 0."""
        if not any(score.any() for score in scores):
            raise ValueError(
                "OBC measures by gradients what layers do to the outputs of the model, and "
                f"found none. Received: model={self.model.name!r}. Take the criterion "
                "'sparsegpt', or one of weights alone ('magnitude')."
            )
        selection.kept = selection.masks(scores, share)
        for (weight, _, _), mask in zip(self.tasks, selection.kept, strict=True):
            self._assign(weight.variable, np.where(mask, self._value(weight.variable), 0))

    def _fit(self, tasks, selection, moments):
        for weight, use, place in tasks:
            self._fit_weight(weight, use, selection, place, moments)

    def apply(self, masks):
        """Gives the model the values and the masks."""
        for variable, value in self.values.values():
            variable.assign(value)
        apply_masks(self.model, [weight for weight, _, _ in self.tasks], masks)

    @contextlib.contextmanager
    def _pass(self, tasks, effects=False):
        pairs = [(weight.variable, use) for weight, use, _ in tasks]
        values = list(self.values.values())
        data_pass = DensePass(self.model, pairs, values, self.data, effects=effects)
        try:
            yield data_pass
        finally:
            data_pass.forget()

    def _measured(self, tasks, data_pass):
        moments, effects = data_pass.measure()
        for each in moments.values():
            if not all(np.isfinite(sums).all() for sums in (each.gram, each.cross)):
                names = sorted({weight.layer.name for weight, _, _ in tasks})
                raise NotFiniteError(
                    f"Inputs of the layers {names} are too large, or not finite, on the data."
                )
        return moments, effects

    def _value(self, variable):
        """The value of a weight in the pruned model."""
        return np.asarray(self.values[id(variable)][1], "float64")

    def _assign(self, variable, value):
        self.values[id(variable)][1].assign(value)

    def _prices(self, weight, use, selection, place, moments, effects):
        """The prices of the elements of a weight."""
        value = self._value(weight.variable)
        may_go = selection.kept[place] & ~selection.frozen[place]
        found = np.zeros(value.shape)
        for matrix, effect in zip(use.matrices, effects, strict=True):
            of, live, made = (moved(array, matrix.steps) for array in (value, may_go, found))
            made = np.array(made)
            for group, some, each in self._parts(weight, matrix, moments):
                made[group][:, some] = effect[group, some] * prices(
                    each.gram[group],
                    of[group][:, some],
                    live[group][:, some],
                    self.options.damping,
                    self.options.block_size,
                )
            write(found, matrix.steps, made)
        return found

    def _fit_weight(self, weight, use, selection, place, moments):
        """Fits a weight, and the bias beside it."""
        variable = weight.variable
        value, dense = self._value(variable), np.asarray(variable, "float64")
        kept = selection.kept[place]
        bias = self.biases.get(id(variable))
        for matrix in use.matrices:
            arrays = (np.where(kept, dense, 0), dense, kept & ~selection.frozen[place])
            before, target, live = (moved(array, matrix.steps) for array in arrays)
            after = np.array(before)
            for group, some, sums in self._parts(weight, matrix, moments):
                arrays = (each[group][:, some] for each in (before, target, live))
                after[group][:, some] = fitted(sums, group, *arrays, self.options.damping)
            write(value, matrix.steps, after)
        self._assign(variable, value)
        if bias is not None:
            means = moments[matrix.inputs].totals / max(moments[matrix.inputs].count, 1.0)
            new = moved(self._value(variable), matrix.steps)
            shift = np.einsum("gr,grk->gk", means[1], target)
            shift -= np.einsum("gr,grk->gk", means[0], new)
            made = np.array(self._value(bias.variable))
            before = np.asarray(bias.variable, "float64").reshape(-1)[bias.places]
            made.reshape(-1)[bias.places[bias.free]] = (before + shift)[bias.free]
            self._assign(bias.variable, made)

    def _parts(self, weight, matrix, moments):
        """Groups of a matrix, outputs of it, and the sums that hold for these.

        Those with a bias that may change need not make up for the mean.
        """
        plain, bias = moments[matrix.inputs], self.biases.get(id(weight.variable))
        if bias is None:
            yield from ((group, slice(None), plain) for group in range(matrix.groups))
            return
        centred = plain.without_mean()
        for group in range(matrix.groups):
            for is_free, each in ((True, centred), (False, plain)):
                some = np.flatnonzero(bias.free[group] == is_free)
                if len(some):
                    yield group, some, each


class _FreeBias:
    """The bias of a kernel that is one matrix: the element of each output, and if it may change."""

    def __init__(self, variable, places, free):
        self.variable, self.places, self.free = variable, places, free


def _free_biases(model, tasks):
    """By the id of a kernel its `_FreeBias`, where some elements of one may change."""
    found, every = {}, kernel_biases(model)
    for weight, use, _ in tasks:
        layer, bias = every.get(id(weight.variable), (None, None))
        if bias is None or len(use.matrices) > 1 or not _keras.is_guarded(bias):
            continue
        if bias.constraint is not None or not bias.trainable or not layer.trainable:
            continue
        size = math.prod(bias.shape)
        places = np.broadcast_to(np.arange(size).reshape(bias.shape), weight.shape)
        places = moved(places, use.matrices[0].steps)
        is_of_outputs = (places == places[:, :1]).all() and places[:, 0].size == size
        if is_of_outputs:
            free = _keras.values(bias.masks.live).reshape(-1)[places[:, 0]]
            if free.any():
                found[id(weight.variable)] = _FreeBias(bias, places[:, 0], free)
    return found


def _portions(tasks):
    """Tasks in lots whose sums take no more memory than they should."""
    portions, known, size = [[]], set(), 0
    for task in tasks:
        new = {m.inputs: 16 * m.groups * m.rows**2 for m in task[1].matrices}
        more = sum(each for inputs, each in new.items() if inputs not in known)
        if portions[-1] and size + more > MOST_BYTES:
            portions.append([])
            known, size, more = set(), 0, sum(new.values())
        portions[-1].append(task)
        known.update(new)
        size += more
    return portions
