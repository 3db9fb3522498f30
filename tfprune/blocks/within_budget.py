"""The fewest blocks to remove until a budget is met."""

from tfprune import _keras
from tfprune.coupling.costs import costs
from tfprune.measuring.latency import latency
from tfprune.rebuild.bypassed import bypassed
from tfprune.units import budgets


def within_budget(model, found, order, budget):
    """Removes blocks until a budget is met.

    Args:
        model: The model, of which fractions count.
        found: Its `Blocks`.
        order: These, those first that are removed first.
        budget: A budget of parameters, MACs, bytes or latency.

    Returns:
        The model with the fewest blocks removed that meets it, and these blocks.

    Raises:
        ValueError: If it is not met without all of them.
    """
    meets = _Within(model, budget)
    if meets(model):
        return bypassed(found.model, []), []
    least = bypassed(found.model, order)
    if not meets(least):
        raise ValueError(
            f"The budget cannot be met by removing blocks: without all {len(order)} that can go, "
            f"{meets.in_words(least)} remain. Received: target={budget!r}. Allow more, or prune "
            "units of the result with `tfprune.prune`."
        )
    too_few, small, enough = 0, least, len(order)
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        candidate = bypassed(found.model, order[:middle])
        if meets(candidate):
            small, enough = candidate, middle
        else:
            too_few = middle
    return small, order[:enough]


class _Within:
    """Whether a model is within a budget, a fraction of which counts from another model."""

    def __init__(self, model, budget):
        self.model, self.budget = model, budget
        self.dense = None if isinstance(budget, budgets.Latency) else self._cost(model)

    def __call__(self, small):
        if self.dense is None:
            dense, cost = self._latencies(small)
            return cost <= self.budget.allowed(dense)
        return self._cost(small) <= self.budget.allowed(self.dense)

    def in_words(self, small):
        if self.dense is None:
            return f"{1000 * self._latencies(small)[1]:.3g} ms"
        return f"{self._cost(small):,} of {self.dense:,} {self.budget.what}"

    def _latencies(self, small):
        return latency([self.model, small], self.budget.batch_size, self.budget.input_shapes)

    def _cost(self, model):
        if isinstance(self.budget, budgets.Parameters):
            return model.count_params()
        if isinstance(self.budget, budgets.Bytes):
            return sum(_keras.values(each).nbytes for each in model.weights)
        known = costs(model, self.budget.input_shapes)
        unknown = [f"{call.name!r}: {call.reason}" for call in known if call.macs is None]
        if unknown:
            raise ValueError(
                "The MACs of the model are not known, so no budget of them can be met. Received: "
                f"model={model.name!r}, {'; '.join(unknown[:3])}. Give `MACs` the sizes of dynamic "
                "dimensions with `input_shapes`, or take another budget."
            )
        return sum(call.macs for call in known)
