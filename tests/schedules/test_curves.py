import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfprune.schedules import Cosine, Exponential, Linear, PolynomialDecay

each_curve = pytest.mark.parametrize("curve", [Cosine, Exponential, Linear, PolynomialDecay])
STEPS = np.arange(10, 111)
P = (STEPS - 10) / 100


@pytest.mark.parametrize(
    ("schedule", "truth"),
    [
        (PolynomialDecay(0.2, 0.9, 10, 110), 0.9 + (0.2 - 0.9) * (1 - P) ** 3),
        (PolynomialDecay(0.2, 0.9, 10, 110, power=0.5), 0.9 + (0.2 - 0.9) * (1 - P) ** 0.5),
        (Linear(0.2, 0.9, 10, 110), np.interp(STEPS, [10, 110], [0.2, 0.9])),
        (Exponential(0.2, 0.9, 10, 110), 1 - np.geomspace(0.8, 0.1, 101)),
        (Cosine(0.2, 0.9, 10, 110), 0.2 + 0.7 * np.sin(np.pi / 2 * P) ** 2),
    ],
    ids=repr,
)
def test_curves_follow_their_formulas(schedule, truth):
    np.testing.assert_allclose([schedule(step) for step in STEPS], truth, atol=1e-12)
    assert [schedule(step) for step in (9, 110, 10**6)] == [0.0, 0.9, 0.9]


@each_curve
@given(
    begin=st.integers(0, 100),
    span=st.integers(1, 100),
    initial=st.floats(0.0, 0.99),
    share=st.floats(0.0, 0.99),
)
def test_curves_never_fall_or_leave_their_range(curve, begin, span, initial, share):
    final = max(initial, initial + share * (0.99 - initial))
    schedule = curve(initial, final, begin, begin + span)
    values = np.array([schedule(step) for step in range(begin, begin + span + 5)])
    assert (np.diff(values) >= -1e-15).all()
    assert values.min() >= initial
    assert values.max() == values[-1] == final


@each_curve
def test_begin_equal_to_end_is_one_shot_and_not_nan(curve):
    schedule = curve(0.0, 0.8, begin_step=5, end_step=5)
    assert [schedule(s) for s in (4, 5, 6)] == [0.0, 0.8, 0.8]
    assert [s for s in range(300) if schedule.is_due(s)] == [5]


@pytest.mark.parametrize("curve", [Cosine, Linear, PolynomialDecay])
def test_the_last_element_may_go(curve):
    assert curve(0.0, 1.0, 0, 100)(100) == 1.0


def test_each_update_of_an_exponential_prunes_the_same_share_of_what_is_left():
    schedule = Exponential(0.0, 0.9, begin_step=100, end_step=600, frequency=100)
    left = 1 - np.array([schedule(step) for step in range(100, 601, 100)])
    np.testing.assert_allclose(left[1:] / left[:-1], 0.1 ** (1 / 5))
