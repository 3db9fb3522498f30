import keras
import pytest

import tfprune
from tfprune.masks import layer_filter


def model():
    inner = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="in")], name="inner")
    return keras.Sequential([keras.Input((2,)), inner, keras.layers.Dense(1, name="out")])


def itself(layer):
    return [layer]


def is_out(layer, name=None):
    return layer.name == "out"


@pytest.mark.parametrize(
    "given", [None, [], ("a",), {"a"}, frozenset(), is_out, "a", keras.layers.ReLU(name="a")]
)
def test_layers_sequences_sets_predicates_and_nothing_are_choices(given):
    layer_filter.check(given, given, "layer -> bool")


@pytest.mark.parametrize("wrong", [3, 0.5])
@pytest.mark.parametrize("argument", ["only", "exclude"])
def test_all_else_is_refused_with_the_argument_and_the_signature(wrong, argument):
    given = {"only": None, "exclude": None, argument: wrong}
    with pytest.raises(ValueError, match=rf"Argument `{argument}`.*`layer -> bool`.*{argument}="):
        layer_filter.check(**given, predicate="layer -> bool")


@pytest.mark.parametrize("default", [True, False])
def test_nothing_given_is_the_default_everywhere(default):
    made = model()
    says = layer_filter.predicate(None, made, "only", default=default, parts=itself)
    assert says(made.layers[0]) is default and says(made.layers[1], "kernel") is default


def test_layers_and_names_choose_themselves_or_their_parts():
    made = model()
    inner, out = made.layers
    for given in (["inner"], [inner], "inner", inner):
        says = layer_filter.predicate(given, made, "only", default=True, parts=itself)
        assert [says(layer) for layer in (inner, inner.layers[0], out)] == [True, False, False]
        says = layer_filter.predicate(
            given, made, "only", default=True, parts=lambda layer: layer.layers
        )
        assert [says(layer) for layer in (inner, inner.layers[0], out)] == [False, True, False]


def test_counterparts_of_layers_and_nested_models():
    given = model()
    inner, out = given.layers
    copy = keras.models.clone_model(given)
    counterparts = layer_filter.Counterparts(given, copy)
    assert counterparts.filter([inner, "out", inner.layers[0], out]) == [
        copy.layers[0],
        "out",
        copy.layers[0].layers[0],
        copy.layers[1],
    ]
    assert counterparts.by_layer({inner: 0.5, "out": 0.1}) == {copy.layers[0]: 0.5, "out": 0.1}
    assert counterparts.filter(lambda layer: layer is inner)(copy.layers[0])
    assert counterparts.filter(None) is None
    assert counterparts.filter(3) == 3  # which `check` refuses by its argument


def test_a_layer_of_another_model_is_refused_with_what_to_do():
    given = model()
    for layer in keras.models.clone_model(given).layers:
        with pytest.raises(ValueError, match=f"`only`.*{layer.name!r}.*give the name"):
            layer_filter.predicates(given, [layer], None)


def test_the_layers_there_are_are_named():
    with pytest.raises(ValueError, match="Layers of the model: 'inner', 'in', 'out'"):
        layer_filter.predicates(model(), None, ["nope"])
    with pytest.raises(ValueError, match="Layers that carry masks: 'in', 'out'"):
        layer_filter.predicates(tfprune.prunable(model()), None, ["nope"])


def test_an_unknown_layer_is_named():
    with pytest.raises(ValueError, match="`exclude`.*'nope'"):
        layer_filter.predicates(model(), None, ["nope"])


def test_a_predicate_is_asked_itself():
    assert layer_filter.predicates(model(), is_out, None)[0] is is_out
