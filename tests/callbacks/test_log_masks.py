import csv
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tfprune import layers
from tfprune.callbacks import LogMasks, PruneWeights
from tfprune.schedules import PolynomialDecay

X, Y = np.ones((24, 6), "float32"), np.ones((24, 2), "float32")
SCHEDULE = PolynomialDecay(0.0, 0.5, 0, 12, power=1, frequency=6)
NAMES = ["sparsity/first/kernel", "sparsity/last/kernel"]


def mlp(**kwargs):
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(10, name="first"), layers.Dense(2, name="last")]
    )
    model.compile("sgd", "mse", **kwargs)
    return model


def fit(model, *callbacks, epochs=2):
    return model.fit(X, Y, batch_size=4, epochs=epochs, verbose=0, callbacks=list(callbacks))


def events(directory):
    """(step, tag) -> array, of all event files in a directory."""
    found = {}
    for path in sorted(directory.rglob("events.out.tfevents.*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                plugin = value.metadata.plugin_data.plugin_name
                assert plugin in ("", "scalars" if "sparsity" in value.tag else "histograms")
                found[event.step, value.tag] = tf.make_ndarray(value.tensor)
    return found


def test_the_logs_of_each_epoch_have_the_sparsity_of_each_kernel():
    history = fit(mlp(), PruneWeights(SCHEDULE), LogMasks()).history
    assert [name for name in history if "/" in name] == NAMES
    for name in NAMES:
        assert history[name] == [0.25, 0.5]


def test_the_names_stay_so_that_a_csv_file_has_a_column_for_each(tmp_path):
    path = tmp_path / "log.csv"
    fit(mlp(), PruneWeights(SCHEDULE), LogMasks(), keras.callbacks.CSVLogger(path))
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row[NAMES[0]]) for row in rows] == [0.25, 0.5]


def test_which_weights_are_logged_can_be_chosen():
    model = mlp()
    tfprune.set_masks(model, "last", "bias", trainable=[0])
    predicate = LogMasks(only=lambda layer, name: name == "bias", exclude=["first"])
    assert fit(model, predicate).history["sparsity/last/bias"] == [0.5, 0.5]


def test_layers_of_one_name_have_names_of_their_own():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.twins = [layers.Dense(6, name="twin"), layers.Dense(2, name="twin")]

        def call(self, x):
            return self.twins[1](self.twins[0](x))

    model = Model()
    model.compile("sgd", "mse")
    model(X)
    tfprune.set_masks(model, model.twins[1], "kernel", trainable=False)
    history = fit(model, LogMasks(), epochs=1).history
    assert history["sparsity/twin/kernel"] == [0.0]
    assert history["sparsity/twin/kernel_1"] == [1.0]


def test_event_files_hold_scalars_and_histograms_of_the_kept_elements(tmp_path):
    model = mlp()
    fit(model, PruneWeights(SCHEDULE), LogMasks(tmp_path))
    found = events(tmp_path)
    assert {key: float(value) for key, value in found.items() if "sparsity" in key[1]} == {
        (step, name): share for step, share in ((6, 0.25), (12, 0.5)) for name in NAMES
    }
    kernel = np.asarray(model.get_layer("first").kernel, "float64")
    kept = kernel[kernel != 0]
    histogram = found[12, "weights/first/kernel"]
    assert histogram.shape[1] == 3 and histogram[:, 2].sum() == kept.size == 30
    assert histogram[0, 0] == kept.min() and histogram[-1, 1] == kept.max()
    for left, right, count in histogram[:-1]:
        assert count == np.sum((left <= kept) & (kept < right))


@pytest.mark.parametrize(
    ("steps_per_execution", "steps"), [(1, {3, 6, 9, 12}), (2, {4, 6, 10, 12})]
)
def test_event_files_every_few_steps(tmp_path, steps_per_execution, steps):
    fit(mlp(steps_per_execution=steps_per_execution), LogMasks(tmp_path, frequency=3))
    assert {step for step, _ in events(tmp_path)} == steps


def test_histograms_can_be_left_out(tmp_path):
    fit(mlp(), LogMasks(tmp_path, histograms=False))
    assert {tag for _, tag in events(tmp_path)} == set(NAMES)


def test_a_weight_that_is_pruned_as_a_whole_has_an_empty_histogram(tmp_path):
    model = mlp()
    tfprune.set_masks(model, "first", "kernel", trainable=False)
    fit(model, LogMasks(tmp_path))
    assert events(tmp_path)[12, "weights/first/kernel"][:, 2].sum() == 0


def test_tensorboard_is_not_needed(tmp_path):
    code = (
        "import sys; sys.modules['tensorboard'] = None\n"
        "import keras, numpy as np, tfprune\n"
        "model = keras.Sequential([keras.Input((2,)), tfprune.layers.Dense(2)])\n"
        "model.compile('sgd', 'mse')\n"
        "log = tfprune.callbacks.LogMasks(sys.argv[1])\n"
        "model.fit(np.ones((2, 2)), np.ones((2, 2)), verbose=0, callbacks=[log])\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert len(events(tmp_path)) == 2


@pytest.mark.parametrize("frequency", [0, -1, "step", True, 1.5])
def test_a_frequency_that_is_none_is_refused(frequency):
    with pytest.raises(ValueError, match="`frequency` must be"):
        LogMasks(frequency=frequency)


def test_a_model_without_masks_is_refused():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="no weights that carry masks"):
        fit(model, LogMasks())


def test_configuration_makes_the_callback_again(tmp_path):
    callback = LogMasks(tmp_path, frequency=5, histograms=False, only=["first"])
    config = keras.saving.serialize_keras_object(callback)
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == callback.get_config()
    assert (again.log_dir, again.frequency, again.only) == (str(tmp_path), 5, ["first"])
