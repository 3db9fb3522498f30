"""Freezing on a schedule, under `fit`."""

import keras
import numpy as np
import pytest

import tfprune
from tests.layers.masked_training import OPTIMIZERS
from tests.small_mlp import X, Y, assert_same, fit, mlp
from tfprune._keras.optimizers import slots
from tfprune.callbacks import FreezeWeights, PruneWeights
from tfprune.schedules import Constant, OneShot, PolynomialDecay


def frozen(model, layer, name="kernel"):
    return np.array(model.get_layer(layer).frozen_masks[name])


def everything(layer, name):
    return True


@keras.saving.register_keras_serializable("test_freeze_weights")
def is_bias(layer, name):
    return name == "bias"


class Watch(keras.callbacks.Callback):
    """Keeps, at every step, the frozen mask and the values of a weight."""

    def __init__(self, layer="first", name="kernel"):
        super().__init__()
        self.layer, self.name = layer, name
        self.masks, self.values = [], []

    def look(self):
        layer = self.model.get_layer(self.layer)
        self.masks.append(np.array(layer.frozen_masks[self.name]))
        self.values.append(np.array(layer.masked_weights[self.name]))

    def on_train_begin(self, logs=None):
        self.look()

    def on_train_batch_end(self, batch, logs=None):
        self.look()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["momentum", "AdamW", "Ftrl", "Muon"])
def test_under_any_optimizer_frozen_elements_do_not_move_by_a_bit_and_others_do(name):
    model = mlp(OPTIMIZERS[name](weight_decay=0.1, use_ema=True), jit_compile=False)
    schedule = PolynomialDecay(0.3, 0.7, 2, 8, frequency=3)
    callback, watch = FreezeWeights(schedule, "random", only=everything), Watch()
    fit(model, callback, watch)
    counts = [mask.sum() for mask in watch.masks]
    assert counts[1:] == [0, 18, 18, 18, *[counts[5]] * 3, *[42] * 5]
    pairs = list(zip(watch.masks, watch.values, watch.values[1:], strict=False))
    for mask, before, after in pairs:
        np.testing.assert_array_equal(after[mask], before[mask])
    final = np.array(model.get_layer("first").kernel)  # averages have been written back
    mask = watch.masks[-1]
    np.testing.assert_array_equal(final[mask], watch.values[-1][mask])
    assert (watch.values[-1] != watch.values[0])[~mask].mean() > 0.8
    follow_the_weight = ("_model_variables_moving_average", "_accumulators")
    kernel = model.get_layer("first").kernel
    for _, attribute, slot in slots(model.optimizer, kernel):
        if slot.shape == kernel.shape and attribute not in follow_the_weight:
            assert not np.array(slot)[mask].any(), attribute


def test_the_lowest_of_that_moment_are_frozen():
    model = mlp(keras.optimizers.SGD(0.1))
    watch = Watch()
    fit(model, watch, FreezeWeights(OneShot(0.5, 3), "magnitude"), epochs=1)
    smallest = np.argsort(np.abs(watch.values[3]).ravel())[:30]
    assert set(np.flatnonzero(frozen(model, "first"))) == set(smallest)
    assert set(np.argsort(np.abs(watch.values[0]).ravel())[:30]) != set(smallest)


def test_gradients_are_measured_on_the_data_with_the_weights_of_the_update():
    model, twin = mlp(keras.optimizers.SGD(0.1)), mlp(keras.optimizers.SGD(0.1))
    watch = Watch("last")

    def take(batch, logs):
        if batch == 2:
            twin.set_weights(model.get_weights())

    take_weights = keras.callbacks.LambdaCallback(on_train_batch_end=take)
    fit(model, take_weights, FreezeWeights(OneShot(0.5, 3), data=(X, Y)), watch, epochs=1)
    tfprune.freeze_weights(twin, 0.5, data=(X, Y))
    np.testing.assert_array_equal(frozen(model, "first"), frozen(twin, "first"))
    np.testing.assert_array_equal(frozen(model, "last"), frozen(twin, "last"))
    assert [mask.sum() for mask in watch.masks] == [0, 0, 0, 10, 10, 10, 10]


