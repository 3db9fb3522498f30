"""Sequences of random edits of random models: a model that runs, or a refusal with a reason."""

import keras
import numpy as np
import pytest

from tests.random_models import random_inputs, random_model
from tfprune import _keras, surgery
from tfprune.rebuild.copying import in_double_precision
from tfprune.stripping.check import error
from tfprune.surgery import Split, by, inputs_of
from tfprune.surgery.edits import Resize

layers = keras.layers
EDITS = 3


def outputs_of(model, x):
    states = [(state, np.array(state)) for state in _keras.recurrent_states(model)]
    found = [np.array(y, "float64") for y in keras.tree.flatten(model(x, training=False))]
    for state, value in states:
        state.assign(value)
    return found


def random_edit(plan, model, draw):
    """Adds an edit of a layer that is drawn."""
    names = [operation.name for operation in _keras.operations(model)]
    joins = [
        layer
        for layer in model.layers
        if isinstance(layer, (layers.Add, layers.Concatenate, layers.Multiply))
    ]
    windowed = [layer for layer in model.layers if hasattr(layer, "kernel_size")]
    name = str(draw.choice(names))
    kind = draw.choice(["resize", "resize", "resize", "insert", "remove", "join", "kernel", "swap"])
    if kind == "join" and joins:
        target = joins[int(draw.integers(len(joins)))]
        if draw.random() < 0.5:
            plan.connect(name, target)
        else:
            plan.disconnect(name, target)
    elif kind == "kernel" and windowed:
        layer = windowed[int(draw.integers(len(windowed)))]
        rank = len(layer.kernel_size)
        plan.resize_kernel(layer, tuple(int(n) for n in draw.integers(1, 5, rank)))
    elif kind == "insert":
        size = model.get_layer(name).output.shape[-1] if name in _single(model) else 3
        dense = layers.Dense(size, name=f"new_{draw.integers(1 << 30)}")
        plan.insert(name, dense, init=str(draw.choice(["identity", "default"])))
    elif kind == "remove":
        plan.remove(name)
    elif kind == "swap":
        plan.replace(name, layers.Dense(int(draw.integers(1, 6)), activation="relu"))
    else:
        key = inputs_of(name) if draw.random() < 0.2 else name
        change = by(int(draw.choice([-2, -1, 1, 2, 3])))
        plan.resize({key: change if draw.random() < 0.7 else int(draw.integers(1, 6))})


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
    model, x = random_model(seed), None
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
            after = outputs_of(new, x)
        except Exception:  # Keras cannot tell beforehand whether dynamic sizes will agree
            sizes = [n for layer in model.inputs for n in layer.shape[1:]]
            assert None in sizes
            assert not isinstance(plan.edits[0], Resize)
            continue
        made += 1
        if not plan.effects:
            doubled = [in_double_precision(each).model for each in (model, new)]
            pairs = zip(*(outputs_of(each, x) for each in doubled), strict=True)
            worst = max(error(ours, theirs) for ours, theirs in pairs)
            assert worst < 1e-6, (seed, [e.describe() for e in plan.edits], worst)
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
    for seed in range(1000 + 30 * block, 1030 + 30 * block):
        run(seed)
