import keras
import pytest

import tfprune
from tfprune import Selection
from tfprune.units.selection import selection as selections


@pytest.mark.parametrize(
    "made",
    [
        Selection(),
        Selection("exact"),
        Selection("greedy", round_to=8, min_units=4, max_fraction={"stem": 0.5}),
    ],
)
def test_the_config_makes_the_same_selection_again(made):
    for again in (
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(made)),
        selections.get(selections.serialize(made)),
    ):
        assert type(again) is Selection and again.get_config() == made.get_config()


def test_a_scope_alone_is_its_name():
    assert selections.serialize(Selection("greedy")) == "greedy"
    assert selections.get("greedy").get_config() == Selection("greedy").get_config()


@pytest.mark.parametrize("wrong", ["best", None, 0.5, Selection])
def test_what_is_no_selection_is_refused_by_the_argument(wrong):
    with pytest.raises(ValueError, match="Argument `selection` must be one of.*greedy"):
        selections.get(wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"scope": "best"}, {"round_to": 0}, {"min_units": 0}, {"min_units": True}],
)
def test_arguments_out_of_range_are_named(wrong):
    with pytest.raises(ValueError, match=f"Argument `{next(iter(wrong))}` must be"):
        tfprune.Selection(**wrong)
