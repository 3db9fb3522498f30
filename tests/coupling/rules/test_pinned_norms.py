"""What only looks like an RMS norm, or subtracts a mean: its units stay, and it says why."""

import keras
import pytest

import tfprune
from tests.coupling.rules.operating import around, beside, pins, with_masks
from tests.coupling.rules.written_norms import mean_square, norm

ops = keras.ops


def layer_norm(self, x):
    x = x - ops.mean(x, axis=-1, keepdims=True)
    return x * ops.rsqrt(mean_square(x) + self.epsilon) * self.scale


def of_groups(self, x):
    parts = ops.reshape(x, (-1, 6, 2, 4))
    return ops.reshape(parts * ops.rsqrt(mean_square(parts) + self.epsilon), (-1, 6, 8)) * (
        self.scale
    )


NOT_RESIZED = "does not run with other sizes, whichever of its attributes follow"
JOINED, EPSILON = "joins its units", "adds no attribute to the mean square of its units"
PINNED = {
    "the largest": (
        lambda s, x: x * ops.rsqrt(ops.max(x * x, -1, keepdims=True) + s.epsilon) * s.scale,
        JOINED,
    ),
    "an epsilon outside": (
        lambda s, x: x / (ops.sqrt(mean_square(x)) + s.epsilon) * s.scale,
        JOINED,
    ),
    "an epsilon that is a bound": (
        lambda s, x: x * ops.rsqrt(ops.maximum(mean_square(x), s.epsilon)) * s.scale,
        EPSILON,
    ),
    "an epsilon that is bounded": (
        lambda s, x: x * ops.rsqrt(mean_square(x) + max(s.epsilon, 0.06)) * s.scale,
        JOINED,
    ),
    "an epsilon of two places": (
        lambda s, x: x * ops.rsqrt(mean_square(x) + s.epsilon + 1e-4) * s.scale,
        EPSILON,
    ),
    "a number as epsilon": (
        lambda s, x: x * ops.rsqrt(mean_square(x) + 1e-6) * s.scale,
        EPSILON,
    ),
    "groups": (of_groups, NOT_RESIZED),
    "all steps": (
        lambda s, x: x * ops.rsqrt(ops.mean(x * x, (1, 2), keepdims=True) + s.epsilon) * s.scale,
        JOINED,
    ),
    "a gain that is no line": (
        lambda s, x: x * ops.rsqrt(mean_square(x) + s.epsilon) * ops.exp(s.scale),
        JOINED,
    ),
    "a mean that is subtracted": (layer_norm, "subtracts the mean of its units"),
    "a size that is known": (
        lambda s, x: x * ops.rsqrt(mean_square(ops.reshape(x, (-1, 6, 8))) + s.epsilon) * s.scale,
        "does not treat fewer or more units alike",
    ),
}


@pytest.mark.parametrize("name", PINNED)
def test_what_only_looks_like_one_pins(name):
    function, reason = PINNED[name]
    (found,) = pins(around(beside(norm(function)(name="by_hand"))))
    assert "'by_hand' (Norm)" in found
    assert ("has no rule, and none can be inferred" in found) == (reason != NOT_RESIZED)
    assert reason in found


def test_a_sum_that_is_divided_by_a_fixed_number_is_no_mean():
    def function(self, x):
        squares = ops.sum(x * x, -1, keepdims=True) / 7
        return x * ops.rsqrt(squares + self.epsilon) * self.scale[::-1]

    model = around(beside(norm(function)(name="by_hand")), activation="tanh")
    assert with_masks(tfprune.prunable(model)) == 4  # in pairs that mirror each other


class LayerNorm(keras.layers.Layer):
    def build(self, shape):
        self.gamma = self.add_weight(shape=shape[-1:], name="gamma")
        self.beta = self.add_weight(shape=shape[-1:], name="beta")

    def call(self, x):
        mean, variance = ops.moments(x, -1, keepdims=True)
        return (x - mean) * ops.rsqrt(variance + 1e-3) * self.gamma + self.beta


def test_a_layer_norm_says_why_it_pins():
    (found,) = pins(around(beside(LayerNorm(name="by_hand"))))
    assert "subtracts the mean of its units" in found
