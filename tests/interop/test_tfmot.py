"""Models and files that tfmot has pruned, taken over with their masks."""

import subprocess
import sys
import textwrap
import warnings

import keras
import numpy as np
import pytest
import tf_keras
from tensorflow_model_optimization.sparsity import keras as tfmot

import tfprune
from tests.interop.tfmot_models import (
    WRAPPABLE,
    arrays,
    assert_masks_are,
    assert_same_outputs,
    boxed,
    call,
    cnn,
    mlp,
    our_masks,
    pruned,
    randomised,
    recurrent,
    tfmot_masks,
    words,
    zeroed,
)
from tfprune.interop.tfmot import from_tfmot

pytestmark = pytest.mark.slow  # together; each builds and runs models of two Keras

K = tf_keras.layers


@pytest.mark.parametrize("make", WRAPPABLE)
def test_a_wrapped_model_has_the_same_outputs_and_masks(make):
    theirs = pruned(make)
    ours = from_tfmot(theirs)
    assert_same_outputs(theirs, ours)
    assert_masks_are(ours, tfmot_masks(theirs))


@pytest.mark.parametrize("make", WRAPPABLE)
def test_a_stripped_model_has_the_same_masks_as_the_wrapped_one(make):
    wrapped = pruned(make)
    masks = tfmot_masks(wrapped)
    theirs = tfmot.strip_pruning(wrapped)
    ours = from_tfmot(theirs)
    assert_same_outputs(theirs, ours)
    assert_masks_are(ours, masks)


def test_what_tfmot_cannot_wrap_is_taken_over_by_its_zeros():
    theirs = zeroed(words())
    ours = from_tfmot(theirs)
    assert_same_outputs(theirs, ours)
    kernels = [w.numpy() for w in theirs.weights if not w.name.endswith("bias:0")]
    masks = [mask for found in our_masks(ours).values() for mask in found]
    assert len(masks) == len(kernels) == 12
    for mask, kernel in zip(masks, kernels, strict=True):
        np.testing.assert_array_equal(mask, kernel != 0)


def test_only_wrapped_layers_carry_masks_where_some_are_wrapped():
    theirs = tf_keras.Sequential(
        [
            tfmot.prune_low_magnitude(K.Dense(6, name="wrapped"), input_shape=(4,)),
            K.Dense(5, name="plain"),
        ]
    )
    theirs.layers[1].kernel[0, 0].assign(0.0)
    theirs.layers[0].pruning_vars[0][1][1, 2].assign(0.0)  # a mask not yet applied to the kernel
    ours = from_tfmot(theirs)
    expected = np.ones((4, 6), bool)
    expected[1, 2] = False
    assert_masks_are(ours, {"wrapped": [expected]})
    assert_same_outputs(theirs, ours)


def test_a_kernel_of_zeros_alone_is_not_taken_for_pruned():
    theirs = tf_keras.Sequential([K.Dense(2, input_shape=(3,), kernel_initializer="zeros")])
    assert our_masks(from_tfmot(theirs)) == {}


# Files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["h5", "keras"])
@pytest.mark.parametrize("make", [mlp, cnn, boxed])
@pytest.mark.parametrize("is_wrapped", [True, False], ids=["wrapped", "stripped"])
@pytest.mark.filterwarnings("ignore:.*HDF5 file")
def test_a_file_is_taken_over_as_its_model(make, ending, is_wrapped, tmp_path):
    theirs = pruned(make)
    masks = tfmot_masks(theirs)
    theirs = theirs if is_wrapped else tfmot.strip_pruning(theirs)
    theirs.save(tmp_path / f"model.{ending}")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*without comparing")
        ours = from_tfmot(tmp_path / f"model.{ending}")
    assert_same_outputs(theirs, ours)
    assert_masks_are(ours, masks)


@pytest.mark.parametrize("ending", ["h5", "keras"])
@pytest.mark.filterwarnings("ignore:.*HDF5 file")
def test_files_of_cells_and_of_layers_in_layers(ending, tmp_path):
    theirs = zeroed(words())
    theirs.save(tmp_path / f"model.{ending}")
    assert_same_outputs(theirs, from_tfmot(str(tmp_path / f"model.{ending}")))


def test_a_keras_file_of_wrapped_recurrent_layers(tmp_path):
    theirs = pruned(recurrent)
    theirs.save(tmp_path / "model.keras")
    assert_masks_are(from_tfmot(tmp_path / "model.keras"), tfmot_masks(theirs))


