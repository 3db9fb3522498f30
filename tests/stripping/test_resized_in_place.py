"""What `strip` makes of a layer that it shrinks in place, saved and loaded."""

import keras
import numpy as np
import pytest

import tfprune

ops = keras.ops


@keras.saving.register_keras_serializable("tests")
class Position(keras.layers.Layer):
    """Its shape is that of its input."""

    def build(self, shape):
        self.position = self.add_weight(shape=shape[1:], name="position")

    def call(self, inputs):
        return inputs + self.position


@keras.saving.register_keras_serializable("tests")
class Linear(keras.layers.Layer):
    """Its config has its size."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width

    def build(self, shape):
        self.matrix = self.add_weight(shape=(shape[-1], self.width), name="matrix")
        self.shift = self.add_weight(shape=(self.width,), name="shift")

    def call(self, inputs):
        return ops.relu(ops.matmul(inputs, self.matrix) + self.shift)

    def get_config(self):
        return {**super().get_config(), "width": self.width}


@keras.saving.register_keras_serializable("tests")
class Fixed(Linear):
    """Its config has the size that it had."""

    def __init__(self, width, **kwargs):
        super().__init__(width, **kwargs)
        self.config = {"width": width}

    def get_config(self):
        return {**super().get_config(), "width": int(self.config["width"])}


def shrunk(*own):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 3))
    x = keras.layers.Dense(8, name="d")(inputs)
    for layer in own:
        x = layer(x)
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    for weight in model.weights:
        weight.assign(np.random.default_rng(0).normal(size=weight.shape))
    masked = tfprune.prunable(model)
    tfprune.prune_units(masked, 0.5, tfprune.criteria.Random(seed=0))
    return tfprune.strip(masked, return_report=True)


@pytest.mark.parametrize("own", [Position, lambda: Linear(8), lambda: Linear(6)])
def test_a_file_has_the_new_sizes(own, tmp_path):
    small, report = shrunk(own())
    assert report.not_from_config == ()
    assert [tuple(w.shape) for w in small.layers[2].weights][0][-1] in (3, 4)
    path = tfprune.export(small, tmp_path / "small.keras", format="keras")
    x = np.random.default_rng(0).normal(size=(4, 5, 3))
    np.testing.assert_allclose(keras.saving.load_model(path)(x), small(x), rtol=1e-5, atol=1e-6)


def test_a_config_that_makes_the_old_sizes_is_told_and_refused(tmp_path):
    small, report = shrunk(Fixed(6, name="fixed"))
    assert report.not_from_config == ("fixed",)
    assert "fixed was shrunk in place" in str(report)
    with pytest.raises(ValueError, match="shrunk in place.*'fixed'.*SavedModel"):
        tfprune.export(small, tmp_path / "small.keras", format="keras")
    tfprune.export(small, tmp_path / "small", format="saved_model")
    small.save_weights(tmp_path / "small.weights.h5")


def test_what_is_stripped_can_be_stripped_again():
    small, _ = shrunk(Position(), Linear(8))
    again, report = tfprune.strip(small, return_report=True)
    assert report.parameters[0] == report.parameters[1]
    assert [tuple(w.shape) for w in again.weights] == [tuple(w.shape) for w in small.weights]


def test_a_nested_model_and_one_layer_called_twice():
    inputs, position, linear = keras.Input((5, 8)), Position(), Linear(8)
    inner = keras.Model(inputs, linear(position(linear(inputs))), name="inner")
    small, report = shrunk(inner)
    (found,) = [layer for layer in small.get_layer("inner").layers if isinstance(layer, Linear)]
    assert tuple(found.matrix.shape) == (4, 4)
    assert report.error < 1e-5