def test_a_falling_schedule_sets_elements_free_which_then_train():
    model = mlp(keras.optimizers.SGD(0.1, momentum=0.9))
    watch = Watch()
    up_and_down = {0: 0.5, 1: 0.5, 2: 0.2, 3: 0.0}
    schedule = tfprune.schedules.Function(
        lambda step: up_and_down[min(step // 3, 3)], end_step=9, frequency=3
    )
    history = fit(model, FreezeWeights(schedule, tfprune.criteria.Random(seed=1)), watch).history
    assert [mask.sum() for mask in watch.masks] == [30] * 6 + [12] * 3 + [0] * 4
    free = watch.masks[0] & ~watch.masks[6]
    assert not (watch.masks[6] & ~watch.masks[0]).any()
    np.testing.assert_array_equal(watch.values[6][free], watch.values[0][free])
    assert (watch.values[7] != watch.values[6])[free].sum() > 10
    assert history["frozen"] == [0.2, 0.0]


def test_what_is_frozen_by_hand_is_safe_from_a_schedule_that_begins_with_0():
    model = mlp()
    tfprune.freeze(model, "first", "kernel", 0)
    fit(model, FreezeWeights(PolynomialDecay(0.0, 0.5, 0, 9, frequency=3), "magnitude"))
    assert frozen(model, "first")[0].all()
    assert frozen(model, "first").sum() == 30


def test_a_fraction_of_0_is_plain_training_bit_for_bit():
    results = []
    for callbacks in ([], [FreezeWeights(Constant(0.0, frequency=1))]):
        keras.utils.set_random_seed(3)
        model = mlp()
        fit(model, *callbacks, epochs=1)
        results.append(model.get_weights())
    assert_same(*results)


def test_all_frozen_nothing_trains_but_what_was_left_out():
    model = mlp()
    before = model.get_weights()
    fit(
        model,
        FreezeWeights(Constant(1.0), "magnitude", only=everything, exclude=["last"]),
        epochs=1,
    )
    after = model.get_weights()
    assert_same(after[:4], before[:4])  # kernel, bias, gamma, beta
    assert all((a != b).any() for a, b in zip(after[-2:], before[-2:], strict=True))


def test_pruning_and_freezing_the_same_weights_go_together():
    model = mlp()
    history = fit(
        model,
        FreezeWeights(OneShot(0.3, 2), "magnitude"),
        PruneWeights(PolynomialDecay(0.0, 0.6, 0, 8, frequency=2)),
    ).history
    kept = np.array(model.get_layer("first").trainable_masks["kernel"])
    assert (~kept).sum() == 36
    assert frozen(model, "first").sum() == 18
    assert kept[frozen(model, "first")].all()
    assert (history["frozen"][-1], history["sparsity"][-1]) == (0.3, 0.6)


def test_two_that_freeze_the_same_are_refused_before_anything_is_frozen():
    model = mlp()
    message = "freeze the same: weight 'kernel' of layer 'last'.*FreezeWeights\\(0.5\\)"
    with pytest.raises(ValueError, match=f"(?s){message}"):
        fit(model, FreezeWeights(0.5, "random"), FreezeWeights(0.2, "magnitude", only=["last"]))
    assert tfprune.masks.count_masks(model).frozen == 0
    first = FreezeWeights(0.5, "random", only=["first"])
    history = fit(model, first, FreezeWeights(0.2, "magnitude", only=["last"]), epochs=1).history
    assert (history["frozen"], history["frozen_1"]) == ([0.5], [0.2])


def test_without_data_the_update_says_so_and_masks_stay():
    model = mlp()
    callbacks = (FreezeWeights(0.3, "random", only=["first"]), FreezeWeights(0.5, only=["last"]))
    with pytest.raises(ValueError, match=r"gradient.*`data=\(x, y\)`"):
        fit(model, *callbacks)
    assert not frozen(model, "last").any()


@pytest.mark.parametrize(
    "callback",
    [
        FreezeWeights(PolynomialDecay(0.1, 0.8, 5, 50, frequency=7)),
        FreezeWeights(
            0.5, tfprune.criteria.Random(seed=3), only=["first"], exclude=["norm"], verbose=1
        ),
        FreezeWeights(OneShot(0.5, 3), "magnitude", only=is_bias, distribution="global"),
    ],
)
def test_config_round_trip(callback):
    config = keras.saving.serialize_keras_object(callback)
    again = keras.saving.deserialize_keras_object(config)
    assert isinstance(again, FreezeWeights)
    assert again.get_config() == callback.get_config()
    assert repr(again.criterion) == repr(callback.criterion)


def test_a_saved_model_goes_on_as_if_it_had_not_been_saved(tmp_path):
    def callback():  # rises to a half at step 6 and falls to nothing
        schedule = tfprune.schedules.Function(
            lambda step: 0.5 - abs(6 - step) / 12, end_step=11, frequency=2
        )
        return FreezeWeights(schedule, "magnitude")

    def trained(stop):
        keras.utils.set_random_seed(3)
        model = mlp()
        fit(model, callback(), epochs=1, shuffle=False)
        if stop:
            model.save(tmp_path / "model.keras")
            model = keras.saving.load_model(tmp_path / "model.keras")
        fit(model, callback(), epochs=1, shuffle=False)
        return model

    whole, resumed = trained(stop=False), trained(stop=True)
    assert_same(resumed.get_weights(), whole.get_weights())
    np.testing.assert_array_equal(frozen(resumed, "first"), frozen(whole, "first"))
    assert frozen(whole, "first").sum() == round(60 / 12)
