"""Sparse training with a straight-through estimator."""

import keras
import numpy as np

from tfprune.callbacks.through_masks import ThroughMasks
from tfprune.masks.straight_through import TopKRead
from tfprune.patterns import pruned_count, top_k_mask
from tfprune.weights import distributions
from tfprune.weights.scores import error_context


@keras.saving.register_keras_serializable("tfprune")
class StraightThrough(ThroughMasks):
    """Computes with the elements of largest magnitude, and trains all (straight-through).

    At each step a layer computes with the k elements of largest |w|, of equal ones the first, and
    zeros for the others; k follows the schedule. The gradient passes to every element as if none
    were masked (the straight-through estimator), so an element that is left out may come back:

        w <- w - rate * gradient of the loss at (w * m),  m = the k largest |w|

    During training the stored weights are dense and the masks unchanged: `get_weights` and files
    written meanwhile hold all elements, whereas the model computes with the largest, in `evaluate`
    and `predict` too. When training ends, the elements that are left out are pruned with
    `tfprune.set_masks`; from then on they stay 0, and `tfprune.strip` sees them. If an error stops
    training, call `finish(model)` to do this.

    Elements that were pruned before stay pruned, and frozen ones are among the k. Weight decay and
    regularizers act on the stored weights. The logs get `sparsity`, the share of the selected
    weights that is left out.

    Without `fit`, call `after_step(model)` once before the step function is traced and then once
    per step, and `finish(model)` at the end.

    Args:
        target: The sparsity at each step: a `tfprune.schedules.Schedule`, its configuration, a
            number or a callable step -> sparsity. It may fall as well as rise.
        distribution: "uniform", "erk", a dict or a callable; see `tfprune.distributions`.
        only, exclude: Layers whose weights are pruned, and whose are not; see
            `tfprune.prune_weights`.
        verbose: 0 is quiet, 1 prints a line for every update.

    Raises:
        ValueError: If an argument is wrong; at the start of training, if there is nothing to prune
            or a weight is trained so already; at an update, if more is frozen than may be kept.

    Example:

    >>> import tfprune
    >>> model = keras.Sequential([keras.Input((4,)), tfprune.layers.Dense(5, name="d")])
    >>> model.compile("adam", "mse")
    >>> schedule = tfprune.schedules.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=6)
    >>> x, y = np.ones((8, 4)), np.ones((8, 5))
    >>> history = model.fit(
    ...     x, y, batch_size=2, epochs=2, callbacks=[StraightThrough(schedule)], verbose=0)
    >>> history.history["sparsity"][-1], tfprune.summary(model).weights[0].sparsity
    (0.8, 0.8)

    Reference:
        Y. Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons",
        https://arxiv.org/abs/1308.3432, for the estimator; J. H. Lee et al., "JaxPruner",
        https://arxiv.org/abs/2304.14082, whose magnitude pruning with it this is.
    """

    _not_global = "each weight ranks its own elements"

    def __init__(self, target, *, distribution="uniform", only=None, exclude=None, verbose=0):
        super().__init__(
            target, distribution=distribution, only=only, exclude=exclude, verbose=verbose
        )
        self._sparsities = []

    def make_read(self, weight):
        """Leaves out all but the largest elements."""
        return TopKRead(weight.mask)

    def begin(self):
        """All elements are read until the first update."""
        self._sparsities = [0.0] * len(self._weights)

    def final_masks(self):
        """The masks of the elements that the layers compute with."""
        return list(map(_final_mask, self._weights, self._sparsities))

    def update(self, model, sparsity, optimizer):
        """Sets k of each weight."""
        final = self.schedule.final
        sparsities = distributions.allocate(
            self.distribution, model, self._weights, sparsity, final
        )
        for weight, share in zip(self._weights, sparsities, strict=True):
            _final_mask(weight, share)  # an error before anything is changed
        for read, share in zip(self.reads(), sparsities, strict=True):
            read.kept.assign(read.size - pruned_count(share, read.size))
        self._sparsities = sparsities

    def measure(self, model):
        """The share of the selected weights that is left out."""
        sizes = [np.prod(weight.shape) for weight in self._weights]
        out = 0
        for weight, size, share in zip(self._weights, sizes, self._sparsities, strict=True):
            pruned = size - np.count_nonzero(weight.trainable_mask)
            out += max(pruned, pruned_count(share, int(size)))
        return {"sparsity": float(out / sum(sizes))}


def _final_mask(weight, sparsity):
    """The mask of the elements that the layer computes with at a sparsity."""
    value = np.abs(keras.ops.convert_to_numpy(weight.variable))
    masks = {"trainable": weight.trainable_mask, "frozen": weight.frozen_mask}
    with error_context(weight):
        return top_k_mask(value, sparsity, **masks)
