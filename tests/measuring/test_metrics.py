import keras
import numpy as np
import pytest
import tensorflow as tf

from tfprune.measuring.metrics import evaluate, shapes_in

L = keras.layers


def sequential(*layers, shape=(3,), **kwargs):
    return keras.Sequential([keras.Input(shape), *layers], **kwargs)


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
    (value,) = evaluate(model, given, metrics).values()
    assert value == pytest.approx(accuracy_by_hand(model, x, y))


def test_metrics_of_several_outputs_come_by_name():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, [L.Dense(1, name="p")(inputs), L.Dense(1, name="q")(inputs)])
    x = data()[0]
    found = evaluate(model, (x, [x[:, :1], x[:, 1:2]]), [["mae"], ["mse"]])
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
    found = evaluate(model, (x, y))
    assert found["accuracy"] == pytest.approx(accuracy_by_hand(model, x, y))
    likelihoods = np.asarray(model(x))[np.arange(len(y)), y]
    assert found["loss"] == pytest.approx(-np.mean(np.log(likelihoods)), rel=1e-4)
    assert set(evaluate(model, (x, y), ["accuracy"])) == {"accuracy"}
    assert model.optimizer is optimizer
    assert set(evaluate(model, (x, y))) == {"loss", "accuracy"}


def test_no_metrics_and_not_compiled_is_refused():
    with pytest.raises(ValueError, match="`metrics` must be given"):
        evaluate(classifier(), data())


def test_data_that_can_be_gone_through_once_only_is_refused():
    with pytest.raises(ValueError, match="Argument `data` must be"):
        evaluate(classifier(), iter([data()]), ["accuracy"])


def test_shapes_in_data_are_those_of_the_inputs():
    x, y = data()
    assert shapes_in((x, y)) == (3,)
    assert shapes_in(({"a": x, "b": x[:, :2]}, y)) == {"a": (3,), "b": (2,)}
    dataset = tf.data.Dataset.from_tensor_slices(([x, x], y)[0][0]).batch(5)
    assert shapes_in(dataset) == (3,)
    pairs = tf.data.Dataset.from_tensor_slices((x, y)).batch(5)
    assert shapes_in(pairs) == (3,)