BLOCKED = """
    import sys, warnings
    for name in ("tf_keras", "tensorflow_model_optimization"):
        sys.modules[name] = None  # importing them fails
    import numpy as np, keras
    from tfprune.interop.tfmot import from_tfmot
    directory = sys.argv[1]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = from_tfmot(directory + "/model.h5")
    assert any("without comparing" in str(w.message) for w in caught), caught
    stored = np.load(directory + "/arrays.npz")
    np.testing.assert_allclose(model(stored["x"]), stored["y"], rtol=1e-5, atol=1e-6)
    mask = np.asarray(model.get_layer("hidden").trainable_masks["kernel"])
    np.testing.assert_array_equal(mask, stored["mask"])
    try:
        from_tfmot(directory + "/model.keras")
    except ModuleNotFoundError as error:
        assert "pip install 'tfprune[tfmot]'" in str(error)
    else:
        raise AssertionError("the .keras file was read")
"""


@pytest.mark.filterwarnings("ignore:.*HDF5 file")
def test_an_h5_file_is_read_without_tf_keras(tmp_path):
    theirs = pruned(mlp)
    theirs.save(tmp_path / "model.h5")
    theirs.save(tmp_path / "model.keras")
    x = arrays(theirs)
    [mask] = tfmot_masks(theirs)["hidden"]
    np.savez(tmp_path / "arrays.npz", x=x, y=call(theirs, x)[0], mask=mask)
    code = [sys.executable, "-c", textwrap.dedent(BLOCKED), str(tmp_path)]
    done = subprocess.run(code, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Strip --------------------------------------------------------------------------------------------


def test_strip_removes_what_strip_pruning_leaves():
    theirs = pruned(mlp)
    kernel = theirs.layers[1].layer.kernel
    value = kernel.numpy()
    value[:, [0, 3, 4]] = 0
    kernel.assign(value)
    theirs.layers[1].pruning_vars[0][1].assign(value != 0)
    theirs = tfmot.strip_pruning(theirs)
    small = tfprune.strip(from_tfmot(theirs))
    assert small.get_layer("hidden").units == 13
    assert small.get_layer("norm").gamma.shape == (13,)
    assert small.count_params() < theirs.count_params()
    assert_same_outputs(theirs, small)


def test_strip_of_recurrent_units():
    theirs = randomised(recurrent())
    for weight in (theirs.get_layer("gru").weights[0], theirs.get_layer("lstm").weights[1]):
        value = weight.numpy()
        value[[1, 4, 6]] = 0  # what the GRU and the other units read of three units of the LSTM
        weight.assign(value)
    small = tfprune.strip(from_tfmot(theirs))
    assert [layer.units for layer in small.layers] == [5, 6, 3]
    assert_same_outputs(theirs, small)


# What cannot be taken over ------------------------------------------------------------------------


@tf_keras.utils.register_keras_serializable("test_tfmot")
class Scale(K.Layer):
    def build(self, shape):
        self.scale = self.add_weight("scale", shape=shape[-1:], initializer="ones")

    def call(self, inputs):
        return inputs * self.scale


class Scale3(keras.layers.Layer):
    def build(self, shape):
        self.scale = self.add_weight(name="scale", shape=shape[-1:], initializer="ones")

    def call(self, inputs):
        return inputs * self.scale


def test_a_layer_of_ones_own_is_traced_or_taken_from_custom_objects():
    theirs = randomised(tf_keras.Sequential([K.Dense(3, input_shape=(2,)), Scale(name="mine")]))
    assert_same_outputs(theirs, from_tfmot(theirs))
    ours = from_tfmot(theirs, custom_objects={"Scale": Scale3})
    assert isinstance(ours.get_layer("mine"), Scale3)
    assert_same_outputs(theirs, ours)


def test_what_would_compute_something_else_is_refused():
    theirs = tf_keras.Sequential([K.Dense(2, "hard_sigmoid", input_shape=(3,), name="d")])
    with pytest.raises(ValueError, match="layer='d'"):
        from_tfmot(theirs)
    theirs = tf_keras.Sequential([K.LSTM(2, time_major=True, input_shape=(3, 2), name="r")])
    with pytest.raises(ValueError, match="layer='r'.*time_major=True"):
        from_tfmot(theirs)


@pytest.mark.parametrize("wrong", ["missing.h5", "missing.txt", keras.Sequential()])
def test_what_is_no_model_of_tf_keras(wrong):
    with pytest.raises(ValueError, match="Argument `model_or_path`"):
        from_tfmot(wrong)


def test_a_model_that_is_not_built_or_subclassed():
    with pytest.raises(ValueError, match="not built"):
        from_tfmot(tf_keras.Sequential([K.Dense(2)]))

    class Mine(tf_keras.Model):
        pass

    with pytest.raises(ValueError, match="subclassed"):
        from_tfmot(Mine())


def test_a_difference_is_an_error():
    class Twice(Scale3):
        def call(self, inputs):
            return 2 * super().call(inputs)

    theirs = randomised(tf_keras.Sequential([K.Dense(3, input_shape=(2,)), Scale(name="mine")]))
    with pytest.raises(RuntimeError, match="does not compute"):
        from_tfmot(theirs, custom_objects={"Scale": Twice})
