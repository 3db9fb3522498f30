"""Removes experts of mixtures of experts, with their columns of the routers."""

import math
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from tfprune import _keras
from tfprune._tools.checks import check_model, is_integer, is_number
from tfprune._tools.tables import Change, Printable, count, number, table
from tfprune.coupling.failures import core
from tfprune.masks.setting import masked_layers
from tfprune.measuring.accumulators import Accumulator
from tfprune.measuring.data import as_tuple
from tfprune.measuring.data_pass import DataPass
from tfprune.rebuild import copied_state
from tfprune.rebuild.config_numbers import ConfigNumbers, weights_in_order
from tfprune.rebuild.copying import copy_model
from tfprune.rebuild.same_class import copy_training_state
from tfprune.stripping.check import check_equal
from tfprune.stripping.examples import caller, given_batches

_NEVER = -1e9
"""What is added to the logit of an expert so that it is never chosen."""


@dataclass(frozen=True)
class LayerExperts:
    """The experts of one layer in an `ExpertsReport`.

    Attributes:
        name: The path of the layer.
        scores: The score of each expert.
        removed: The places of those that are removed.
    """

    name: str
    scores: tuple
    removed: tuple


@dataclass(frozen=True)
class ExpertsReport(Printable):
    """The report of `prune_experts`; prints as tables.

    Attributes:
        layers: A `LayerExperts` for each layer with experts.
        experts, parameters: Before and after, each a `Change`; `experts` counts those of a layer.
    """

    layers: tuple
    experts: Change
    parameters: Change

    def tables(self):
        """The rich tables that are printed: the layers, the model."""
        layers = table(("layer", "removed", "scores"), ())
        for each in self.layers:
            scores = " ".join(map(number, each.scores))
            layers.add_row(each.name, " ".join(map(str, each.removed)), scores)
        total = table(("total",), ("before", "after", "ratio"))
        for name, change in (("experts", self.experts), ("parameters", self.parameters)):
            total.add_row(name, count(change.before), count(change.after), f"{change.ratio:.3g}")
        return [layers, "", total]


def prune_experts(model, target, data, *, return_report=False):
    """Returns a model of the same class with fewer experts in each mixture of experts.

    An expert goes with its column of the router, and equally many go in each layer, since the class
    makes the result from its config with a smaller number. Which number that is is found. Tokens
    that were routed to an expert that is gone go to the next one: the new model computes what the
    model computes if the routers never choose these experts, which is checked.

    The experts with the lowest scores go: an expert's score is how far the output of its layer is,
    on average over tokens, from the output without the expert, in the Euclidean norm. That is its
    routing weight times the norm of its output, less what takes its place.

    Args:
        model: A built model of a class with a config, such as Mixtral and Qwen MoE of KerasHub, in
            which a `Dense` layer is the router and weights hold the experts along their first axis.
            It is not changed.
        target: An integer, how many experts of each layer go; or a float in (0, 1), which share.
        data: What the scores are measured on: `(x,)`, `(x, y)` or a dataset of such batches.
        return_report: Whether to return an `ExpertsReport` as well.

    Returns:
        The smaller model, compiled as `model` is.

    Raises:
        ValueError: If no experts are found, too few would be left for each token, or the model
            carries masks.
        RuntimeError: If the outputs differ.

    Example:

        small = tfprune.prune_experts(mixtral, 2, (inputs,))
        small.num_experts  # 6 of 8

    Reference:
        Lu et al. 2024, Not all experts are equal. https://arxiv.org/abs/2402.14800
    """
    check_model(model)
    found = _Experts(model)
    removed = _number_removed(target, found.size)
    scores = _scores(found, data)
    gone = [np.sort(np.argsort(each, kind="stable")[:removed]) for each in scores]
    small = found.without(gone)
    _check_runs(small, data, removed)
    check_equal(_never_routing(found, gone), small, name="smaller")
    if not return_report:
        return small
    report = ExpertsReport(
        layers=tuple(
            LayerExperts(
                router.path.rpartition("/")[0], tuple(map(float, s)), tuple(map(int, each))
            )
            for (router, _, _), s, each in zip(found.layers, scores, gone, strict=True)
        ),
        experts=Change(found.size, found.size - removed),
        parameters=Change(model.count_params(), small.count_params()),
    )
    return small, report


def _number_removed(target, size):
    is_share = is_number(target) and not is_integer(target) and 0 < target < 1
    removed = math.floor(target * size + 0.5) if is_share else target
    if not is_integer(removed) or not 0 < removed < size:
        raise ValueError(
            f"Argument `target` must be an integer from 1 to {size - 1}, how many of the {size} "
            "experts of each layer go, or a float in (0, 1), which share. "
            f"Received: target={target!r}."
        )
    return int(removed)


def _check_runs(small, data, removed):
    """Raises a `ValueError` if the model fails on the data, as with fewer experts than it takes."""
    try:
        caller(small)(next(given_batches(small, data)))
    except Exception as error:  # whatever a layer raises
        raise ValueError(
            f"The model does not run without {removed} experts in each layer; it may be that too "
            f"few are left for each token. Received: {type(error).__name__}: {core(str(error))}"
        ) from error


