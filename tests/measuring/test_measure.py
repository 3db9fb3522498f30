import collections
import pathlib
import shutil
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tfprune.measuring import measure

L = keras.layers


def sequential(*layers, shape=(3,), **kwargs):
    return keras.Sequential([keras.Input(shape), *layers], **kwargs)


class Sleeps(L.Layer):
    """Takes a known time at inference, and notes when it was called."""

    def __init__(self, seconds, log=None, **kwargs):
        super().__init__(**kwargs)
        self.seconds = seconds
        self.log = collections.deque() if log is None else log

    def call(self, inputs):
        def sleep(array):
            time.sleep(self.seconds)
            self.log.append((self.name, len(array)))
            return array

        return tf.ensure_shape(tf.numpy_function(sleep, [inputs], tf.float32), inputs.shape)

    def compute_output_shape(self, shape):
        return shape


# Stock view --------------------------------------------------------------------------------------


def test_without_masks_has_stock_layers_the_same_weights_and_outputs():
    model = sequential(
        tfprune.layers.Dense(4, "relu", name="a"), L.Dropout(0.5), tfprune.layers.Dense(2)
    )
    tfprune.set_masks(model, "a", "kernel", trainable=np.s_[:, 1:])
    stock = measure.without_masks(model)
    assert not tfprune.masks.masked_layers(stock)
    for ours, theirs in zip(model.get_weights(), stock.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    x = np.random.default_rng(1).normal(size=(5, 3)).astype("float32")
    np.testing.assert_array_equal(model(x), stock(x))


def test_without_masks_is_the_model_itself_if_it_has_none():
    model = sequential(L.Dense(2))
    assert measure.without_masks(model) is model


# Bytes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["saved_model", "keras"])
def test_bytes_are_those_of_the_weights_and_little_more(format):
    model = sequential(L.Dense(1000), L.Dense(300), shape=(100,))
    weights = 4 * (100 * 1000 + 1000 + 1000 * 300 + 300)
    assert weights < measure.bytes_on_disk(model, format) < 1.1 * weights


@pytest.mark.parametrize("format", ["saved_model", "keras"])
def test_a_model_of_zeros_in_nine_of_ten_elements_zips_to_a_fraction(format):
    dense, sparse = (sequential(tfprune.layers.Dense(600, name="d"), shape=(500,)) for _ in "ab")
    tfprune.prune_weights(sparse, 0.9)
    sizes = [measure.size_on_disk(measure.without_masks(m), format) for m in (dense, sparse)]
    assert sizes[0].bytes == pytest.approx(sizes[1].bytes, rel=1e-3)
    assert sizes[0].zipped > 0.85 * sizes[0].bytes
    assert sizes[1].zipped < 0.2 * sizes[1].bytes
    alone = measure.bytes_on_disk(measure.without_masks(dense), format)
    assert sizes[0].bytes == pytest.approx(alone, rel=1e-3)


def test_the_file_of_a_masked_model_zips_to_little_more_than_its_weights(tmp_path):
    model = sequential(tfprune.layers.Dense(600, name="d"), shape=(500,))
    tfprune.prune_weights(model, 0.9)
    model.save(tmp_path / "masked.keras")
    measure.without_masks(model).save(tmp_path / "stock.keras")
    masked, stock = (measure.file_size(tmp_path / f"{n}.keras") for n in ("masked", "stock"))
    masks = 2 * 500 * 600 / 8  # bits, of which those of the frozen mask are all 0
    assert stock.bytes + masks <= masked.bytes < stock.bytes + 1.2 * masks
    assert masked.zipped < stock.zipped + 0.5 * masks < 0.25 * masked.bytes


def test_the_zipped_size_is_that_of_a_zip_file(tmp_path):
    (tmp_path / "model" / "deep").mkdir(parents=True)
    (tmp_path / "model" / "a").write_bytes(b"abc" * 1000)
    (tmp_path / "model" / "deep" / "b").write_bytes(np.random.default_rng(0).bytes(500))
    archive = shutil.make_archive(tmp_path / "archive", "zip", tmp_path, "model")
    found = measure.file_size(tmp_path / "model")
    assert found.bytes == 3500
    # That archive has entries for the directories too.
    assert found.zipped == pytest.approx(pathlib.Path(archive).stat().st_size, abs=300)
    assert 500 < found.zipped < 1000


def test_nothing_to_measure_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or directory"):
        measure.file_size(tmp_path / "missing")


# Latency -----------------------------------------------------------------------------------------


def test_latency_is_the_time_a_call_takes():
    models = [sequential(Sleeps(seconds)) for seconds in (0.002, 0.02)]
    short, long = measure.latency(models)
    assert 0.002 <= short < 0.02 <= long < 0.1


def test_latency_takes_models_in_turns_on_the_batch_size_given():
    log = collections.deque()  # Keras would copy a list
    models = [sequential(Sleeps(0.001, log, name=name)) for name in "ab"]
    measure.latency(models, batch_size=7)
    assert {size for _, size in log} == {7}
    names = "".join(name for name, _ in log)
    assert names.count("a") == names.count("b") >= 15
    turns = {names[i : i + 2] for i in range(0, len(names), 2)}
    assert turns == {"ab", "ba"}


def test_latency_of_a_dynamic_size_needs_the_size():
    model = sequential(L.Conv1D(2, 3), shape=(None, 3))
    with pytest.raises(ValueError, match="`input_shapes` must be given"):
        measure.latency([model])
    assert measure.latency([model], input_shapes=(8, 3))[0] > 0


def test_latency_of_a_fixed_batch_is_measured_at_that_batch_only():
    inputs = keras.Input(batch_shape=(4, 3))
    model = keras.Model(inputs, L.Dense(2)(inputs))
    assert measure.latency([model], batch_size=4)[0] > 0
    with pytest.raises(ValueError, match="`batch_size` must be the one that the model fixes"):
        measure.latency([model], batch_size=1)


# Metrics -----------------------------------------------------------------------------------------


def classifier():
    return sequential(L.Dense(4, "softmax"))


def data(count=50):
    generator = np.random.default_rng(3)
    return generator.normal(size=(count, 3)).astype("float32"), generator.integers(0, 4, count)


def accuracy_by_hand(model, x, y):
    return np.mean(np.argmax(np.asarray(model(x)), axis=1) == y)


@pytest.mark.parametrize("metrics", [["accuracy"], [keras.metrics.SparseCategoricalAccuracy()]])
@pytest.mark.parametrize("batched", [False, True])
def test_metrics_are_those_counted_by_hand(metrics, batched):
    model, (x, y) = classifier(), data()
    given = tf.data.Dataset.from_tensor_slices((x, y)).batch(8) if batched else (x, y)
    (value,) = measure.evaluate(model, given, metrics).values()
    assert value == pytest.approx(accuracy_by_hand(model, x, y))


def test_metrics_of_several_outputs_come_by_name():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, [L.Dense(1, name="p")(inputs), L.Dense(1, name="q")(inputs)])
    x = data()[0]
    found = measure.evaluate(model, (x, [x[:, :1], x[:, 1:2]]), [["mae"], ["mse"]])
    p, q = model(x)
    assert found == {
        "p_mae": pytest.approx(np.mean(np.abs(p - x[:, :1])), rel=1e-5),
        "q_mse": pytest.approx(np.mean((q - x[:, 1:2]) ** 2), rel=1e-5),
    }


