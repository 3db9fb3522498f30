import keras
import numpy as np
import pytest

import tfprune
from tests.small_mlp import counting_traces
from tfprune import layers
from tfprune.callbacks import StraightThrough
from tfprune.schedules import Linear, OneShot, PolynomialDecay

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 6)).astype("float32")
Y = RNG.normal(size=(24, 3)).astype("float32")


def linear(kernel, optimizer=None, **kwargs):
    """y = x w, with the weights given."""
    kernel = np.asarray(kernel, "float32")
    layer = layers.Dense(kernel.shape[1], use_bias=False, name="d")
    model = keras.Sequential([keras.Input((kernel.shape[0],)), layer])
    layer.set_weights([kernel])
    model.compile(optimizer or keras.optimizers.SGD(0.1), "mse", **kwargs)
    return model


def mlp(optimizer="adam", **kwargs):
    first = layers.Dense(10, activation="relu", name="first")
    model = keras.Sequential([keras.Input((6,)), first, layers.Dense(3, name="last")])
    model.compile(optimizer, "mse", **kwargs)
    return model


def fit(model, *callbacks, x=X, y=Y, epochs=2, batch_size=4, **kwargs):
    options = {"batch_size": batch_size, "epochs": epochs, "shuffle": False, "verbose": 0}
    return model.fit(x, y, callbacks=list(callbacks), **options, **kwargs)


def largest(kernel, count):
    first = np.argsort(-np.abs(kernel).ravel(), kind="stable")[:count]
    return np.isin(np.arange(kernel.size), first).reshape(kernel.shape)


class Inspect(keras.callbacks.Callback):
    """Calls a function after each step."""

    def __init__(self, look):
        super().__init__()
        self.look = look

    def on_train_batch_end(self, batch, logs=None):
        self.look(self.model)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_steps_are_those_counted_by_hand(jit_compile):
    kernel = RNG.normal(size=(6, 3)).astype("float32")
    model = linear(kernel, jit_compile=jit_compile)
    truth, seen = [kernel.astype("float64")], []
    for start in range(0, 24, 4):
        x, y = X[start : start + 4], Y[start : start + 4]
        w = truth[-1]
        error = x @ (w * largest(w, 9)) - y
        truth.append(w - 0.1 * 2 * x.T @ error / error.size)  # for every element of w
    look = Inspect(lambda model: seen.append(np.array(model.layers[0].kernel)))
    fit(model, StraightThrough(0.5), look, epochs=1)
    for found, expected in zip(seen, truth[1:], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    kept = largest(truth[-1], 9)
    np.testing.assert_array_equal(model.layers[0].trainable_masks["kernel"], kept)
    np.testing.assert_allclose(model.layers[0].kernel, truth[-1] * kept, rtol=1e-4, atol=1e-6)


def test_an_element_that_is_out_comes_back():
    model = linear([[1.0], [0.9]])
    x, y = np.array([[0.0, 1.0]], "float32"), np.array([[5.0]], "float32")
    outputs = []
    look = Inspect(lambda model: outputs.append(float(model(np.ones((1, 2)))[0, 0])))
    model.fit(x, y, epochs=1, verbose=0, callbacks=[StraightThrough(0.5), look])
    # The second is out and grows by 0.1 * 2 * 5, so that the first is out now.
    assert outputs == [pytest.approx(1.9)]
    np.testing.assert_allclose(model.layers[0].kernel, [[0.0], [1.9]], rtol=1e-6)


def test_evaluate_and_predict_in_between_are_those_of_the_sparse_model():
    model = linear(RNG.normal(size=(6, 3)))
    model.evaluate(X, Y, verbose=0)  # traced while dense
    model.predict(X, verbose=0)
    found = []

    def look(model):
        kernel = np.array(model.layers[0].kernel)
        assert kernel.all()
        sparse = X @ (kernel * largest(kernel, 9))
        np.testing.assert_allclose(model.predict(X, verbose=0), sparse, rtol=1e-4, atol=1e-5)
        error = np.mean((sparse - Y) ** 2)
        found.append((model.evaluate(X, Y, verbose=0), error))

    fit(model, StraightThrough(0.5), Inspect(look), epochs=1, batch_size=12)
    assert len(found) == 2
    for loss, error in found:
        assert loss == pytest.approx(error, rel=1e-4)
    dense = X @ np.array(model.layers[0].kernel)
    np.testing.assert_allclose(model.predict(X, verbose=0), dense, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "adafactor"])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_sparsity_in_the_end_is_exact_and_holds(optimizer, jit_compile):
    model = mlp(optimizer, jit_compile=jit_compile)
    history = fit(model, StraightThrough(PolynomialDecay(0.0, 0.8, 0, 8))).history
    assert history["sparsity"][-1] == pytest.approx(72 / 90)
    fit(model)
    for name, kept in (("first", 12), ("last", 6)):
        layer = model.get_layer(name)
        assert np.count_nonzero(layer.trainable_masks["kernel"]) == kept
        assert np.count_nonzero(layer.kernel) == kept
    np.testing.assert_allclose(tfprune.strip(model)(X), model(X), rtol=1e-4, atol=1e-5)


