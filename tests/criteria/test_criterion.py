"""Criteria as objects: their arguments, their configs, and who takes them."""

import keras
import numpy as np
import pytest

import tfprune
from tfprune import criteria, layers

CLASSES = [
    getattr(criteria, name)
    for name in criteria.__all__
    if isinstance(getattr(criteria, name), type)
    and issubclass(getattr(criteria, name), criteria.Criterion)
    and name not in ("Criterion", "Function")
]


def model():
    made = keras.Sequential(
        [keras.Input((4,)), layers.Dense(8, name="hidden"), layers.Dense(2, name="out")]
    )
    made.compile("sgd", "mse")
    return made


@keras.saving.register_keras_serializable("test_criterion")
def by_place(weights):
    return np.arange(len(weights["kernel"]), dtype=float)


@keras.saving.register_keras_serializable("test_criterion")
def drawn(weight, seed):
    return np.random.default_rng(seed).random(weight.shape)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_the_config_makes_the_same_criterion_again(cls):
    made = cls(aggregate="max", normalize="mean")
    config = keras.saving.serialize_keras_object(made)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is cls and again.get_config() == made.get_config()
    assert (again.aggregate, again.normalize) == ("max", "mean")
    assert criteria.units.get(config).get_config() == made.get_config()


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_class_has_a_name_which_stands_for_it_alone(cls):
    name = criteria.units.serialize(cls())
    assert isinstance(name, str) and type(criteria.units.get(name)) is cls
    assert isinstance(criteria.units.serialize(cls(aggregate="max")), dict)


@pytest.mark.parametrize("function", [by_place, drawn])
def test_a_function_with_options_keeps_them(function):
    made = criteria.Function(function, seed=3, normalize="sum")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(made))
    assert again.function is function and (again.seed, again.normalize) == (3, "sum")


@pytest.mark.parametrize("argument", ["aggregate", "normalize"])
def test_options_out_of_range_are_named(argument):
    with pytest.raises(ValueError, match=f"`{argument}` must be one of.*median"):
        criteria.Magnitude(**{argument: "median"})


def test_what_is_no_function_is_refused():
    with pytest.raises(ValueError, match="`function` must be a callable.*function=3"):
        criteria.Function(3)


def test_one_object_serves_units_and_weights():
    for criterion in (criteria.Random(seed=5), criteria.Magnitude(), criteria.Taylor()):
        data = (np.ones((8, 4), "float32"), np.ones((8, 2), "float32"))
        made = model()
        assert tfprune.prune_units(made, 0.5, criterion, data=data)[0].pruned == 4
        assert tfprune.prune_weights(model(), 0.5, criterion, data=data).pruned == 24


def test_a_seed_gives_the_same_masks_and_another_gives_others():
    masks = []
    for seed in (1, 1, 2):
        made = model()
        tfprune.prune_weights(made, 0.5, criteria.Random(seed=seed))
        masks.append(np.array(made.get_layer("hidden").trainable_masks["kernel"]))
    assert (masks[0] == masks[1]).all() and (masks[0] != masks[2]).any()


def test_a_function_that_draws_starts_from_its_seed():
    masks = []
    for seed in (1, 1, 2):
        made = model()
        tfprune.prune_weights(made, 0.5, criteria.Function(drawn, seed=seed))
        masks.append(np.array(made.get_layer("hidden").trainable_masks["kernel"]))
    assert (masks[0] == masks[1]).all() and (masks[0] != masks[2]).any()


def test_a_criterion_for_units_is_refused_for_weights():
    made = model()
    with pytest.raises(ValueError, match="scores units, not the elements of a weight.*FPGM"):
        tfprune.prune_weights(made, 0.5, criteria.FPGM())
    assert tfprune.masks.count_masks(made).pruned == 0
