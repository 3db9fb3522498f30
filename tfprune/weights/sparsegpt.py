"""SparseGPT: one-shot pruning of weights with an update of those that are kept.

Block by block in the order of the model: the inputs of a block are measured with all blocks before
it pruned, and only its own Hessians are in memory. A block is a layer of the model, with all that
is in it. What is done is in the masks of the model and nowhere else, so pruning that was
interrupted goes on where it is called again: weights that have their sparsity stay as they are.
"""

import keras
import numpy as np

from tfprune import patterns
from tfprune._tools.finite import NotFiniteError
from tfprune._tools.memory import release_memory
from tfprune.criteria.second_moments import second_moments
from tfprune.criteria.weight_uses import moved, write
from tfprune.patterns import NM, Block, matrix_axes, pruned_count
from tfprune.weights import distributions
from tfprune.weights.multiplied import blocks, check_data_given, multiplied
from tfprune.weights.obs import Hessian, sweep
from tfprune.weights.prunable import apply_masks, check_target
from tfprune.weights.scores import error_context
from tfprune.weights.tiles import TilingError, check_pattern, shares, tiles_of

MOST_INPUTS = 2**14
"""The most inputs of a matrix: the Hessian of so many takes 1 GiB."""


OUTPUTS_AT_ONCE = 128
"""For how many outputs of a matrix the errors are compared at once, which takes copies of them."""


class SparseGPTMethod:
    """Prunes weights of a model by SparseGPT.

    Args:
        options: `tfprune.criteria.SparseGPT`.
        pattern, distribution, data, verbose: See `tfprune.prune_weights`.

    Raises:
        ValueError: If an argument is wrong, or two do not go together.
    """

    def __init__(self, options, *, pattern=None, distribution="uniform", data=None, verbose=0):
        self.options = options
        self.pattern = patterns.get(pattern)
        self.distribution = distributions.get(distribution)
        self.data = data
        self.verbose = verbose
        check_pattern(self.pattern)
        if self.distribution is distributions.GLOBAL:
            raise ValueError(
                "Argument `distribution` cannot be 'global' with SparseGPT, which decides layer "
                "after layer. Take 'uniform', 'erk', or a dict of sparsities of layers; or the "
                "criterion 'obc', which ranks the weights of all layers together."
            )
        check_data_given(data, by="SparseGPT")

    def prune(self, model, weights, target):
        """Prunes weights to a sparsity, in place.

        Args:
            model: The model.
            weights: `PrunableWeight`s of it.
            target: Float from 0 to 1.

        Returns:
            The weights that have their sparsity, and a dict from a reason to the names of weights
            that were left out.

        Raises:
            ValueError: If it cannot be done. Nothing is changed then.
        """
        check_target(target)
        possible, skipped = multiplied(
            model, weights, self.data, MOST_INPUTS, by="SparseGPT", why_not=self._why_not
        )
        pruned = [weight for weight, _ in possible]
        sparsities = distributions.allocate(self.distribution, model, pruned, target, final=target)
        tasks = [
            (weight, use, sparsity)
            for (weight, use), sparsity in zip(possible, sparsities, strict=True)
            if self._is_to_prune(weight, sparsity)
        ]
        lots = blocks(model, tasks)
        progress = keras.utils.Progbar(len(lots), verbose=self.verbose, unit_name="block")
        for number, block in enumerate(lots):
            self._prune_block(model, block)
            release_memory()  # that of what measured the block
            progress.update(number + 1)
        return pruned, skipped

    def _why_not(self, weight, use):
        """Why a weight cannot be pruned in tiles of the pattern, or None."""
        if isinstance(self.pattern, Block) and weight.frozen_mask.any():
            return "it has frozen elements, and blocks are pruned as a whole"
        with error_context(weight):
            try:
                tiles_of(weight, use.matrices, self.pattern, self.options.block_size)
            except TilingError as error:
                return str(error)
        return None

    def _is_to_prune(self, weight, sparsity):
        """Whether a weight lacks pruned elements; raises an error where it cannot be."""
        pattern, kept = self.pattern, weight.trainable_mask
        with error_context(weight):
            if isinstance(pattern, NM) and 0 < sparsity < pattern.sparsity - 1e-9:
                raise ValueError(
                    "SparseGPT decides on each group of N:M at once, so the sparsity must be that "
                    f"of the pattern, {pattern.sparsity:.6g}. Received: {sparsity:.6g}."
                )
            mask = pattern.mask(
                np.abs(weight.value),
                sparsity,
                trainable=kept,
                frozen=weight.frozen_mask,
                matrix=matrix_axes(weight.layer, weight.name) if pattern.uses_matrix else None,
            )
        return not np.array_equal(mask, kept)

    def _prune_block(self, model, block):
        weights, uses, _ = zip(*block, strict=True)
        variables = [weight.variable for weight in weights]
        moments = second_moments(model, variables, uses, self.data)
        for inputs in moments.values():
            if not np.isfinite(np.einsum("gii->", inputs)):
                names = sorted({weight.layer.name for weight in weights})
                raise NotFiniteError(
                    f"Inputs of the layers {names} are too large, or not finite, on the data. "
                    "Layers before them are pruned already."
                )
        hessians = {}
        for number, (weight, use, sparsity) in enumerate(block):
            for matrix in use.matrices:
                if matrix.inputs not in hessians:
                    arrays = moments.pop(matrix.inputs)
                    hessians[matrix.inputs] = [Hessian(a, self.options.damping) for a in arrays]
            value, mask = self._pruned(weight, use.matrices, hessians, sparsity)
            later = {matrix.inputs for _, use, _ in block[number + 1 :] for matrix in use.matrices}
            hessians = {inputs: each for inputs, each in hessians.items() if inputs in later}
            weight.variable.assign(value)
            apply_masks(model, [weight], [mask])

    def _pruned(self, weight, matrices, hessians, sparsity):
        """The new value and the new mask of a weight."""
        value, mask = weight.value.copy(), weight.trainable_mask.copy()
        frozen = weight.frozen_mask
        tiles = tiles_of(weight, matrices, self.pattern, self.options.block_size)
        count = pruned_count(sparsity, mask.size)
        select = _Selection(self.pattern, sparsity, *shares(tiles, matrices, mask, frozen, count))
        strips = {}  # the tiles of the same outputs, which are decided one after the other
        for place, tile in enumerate(tiles):
            strips.setdefault((tile.matrix, tile.group, tile.columns.start), []).append(place)
        for number, matrix in enumerate(matrices):
            forms = [moved(array, matrix.steps) for array in (value, mask, frozen)]
            for (of_matrix, group, _), places in strips.items():
                if of_matrix == number:
                    index = (group, slice(None), tiles[places[0]].columns)
                    rows = [(tiles[place].first, tiles[place].end) for place in places]
                    parts = [form[index] for form in forms]
                    hessian = hessians[matrix.inputs][group]
                    parts[0][...], parts[1][...] = _updated(
                        hessian, rows, select.of(places), *parts
                    )
            for array, form in zip((value, mask), forms, strict=False):
                if not np.may_share_memory(array, form):
                    write(array, matrix.steps, form)
        return value, mask


