"""Element by element: what is left of the units, and why others stay."""

import inspect

import keras
import numpy as np
import pytest

from tests.coupling.rules.comparing import randomised, stripped, zero
from tests.coupling.rules.operating import around, drawn, left, pins, with_constants, with_masks
from tfprune import _keras, layers
from tfprune.coupling.rules import arithmetic, rule_of

ops = keras.ops

EXACT = {
    "x + 2": lambda x: x + 2,
    "2 - x": lambda x: 2 - x,
    "3 * x": lambda x: 3 * x,
    "x / 2": lambda x: x / 2,
    "1 / (1 + x)": lambda x: 1 / (1 + x),
    "x ** 2": lambda x: x**2,
    "2 ** x": lambda x: 2.0**x,
    "-abs(x)": lambda x: -abs(x),
    "sqrt": lambda x: ops.sqrt(ops.square(x) + 1),
    "exp": ops.exp,
    "maximum": lambda x: ops.maximum(x, 0.4),
    "minimum": lambda x: ops.minimum(0.6, x),
    "clip": lambda x: ops.clip(x, 0.3, 0.7),
    "gelu": ops.gelu,
    "leaky": lambda x: ops.leaky_relu(x - 0.5),
    "cast": lambda x: ops.cast(x, "float32"),
    "stop_gradient": ops.stop_gradient,
    "an array of the units": lambda x: x * drawn(8),
    "an array with the batch axis": lambda x: x + drawn(1, 6, 8),
    "an array of the steps": lambda x: x - drawn(6, 1),
    "a variable": lambda x: x * keras.Variable(drawn(8)),
    "a tensor with itself": lambda x: x * ops.sigmoid(x),
    "where": lambda x: ops.where(drawn(8) > 1, x, x),
    "glu": lambda x: ops.glu(x, axis=1),
}

DIFFERS_BY_STEP = {"an array of the steps", "an array with the batch axis"}


class TestWhatGoes:
    @pytest.mark.parametrize("name", EXACT)
    def test_masked_units(self, name):
        assert with_masks(around(EXACT[name])) == 4

    @pytest.mark.parametrize("name", sorted(set(EXACT) - DIFFERS_BY_STEP))
    def test_units_that_hold_a_constant(self, name):
        assert with_constants(around(EXACT[name])) == 6

    def test_zero_times_anything_is_zero(self):
        inputs = keras.Input((3,))
        x, gate = (layers.Dense(8, name=name)(inputs) for name in ("d", "gate"))
        model = randomised(keras.Model(inputs, layers.Dense(2)(x * gate)))
        zero(model.get_layer("gate").kernel, 1, [0, 5])
        zero(model.get_layer("gate").bias, 0, [0, 5])
        assert left(stripped(model)) == 6

    def test_zero_is_known_to_be_no_other_number(self):
        def steps_that_are_not_empty(x):
            return x * ops.cast(ops.any(ops.not_equal(x, 0), axis=-1, keepdims=True), "float32")

        assert with_masks(around(steps_that_are_not_empty, activation="relu")) == 4

    def test_an_array_of_zeros_ends_units(self):
        mask = np.array([1, 0, 1, 1, 0, 1, 1, 1], "float32")
        assert left(stripped(around(lambda x: x * mask))) == 6

    def test_the_two_halves_of_a_gated_linear_unit_go_together(self):
        assert with_masks(around(ops.glu)) == 4

    def test_dynamic_axes(self):
        assert with_masks(around(lambda x: 2 * x + drawn(8), shape=(None, 3))) == 4

    def test_a_vector_meets_a_series(self):
        def added(x):
            return (
                x + layers.Dense(8, name="other")(keras.layers.GlobalAveragePooling1D()(x))[:, None]
            )

        model = around(added)
        assert with_masks(model) == 4


class TestWhatStays:
    @pytest.mark.parametrize("name", sorted(DIFFERS_BY_STEP))
    def test_a_constant_that_differs_from_step_to_step(self, name):
        assert with_constants(around(EXACT[name])) == 8

    def test_what_jumps_at_a_constant(self):
        model = around(lambda x: ops.cast(x > 0.5, "float32") + x)
        assert with_constants(model) == 8

    @pytest.mark.parametrize(
        "function, reason",
        [
            (lambda x: ops.clip(x, [0.1] * 8, [0.9] * 8), "bounds for each unit"),
            (lambda x: x + ops.transpose(x, (0, 2, 1))[:, :6, :1], "spreads it over other units"),
            (lambda x: ops.concatenate([x, x[..., :1]], -1) + drawn(9), None),
        ],
    )
    def test_named(self, function, reason):
        found = pins(around(function))
        assert (not found) if reason is None else any(reason in text for text in found)

    def test_a_gate_of_one_channel_is_no_unit_of_the_others(self):
        model = around(lambda x: x * layers.Dense(1, name="gate")(x))
        assert not pins(model)
        assert with_masks(model) == 4


CONTINUOUS = [
    cls
    for cls in vars(_keras.raw_operations).values()
    if isinstance(cls, type) and type(rule_of(object.__new__(cls))) is arithmetic.Continuous
]


@pytest.mark.parametrize("cls", CONTINUOUS, ids=lambda cls: cls.__name__)
def test_continuous_functions_agree_in_both_precisions(cls):
    takes_two = "x2" in inspect.signature(cls.call).parameters
    x = np.array([[0.3, 0.6]])
    double, single = (
        np.asarray(cls().call(*[x.astype(dtype)] * (1 + takes_two)))
        for dtype in ("float64", "float32")
    )
    assert double.dtype == "float64"
    np.testing.assert_allclose(double, single, rtol=1e-5)


def test_a_rank_that_differs_is_aligned_from_the_right():
    inputs = keras.Input((6, 3))
    x = layers.Dense(8, name="d")(inputs)
    pooled = ops.mean(x, axis=(0, 1))  # (8,), over the batch too
    model = randomised(keras.Model(inputs, layers.Dense(2)(x - 0 * pooled)))
    assert any("batch axis" in reason for reason in pins(model))
