"""What goes wrong while a model is pruned says so, and leaves the masks as they were."""

import keras
import numpy as np
import pytest

from tfprune import layers, prune_units, prune_weights, strip
from tfprune.callbacks import (
    DynamicSurgery,
    PruneUnits,
    PruneWeights,
    RegularizeUnits,
    Rewire,
    StraightThrough,
)
from tfprune.masks.setting import count_masks, masked_layers
from tfprune.schedules import Constant, OneShot, PolynomialDecay
from tfprune.units.regularizers import L0

X, Y = np.ones((8, 4), "float32"), np.ones((8, 2), "float32")


def compiled_model():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(6, activation="relu", name="first"),
            layers.Dense(5, activation="relu", name="second"),
            layers.Dense(2, name="last"),
        ]
    )
    model.compile("sgd", "mse")
    return model


def fit(model, *callbacks, epochs=4):
    return model.fit(X, Y, batch_size=4, epochs=epochs, verbose=0, callbacks=list(callbacks))


def masks(model):
    return [
        np.asarray(mask.trainable).copy()
        for layer in masked_layers(model)
        for mask in layer.masks_by_name.values()
    ]


class Spoil(keras.callbacks.Callback):
    """Puts a value into one kernel after the third step, and notes the masks of that moment."""

    def __init__(self, layer, value):
        super().__init__()
        self.layer, self.value = layer, value

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations.numpy()) == 3:
            kernel = self.model.get_layer(self.layer).kernel
            kernel.assign(np.full(kernel.shape, self.value))
            self.masks = masks(self.model)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("distribution", ["uniform", "global"])
def test_weights_that_are_not_finite_name_their_layer(value, distribution):
    model, spoil = compiled_model(), Spoil("second", value)
    callback = PruneWeights(PolynomialDecay(0.1, 0.8, 1, 7, frequency=2), distribution=distribution)
    with pytest.raises(ValueError, match="(?s)'kernel' of layer 'second'.*must be finite"):
        fit(model, spoil, callback)
    assert count_masks(model).pruned > 0
    np.testing.assert_equal(masks(model), spoil.masks)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_units_whose_scores_are_not_finite_name_their_layer(value):
    model, spoil = compiled_model(), Spoil("second", value)
    with pytest.raises(ValueError, match="(?s)(finite.*'second'|'second'.*finite)"):
        fit(model, spoil, PruneUnits(PolynomialDecay(0.1, 0.8, 1, 7, frequency=2)))
    assert count_masks(model).pruned > 0
    np.testing.assert_equal(masks(model), spoil.masks)


def test_data_that_runs_out_at_the_second_update():
    model = compiled_model()
    batches = (batch for batch in [(X, Y)] * 2)
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: seen.append(masks(model))
    )
    callback = PruneWeights(PolynomialDecay(0.2, 0.8, 1, 7, frequency=2), "gradient", data=batches)
    with pytest.raises(ValueError, match="generator can be gone through only once"):
        fit(model, callback, watch)
    assert count_masks(model).pruned > 0
    np.testing.assert_equal(masks(model), seen[-1])


@pytest.mark.parametrize(
    "model",
    [
        keras.Sequential(),
        keras.Sequential([keras.Input((4,))]),
        keras.Sequential([keras.Input((4,)), keras.layers.Flatten(), keras.layers.ReLU()]),
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]),
    ],
    ids=["empty", "input alone", "no weights", "stock"],
)
@pytest.mark.parametrize("prune", [prune_weights, prune_units])
def test_models_with_nothing_to_prune(model, prune):
    with pytest.raises(ValueError, match=r"Received: model=.*(tfprune\.prunable|and add layers)"):
        prune(model, 0.5)


@pytest.mark.parametrize("callback", [PruneWeights(0.5), PruneUnits(0.5)])
def test_callbacks_refuse_a_model_with_nothing_to_prune_before_it_trains(callback):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"tfprune\.prunable"):
        fit(model, callback)
    assert int(model.optimizer.iterations.numpy()) == 0


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (
            lambda: PruneWeights(OneShot(0.5, 0)),
            lambda: PruneWeights(Constant(0.7), only=["second"]),
            "weight 'kernel' of layer 'second'.*PruneWeights.*OneShot.*PruneWeights.*Constant",
        ),
        (
            lambda: PruneUnits(OneShot(0.5, 0)),
            lambda: PruneUnits(0.25, only=["first"]),
            "units of layer 'first'.*PruneUnits.*OneShot.*PruneUnits.*0.25",
        ),
        (
            lambda: PruneWeights(OneShot(0.5, 0)),
            lambda: Rewire(0.7, only=["second"], decay="constant"),
            "weight 'kernel' of layer 'second'.*PruneWeights.*Rewire",
        ),
        (  # it would let elements of pruned units grow
            lambda: PruneUnits(OneShot(0.5, 0), only=["first"]),
            lambda: Rewire(0.7, decay="constant"),
            "units of layer 'first'.*PruneUnits.*Rewire",
        ),
        (
            lambda: StraightThrough(OneShot(0.5, 0)),
            lambda: PruneWeights(0.5, only=["first"]),
            "weight 'kernel' of layer 'first'.*StraightThrough.*PruneWeights",
        ),
    ],
    ids=["weights", "units", "rewired", "rewired units", "straight through"],
)
def test_two_callbacks_that_prune_the_same_are_refused_before_anything_is_pruned(
    one, other, message
):
    model = compiled_model()
    with pytest.raises(ValueError, match=f"(?s)prune the same: {message}"):
        fit(model, one(), other())
    assert count_masks(model).pruned == 0


def test_callbacks_of_different_weights_and_of_weights_and_units_go_together():
    model = compiled_model()
    callbacks = [
        PruneWeights(0.5, only=["first"]),
        PruneWeights(0.7, exclude=["first"]),
        PruneUnits(OneShot(0.5, 2), only=["second"]),
    ]
    history = fit(model, *callbacks).history
    assert history["unit_sparsity"][-1] == 0.4
    assert history["sparsity"][-1] >= 0.5


def test_a_training_that_failed_does_not_stand_in_the_way_of_the_next():
    model, failed = compiled_model(), PruneWeights(0.5)
    with pytest.raises(ValueError, match="prune the same"):
        fit(model, failed, PruneWeights(0.6))
    other = PruneWeights(0.7)
    fit(model, other, epochs=1)
    fit(model, failed, epochs=1)
    assert failed.params is not other.params


class Break(keras.callbacks.Callback):
    """An error after the third step."""

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations.numpy()) == 3:
            raise InterruptedError


@pytest.mark.parametrize(
    ("callback", "finish"),
    [
        (StraightThrough(0.5), StraightThrough.finish),
        (DynamicSurgery(0.5), DynamicSurgery.finish),
        (RegularizeUnits(L0(0.1, seed=0)), lambda callback, model: callback.regularizer.detach()),
    ],
    ids=["straight_through", "dynamic_surgery", "l0"],
)
def test_strip_refuses_what_a_training_that_broke_off_left_and_says_what_to_do(callback, finish):
    model = compiled_model()
    with pytest.raises(InterruptedError):
        fit(model, callback, Break())
    with pytest.raises(ValueError, match=r"layer='\w+', weight='kernel'.*`finish\(model\)`"):
        strip(model)
    finish(callback, model)
    np.testing.assert_allclose(strip(model)(X), model(X), rtol=1e-5, atol=1e-6)
