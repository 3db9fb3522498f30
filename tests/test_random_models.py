"""Random functional models: stripped they compute what they computed, or strip says why not."""

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

import tfprune
from tests.random_models import random_inputs, random_model
from tfprune.rebuild.copying import in_double_precision

SETTINGS = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
SEEDS = st.integers(0, 10**6)


def assert_stripped_computes_the_same(model, seed):
    """In double precision, in which folded constants leave no rounding to speak of."""
    model = in_double_precision(model).model
    config, weights = model.to_json(), [np.array(weight) for weight in model.weights]
    try:
        small, report = tfprune.strip(model, check=False, return_report=True)
    except ValueError as refusal:
        assert "Received:" in str(refusal)
        return None
    assert model.to_json() == config
    for before, after in zip(weights, model.weights, strict=True):
        np.testing.assert_array_equal(before, after)
    assert "tfprune" not in small.to_json()
    assert all(kept.reason for kept in report.kept)
    again = keras.models.model_from_json(small.to_json())
    again.set_weights(small.get_weights())
    x = random_inputs(model, seed)
    ours, theirs, reloaded = (m(x, training=False) for m in (model, small, again))
    keras.tree.assert_same_structure(ours, theirs)
    for a, b, c in zip(*map(keras.tree.flatten, (ours, theirs, reloaded)), strict=True):
        scale = max(np.abs(a).max(initial=0.0), 1e-12)
        np.testing.assert_allclose(b, a, rtol=1e-8, atol=1e-8 * scale)
        np.testing.assert_array_equal(c, b)
    if seed % 3 == 0:
        assert_small_stays_as_it_is(again, x)
    return report


def assert_small_stays_as_it_is(small, x):
    """A second strip changes nothing, and what is made prunable again computes the same."""
    assert tfprune.strip(small, check=False).count_params() == small.count_params()
    outputs = [model(x, training=False) for model in (small, tfprune.prunable(small))]
    for a, b in zip(*map(keras.tree.flatten, outputs), strict=True):
        np.testing.assert_array_equal(b, a)


@pytest.mark.slow
@SETTINGS
@given(seed=SEEDS)
def test_zeros_in_stock_layers(seed):
    note(f"seed={seed}")
    keras.backend.clear_session()
    assert_stripped_computes_the_same(random_model(seed), seed)


@pytest.mark.slow
@SETTINGS
@given(seed=SEEDS, target=st.sampled_from([0.3, 0.5, 0.9]))
def test_pruned_units(seed, target):
    note(f"seed={seed}, target={target}")
    keras.backend.clear_session()
    model = tfprune.prunable(random_model(seed))
    try:
        tfprune.prune_units(model, target, tfprune.criteria.Random(seed=seed))
    except ValueError as refusal:
        assert "Received:" in str(refusal)
        return
    assert_stripped_computes_the_same(model, seed)


@pytest.mark.slow
@SETTINGS
@given(seed=SEEDS, sparsity=st.sampled_from([0.5, 0.9, 0.98]))
def test_pruned_elements(seed, sparsity):
    note(f"seed={seed}, sparsity={sparsity}")
    keras.backend.clear_session()
    model = tfprune.prunable(random_model(seed))
    try:
        tfprune.prune_weights(model, sparsity)
    except ValueError as refusal:
        assert "Received:" in str(refusal)
        return
    assert_stripped_computes_the_same(model, seed)


@pytest.mark.slow
def test_the_property_is_not_an_empty_one():
    refused, removed = 0, 0
    for seed in range(20):
        keras.backend.clear_session()
        report = assert_stripped_computes_the_same(random_model(seed), seed)
        refused += report is None
        removed += report is not None and report.removed_units > 0
    assert refused <= 2
    assert removed >= 8
