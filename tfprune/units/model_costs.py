"""The cost of a model in the unit of a budget: units, parameters, MACs, bytes or latency."""

from tfprune import _keras
from tfprune._tools.tables import Change
from tfprune.coupling.costs import costs
from tfprune.measuring.latency import latency
from tfprune.measuring.replicas import replicas_of
from tfprune.units import budgets


def model_cost(model, budget):
    """The parameters, bytes of weights, multiply-accumulates or seconds of a model.

    Args:
        model: Any Keras model that is built.
        budget: The `Parameters`, `Bytes`, `MACs` or `Latency` that says which; how much is allowed
            does not matter.

    Raises:
        ValueError: If multiply-accumulates are not known.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    >>> [model_cost(model, kind(1.0)) for kind in (budgets.Parameters, budgets.Bytes, budgets.MACs)]
    [16, 64, 12]
    """
    if isinstance(budget, budgets.Parameters):
        return model.count_params()
    if isinstance(budget, budgets.Bytes):
        return sum(_keras.values(each).nbytes for each in model.weights)
    if isinstance(budget, budgets.Latency):
        replicas_of(model).check_can_time()
        return latency([model], **budget.conditions)[0]
    known = costs(model, budget.input_shapes)
    unknown = [f"{call.name!r}: {call.reason}" for call in known if call.macs is None]
    if unknown:
        raise ValueError(
            "The MACs of the model are not known, so no budget of them can be met. Received: "
            f"model={model.name!r}, {'; '.join(unknown[:3])}. Give `MACs` the sizes of dynamic "
            "dimensions with `input_shapes`, or take another budget."
        )
    return sum(call.macs for call in known)


def cost_change(before, after, budget):
    """The cost of two models, a `Change`; latencies in seconds, measured in turns.

    Args:
        before, after: Keras models.
        budget: `Parameters`, `Bytes`, `MACs` or `Latency`, which says what is counted or measured.
    """
    models = [before, after]
    if isinstance(budget, budgets.Latency):
        replicas_of(before).check_can_time()
        return Change(*latency(models, **budget.conditions))
    return Change(*(model_cost(model, budget) for model in models))
