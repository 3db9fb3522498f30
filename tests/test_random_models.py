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
        assert_nothing_is_left(small)
    return report


def assert_nothing_is_left(small):
    """A second strip changes nothing."""
    again = tfprune.strip(small, check=False)
    assert again.to_json() == small.to_json()
    for one, other in zip(small.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def assert_like_any_model(small, seed, folder):
    """What `strip` returns can be saved, explained, resized, made prunable and stripped again."""
    x = random_inputs(small, seed)
    outputs = keras.tree.flatten(small(x, training=False))

    def assert_same(other):
        found = keras.tree.flatten(other(x, training=False))
        for one, two in zip(outputs, found, strict=True):
            np.testing.assert_array_equal(two, one)

    small.save(folder / "small.keras")
    assert_same(keras.models.load_model(folder / "small.keras"))
    assert tfprune.explain(small).sets is not None
    masked = tfprune.prunable(small)
    assert_same(masked)
    try:
        tfprune.prune_units(masked, 0.4, tfprune.criteria.Random(seed=seed))
    except ValueError as refusal:
        assert "Received:" in str(refusal)
    tfprune.strip(masked)
    wider = {
        layer.name: layer.units + 2
        for layer in small.layers
        if isinstance(layer, keras.layers.Dense)
    }
    givers = [each._keras_history.operation.name for each in keras.tree.flatten(small.outputs)]
    for name, units in list(wider.items())[:2]:
        try:
            wide = tfprune.surgery.resize(small, {name: units})  # what it computes: tests/surgery
            found = keras.tree.flatten(wide(x, training=False))
            for giver, before, after in zip(givers, outputs, found, strict=True):
                last = units if giver == name else before.shape[-1]
                assert after.shape == (*before.shape[:-1], last)
        except ValueError as refusal:
            assert "Received:" in str(refusal)


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
@pytest.mark.parametrize("seed", range(30))
def test_the_result_is_a_model_like_any_other(seed, tmp_path):
    keras.backend.clear_session()
    model = tfprune.prunable(random_model(seed))
    if seed % 2:
        tfprune.prune_weights(model, (0.5, 0.9, 0.98)[seed % 3])
    try:
        small = tfprune.strip(model)
    except ValueError as refusal:
        assert "Received:" in str(refusal)
        return
    assert_like_any_model(small, seed, tmp_path)


# A second strip removed more of these: a reshape tied units along an axis of which one index was
# left; a convolution had one of its groups left.
@pytest.mark.parametrize(("seed", "sparsity"), [(1022, 0.98), (1017, 0.5)])
def test_units_that_are_untied_by_what_goes_go_too(seed, sparsity):
    model = tfprune.prunable(random_model(seed))
    tfprune.prune_weights(model, sparsity)
    small, report = tfprune.strip(model, return_report=True)
    assert report.parameters == (model.count_params(), small.count_params())
    assert_nothing_is_left(small)


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
