import keras
import numpy as np
import pytest

from tfprune.criteria import weights as criteria


@keras.saving.register_keras_serializable("test_weights")
def negated(weight):
    return -weight


def test_magnitude_is_the_absolute_value():
    np.testing.assert_array_equal(criteria.magnitude(np.array([[-2.0, 0.5]])), [[2.0, 0.5]])


def test_random_depends_on_seed_and_shape_alone():
    scores = criteria.random(np.zeros((50, 20)), seed=[3, 1])
    np.testing.assert_array_equal(scores, criteria.random(np.ones((50, 20)), seed=[3, 1]))
    assert (scores != criteria.random(np.zeros((50, 20)), seed=[3, 2])).any()
    assert scores.shape == (50, 20)
    assert abs(scores.mean() - 0.5) < 0.05


def test_get_takes_name_callable_and_config():
    assert criteria.get("magnitude") is criteria.magnitude
    assert criteria.get("random") is criteria.random
    assert criteria.get(negated) is negated
    assert criteria.get(criteria.serialize(negated)) is negated


@pytest.mark.parametrize("criterion", [criteria.magnitude, criteria.random, negated])
def test_config_round_trip(criterion):
    assert criteria.get(criteria.serialize(criterion)) is criterion


@pytest.mark.parametrize("wrong", ["l3", None, 3, dict])
def test_what_is_no_criterion_raises(wrong):
    with pytest.raises(ValueError, match="Argument `criterion` must be one of"):
        criteria.get(wrong)


def test_a_criterion_that_asks_for_something_unknown_raises():
    with pytest.raises(ValueError, match=r"'seed', 'gradient'.*also requires \['depth'\]"):
        criteria.get(lambda weight, depth: weight * depth)


def test_the_seed_goes_to_those_who_ask():
    weight = np.zeros(4)
    passed_on = criteria.score(criteria.random, weight, seed=[1, 2])
    np.testing.assert_array_equal(passed_on, criteria.random(weight, seed=[1, 2]))
    np.testing.assert_array_equal(criteria.score(negated, weight + 1, seed=[1, 2]), [-1.0] * 4)


def test_scores_of_another_shape_raise():
    with pytest.raises(ValueError, match=r"shape \(4, 3\)\. Received: shape=\(4,\)"):
        criteria.score(lambda weight: weight.sum(axis=1), np.ones((4, 3)))


W = np.array([[1.0, -2.0], [0.5, 3.0]])
M = np.array([[4.0, 1.0], [-2.0, 0.0]])


@pytest.mark.parametrize(
    ("name", "measured", "expected"),
    [
        ("gradient", "gradient", [[4, 2], [1, 0]]),
        ("second_order", "squared_gradient", [[4, 4], [-0.5, 0]]),
        ("movement", "movement", [[4, 1], [-2, 0]]),
        ("synflow", "flow_gradient", [[4, 2], [-1, 0]]),
        ("grasp", "hessian_gradient", [[4, -2], [-1, 0]]),
        ("wanda", "input_norm", [[4, 2], [-1, 0]]),
    ],
)
def test_scores_worked_out_by_hand(name, measured, expected):
    criterion = criteria.get(name)
    assert criteria.measures_of(criterion) == [measured]
    np.testing.assert_array_equal(criteria.score(criterion, W, None, {measured: M}), expected)
    assert criteria.serialize(criterion) == name


def test_lamp_by_hand():
    # Squares 1, 4, 0.25, 9; each over the sum of those which are not smaller.
    expected = [[1 / 14, 4 / 13], [0.25 / 14.25, 1]]
    np.testing.assert_allclose(criteria.lamp(W), expected)
    np.testing.assert_allclose(criteria.lamp(np.ones(4)), [1, 1 / 2, 1 / 3, 1 / 4])
    np.testing.assert_array_equal(criteria.lamp(np.zeros(3)), [0, 0, 0])
