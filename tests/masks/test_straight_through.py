import numpy as np
import pytest
import tensorflow as tf

from tfprune import layers
from tfprune.masks.straight_through import TopKRead, top_magnitudes
from tfprune.patterns import top_k_mask

RNG = np.random.default_rng(0)


def chosen(value, count, trainable=True, frozen=False, jit_compile=False):
    masks = [np.broadcast_to(mask, value.shape) for mask in (trainable, frozen)]

    @tf.function(jit_compile=jit_compile)
    def choose(value, count):
        return top_magnitudes(value, count, trainable=masks[0], frozen=masks[1])

    return choose(tf.constant(value), tf.constant(count)).numpy()


def sorted_out(value, count):
    """The same by a stable sort."""
    first = np.argsort(-np.abs(value.astype("float64")).ravel(), kind="stable")[:count]
    mask = np.zeros(value.size, bool)
    mask[first] = True
    return mask.reshape(value.shape)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("count", [0, 1, 7, 30, 59, 60])
def test_the_largest_magnitudes_are_chosen(count, dtype, jit_compile):
    value = RNG.normal(size=(3, 4, 5)).astype(dtype)
    found = chosen(value, count, jit_compile=jit_compile)
    np.testing.assert_array_equal(found, sorted_out(value, count))


@pytest.mark.parametrize("count", range(13))
def test_of_equal_ones_the_first_are_chosen(count):
    value = np.array([[2, -1, 0, 1], [1, -2, 0, 1], [0, -0.0, 1, -1]], "float32")
    np.testing.assert_array_equal(chosen(value, count), sorted_out(value, count))


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "jit"])
def choose_of_many(request):
    @tf.function(jit_compile=request.param)
    def choose(value, count):
        return top_magnitudes(
            value, count, trainable=tf.ones(5000, bool), frozen=tf.constant(False)
        )

    return choose


@pytest.mark.parametrize("kind", ["normal", "heavy tails", "two scales", "ties", "constant"])
def test_the_largest_of_many_are_chosen_whatever_their_distribution(kind, choose_of_many):
    normal, scale = RNG.normal(size=(2, 5000))
    value = {
        "normal": normal,
        "heavy tails": RNG.laplace(size=5000) ** 5,
        "two scales": normal * np.where(scale > 0, 1e-6, 1e6),
        "ties": np.round(normal, 1),
        "constant": np.full(5000, -0.5),
    }[kind].astype("float32")
    for count in (0, 1, 50, 2500, 4999, 5000):
        found = choose_of_many(tf.constant(value), tf.constant(count)).numpy()
        np.testing.assert_array_equal(found, sorted_out(value, count), err_msg=f"count={count}")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_infinite_magnitudes_are_the_largest(count):
    value = np.array([1.0, -np.inf, 3.0, np.inf, -2.0], "float32")
    np.testing.assert_array_equal(chosen(value, count), sorted_out(value, count))


def test_double_precision_tells_apart_what_single_does_not():
    value = np.array([1.0, 1 + 1e-12, 1 - 1e-12])
    assert chosen(value, 1).tolist() == [False, True, False]


def test_pruned_elements_are_never_chosen_and_frozen_ones_always():
    value = RNG.normal(size=(6, 7)).astype("float32")
    trainable, frozen = RNG.random((2, 6, 7)) < [[[0.6]], [[0.2]]]
    for sparsity in (0.5, 0.6, 0.7):
        kept = value.size - round(sparsity * value.size)
        truth = top_k_mask(np.abs(value), sparsity, trainable=trainable, frozen=frozen)
        np.testing.assert_array_equal(chosen(value, kept, trainable, frozen), truth)


def test_the_gradient_reaches_every_element():
    layer = layers.Dense(2, use_bias=False)
    layer.build((None, 3))
    read = TopKRead(layer.masks_by_name["kernel"])
    read.kept.assign(2)
    factor = RNG.normal(size=(3, 2)).astype("float32")
    with tf.GradientTape() as tape:
        outcome = tf.reduce_sum(read(layer.kernel.value) * factor)
    np.testing.assert_array_equal(tape.gradient(outcome, layer.kernel.value), factor)
