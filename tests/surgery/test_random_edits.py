"""Sequences of random edits of random models: a model that runs, or a refusal with a reason.

The slow suite runs 120 of them. To run 2,000, in about 50 minutes:

    RANDOM_EDITS=2000 python -m pytest -m slow tests/surgery/test_random_edits.py
"""

import os

import keras
import numpy as np
import pytest

from tests.random_models import random_inputs, random_model
from tfprune import _keras, surgery
from tfprune.rebuild.copying import in_double_precision
from tfprune.stripping.check import error
from tfprune.surgery import (
    Split,
    at_least,
    at_most,
    by,
    inputs_of,
    multiple_of,
    new_in,
    to,
    total_of,
)
from tfprune.surgery.edits import Resize

layers = keras.layers
EDITS = 3
TOLERANCE = 1e-12  # of outputs in double precision, by how much they vary


def outputs_of(model, x):
    states = [(state, np.array(state)) for state in _keras.recurrent_states(model)]
    found = [np.array(y, "float64") for y in keras.tree.flatten(model(x, training=False))]
    for state, value in states:
        state.assign(value)
    return found


def random_edit(plan, model, draw):
    """Adds an edit of a layer that is drawn."""
    names = [operation.name for operation in _keras.operations(model)]
    windowed = [layer for layer in model.layers if hasattr(layer, "kernel_size")]
    name = str(draw.choice(names))
    kinds = ["resize", "resize", "sizes", "insert", "remove", "join", "edges", "kernel", "swap"]
    kind = draw.choice(kinds)
    if kind in ("join", "edges") and _joins(model):
        edges = 1 if kind == "join" else int(draw.integers(1, 4))
        target = _joins(model)[int(draw.integers(len(_joins(model))))]
        for _ in range(edges):
            random_edge(plan, model, target, draw)
        if kind == "edges" and draw.random() < 0.5:
            random_sizes(plan, [target.name, *names], draw)
    elif kind == "kernel" and windowed:
        layer = windowed[int(draw.integers(len(windowed)))]
        rank = len(layer.kernel_size)
        plan.resize_kernel(layer, tuple(int(n) for n in draw.integers(1, 5, rank)))
    elif kind == "insert":
        size = model.get_layer(name).output.shape[-1] if name in _single(model) else 3
        dense = layers.Dense(size, name=f"new_{draw.integers(1 << 30)}", dtype="float64")
        plan.insert(name, dense, init=str(draw.choice(["identity", "default"])))
    elif kind == "remove":
        plan.remove(name)
    elif kind == "swap":
        new = layers.Dense(int(draw.integers(1, 6)), activation="relu", dtype="float64")
        plan.replace(name, new)
    elif kind == "sizes":
        random_sizes(plan, names, draw)
    else:
        key = inputs_of(name) if draw.random() < 0.2 else name
        change = by(int(draw.choice([-2, -1, 1, 2, 3])))
        plan.resize({key: change if draw.random() < 0.7 else int(draw.integers(1, 6))})


def random_edge(plan, model, target, draw):
    """Connects or disconnects a layer, mostly one that fits."""
    position = int(draw.integers(3)) if draw.random() < 0.3 else None
    inputs = [tensor._keras_history[0].name for tensor in target.input]
    if draw.random() < 0.4:
        plan.disconnect(str(draw.choice(inputs)), target, position=position)
        return
    shape = target.output.shape
    fitting = [n for n in _single(model) if model.get_layer(n).output.shape[:-1] == shape[:-1]]
    name = draw.choice(fitting if fitting and draw.random() < 0.9 else _single(model))
    plan.connect(str(name), target, position=position)


def random_sizes(plan, names, draw):
    """Asks for up to three sizes that are held, bounded or summed."""
    names = [str(n) for n in draw.choice(names, size=min(3, len(names)), replace=False)]
    for key in (*names[: draw.integers(1, 3)], total_of(*names), new_in(names[0])):
        if isinstance(key, str) or draw.random() < 0.2:
            kind = (by, by, to, at_least, at_most, multiple_of)[int(draw.integers(6))]
            units = int(draw.integers(-2, 4)) if kind is by else int(draw.integers(1, 8))
            plan.resize({key: kind(units, relaxed=bool(draw.random() < 0.3))})


def _joins(model):
    kinds = (layers.Add, layers.Concatenate, layers.Multiply)
    found = [layer for layer in model.layers if isinstance(layer, kinds)]
    return [layer for layer in found if len(layer._inbound_nodes) == 1]


def _single(model):
    found = []
    for layer in model.layers:
        try:
            if not isinstance(layer.output, (list, tuple, dict)):
                found.append(layer.name)
        except (AttributeError, ValueError):
            continue
    return found


def run(seed):
    """Carries out some edits one after the other; how many were made and kept the function."""
    draw = np.random.default_rng(seed)
    model, x = in_double_precision(random_model(seed)).model, None
    made = kept = 0
    for _ in range(EDITS):
        plan = surgery.edit(
            model,
            relaxed=bool(draw.random() < 0.3),
            split=Split() if draw.random() < 0.3 else None,
        )
        before = model.get_weights()
        try:
            random_edit(plan, model, draw)
            new = plan.model
        except ValueError as refusal:
            assert "Received" in str(refusal), refusal
            assert "Please report" not in str(refusal)
            continue
        for ours, theirs in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        x = random_inputs(model, seed)
        try:
            after = outputs_of(new, random_inputs(new, seed))  # inputs may be resized too
        except Exception:  # Keras cannot tell beforehand whether dynamic sizes will agree
            sizes = [n for layer in model.inputs for n in layer.shape[1:]]
            assert None in sizes
            assert not all(isinstance(edit, Resize) for edit in plan.edits)
            continue
        made += 1
        if not plan.effects:
            pairs = zip(*(outputs_of(each, x) for each in (model, new)), strict=True)
            worst = max(error(ours, theirs) for ours, theirs in pairs)
            assert worst < TOLERANCE, (seed, [e.describe() for e in plan.edits], worst)
            kept += 1
        assert [y.shape[0] for y in after] == [y.shape[0] for y in outputs_of(model, x)]
        model = new
    return made, kept


def test_edits_of_random_models_give_models_or_reasons():
    counts = np.sum([run(seed) for seed in range(12)], axis=0)
    assert counts[0] > 8
    assert counts[1] > 3


@pytest.mark.slow
@pytest.mark.parametrize("block", range(4))
def test_more_edits_of_random_models(block):
    sequences = int(os.environ.get("RANDOM_EDITS", "120")) // 4
    for seed in range(1000 + sequences * block, 1000 + sequences * (block + 1)):
        keras.backend.clear_session()
        run(seed)
