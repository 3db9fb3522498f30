import keras
import numpy as np
import pytest

import tfprune
from tfprune import layers
from tfprune.masks.setting import count_masks


def mlp():
    return keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4, name="a"),
            layers.BatchNormalization(name="bn"),
            layers.ReLU(),
            layers.Dense(6, name="b"),
            layers.Dense(2, name="out"),
        ]
    )


def mask(model, layer, weight="kernel"):
    return np.asarray(model.get_layer(layer).trainable_masks[weight])


def test_the_units_of_least_magnitude_go_with_all_that_belongs_to_them():
    model = mlp()
    kernel = np.ones((3, 4)) * [3.0, 1.0, 2.0, 4.0]
    model.get_layer("a").kernel.assign(kernel)
    counts = tfprune.prune_units(model, 0.5, only=["a"])
    assert [(c.name, c.units, c.pruned) for c in counts] == [("a", 4, 2)]
    kept = [True, False, False, True]
    assert mask(model, "a").tolist() == [kept] * 3
    for layer, weight in [("a", "bias"), ("bn", "gamma"), ("bn", "beta")]:
        assert mask(model, layer, weight).tolist() == kept
    assert mask(model, "b").tolist() == [[k] * 6 for k in kept]
    assert mask(model, "b", "bias").all() and mask(model, "out").all()


def test_a_callable_criterion_chooses():
    model = mlp()
    tfprune.prune_units(model, 0.5, lambda weights: np.arange(len(weights["kernel"])))
    assert mask(model, "a", "bias").tolist() == [False, False, True, True]
    assert mask(model, "b", "bias").tolist() == [False] * 3 + [True] * 3


def test_it_adds_up_to_the_target_and_nothing_comes_back():
    model = mlp()
    tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=1))
    first = ~mask(model, "b", "bias")
    tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=2))
    assert (~mask(model, "b", "bias")).tolist() == first.tolist()
    tfprune.prune_units(model, 0.8, tfprune.criteria.Random(seed=3))
    second = ~mask(model, "b", "bias")
    assert (second | first == second).all() and second.sum() == 5
    tfprune.prune_units(model, 0.2, tfprune.criteria.Random(seed=4))
    assert (~mask(model, "b", "bias")).tolist() == second.tolist()


def test_nothing_at_zero():
    model = mlp()
    tfprune.prune_units(model, 0.0)
    assert count_masks(model).pruned == 0


@pytest.mark.parametrize("min_units", [1, 3])
def test_each_layer_keeps_units(min_units):
    model = mlp()
    tfprune.prune_units(model, 1.0, selection=tfprune.Selection(min_units=min_units))
    assert mask(model, "a", "bias").sum() == mask(model, "b", "bias").sum() == min_units


def test_seeds():
    def drawn(seed):
        model = mlp()
        tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=seed))
        return mask(model, "b", "bias").tolist() + mask(model, "a", "bias").tolist()

    assert drawn(1) == drawn(1)
    assert len({str(drawn(seed)) for seed in range(5)}) > 1


def test_exclude_and_predicates():
    model = mlp()
    tfprune.prune_units(model, 0.5, exclude=["a"])
    assert mask(model, "a").all() and not mask(model, "b").all()
    model = mlp()
    tfprune.prune_units(model, 0.5, only=lambda layer: layer.name == "a")
    assert mask(model, "out").all() and not mask(model, "a").all()


def test_units_with_a_frozen_element_stay():
    model = mlp()
    model.get_layer("b").kernel.assign(np.ones((4, 6)) * np.arange(1, 7))
    tfprune.set_masks(model, "b", "kernel", frozen=np.s_[0, 0])
    before = np.array(model.get_layer("b").kernel)[0, 0]
    tfprune.prune_units(model, 0.5, only=["b"])
    assert mask(model, "b", "bias").tolist() == [True, False, False, False, True, True]
    assert np.array(model.get_layer("b").kernel)[0, 0] == before


