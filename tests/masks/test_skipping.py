"""What is skipped is named everywhere alike: the same layers, the same reason."""

import warnings

import keras
import numpy as np
import pytest

import tfprune
from tfprune.masks.setting import count_masks
from tfprune.masks.skipping import NO_MASKS, NOT_TRAINABLE

L = keras.layers
X, Y = np.ones((8, 6, 6, 2), "float32"), np.ones((8, 3), "float32")


def cnn():
    return [L.Conv2D(8, 3, activation="relu", name="stem"), L.GlobalAveragePooling2D()]


def classifier(backbone):
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            *backbone,
            L.Dense(6, activation="relu", name="wide"),
            L.Dense(3, name="logits"),
        ]
    )
    model.compile("sgd", "mse")
    return model


def partly_masked():
    return tfprune.prunable(classifier(cnn()), exclude=["stem"])


def with_frozen_backbone():
    backbone = keras.Sequential([keras.Input((6, 6, 2)), *cnn()], name="backbone")
    backbone.trainable = False
    return tfprune.prunable(classifier([backbone]))


CASES = {
    "no masks": (partly_masked, NO_MASKS),
    "not trainable": (with_frozen_backbone, NOT_TRAINABLE),
}
by_case = pytest.mark.parametrize(("make", "reason"), CASES.values(), ids=CASES)


def assert_named(text, reason):
    assert reason in text and "stem" in text and "wide" not in text.split("If that is meant")[0]


@by_case
def test_every_function_names_the_layer_and_the_reason(make, reason):
    model = make()
    for prune in (tfprune.prune_weights, tfprune.prune_units):
        with pytest.warns(UserWarning, match="skipped") as caught:
            prune(model, 0.5)
        assert_named(str(caught[0].message), reason)
    assert_named(" ".join(tfprune.summary(model).notes), reason)
    assert_named(" ".join(tfprune.inspect(model).notes), reason)
    stem, wide, logits = tfprune.explain(model).sets
    assert (stem.name, stem.removable, stem.pinned) == ("stem", 0, {reason: 8})
    assert (wide.removable, wide.pinned) == (6, {})
    for options in ({"exclude": ["wide"]}, {"only": lambda layer: layer.name == "stem"}):
        with pytest.raises(ValueError, match="no units that can be pruned") as caught:
            tfprune.prune_units(model, 0.5, **options)
        assert f"'stem': {reason}" in str(caught.value)
        assert "'wide': `only` and `exclude` do not select it" in str(caught.value)
        assert "'logits': it is an output of the model" in str(caught.value)
    kept = np.asarray(model.get_layer("logits").trainable_masks["bias"])
    assert kept.all()


@by_case
@pytest.mark.parametrize("callback", ["PruneUnits", "PruneWeights", "FreezeWeights"])
def test_callbacks_warn_when_training_begins(callback, make, reason):
    model, given = make(), {"criterion": "magnitude"}
    callback = getattr(tfprune.callbacks, callback)(tfprune.schedules.Constant(0.5), **given)
    with pytest.warns(UserWarning, match="skipped") as caught:
        model.fit(X, Y, verbose=0, callbacks=[callback])
    messages = [str(each.message) for each in caught if "skipped" in str(each.message)]
    assert len(messages) == 1
    assert_named(messages[0], reason)


@by_case
def test_what_is_excluded_is_meant(make, reason):
    model = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        tfprune.prune_weights(model, 0.5, exclude=["stem"])
        tfprune.prune_units(model, 0.5, exclude=["stem"])
        tfprune.prune_units(tfprune.prunable(classifier(cnn())), 0.5)


def test_a_model_without_masks_says_so_everywhere():
    model = classifier(cnn())
    for prune in (tfprune.prune_weights, tfprune.prune_units, tfprune.freeze_weights):
        with pytest.raises(ValueError, match=r"tfprune\.prunable") as caught:
            prune(model, 0.5)
        assert NO_MASKS in str(caught.value) and "'stem', 'wide'" in str(caught.value)
    assert tfprune.summary(model).notes == (f"stem, wide, logits: {NO_MASKS}",)
    found = tfprune.explain(model)
    assert [each.removable for each in found.sets] == [8, 6, 0]
    assert found.notes == (f"{model.name}: {NO_MASKS}",)


