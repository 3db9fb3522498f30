"""Files of `tf_keras` with functions and classes of one's own, with and without `tf_keras`."""

import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.interop.comparing import arrays, assert_same
from tests.interop.tf_keras_models import (
    Conditional3,
    conditional,
    of_function,
)
from tests.interop.tfmot_models import randomised
from tfprune.interop.tfmot import from_tfmot

pytestmark = pytest.mark.slow  # together; each builds and runs models of two Keras

K = tf_keras.layers


def of_stock_layers():
    inputs = tf_keras.Input((4, 6), name="given")
    x = K.Dense(8, name="wide")(inputs)
    x = tf.concat([tf.nn.relu(x) * 0.5, x[:, ::-1]], axis=-1) + tf.constant([1.0] * 16)
    x = tf.reshape(tf.transpose(x, [0, 2, 1]), [tf.shape(x)[0], -1])
    inside = tf_keras.Input((64,))
    nested = tf_keras.Model(inside, K.Dense(3, name="in")(tf.nn.tanh(inside)), name="nested")
    return randomised(tf_keras.Model(inputs, 1.0 - nested(x)))


WITHOUT = """
    import sys, warnings
    for name in ("tf_keras", "tensorflow_model_optimization"):
        sys.modules[name] = None  # importing them fails
    import numpy as np
    from tfprune.interop.tfmot import from_tfmot
    stored = np.load(sys.argv[1] + "/arrays.npz")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = from_tfmot(sys.argv[1] + "/model.h5")
        np.testing.assert_allclose(model(stored["x"]), stored["y"], rtol=1e-5, atol=1e-5)
        try:
            from_tfmot(sys.argv[1] + "/lambda.h5")
        except ValueError as error:
            assert "layer='mine' (Lambda)" in str(error) and "pass the model" in str(error), error
        else:
            raise AssertionError("the Lambda was taken over")
"""


@pytest.mark.filterwarnings("ignore:.*HDF5 file")
def test_h5_files_with_functions_load_with_and_without_tf_keras(tmp_path):
    theirs = of_stock_layers()
    theirs.save(tmp_path / "model.h5")
    assert_same(theirs, from_tfmot(tmp_path / "model.h5"))
    x = arrays(theirs)
    np.savez(tmp_path / "arrays.npz", x=x, y=np.asarray(theirs(x)))
    layers = [K.Dense(3, input_shape=(4,)), K.Lambda(lambda x: x * tf.nn.sigmoid(x), name="mine")]
    of_lambda = randomised(tf_keras.Sequential(layers))
    of_lambda.save(tmp_path / "lambda.h5")
    assert_same(of_lambda, from_tfmot(tmp_path / "lambda.h5"))
    code = [sys.executable, "-c", textwrap.dedent(WITHOUT), str(tmp_path)]
    done = subprocess.run(code, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.filterwarnings("ignore:.*HDF5 file", "ignore:.*without comparing")
def test_an_h5_file_with_a_class_of_keras_3(tmp_path):
    theirs = conditional()
    theirs.save(tmp_path / "model.h5")
    theirs.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="cannot load the file.*pass the model"):
        from_tfmot(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="layer='either' .*load the file with `tf_keras`"):
        from_tfmot(tmp_path / "model.h5")
    ours = from_tfmot(tmp_path / "model.h5", custom_objects={"Conditional": Conditional3})
    assert_same(theirs, ours)


@pytest.mark.filterwarnings("ignore:.*HDF5 file")
def test_files_that_do_not_load_say_what_to_do(tmp_path):
    theirs = of_function(lambda x: tf.einsum("abc,adc->abd", x, x))
    theirs.save(tmp_path / "einsum.h5")  # which loses the tensors
    with pytest.raises(ValueError, match="layer='tf.einsum.*stored without all of its arguments"):
        from_tfmot(tmp_path / "einsum.h5")
    of_stock_layers().save_weights(tmp_path / "weights.h5")
    with pytest.raises(ValueError, match="weights without a model.*pass the model"):
        from_tfmot(tmp_path / "weights.h5")
    (tmp_path / "text.h5").write_text("nothing")
    with pytest.raises(ValueError, match="neither an HDF5"):
        from_tfmot(tmp_path / "text.h5")
    new = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    for ending in ("h5", "keras"):
        new.save(tmp_path / f"new.{ending}")
        with pytest.raises(ValueError, match="written by Keras 3.*keras.saving.load_model"):
            from_tfmot(tmp_path / f"new.{ending}")
