import keras
import pytest

from tfprune.masks import layer_filter


def model():
    inner = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="in")], name="inner")
    return keras.Sequential([keras.Input((2,)), inner, keras.layers.Dense(1, name="out")])


def is_out(layer, name=None):
    return layer.name == "out"


@pytest.mark.parametrize("given", [None, [], ("a",), {"a"}, frozenset(), is_out])
def test_sequences_sets_predicates_and_nothing_are_choices(given):
    layer_filter.check(given, given, "layer -> bool")


@pytest.mark.parametrize("wrong", ["a", 3, keras.layers.ReLU(name="a")])
@pytest.mark.parametrize("argument", ["only", "exclude"])
def test_all_else_is_refused_with_the_argument_and_the_signature(wrong, argument):
    given = {"only": None, "exclude": None, argument: wrong}
    with pytest.raises(ValueError, match=rf"Argument `{argument}`.*`layer -> bool`.*{argument}="):
        layer_filter.check(**given, predicate="layer -> bool")


@pytest.mark.parametrize("default", [True, False])
def test_nothing_given_is_the_default_everywhere(default):
    made = model()
    says = layer_filter.chooser(None, made, default=default)
    assert says(made.layers[0]) is default and says(made.layers[1], "kernel") is default


def test_layers_and_names_choose_themselves_or_their_parts():
    made = model()
    inner, out = made.layers
    for given in (["inner"], [inner]):
        says = layer_filter.chooser(given, made, default=True)
        assert [says(layer) for layer in (inner, inner.layers[0], out)] == [True, False, False]
        says = layer_filter.chooser(given, made, default=True, parts=lambda layer: layer.layers)
        assert [says(layer) for layer in (inner, inner.layers[0], out)] == [False, True, False]


def test_an_unknown_layer_is_named():
    with pytest.raises(ValueError, match="'nope'"):
        layer_filter.chooser(["nope"], model(), default=True)


def test_a_predicate_is_asked_itself():
    assert layer_filter.chooser(is_out, model(), default=True) is is_out