def test_too_many_frozen_units_are_an_error_that_changes_nothing():
    model = mlp()
    tfprune.set_masks(model, "b", "bias", frozen=np.s_[:5])
    with pytest.raises(ValueError, match=r"frozen or pinned.*'b'.*5 must stay"):
        tfprune.prune_units(model, 0.5)
    assert count_masks(model).pruned == 0


def test_layers_that_are_not_trainable_keep_their_units():
    model = mlp()
    model.get_layer("a").trainable = False
    tfprune.prune_units(model, 0.5)
    assert mask(model, "a").all() and not mask(model, "b").all()


def test_nan_weights_are_an_error_that_changes_nothing():
    model = mlp()
    model.get_layer("b").kernel.assign(np.full((4, 6), np.nan))
    with pytest.raises(ValueError, match=r"finite.*'b'"):
        tfprune.prune_units(model, 0.5)
    assert count_masks(model).pruned == 0


def test_a_stock_model_says_what_to_do():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match=r"no units that can be pruned.*tfprune.prunable"):
        tfprune.prune_units(model, 0.5)


@pytest.mark.parametrize("target", [-0.1, 1.1, True, "half"])
def test_a_bad_target_is_named(target):
    with pytest.raises(ValueError, match="`target`"):
        tfprune.prune_units(mlp(), target)


def test_groups_of_a_norm_lose_equally_many():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(8, name="a"),
            layers.GroupNormalization(groups=2),
            layers.Dense(1),
        ]
    )
    tfprune.prune_units(model, 0.5, lambda weights: np.arange(8))
    assert mask(model, "a", "bias").reshape(2, 4).sum(axis=1).tolist() == [2, 2]


def test_recurrent_units_lose_all_their_gates_and_their_feedback():
    model = keras.Sequential([keras.Input((5, 2)), layers.LSTM(4, name="a"), layers.Dense(1)])
    tfprune.prune_units(model, 0.5, lambda weights: np.arange(4))
    kept = [False, False, True, True]
    assert mask(model, "a").reshape(2, 4, 4).all(axis=0).tolist() == [kept] * 4
    recurrent = mask(model, "a", "recurrent_kernel").reshape(4, 4, 4)
    assert recurrent[:2].sum() == 0
    assert recurrent[2:].tolist() == [[kept] * 4] * 2


def test_a_nested_model_stands_for_the_layers_in_it():
    inner = keras.Sequential(
        [keras.Input((6,)), layers.Dense(4, name="in"), layers.Dense(4, name="next")],
        name="inner",
    )
    inputs = keras.Input((3,))
    x = inner(layers.Dense(6, name="before")(inputs))
    model = keras.Model(inputs, layers.Dense(2)(x))
    names = {count.name for count in tfprune.prune_units(model, 0.0, only=["inner"])}
    assert names == {"in", "next"}
    names = {count.name for count in tfprune.prune_units(model, 0.0, exclude=[inner])}
    assert names == {"before"}


class NoConfig(keras.layers.Layer):
    """Has an argument of which Keras makes no config."""

    def __init__(self, hook):
        super().__init__(name="no_config")
        self.hook = hook

    def build(self, shape):
        self.own = self.add_weight(shape=(shape[-1], 5), name="own")

    def call(self, inputs):
        return keras.ops.tanh(keras.ops.matmul(inputs, self.own))


def without_config():
    inputs = keras.Input((3,))
    x = NoConfig(np.tanh)(layers.Dense(8, name="first")(inputs))
    return tfprune.prunable(keras.Model(inputs, layers.Dense(2, name="last")(x)))


def test_layers_without_a_config():
    model = without_config()
    counts = tfprune.prune_units(model, 0.5)
    assert {(c.name, c.pruned) for c in counts} == {("first", 4), ("no_config", 2)}
    model = without_config()
    tfprune.prune_units(model, tfprune.budgets.Parameters(40))
    assert tfprune.strip(model).count_params() <= 40
    with pytest.raises(ValueError, match="no_config"):
        tfprune.prune_units(without_config(), tfprune.budgets.MACs(0.5))