def _updated(hessian, rows, select, weights, kept, frozen):
    """New weights and their mask; an output that the update makes no better is not updated."""
    before = weights.astype(hessian.upper.dtype, copy=False)
    after = before.copy()

    def select_tile(number, scores):
        first, end = rows[number]
        return select(number, scores, kept[first:end], frozen[first:end])

    mask = sweep(after, hessian.upper, rows, select_tile, frozen if frozen.any() else None)
    for start in range(0, before.shape[1], OUTPUTS_AT_ONCE):
        some = slice(start, start + OUTPUTS_AT_ONCE)
        plain = np.where(mask[:, some], before[:, some], 0)
        errors = [hessian.errors(each - before[:, some]) for each in (after[:, some], plain)]
        np.copyto(after[:, some], plain, where=~(errors[0] < errors[1]))
    return after, mask


class _Selection:
    """Selects the masks of tiles, which together lose as many elements as was settled."""

    def __init__(self, pattern, sparsity, sizes, pruned, shares):
        self.pattern, self.sparsity = pattern, sparsity
        self.sizes, self.pruned, self.shares = sizes, pruned, shares
        self.missing = 0  # whole blocks may not be able to reach a share

    def of(self, places):
        """The function that selects the masks of the tiles at some places."""

        def select(number, scores, kept, frozen):
            place = places[number]
            size, before = self.sizes[place], self.pruned[place]
            sparsity = self.sparsity
            if not isinstance(self.pattern, NM):
                wanted = before + max(self.shares[place] + self.missing, 0)
                sparsity = float(min(wanted / size, 1.0))
            mask = self.pattern.mask(scores, sparsity, trainable=kept, frozen=frozen)
            lost = size - np.count_nonzero(mask) - before
            self.missing += self.shares[place] - lost if isinstance(self.pattern, Block) else 0
            return mask

        return select