class _Experts:
    """The experts of a model, and the number in its config that says how many each layer has.

    Attributes:
        size: How many experts a layer has.
        layers: For each layer with experts the router, the innermost layer around it and its
            experts, and the axis along which each weight holds the experts, by the weight's id.
    """

    def __init__(self, model):
        self.model, self.numbers = model, ConfigNumbers(model)
        if masked_layers(model):
            self.numbers.refuse("it carries masks, which its class does not make")
        self.weights = weights_in_order(model)
        for place, size in self.numbers.before.items():
            axes = self.numbers.moved(place)
            self.place, self.size, self.layers = place, size, self._layers(axes, size)
            if self.layers:
                return
        raise ValueError(
            "The model has no mixture of experts of which its config says the number: a `Dense` "
            "layer as router, and weights with an expert at each place of their first axis. "
            f"Received: model={model.name!r} ({type(model).__name__})."
        )

    def _layers(self, axes, size):
        """The layers with experts, if these axes of weights are those of experts; else none."""
        moved = {id(self.weights[index]): axis for index, axis in axes}
        is_single = len(moved) == len(axes)
        is_all = all(self.weights[index].shape[axis] == size for index, axis in axes)
        banks = [index for index, axis in axes if len(self.weights[index].shape) > 2]
        if not (banks and is_single and is_all) or any(dict(axes)[index] for index in banks):
            return []
        layers = dict.fromkeys(_keras.all_layers(self.model))
        routers = [
            layer
            for layer in layers
            if isinstance(layer, keras.layers.Dense)
            and any(len(w.shape) == 2 and moved.get(id(w)) == 1 for w in layer.weights)
        ]
        found, known = [], set()
        for router in routers:
            around = [
                layer
                for layer in layers
                if router in _keras.all_layers(layer)[1:]
                and any(id(w) in moved and len(w.shape) > 2 for w in layer.weights)
            ]
            inner = min(around, key=lambda layer: len(layer.weights), default=None)
            if inner is None:
                return []
            mine = {id(w): moved[id(w)] for w in inner.weights if id(w) in moved}
            if not known.isdisjoint(mine):
                return []
            known.update(mine)
            found.append((router, inner, mine))
        return found if known == set(moved) else []

    def without(self, gone):
        """The model of the same class without some experts of each layer."""
        left = self.size - len(gone[0])
        new = self.numbers.make({self.place: left}, {})
        pairs = list(zip(self.weights, weights_in_order(new), strict=True))
        taken = {
            key: (axis, np.setdiff1d(np.arange(self.size), each))
            for (_, _, axes), each in zip(self.layers, gone, strict=True)
            for key, axis in axes.items()
        }

        def take(ours, value, theirs, *_):
            if id(ours) in taken and value.shape != tuple(theirs.shape):
                axis, kept = taken[id(ours)]
                return np.take(value, kept, axis)
            return value

        copied_state.copy_weights(self.model, new, take, pairs=pairs)
        copy_training_state(self.model, new, pairs, take)
        return new


def _never_routing(found, gone):
    """A copy of the model whose routers never choose some experts."""
    copy = copy_model(found.model)
    for (router, _, _), each in zip(found.layers, gone, strict=True):
        _Blocked(copy.layers[router], found.size).experts = list(each)
    return copy.model


class _Blocked:
    """Lets a router, a layer of a copy, never choose some experts."""

    def __init__(self, router, size):
        self.size, self.experts, self._call = size, [], router.call
        vars(router)["call"] = self._logits

    def _logits(self, *args, **kwargs):
        logits = self._call(*args, **kwargs)
        added = np.zeros(self.size)
        added[self.experts] = _NEVER
        return logits + keras.ops.cast(added, logits.dtype)


def _scores(found, data):
    """For each layer the mean change of its output without each of the experts."""
    copy = copy_model(found.model)
    layers = [
        _Measured(copy.layers[inner], _Blocked(copy.layers[router], found.size))
        for router, inner, _ in found.layers
    ]
    data_pass = DataPass(copy.model, needs_loss=False)
    data_pass.traces_always = False
    data_pass.run(as_tuple(data))
    sums = data_pass.replicas.totals([each.sums for each in layers])
    counts = data_pass.replicas.totals([each.count for each in layers])
    return [of_layer / count for of_layer, count in zip(sums, counts, strict=True)]


class _Measured:
    """Measures a layer with experts, of a copy, each time that it is called."""

    def __init__(self, layer, router):
        self.router, self._call = router, layer.call
        self.count, self.sums = Accumulator((), "float64"), Accumulator((router.size,), "float64")
        vars(layer)["call"] = self._measured

    def _measured(self, *args, **kwargs):
        made = self._call(*args, **kwargs)
        whole, changes = _first(made), []
        for expert in range(self.router.size):
            self.router.experts = [expert]
            change = _first(self._call(*args, **kwargs)) - whole
            changes.append(tf.reduce_sum(tf.norm(change, axis=-1)))
        self.router.experts = []
        self.sums.assign_add(tf.stack(changes))
        self.count.assign_add(tf.size(whole[..., 0]))
        return made


def _first(outputs):
    return tf.cast(keras.tree.flatten(outputs)[0], "float64")
