"""Scores of residual blocks: how much a model would miss them."""

import keras
import numpy as np
import tensorflow as tf

from tfprune import _keras
from tfprune._tools import progress
from tfprune.coupling.composite import filled
from tfprune.measuring.accumulators import accumulators
from tfprune.measuring.data import as_tuple
from tfprune.measuring.data_pass import DataPass, Untracked
from tfprune.measuring.metrics import check_data, evaluate
from tfprune.rebuild.bypassed import bypassed

NAMES = ("block_influence", "loss")
"""The criteria that have a name."""


def check_criterion(criterion, model, data):
    """Raises a `ValueError` unless a criterion is known and has the data that it needs."""
    if not callable(criterion) and criterion not in NAMES:
        raise ValueError(
            f"Argument `criterion` must be one of {list(NAMES)}, or a function of the model "
            f"without a block. Received: criterion={criterion!r}."
        )
    if not callable(criterion) and data is None:
        raise ValueError(
            f"The criterion {criterion!r} is measured on data. Received: data=None. "
            "Pass `data=(x,)`, `(x, y)` or a dataset."
        )
    if criterion == "loss" and not model.compiled:
        raise ValueError(
            "The criterion 'loss' needs a model that is compiled with a loss. "
            f"Received: model={model.name!r}, not compiled."
        )


def scores_of(found, criterion, data, verbose=0):
    """The score of each block; higher = keep.

    Args:
        found: The `Blocks`.
        criterion: "block_influence", "loss" or a function, as in `tfprune.prune_blocks`.
        data: The data to measure on.
        verbose: 0 is quiet, 1 shows a progress bar.

    Returns:
        A list of floats.

    Raises:
        ValueError: If a score is not finite.
    """
    if criterion == "block_influence":
        scores = _block_influences(found, data, verbose)
    else:
        measured = _loss(data) if criterion == "loss" else criterion
        scores = []
        with progress.stage("Score blocks", len(found.blocks), verbose=verbose) as bar:
            for block in found.blocks:
                scores.append(float(measured(bypassed(found.model, [block]))))
                bar.add(1)
    wrong = [b.name for b, s in zip(found.blocks, scores, strict=True) if not np.isfinite(s)]
    if wrong:
        raise ValueError(f"The scores of blocks must be finite. Received others for {wrong}.")
    return scores


def _loss(data):
    check_data(data)
    return lambda model: evaluate(model, data)["loss"]


def _block_influences(found, data, verbose):
    """1 - the mean cosine of what goes into and comes out of a block, over all its vectors."""
    data_pass = _Influences(found)
    with progress.stage("Score blocks", verbose=verbose), _keras.unchanged(found.model):
        data_pass.run(as_tuple(data), verbose)
    cosines, counts = data_pass.replicas.totals(data_pass.sums.items)
    return list(1 - cosines / counts)


class _Influences(DataPass):
    """Adds up the cosines of what goes into and comes out of blocks, and how many there are."""

    traces_always = False

    def __init__(self, found):
        super().__init__(found.model, needs_loss=False)
        self._blocks = Untracked(found.blocks)
        self.sums = Untracked(accumulators([(len(found.blocks),)] * 2, "float64"))

    def add_batch(self, x, y, sample_weight, size):
        """One batch."""
        blocks = self._blocks.items
        values = {id(t): [] for block in blocks for t in (block.part.start, block.part.end)}
        _run(self.measured, list(map(tf.convert_to_tensor, keras.tree.flatten(x))), values)
        added = []
        for block in blocks:
            pairs = zip(values[id(block.part.start)], values[id(block.part.end)], strict=True)
            cosines = tf.concat([tf.reshape(_cosines(*pair), [-1]) for pair in pairs], 0)
            added.append((tf.reduce_sum(cosines), tf.size(cosines)))
        for total, each in zip(self.sums.items, zip(*added, strict=True), strict=True):
            total.assign_add(tf.stack(each))


def _cosines(before, after):
    """The cosines of the vectors along the last axis; 1 where both are 0, 0 where one is."""
    before, after = (tf.cast(each, "float64") for each in (before, after))
    norms = tf.norm(before, axis=-1), tf.norm(after, axis=-1)
    are_both_zero = tf.logical_and(norms[0] == 0, norms[1] == 0)
    cosines = tf.math.divide_no_nan(tf.reduce_sum(before * after, -1), norms[0] * norms[1])
    return tf.where(are_both_zero, tf.ones_like(cosines), cosines)


def _run(model, inputs, values):
    """Runs a model call by call; adds what is asked for to `values`, by the tensors' ids.

    A model is called as often as the one around it calls it. What no later call takes is freed.
    """
    graph = _keras.functional(model)
    calls = [node for node, _ in _keras.nodes(graph)]
    ends = set(map(id, graph.outputs))
    last = {id(tensor): node for node in calls for tensor in node.arguments.keras_tensors}
    known = dict(zip(map(id, graph.inputs), inputs, strict=True))
    for key in values.keys() & known.keys():
        values[key].append(known[key])
    for node in calls:
        args, kwargs = filled(node, known)
        inner = _keras.functional(node.operation)
        if inner is None:
            outputs = keras.tree.flatten(node.operation(*args, **kwargs))
        else:
            outputs = _run(node.operation, keras.tree.flatten(args), values)
        for tensor, output in zip(node.outputs, outputs, strict=True):
            known[id(tensor)] = output
            if id(tensor) in values:
                values[id(tensor)].append(output)
        for tensor in node.arguments.keras_tensors:
            if last[id(tensor)] is node and id(tensor) not in ends:
                known.pop(id(tensor), None)
    return [known[id(tensor)] for tensor in graph.outputs]
