import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfprune import distributions, layers
from tfprune.weights.distributions import allocate, erk, get, serialize, uniform
from tfprune.weights.prunable import select_weights


def model():
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(4, 3, name="conv"),
            keras.layers.Flatten(name="flat"),
            layers.Dense(30, name="wide"),
            layers.Dense(2, name="out"),
        ]
    )


shapes = st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=4), min_size=1, max_size=6)


@given(shapes, st.floats(0, 1))
def test_erk_has_the_sparsity_as_a_whole_and_follows_the_formula(shapes, sparsity):
    weights = [np.broadcast_to(0, shape) for shape in shapes]
    found = erk(weights, sparsity)
    sizes = np.array([weight.size for weight in weights])
    assert np.dot(found, sizes) == pytest.approx(sparsity * sizes.sum(), abs=1e-6 * sizes.sum())
    densities = 1 - np.array(found)
    assert (densities >= -1e-12).all() and (densities <= 1 + 1e-12).all()
    raw = np.array([sum(shape) for shape in shapes]) / sizes
    inside = densities < 1 - 1e-9
    ratios = densities[inside] / raw[inside]
    np.testing.assert_allclose(ratios, ratios[:1].repeat(len(ratios)), rtol=1e-6, atol=1e-9)
    if inside.any() and (~inside).any():  # what stays dense would be denser still
        assert (raw[~inside] * ratios[0] >= 1 - 1e-6).all()


def test_erk_of_known_shapes_by_hand():
    weights = [np.empty((3, 3, 2, 4)), np.empty((64, 30)), np.empty((30, 2))]
    # Sizes 72, 1920, 60; at 0.5 the small ones stay dense: 1026 - 132 left of 1920.
    np.testing.assert_allclose(erk(weights, 0.5), [0, 1 - 894 / 1920, 0])


def test_names_go_round_trip():
    for name in ("uniform", "erk", "global"):
        assert serialize(get(name)) == name
    assert get(serialize({"conv": 0.5})) == {"conv": 0.5}


@keras.saving.register_keras_serializable("test_distributions")
def half(weights, sparsity):
    return [sparsity / 2] * len(weights)


def test_a_function_of_your_own():
    assert get(serialize(half)) is half
    made = model()
    assert allocate(half, made, select_weights(made), 0.8, 0.8) == [0.4] * 3


def test_a_dict_takes_names_layers_and_predicates_and_follows_the_course():
    made = model()
    weights = select_weights(made)
    given_ = {
        lambda layer, name: name == "kernel": 0.2,
        "conv": 0.4,
        made.get_layer("wide"): 1.0,
    }
    assert allocate(get(given_), made, weights, 0.8, 0.8) == [0.4, 1.0, 0.2]
    assert allocate(get({"conv": 0.4}), made, weights, 0.4, 0.8) == [0.2, 0.4, 0.4]
    assert allocate(get({"conv": 0.4}), made, weights, 0.0, 0.8) == [0.0, 0.0, 0.0]
    assert allocate(get({"conv": 0.0}), made, weights, 0.8, 0.8) == [0.0, 0.8, 0.8]


@pytest.mark.parametrize("wrong", ["layerwise", 3, None, dict, uniform(["x"], 0.5)])
def test_what_is_no_distribution_raises(wrong):
    with pytest.raises(ValueError, match="Argument `distribution` must be one of"):
        get(wrong)


def test_errors_name_what_is_wrong():
    made = model()
    weights = select_weights(made)
    with pytest.raises(ValueError, match="'conv': 1.5"):
        get({"conv": 1.5})
    with pytest.raises(ValueError, match="none of whose weights.*'flat'"):
        allocate({"flat": 0.5}, made, weights, 0.5, 0.5)
    with pytest.raises(ValueError, match="Argument `distribution`.*'no'"):
        allocate({"no": 0.5}, made, weights, 0.5, 0.5)
    with pytest.raises(ValueError, match="3 numbers"):
        allocate(lambda weights, sparsity: [sparsity], made, weights, 0.5, 0.5)
    with pytest.raises(ValueError, match="predicates cannot be saved"):
        serialize({lambda layer, name: True: 0.5})
    assert get("global") == distributions.GLOBAL