def test_compiled_metrics_are_the_default_and_the_compile_state_stays():
    model = classifier()
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    optimizer = model.optimizer
    x, y = data()
    found = measure.evaluate(model, (x, y))
    assert found["accuracy"] == pytest.approx(accuracy_by_hand(model, x, y))
    likelihoods = np.asarray(model(x))[np.arange(len(y)), y]
    assert found["loss"] == pytest.approx(-np.mean(np.log(likelihoods)), rel=1e-4)
    assert set(measure.evaluate(model, (x, y), ["accuracy"])) == {"accuracy"}
    assert model.optimizer is optimizer
    assert set(measure.evaluate(model, (x, y))) == {"loss", "accuracy"}


def test_no_metrics_and_not_compiled_is_refused():
    with pytest.raises(ValueError, match="`metrics` must be given"):
        measure.evaluate(classifier(), data())


def test_data_that_can_be_gone_through_once_only_is_refused():
    with pytest.raises(ValueError, match="Argument `data` must be"):
        measure.evaluate(classifier(), iter([data()]), ["accuracy"])


def test_shapes_in_data_are_those_of_the_inputs():
    x, y = data()
    assert measure.shapes_in((x, y)) == (3,)
    assert measure.shapes_in(({"a": x, "b": x[:, :2]}, y)) == {"a": (3,), "b": (2,)}
    dataset = tf.data.Dataset.from_tensor_slices(([x, x], y)[0][0]).batch(5)
    assert measure.shapes_in(dataset) == (3,)
    pairs = tf.data.Dataset.from_tensor_slices((x, y)).batch(5)
    assert measure.shapes_in(pairs) == (3,)
