import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

import tfprune
from tests.random_models import LENGTH, random_model
from tests.units.selection import models
from tfprune.coupling.costs import costs
from tfprune.coupling.kept_units import keeping
from tfprune.rebuild.engine import rebuild
from tfprune.units.budgets import Bytes, MACs, Parameters, Units
from tfprune.units.prunable import PrunableUnits
from tfprune.units.selection.costs import costs_for
from tfprune.units.selection.limits import least_kept
from tfprune.units.selection.removal_groups import removal_groups
from tfprune.units.selection.removal_steps import removal_steps


def macs(model):
    return sum(cost.macs for cost in costs(model))


def nbytes(model):
    return sum(np.asarray(weight).nbytes for weight in model.weights)


MEASURES = [
    (Parameters(1.0), lambda model: model.count_params()),
    (MACs(1.0), macs),
    (Bytes(1.0), nbytes),
]


def masked_at_random(units, seed):
    """Masks a random choice of what may go; which units are kept then."""
    draw = np.random.default_rng(seed)
    groups = removal_groups(units, draw.normal(size=units.coupling.size))
    steps = removal_steps(units, groups, least_kept(units))
    kept = steps.kept(draw.random(len(steps)) < draw.choice([0.3, 0.7, 1.0]))
    units.mask(~kept)
    return kept


@pytest.mark.parametrize("name", models.ALL)
def test_the_cost_is_that_of_the_stripped_model(name):
    for seed in range(3):
        model = models.made(name)
        units = PrunableUnits(model)
        counted = [costs_for(budget, units) for budget, _ in MEASURES]
        assert [c.dense for c in counted] == [count(model) for _, count in MEASURES]
        kept = masked_at_random(units, seed)
        small = tfprune.strip(model)
        assert [c.of(kept) for c in counted] == [count(small) for _, count in MEASURES]
        left = sum(count.units - count.pruned for count in units.counts())
        assert costs_for(Units(1.0), units).of(kept) == left


def test_bytes_are_those_of_the_dtypes():
    inputs = keras.Input((3,))
    x = tfprune.layers.Dense(4, name="a", dtype="bfloat16")(inputs)
    model = keras.Model(inputs, tfprune.layers.Dense(2)(x))
    units = PrunableUnits(model)
    counted = costs_for(Bytes(0.5), units)
    kept = np.ones(units.coupling.size, bool)
    kept[units.sets[0].units[0]] = False
    assert counted.dense == 2 * 16 + 4 * 10
    assert counted.of(kept) == 2 * 12 + 4 * 8


def test_dynamic_sizes_are_given_with_the_budget():
    inputs = keras.Input((None, 3))
    x = tfprune.layers.Conv1D(4, 3, name="a")(inputs)
    model = keras.Model(inputs, tfprune.layers.Conv1D(2, 1)(x))
    units = PrunableUnits(model)
    with pytest.raises(ValueError, match=r"'a' \(Conv1D\).*`input_shapes`"):
        costs_for(MACs(0.5), units)
    assert costs_for(MACs(0.5, input_shapes=(10, 3)), units).dense == 8 * (36 + 8)


@pytest.mark.slow
@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(seed=st.integers(0, 10**6))
def test_random_models(seed):
    """What is left costs what the model costs that is rebuilt of it."""
    note(f"seed={seed}")
    keras.backend.clear_session()
    model = tfprune.prunable(random_model(seed))
    sizes = [[size or LENGTH for size in tensor.shape[1:]] for tensor in model.inputs]
    try:
        units = PrunableUnits(model)
        counted = costs_for(MACs(0.5, sizes), units)
    except ValueError as refusal:
        assert "no units that can be pruned" in str(refusal) or "how many each" in str(refusal)
        return
    kept = masked_at_random(units, seed)
    small = rebuild(model, keeping(units.coupling, kept))
    assert counted.dense == sum(cost.macs for cost in costs(model, sizes))
    assert counted.of(kept) == sum(cost.macs for cost in costs(small, sizes))
    for budget, count in MEASURES[::2]:
        assert costs_for(budget, units).of(kept) == count(small)
    # Zeros of the random model make more units dead, whose constants may need biases.
    stripped = tfprune.strip(model, check=False)
    biases = sum(max(w.shape) for w in stripped.weights if w.name.endswith("bias"))
    assert stripped.count_params() <= small.count_params() + biases
