"""Pointwise convolutions with strides, whose gradient for kernels TensorFlow cannot always take."""

import subprocess
import sys

import keras
import numpy as np
import pytest

from tfprune import _keras

L = keras.layers


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(
    ("kernel", "strides", "size"),
    [(1, 2, 8), (1, 3, 8), (1, (2, 1), 7), (3, 2, 8), ((1, 3), 2, 8)],
)
def test_a_convolution_computes_the_same(kernel, strides, size, padding):
    layer = L.Conv2D(4, kernel, strides=strides, padding=padding, name="narrow")
    x = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype("float32")
    expected = np.array(layer(x))
    with _keras.strides_outside():
        np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-6)


MEASURE = """
import keras, numpy as np, tfprune
inputs = keras.Input((60, 60, 8))
x = keras.layers.Conv2D(16, 1, strides=2, padding="same", name="narrow")(inputs)
x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
model = keras.Model(inputs, keras.layers.Dense(2, name="last")(x))
model.compile("sgd", "mse")
x = np.random.default_rng(0).normal(size=(64, 60, 60, 8)).astype("float32")
for criterion in ("layerwise_obs", "second_order", "taylor"):
    masked = tfprune.prunable(model)
    tfprune.prune_units(masked, 0.5, criterion, data=(x, np.ones((64, 2))))
    print(criterion, tfprune.strip(masked).get_layer("narrow").filters)
"""


def test_measuring_does_not_end_the_process():
    run = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.split() == ["layerwise_obs", "8", "second_order", "8", "taylor", "8"]