def test_k_moves_on_the_schedule_without_tracing_anew():
    model, traces = counting_traces(3)
    counts = []

    def look(model):
        if not counts:
            traces.clear()
        counts.append(int(model.layers[0].masks_by_name["kernel"].transform.kept.numpy()))

    fit(model, StraightThrough(Linear(0.0, 0.5, 0, 9, frequency=3)), Inspect(look))
    assert counts == [18, 18, 15, 15, 15, 12, 12, 12, 9, 9, 9, 9]
    assert len(traces) == 0


def test_a_sparsity_of_zero_is_plain_training():
    plain, through = mlp(), mlp()
    through.set_weights(plain.get_weights())
    fit(plain)
    fit(through, StraightThrough(0.0))
    for one, other in zip(plain.get_weights(), through.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_masks_that_are_there_hold():
    model = linear(RNG.normal(size=(6, 3)))
    tfprune.set_masks(model, "d", "kernel", trainable=np.s_[1:], frozen=np.s_[5])
    frozen = np.array(model.layers[0].kernel)[5]
    fit(model, StraightThrough(0.5))
    kernel = np.array(model.layers[0].kernel)
    assert not kernel[0].any()
    np.testing.assert_array_equal(kernel[5], frozen)
    assert np.count_nonzero(kernel) == 9


def test_too_many_frozen_elements_are_an_error_that_names_the_weight():
    model = linear(RNG.normal(size=(6, 3)))
    tfprune.set_masks(model, "d", "kernel", frozen=np.s_[1:])
    with pytest.raises(ValueError, match="weight 'kernel' of layer 'd'.*unfreeze"):
        fit(model, StraightThrough(0.5))


def test_embeddings_and_recurrent_layers_train_through_it():
    tokens = keras.Input((5,), dtype="int32")
    x = layers.LSTM(3, name="lstm")(layers.Embedding(9, 4, name="embedding")(tokens))
    model = keras.Model(tokens, layers.Dense(2)(x))
    model.compile("adam", "mse")
    before = np.array(model.get_layer("embedding").embeddings)
    fit(model, StraightThrough(0.5), x=RNG.integers(0, 9, (16, 5)), y=np.ones((16, 2)))
    assert np.count_nonzero(model.get_layer("embedding").embeddings) == 18
    assert np.count_nonzero(model.get_layer("lstm").cell.recurrent_kernel) == 18
    after = np.array(model.get_layer("embedding").embeddings)
    assert (after[after != 0] != before[after != 0]).all()


def test_a_loop_of_ones_own_ends_with_finish():
    model = linear(RNG.normal(size=(6, 3)))
    callback = StraightThrough(OneShot(0.5, 1))
    callback.after_step(model)
    for _ in range(3):
        model.train_on_batch(X, Y)
        logs = callback.after_step(model)
    assert logs == {"sparsity": 0.5}
    assert np.array(model.layers[0].kernel).all()
    callback.finish(model)
    assert np.count_nonzero(model.layers[0].kernel) == 9
    assert model.layers[0].masks_by_name["kernel"].transform is None


def test_two_on_one_weight_are_refused():
    with pytest.raises(ValueError, match="prune the same.*'d'"):
        fit(linear(np.ones((6, 3))), StraightThrough(0.5), StraightThrough(0.5))


def test_one_ranking_over_all_weights_is_refused():
    with pytest.raises(ValueError, match="cannot be 'global'"):
        StraightThrough(0.5, distribution="global")


def test_layers_have_sparsities_of_their_own():
    model = mlp()
    fit(model, StraightThrough(OneShot(0.5, 2), distribution={"last": 0.9}))
    shares = {(w.layer, w.weight): w.sparsity for w in tfprune.summary(model).weights}
    assert shares["first", "kernel"] == 0.5
    assert shares["last", "kernel"] == pytest.approx(0.9)


def test_half_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = mlp()
    fit(model, StraightThrough(0.5))
    assert tfprune.summary(model).weights[0].sparsity == 0.5


def test_configuration_makes_the_callback_again():
    callback = StraightThrough(Linear(0.0, 0.5, 0, 9), distribution="erk", only=["first"])
    config = keras.saving.serialize_keras_object(callback)
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == callback.get_config()
    assert again.only == ["first"]
