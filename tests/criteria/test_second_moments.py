"""Sums x x' of the inputs of weights: they say by how much outputs change when weights do."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import tfprune
from tfprune.criteria.second_moments import second_moments, weight_uses
from tfprune.criteria.weight_uses import moved
from tfprune.weights.prunable import select_weights

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(9, 7, 7, 4)).astype("float32")
TOKENS = RNG.integers(0, 11, size=(9, 5))


class Fused(keras.layers.Layer):
    """A fused projection, split, with a kernel used transposed and one on the left."""

    def build(self, shape):
        self.qkv = self.add_weight(shape=(3 * 6, shape[-1]), name="qkv")
        self.mix = self.add_weight(shape=(49, 49), name="mix")
        self.experts = self.add_weight(shape=(2, 6, 3), name="experts")

    def call(self, x):
        x = ops.reshape(x, (-1, 49, 4))
        parts = ops.split(ops.transpose(self.qkv), 3, axis=-1)
        x = sum(ops.matmul(x, part) * (k + 1) for k, part in enumerate(parts))
        x = ops.matmul(self.mix, x)
        return ops.einsum("bnd,edf->benf", x, self.experts)


def branches():
    """Layers whose outputs are linear in their kernels, side by side."""
    layers, conv = keras.layers, {"padding": "same"}
    made = {
        "plain": layers.Conv2D(6, 3, **conv, strides=2),
        "grouped": layers.Conv2D(6, (3, 2), groups=2),
        "dilated": layers.Conv2D(3, 2, dilation_rate=2),
        "depthwise": layers.DepthwiseConv2D(3, depth_multiplier=2, strides=3, **conv),
        "flat": layers.Dense(5),
        "einsum": layers.EinsumDense("abcd,dce->abe", output_shape=(None, 3)),
        "fused": Fused(),
    }
    inputs = keras.Input((7, 7, 4))
    outputs = [layer(inputs) for layer in made.values()]
    steps = layers.Reshape((49, 4))(inputs)
    made["causal"] = layers.Conv1D(3, 4, padding="causal", dilation_rate=3)
    made["twice"] = layers.Dense(49)
    outputs += [made["causal"](steps), made["twice"](made["twice"](ops.swapaxes(steps, 1, 2)))]
    for name, layer in made.items():
        layer.name = name
    return keras.Model(inputs, outputs)


@pytest.fixture(scope="module")
def measured():
    model = tfprune.prunable(branches())
    weights = select_weights(model)
    variables = [weight.variable for weight in weights]
    data = tf.data.Dataset.from_tensor_slices((IMAGES, IMAGES)).batch(4)
    uses = weight_uses(model, variables, data)
    moments = second_moments(model, variables, uses, data)
    return model, weights, uses, moments


def test_every_weight_is_seen(measured):
    _, weights, uses, _ = measured
    found = {w.name if w.layer.name == "fused" else w.layer.name for w in weights}
    assert {"plain", "grouped", "depthwise", "einsum", "causal", "qkv", "experts"} <= found
    assert [use.problem for use in uses] == [None] * len(weights)


@pytest.mark.parametrize(
    "name",
    "plain grouped dilated depthwise flat einsum qkv mix experts causal".split(),
)
def test_the_moments_say_how_much_the_outputs_change(measured, name):
    model, weights, uses, moments = measured
    (place,) = [i for i, w in enumerate(weights) if name in (w.layer.name, w.name)]
    weight, use = weights[place], uses[place]
    layer = model.get_layer(weight.layer.name)
    part = keras.Model(model.inputs, layer.output)
    before, value = part(IMAGES), weight.value.copy()
    change = RNG.normal(size=value.shape).astype("float32")
    if name in ("qkv", "mix"):  # later products in the layer hide how much
        probe = change
        x = IMAGES.reshape(9, 49, 4).astype(float)
        if name == "qkv":
            expected = sum(np.sum((x @ part) ** 2) for part in np.split(probe.T, 3, axis=1))
        else:
            parts = np.split(layer.qkv.numpy().T, 3, axis=1)
            x = sum(x @ part * (k + 1) for k, part in enumerate(parts))
            expected = np.sum((change @ x) ** 2)
    else:
        weight.variable.assign(value + change)
        expected = np.sum(np.square(np.subtract(part(IMAGES), before, dtype=float)))
        weight.variable.assign(value)
    found = 0
    for matrix in use.matrices:
        form = moved(change, matrix.steps).astype(float)
        moment = moments[matrix.inputs]
        found += np.einsum("gij,gjk,gik->", moment, form, form)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_layer_called_twice_has_the_sum_of_both(measured):
    model, weights, uses, moments = measured
    (place,) = [i for i, w in enumerate(weights) if w.layer.name == "twice"]
    layer = model.get_layer("twice")
    first = IMAGES.reshape(9, 49, 4).swapaxes(1, 2).reshape(-1, 49).astype(float)
    second = first @ layer.kernel.numpy() + layer.bias.numpy()
    (matrix,) = uses[place].matrices
    expected = first.T @ first + second.T @ second
    np.testing.assert_allclose(moments[matrix.inputs][0], expected, rtol=1e-4, atol=1e-3)


def test_equal_inputs_are_summed_once():
    inputs = keras.Input((5, 6))
    attention = keras.layers.MultiHeadAttention(2, 3, name="heads")
    model = tfprune.prunable(keras.Model(inputs, attention(inputs, inputs)))
    weights = select_weights(model)
    data = (RNG.normal(size=(3, 5, 6)).astype("float32"),)
    uses = weight_uses(model, [weight.variable for weight in weights], data)
    by_name = {w.name: use.matrices[0].inputs for w, use in zip(weights, uses, strict=True)}
    assert by_name["query/kernel"] == by_name["key/kernel"] == by_name["value/kernel"]
    assert by_name["attention_output/kernel"] != by_name["query/kernel"]


class Odd(keras.layers.Layer):
    """Weights that no product with inputs tells everything about."""

    def build(self, shape):
        self.table = self.add_weight(shape=(11, 4), name="table")
        self.unused = self.add_weight(shape=(3, 4), name="unused")
        self.scaled = self.add_weight(shape=(4, 4), name="scaled")
        self.both = self.add_weight(shape=(4, 4), name="both")
        self.partly = self.add_weight(shape=(4, 5), name="partly")
        self.looped = self.add_weight(shape=(4, 4), name="looped")

    def call(self, tokens):
        x = ops.take(self.table, tokens, axis=0)
        x = ops.matmul(x, ops.transpose(self.table)[:, :4])
        x = ops.matmul(x, self.scaled / ops.norm(self.scaled))
        x = ops.matmul(ops.matmul(x, self.both), ops.transpose(self.both))
        x = ops.matmul(x, self.partly[:, :4])
        return ops.fori_loop(0, 2, lambda _, x: ops.matmul(x, self.looped), x)


def test_other_uses_are_named():
    inputs = keras.Input((5,), dtype="int32")
    x = Odd(name="odd")(inputs)
    x = keras.layers.GRU(3, name="steps", return_sequences=True)(x)
    x = keras.layers.Conv1DTranspose(3, 2, name="wider")(x)
    model = tfprune.prunable(keras.Model(inputs, x))
    weights = select_weights(model)
    uses = weight_uses(model, [weight.variable for weight in weights], (TOKENS,))
    problems = {w.name: use.problem for w, use in zip(weights, uses, strict=True)}
    for name, reason in {
        "table": "looked up",
        "unused": "does not use it",
        "scaled": "Mul|RealDiv",
        "both": "several products in different ways",
        "partly": "in no product",
        "looped": "loop",
        "recurrent_kernel": "loop",
    }.items():
        assert problems[name] is not None, name
        assert any(each in problems[name] for each in reason.split("|")), problems[name]
    (of_wider,) = [u.problem for w, u in zip(weights, uses, strict=True) if w.layer.name == "wider"]
    assert "transposed convolution" in of_wider
