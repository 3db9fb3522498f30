"""User classes made of `Masked` or of drop-in layers: what `strip` makes of them."""

import keras
import numpy as np
import pytest

import tfprune
from tfprune.coupling import Rule, along, rule
from tfprune.masks.setting import masked_layers

layers = keras.layers
X = np.random.default_rng(0).normal(size=(6, 5)).astype("float32")


@keras.saving.register_keras_serializable("drop_ins")
class Scale(layers.Layer):
    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), name="factor", initializer="ones")

    def call(self, x):
        return x * self.factor


@rule(Scale)
class ScaleRule(Rule):
    def label(self, call, inputs, labels):
        labels.slice(call.operation, call.operation.factor, 0, along(inputs[0], -1))
        return [inputs[0]]


class MaskedScale(tfprune.layers.Masked, Scale):
    """Adds nothing to `Scale`."""


class SameDense(tfprune.layers.Dense):
    """Adds nothing to `Dense`."""


@keras.saving.register_keras_serializable("drop_ins")
class Doubling(tfprune.layers.Dense):
    def call(self, inputs):
        return 2.0 * super().call(inputs)


@keras.saving.register_keras_serializable("drop_ins")
class Named(tfprune.layers.RMSNormalization):
    def describe(self):
        return "a method of its own"


@keras.saving.register_keras_serializable("drop_ins")
class OwnShift(tfprune.layers.Masked, layers.Layer):
    def build(self, shape):
        self.by = self.add_weight(shape=(shape[-1],), name="by", initializer="ones")

    def call(self, x):
        return x + self.by


KINDS = {
    "masked class": (lambda: [tfprune.layers.Dense(8), MaskedScale(name="own")], Scale),
    "same as a drop-in": (lambda: [SameDense(8, name="own")], layers.Dense),
    "own call": (lambda: [Doubling(8, name="own")], Doubling),
    "own method": (lambda: [tfprune.layers.Dense(8), Named(name="own")], Named),
    "own layer": (lambda: [tfprune.layers.Dense(8), OwnShift(name="own")], OwnShift),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_result_carries_no_masks_and_can_be_exported(kind, tmp_path):
    make, expected = KINDS[kind]
    model = keras.Sequential([keras.Input((5,)), *make(), tfprune.layers.Dense(2, name="last")])
    tfprune.prune_units(model, 0.5)
    small = tfprune.strip(model)
    assert type(small.get_layer("own")) is expected
    assert small.get_layer("last").kernel.shape == (4, 2)
    assert not masked_layers(small)
    assert masked_layers(model)
    np.testing.assert_allclose(small(X), model(X), rtol=1e-5, atol=1e-6)
    tfprune.export(small, tmp_path / "small")
    tfprune.export(small, tmp_path / "small.keras", format="keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(loaded(X), small(X))


@pytest.mark.parametrize("kind", KINDS)
def test_the_result_trains_is_stripped_again_and_gets_masks_again(kind):
    make, _ = KINDS[kind]
    model = keras.Sequential([keras.Input((5,)), *make(), tfprune.layers.Dense(2)])
    model.compile("sgd", "mse")
    tfprune.prune_units(model, 0.5)
    small = tfprune.strip(model)
    small.fit(X, X[:, :2], verbose=0)
    assert tfprune.strip(small).count_params() == small.count_params()
    again = tfprune.prunable(small)
    assert len(masked_layers(again)) == len(masked_layers(model))
    assert not masked_layers(small)
    tfprune.prune_units(again, 0.5)
    twice = tfprune.strip(again)
    assert twice.count_params() < small.count_params()
    np.testing.assert_allclose(twice(X), again(X), rtol=1e-5, atol=1e-6)


def test_quantization_is_refused_for_the_masks_only_where_there_are_masks():
    model = keras.Sequential([keras.Input((5,)), Doubling(8, name="own"), layers.Dense(2)])
    with pytest.raises(ValueError, match="carries masks"):
        model.get_layer("own").quantize("int8")
    with pytest.raises(NotImplementedError):  # as Keras does for subclasses of its layers
        tfprune.strip(model).get_layer("own").quantize("int8")
