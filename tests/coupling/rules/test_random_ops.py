"""Random graphs of raw operations: the stripped model computes what the masked one does."""

import keras
import numpy as np
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

import tfprune
from tests.coupling.rules.random_operations import random_graph
from tfprune.rebuild.copying import in_double_precision

SETTINGS = settings(max_examples=20, deadline=None, derandomize=True)


def assert_stripped_computes_the_same(model):
    small = tfprune.strip(model, check=False)
    x = np.random.default_rng(0).normal(size=(4, *model.inputs[0].shape[1:]))
    ours, theirs = (in_double_precision(m).model(x) for m in (model, small))
    for a, b in zip(keras.tree.flatten(ours), keras.tree.flatten(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6 * max(np.abs(a).max(), 1e-9))


@pytest.mark.slow
@SETTINGS
@given(seed=st.integers(0, 10**6))
def test_zeros_in_stock_layers(seed):
    note(f"seed={seed}")
    keras.backend.clear_session()
    assert_stripped_computes_the_same(random_graph(seed, keras.layers))


@pytest.mark.slow
@SETTINGS
@given(seed=st.integers(0, 10**6), target=st.sampled_from([0.3, 0.5, 0.9]))
def test_units_pruned_in_masked_layers(seed, target):
    note(f"seed={seed}, target={target}")
    keras.backend.clear_session()
    model = random_graph(seed, tfprune.layers)
    try:
        tfprune.prune_units(model, target, tfprune.criteria.Random(seed=seed))
    except ValueError as refusal:
        assert "no units that can be pruned" in str(refusal)
    assert_stripped_computes_the_same(model)
