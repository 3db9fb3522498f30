"""Training with hard concrete gates: interrupted, seeded, in half precision, refused."""

import keras
import numpy as np
import pytest

import tfprune
from tests.units.gated_models import X, Y, by_hand, fit, gate, mlp
from tfprune.callbacks import BackupAndRestore, PruneUnits, RegularizeUnits
from tfprune.units.regularizers import L0


def test_an_interrupted_training_ends_as_it_would_have(tmp_path):
    def train(stop_at=None, folder=None):
        keras.backend.clear_session()
        model = mlp(keras.optimizers.Adam(0.05), units=8)
        callbacks = [RegularizeUnits(L0(0.5, seed=2))]
        if folder:
            callbacks.append(BackupAndRestore(folder, save_freq=4))

        def stop(batch, logs=None):
            if stop_at is not None and int(model.optimizer.iterations) == stop_at:
                raise KeyboardInterrupt

        callbacks.append(keras.callbacks.LambdaCallback(on_train_batch_end=stop))
        try:
            fit(model, *callbacks, epochs=4)
        except KeyboardInterrupt:
            return None
        return model.get_weights()

    whole = train()
    train(stop_at=11, folder=tmp_path)
    for one, other in zip(whole, train(folder=tmp_path), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_same_seed_gives_the_same_and_another_another():
    def trained(seed):
        model = mlp()
        fit(model, RegularizeUnits(L0(0.5, seed=seed)))
        return model.get_weights()

    one, again, other = trained(1), trained(1), trained(2)
    assert all((a == b).all() for a, b in zip(one, again, strict=True))
    assert any((a != b).any() for a, b in zip(one, other, strict=True))


def test_predict_and_evaluate_in_between_have_the_gates():
    model, regularizer = mlp(), L0(0.5, dropout=0.4, seed=0)
    model.predict(X, verbose=0)  # traced without gates
    found = []

    def look(epoch, logs=None):
        z = gate(np.array(regularizer.gates.log_alpha, "float64"))
        found.append((model.predict(X, verbose=0), by_hand(model, z)))

    fit(model, RegularizeUnits(regularizer), keras.callbacks.LambdaCallback(on_epoch_end=look))
    for one, other in found:
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    after = by_hand(model, 1.0)
    np.testing.assert_allclose(model.predict(X, verbose=0), after, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision(policy):
    keras.config.set_dtype_policy(policy)
    model = mlp(keras.optimizers.Adam(0.05), units=8)
    regularizer = L0(20.0, optimizer=keras.optimizers.Adam(0.2), seed=0)
    history = fit(model, RegularizeUnits(regularizer), epochs=12).history
    assert history["open_units"][-1] < 0.5
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


@pytest.mark.parametrize(
    "made", [L0(0.3, cost="macs", seed=4), L0(optimizer=keras.optimizers.Adam(0.01), dropout=0.3)]
)
def test_config_round_trip(made):
    callback = RegularizeUnits(made, only=["first"])
    config = keras.saving.serialize_keras_object(callback)
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == callback.get_config()
    assert type(again.regularizer) is L0
    fit(mlp(), again)


def test_what_cannot_be_done_is_refused():
    with pytest.raises(ValueError, match="`dropout` must be"):
        L0(dropout=0)
    with pytest.raises(ValueError, match="`cost` must be one of"):
        L0(cost="latency")
    with pytest.raises(ValueError, match="RegularizeUnits"):
        PruneUnits(0.5, regularizer="l0")
    stock = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    stock.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"tfprune\.prunable"):
        L0().attach(stock)
    bare = tfprune.prunable(
        keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    )
    with pytest.raises(ValueError, match="no optimizer"):
        L0().attach(bare)
    model = mlp()
    with pytest.raises(ValueError, match="when the model is rebuilt.*L0"):
        tfprune.fit_and_shrink(
            model, X, Y, stages=[0.5], epochs=2, verbose=0, callbacks=[RegularizeUnits("l0")]
        )
    first, second = L0(), L0()
    first.attach(model)
    with pytest.raises(ValueError, match="one of `StraightThrough`.*'last'"):
        second.attach(model)
    assert second.model is None and first.model is model
    first.detach()
