"""Weights of a model that are multiplied with inputs as matrices, and in what lots they go."""

import keras

from tfprune import _keras
from tfprune._tools.memory import release_memory
from tfprune.criteria.second_moments import weight_uses


def check_data_given(data, *, by):
    """Raises a `ValueError` where there is no data; `by` is what prunes, for the error."""
    if data is None:
        raise ValueError(
            f"{by} measures the inputs of layers on data. Received: data=None. Pass "
            "`data=(x,)`, `(x, y)` or a dataset; labels are not needed."
        )


def multiplied(model, weights, data, most_inputs, *, by, why_not=None):
    """The weights whose outputs can be kept by changing others, each with its `Use`.

    Args:
        model: The model.
        weights: `PrunableWeight`s of it.
        data: See `tfprune.criteria.measuring.measure`.
        most_inputs: Integer, the most inputs of a matrix.
        by: What prunes them, for errors.
        why_not: Function from a weight and its `Use` to another reason not to prune it, or None.

    Returns:
        A list of pairs, and a dict from a reason to the names of weights that are left out.

    Raises:
        ValueError: If there is none.
    """
    uses = weight_uses(model, [weight.variable for weight in weights], data)
    release_memory()
    names = {id(layer): name for layer, name in _keras.named_layers(model)}
    possible, skipped = [], {}
    for weight, use in zip(weights, uses, strict=True):
        reason = _why_not(weight, use, most_inputs)
        if reason is None and why_not is not None:
            reason = why_not(weight, use)
        if reason is None:
            possible.append((weight, use))
        else:
            name = f"{names.get(id(weight.layer), weight.layer.name)}/{weight.name}"
            skipped.setdefault(reason, []).append(name)
    if not possible:
        reasons = "; ".join(f"{', '.join(map(repr, n))}: {r}" for r, n in skipped.items())
        raise ValueError(
            f"{by} can prune none of the weights that are selected. Received: "
            f"model={model.name!r}. Weights: {reasons}."
        )
    return possible, skipped


def _why_not(weight, use, most_inputs):
    """Why the outputs of a weight cannot be kept by changing others of it, or None."""
    if use.problem is not None:
        return use.problem
    if weight.variable.constraint is not None:
        return "it has a constraint, which the update would not keep to"
    most = max(matrix.rows for matrix in use.matrices)
    if most > most_inputs:
        return f"it has {most:,} inputs, and {most_inputs:,} are the most"
    return None


def blocks(model, tasks):
    """The tasks in lots, in the order of the model: weights in the same layer of it together.

    Args:
        model: The model.
        tasks: Tuples of a `PrunableWeight`, its `Use` and more.
    """
    found = {}
    outermost = _outermost(model)
    for task in sorted(tasks, key=lambda task: task[1].place):
        found.setdefault(outermost.get(id(task[0].layer), id(task[0].layer)), []).append(task)
    return list(found.values())


def _outermost(model):
    """For each layer in a model, by id, the id of the layer around it that no layer is around.

    Models inside are no layers in that sense.
    """
    found = {}
    for layer in _keras.sub_layers(model):
        if isinstance(layer, keras.Model):
            found.update(_outermost(layer))
        else:
            found.update((id(part), id(layer)) for part in _keras.all_layers(layer))
    return found
