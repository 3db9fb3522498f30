"""N:M sparsity, such as 2:4: at most N of each M consecutive elements stay."""

import keras
import numpy as np

from tfprune._tools.checks import is_integer
from tfprune.patterns.matrix import matrix_or_default
from tfprune.patterns.pattern import Pattern
from tfprune.patterns.top_k import checked_scores, keep_highest, pruned_count, writable_mask

_TOLERANCE = 1e-9
"""By which a sparsity may pass the final one: `1 - keep / of` can be written in several ways."""


@keras.saving.register_keras_serializable("tfprune")
class NM(Pattern):
    """N:M sparsity: keeps `keep` of each `of` consecutive elements along an axis.

    Of each group the `keep` elements with the highest scores stay, of equal scores the first; the
    others are its candidates. They go on a schedule that ends at `sparsity`, which is
    `1 - keep / of`: at a lower sparsity s the `s * size` candidates with the lowest scores of the
    whole weight are pruned, exactly as many as `top_k_mask` would prune. So every mask on the way
    is part of the last, and the last has the pattern in every group. A sparsity above it is an
    error.

    A group that is incomplete, where `of` does not divide the axis, is filled up with elements
    that are pruned first: one of r elements keeps all up to `keep`. Less than `sparsity` can be
    pruned then, and the sparsity is reached as far as that goes.

    What is pruned already counts, and takes the place of candidates in its group. What a group has
    lost beyond `of - keep` does not count, so that the last mask has the pattern in every other
    group too.

    Args:
        keep: Integer, how many elements of a group stay. Keyword only, as `of`, because N:M is
            read in both ways.
        of: Integer above `keep`, how many elements a group has.
        axis: Along which axis of the matrix form elements are consecutive: -2, the inputs (input
            channels, within each position of a window), as hardware for 2:4 wants it; or -1, the
            outputs.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> pattern = NM(keep=1, of=2)
    >>> scores = np.array([[4.0, 1.0], [3.0, 2.0]])
    >>> pattern.mask(scores, 0.25)
    array([[ True, False],
           [ True,  True]])
    >>> pattern.mask(scores, pattern.sparsity)
    array([[ True, False],
           [False,  True]])

    Reference:
        A. Mishra et al., "Accelerating Sparse Deep Neural Networks",
        https://arxiv.org/abs/2104.08378, for 2:4.
    """

    uses_matrix = True

    def __init__(self, *, keep, of, axis=-2):
        if not is_integer(keep) or not is_integer(of) or not 1 <= keep < of:
            raise ValueError(
                "Arguments `keep` and `of` must be integers with 1 <= keep < of. "
                f"Received: keep={keep!r}, of={of!r}."
            )
        if axis not in (-2, -1):
            raise ValueError(
                "Argument `axis` must be -2 (the inputs) or -1 (the outputs of the matrix form). "
                f"Received: axis={axis!r}."
            )
        self.keep = int(keep)
        self.of = int(of)
        self.axis = int(axis)

    @property
    def sparsity(self):
        """The sparsity at which every group has the pattern, `1 - keep / of`."""
        return 1 - self.keep / self.of

    def mask(self, scores, sparsity, *, trainable=None, frozen=None, matrix=None):
        """Which elements stay; see `Pattern.mask`.

        Raises:
            ValueError: As `top_k_mask`; if the sparsity is above that of the pattern; or if scores
                that have not two axes come without their matrix form.
        """
        scores, kept, frozen = checked_scores(scores, trainable, frozen)
        axes = matrix_or_default(matrix, scores)
        count = pruned_count(sparsity, scores.size)
        if sparsity > self.sparsity + _TOLERANCE:
            raise ValueError(
                f"Keeping {self.keep} of {self.of} elements is a sparsity of {self.sparsity:.6g}, "
                f"so a schedule must end there. Received: sparsity={sparsity}, pattern={self!r}. "
                "Use `pattern.sparsity` as the final sparsity, or keep less of each group."
            )
        pruned = axes.from_matrix(
            self._pruned_at_the_end(axes.to_matrix(_ordered(scores, kept, frozen))), scores.shape
        )
        candidates = pruned
        count = min(count, np.count_nonzero(pruned))
        if kept is not None:
            candidates = pruned & kept
            count -= np.count_nonzero(pruned) - np.count_nonzero(candidates)
        if frozen is not None:
            candidates = candidates & ~frozen
        if count <= 0:
            return writable_mask(kept, scores)
        available = np.count_nonzero(candidates)
        if count > available:
            raise ValueError(
                f"Cannot reach a sparsity of {sparsity}: {count} more of {scores.size} elements "
                f"would have to be pruned, but frozen elements leave only {available} that may go "
                f"without more than {self.of - self.keep} of any {self.of} going. Lower the "
                "sparsity, or unfreeze some."
            )
        stays = ~candidates if kept is None else kept & ~candidates
        return keep_highest(scores, count, candidates) | stays

    def _pruned_at_the_end(self, matrix):
        """What the last mask prunes: in each group the `of - keep` that come first in order."""
        _, rows, columns = matrix.shape
        length = rows if self.axis == -2 else columns
        missing = -length % self.of
        if missing:
            widths = [(0, 0), (0, 0), (0, 0)]
            widths[self.axis] = (0, missing)
            matrix = np.pad(matrix, widths, constant_values=-np.inf)
        shape = list(matrix.shape)
        at = 3 + self.axis
        shape[at : at + 1] = [-1, self.of]
        groups = np.moveaxis(matrix.reshape(shape), at + 1, 0)
        pruned = np.empty(groups.shape, bool)
        for place, element in enumerate(groups):
            # Of equal elements the later ones go first, the filling before all others.
            before = np.zeros(element.shape, np.int16)
            for earlier in groups[:place]:
                before += earlier < element
            for later in groups[place + 1 :]:
                before += later <= element
            pruned[place] = before < self.of - self.keep
        pruned = np.moveaxis(pruned, 0, at + 1).reshape(matrix.shape)
        return pruned[:, :rows, :columns]

    def get_config(self):
        """The arguments that make this pattern again."""
        return {"keep": self.keep, "of": self.of, "axis": self.axis}


def _ordered(scores, kept, frozen):
    """The scores, lowest for what is pruned already and highest for what is frozen."""
    if kept is None and frozen is None:
        return scores
    ordered = scores.copy()
    if frozen is not None:
        ordered[frozen] = np.inf
    if kept is not None:
        ordered[~kept] = -np.inf
    return ordered
