"""Fourier transforms: along other axes units pass, over units they are pinned by the axis."""

import keras
import pytest

from tests.coupling.rules.operating import around, beside, pins, with_masks

ops = keras.ops


def steps_last(transform):
    """A transform over the steps of a series."""

    def function(x):
        found = transform(ops.transpose(x, (0, 2, 1)))
        return [ops.moveaxis(y, 1, -1) for y in keras.tree.flatten(found)]

    return function


def imaginary(x):
    return x, 0.5 * ops.flip(x, axis=-1)


OVER_STEPS = {
    "fft": lambda x: ops.fft(imaginary(x)),
    "rfft": ops.rfft,
    "irfft": lambda x: ops.irfft(imaginary(x)),
    "stft": lambda x: ops.stft(x, 4, 2, 4),
    "extract_sequences": lambda x: ops.extract_sequences(x, 3, 1),
}
OVER_PLACES = {
    "fft2": lambda x: ops.fft2(imaginary(x)),
    "ifft2": lambda x: ops.ifft2(imaginary(x)),
}


@pytest.mark.parametrize("name", OVER_STEPS)
def test_over_steps(name):
    assert with_masks(around(beside(steps_last(OVER_STEPS[name])))) == 4


@pytest.mark.parametrize("name", OVER_PLACES)
def test_over_places(name):
    def function(x):
        return [ops.moveaxis(y, 1, -1) for y in OVER_PLACES[name](ops.moveaxis(x, -1, 1))]

    assert with_masks(around(beside(function), (4, 5, 3))) == 4


@pytest.mark.parametrize("name", OVER_STEPS)
def test_over_units(name):
    function = OVER_STEPS[name]
    (reason,) = pins(around(lambda x: [x, *keras.tree.flatten(function(x))]))
    assert "transforms the axis of its units, -1" in reason


def test_over_units_and_steps():
    (reason,) = pins(around(lambda x: ops.fft2((x, ops.zeros_like(x)))[0]))
    assert "transforms the axis of its units, -1" in reason
    (reason,) = pins(around(lambda x: ops.fft2((ops.transpose(x, (0, 2, 1)),) * 2)[0]))
    assert "transforms the axis of its units, -2" in reason


def test_a_part_without_units():
    inputs = keras.Input((8, 6))

    def function(x):
        return [ops.moveaxis(y, 1, -1) for y in ops.fft((ops.moveaxis(x, -1, 1), inputs))]

    from tfprune import layers

    x = layers.Dense(8, name="d")(ops.moveaxis(inputs, 1, -1))
    (reason,) = pins(keras.Model(inputs, layers.Dense(2)(function(x)[0])))
    assert "joins it with fixed channels" in reason
