"""Importance scores of the elements of weights, with the measures that a criterion requests."""

import contextlib

from tfprune._tools import parallel
from tfprune.criteria import freezing
from tfprune.criteria import weights as criteria
from tfprune.criteria.arguments import resolve_seed
from tfprune.criteria.measuring import measure
from tfprune.measuring.replicas import replicas_of


class WeightScores:
    """Scores the elements of weights.

    Args:
        criterion: A callable, from `get` of `tfprune.criteria.weights` or `.freezing`.
        data, verbose: See `tfprune.criteria.measuring.measure`.
        action: "prune" or "freeze", for errors.
    """

    def __init__(self, criterion, *, data=None, verbose=0, action="prune"):
        self.criterion = criterion
        self.seed = resolve_seed(criterion)
        self.data = data
        self.verbose = verbose
        self.action = action

    def of(self, model, weights, indices, measured=None):
        """The scores of the weights at some indices.

        Args:
            model: The model.
            weights: All `PrunableWeight`s that are chosen.
            indices: Integers, which of them to score.
            measured: Dict from name to a list of arrays, one for each of all weights: what was
                measured already.

        Returns:
            A dict from index to an array.

        Raises:
            ValueError: If a measure cannot be taken, or scores do not have the shape of their
                weight.
        """
        measured = measured or {}
        selected = [weights[index] for index in indices]
        names = [name for name in criteria.measures_of(self.criterion) if name not in measured]
        if names and selected:
            found = measure(names, model, selected, self.data, verbose=self.verbose)
            found = {name: dict(zip(indices, found[name], strict=True)) for name in names}
            measured = {**measured, **found}

        seed = replicas_of(model).agreed(self.seed)

        def score(value, index):
            of_weight = {name: arrays[index] for name, arrays in measured.items()}
            with error_context(weights[index], self.action):
                return criteria.score(self.criterion, value, [seed, index], of_weight)

        values = [weight.value for weight in selected]
        if criteria.is_known(self.criterion) or freezing.is_known(self.criterion):
            return dict(zip(indices, parallel.each(score, values, indices), strict=True))
        # A function of somebody else's may depend on the order in which it is called.
        return {index: score(v, index) for v, index in zip(values, indices, strict=True)}


@contextlib.contextmanager
def error_context(weight, action="prune"):
    """Names the weight in errors that are raised inside."""
    try:
        yield
    except ValueError as error:
        raise ValueError(
            f"Cannot {action} weight {weight.name!r} of layer {weight.layer.name!r}. {error}"
        ) from error