@pytest.mark.parametrize("name", ["stem", "backbone"])
@pytest.mark.parametrize("criterion", ["magnitude", "taylor"])
def test_a_frozen_backbone_is_pruned_where_only_names_it(name, criterion):
    model = with_frozen_backbone()
    data = (X, Y) if criterion == "taylor" else None
    counts = tfprune.prune_units(model, 0.5, criterion, data=data, only=[name])
    assert [(each.name, each.pruned) for each in counts] == [("stem", 4)]
    before = [np.asarray(w) for w in model.get_layer("backbone").weights]
    model.fit(X, Y, verbose=0)
    for weight, value in zip(model.get_layer("backbone").weights, before, strict=True):
        np.testing.assert_array_equal(np.asarray(weight), value)
    assert tfprune.strip(model).get_layer("backbone").get_layer("stem").filters == 4


def test_weights_of_a_frozen_backbone_are_pruned_where_only_names_it():
    model = with_frozen_backbone()
    with pytest.raises(ValueError, match="No weight is left") as caught:
        tfprune.prune_weights(model, 0.5, only=lambda layer, weight: layer.name == "stem")
    assert NOT_TRAINABLE in str(caught.value)
    assert tfprune.prune_weights(model, 0.5, only=["backbone"]).pruned == 72
    assert count_masks(model).pruned == 72


def test_what_is_rewired_must_be_trained():
    model = with_frozen_backbone()
    rewire = tfprune.callbacks.Rewire(tfprune.schedules.Constant(0.5, end_step=2), only=["stem"])
    with pytest.raises(ValueError, match="No weight is left"):
        model.fit(X, Y, verbose=0, callbacks=[rewire])


def test_dense_model_with_a_frozen_backbone_is_pruned_in_one_call():
    backbone = keras.Sequential([keras.Input((6, 6, 2)), *cnn()], name="backbone")
    backbone.trainable = False
    model = keras.Sequential([keras.Input((6, 6, 2)), backbone, L.Dense(3, name="logits")])
    with pytest.raises(ValueError, match="no units that can be pruned") as caught:
        tfprune.prune(model, 0.5)
    assert f"'stem': {NOT_TRAINABLE}" in str(caught.value)
    assert tfprune.prune(model, 0.5, only=["backbone"]).layers[0].get_layer("stem").filters == 4


class Block(L.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.up = L.Dense(8, activation="relu", name="up")
        self.down = L.Dense(6, name="down")

    def build(self, shape):
        self.up.build(shape)
        self.down.build((*shape[:-1], 8))

    def call(self, inputs):
        return self.down(self.up(inputs))


def test_layers_inside_layers_are_named_after_both():
    model = keras.Sequential(
        [keras.Input((6,)), L.Dense(6, name="first"), Block(name="block"), L.Dense(2, name="last")]
    )
    model = tfprune.prunable(model, exclude=["block"])
    with pytest.warns(UserWarning, match=r"'block_up', 'block_down'") as caught:
        tfprune.prune_weights(model, 0.5)
    assert NO_MASKS in str(caught[0].message)
    with pytest.warns(UserWarning, match=r"'block_up'"):
        tfprune.prune_units(model, 0.5)


def test_a_model_at_each_time_step_is_pruned_or_named():
    steps = keras.Sequential([keras.Input((6, 6, 2)), *cnn()], name="steps")
    inputs = keras.Input((3, 6, 6, 2))
    x = L.LSTM(4, name="memory")(L.TimeDistributed(steps, name="each")(inputs))
    model = keras.Model(inputs, L.Dense(2, name="last")(x))
    counts = tfprune.prune_units(tfprune.prunable(model), 0.5)
    assert {(each.name, each.pruned) for each in counts} == {("stem", 4), ("memory", 2)}
    masked = tfprune.prunable(model, exclude=["stem"])
    with pytest.warns(UserWarning, match=r"'stem': it carries no masks"):
        tfprune.prune_units(masked, 0.5)
    steps.trainable = False
    with pytest.warns(UserWarning, match=r"'stem': it has `trainable=False`"):
        tfprune.prune_units(tfprune.prunable(model), 0.5)
