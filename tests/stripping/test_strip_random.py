"""Random chains: the stripped model computes what the masked one does, or strip says why not."""

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

import tfprune
from tests.random_chains import random_chain
from tfprune.rebuild.copying import in_double_precision

SETTINGS = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def arrays(model):
    return [np.array(weight) for weight in model.weights]


def assert_stripped_computes_the_same(model):
    before = arrays(model)
    try:
        small = tfprune.strip(model, check=False)
    except ValueError as refusal:
        assert "Received:" in str(refusal)
        return
    for ours, theirs in zip(before, arrays(model), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert "tfprune" not in small.to_json()
    assert small.count_params() <= model.count_params() + sum(
        getattr(layer, "units", getattr(layer, "filters", 0)) for layer in small.layers
    )
    draw = np.random.default_rng(0)
    shape = [4, *(size or 9 for size in model.inputs[0].shape[1:])]
    x = draw.normal(size=shape)
    ours, theirs = (in_double_precision(each).model for each in (model, small))
    for a, b in zip(keras.tree.flatten(ours(x)), keras.tree.flatten(theirs(x)), strict=True):
        scale = np.abs(a).max()
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6 * max(scale, 1e-12))


@pytest.mark.slow
@SETTINGS
@given(seed=st.integers(0, 10**6))
def test_zeros_in_stock_layers(seed):
    note(f"seed={seed}")
    keras.backend.clear_session()
    assert_stripped_computes_the_same(random_chain(seed))


@pytest.mark.slow
@SETTINGS
@given(seed=st.integers(0, 10**6), target=st.sampled_from([0.3, 0.5, 0.9]))
def test_units_pruned_in_masked_layers(seed, target):
    note(f"seed={seed}, target={target}")
    keras.backend.clear_session()
    model = random_chain(seed, tfprune.layers)
    try:
        counts = tfprune.prune_units(model, target, tfprune.criteria.Random(seed=seed))
    except ValueError as refusal:
        assert "no units that can be pruned" in str(refusal)
        return
    small = tfprune.strip(model, check=False)
    for count in counts:
        for name in count.name.split(" + "):
            layer = small.get_layer(name)
            left = getattr(layer, "units", getattr(layer, "filters", None))
            assert left <= max(1, count.units - count.pruned)
    assert_stripped_computes_the_same(model)


@pytest.mark.slow
@SETTINGS
@given(seed=st.integers(0, 10**6), sparsity=st.sampled_from([0.5, 0.9, 0.98]))
def test_unstructured_zeros(seed, sparsity):
    note(f"seed={seed}, sparsity={sparsity}")
    keras.backend.clear_session()
    model = random_chain(seed, tfprune.layers)
    tfprune.prune_weights(model, sparsity)
    assert_stripped_computes_the_same(model)
