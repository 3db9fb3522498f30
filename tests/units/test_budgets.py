import keras
import pytest

from tfprune import budgets

ALL = [
    budgets.Units(0.5),
    budgets.Parameters(1000),
    budgets.MACs(0.25, input_shapes=(32, 3)),
    budgets.Bytes(1.0),
    budgets.Latency(2.5, batch_size=4),
    budgets.Latency(fraction=0.5, tolerance=0.1),
]


@pytest.mark.parametrize("budget", ALL, ids=repr)
def test_a_budget_survives_its_config(budget):
    assert type(budget).from_config(budget.get_config()) == budget
    again = budgets.deserialize(budgets.serialize(budget))
    assert (again, type(again)) == (budget, type(budget))
    assert budgets.get(budgets.serialize(budget)) == budget
    assert budgets.get(budget) is budget
    assert keras.saving.deserialize_keras_object(budgets.serialize(budget)) == budget


def test_a_float_is_a_fraction_and_an_integer_how_many():
    assert budgets.Units(1).allowed(dense=10) == 1
    assert budgets.Units(1.0).allowed(dense=10) == 10
    assert budgets.Units(0.1).allowed(dense=30) == 3
    assert budgets.Units(40).allowed(dense=30) == 30


def test_on_the_way_there_it_lies_between_the_dense_model_and_the_budget():
    assert [budgets.MACs(20).allowed(100, p) for p in (0.0, 0.5, 1.0)] == [100, 60, 20]
    latency = budgets.Latency(2.0)
    assert [latency.allowed(0.004, p) for p in (0.0, 0.5, 1.0)] == [0.004, 0.003, 0.002]


@pytest.mark.parametrize("remaining", [0, -1, 0.0, 1.5, float("nan"), True, "half", None])
@pytest.mark.parametrize("cls", [budgets.Units, budgets.Parameters, budgets.MACs, budgets.Bytes])
def test_what_is_neither_is_named(cls, remaining):
    with pytest.raises(
        ValueError, match=r"`remaining` must be a float in \(0, 1\].*Received: \w+\("
    ):
        cls(remaining)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({}, "Exactly one"),
        ({"milliseconds": 1, "fraction": 0.5}, "Exactly one"),
        ({"milliseconds": 0}, "`milliseconds`"),
        ({"milliseconds": float("inf")}, "`milliseconds`"),
        ({"fraction": 1.5}, "`fraction`"),
        ({"milliseconds": 1, "batch_size": 0}, "`batch_size`"),
        ({"milliseconds": 1, "tolerance": 0}, "`tolerance`"),
    ],
)
def test_a_bad_latency_is_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        budgets.Latency(**arguments)


@pytest.mark.parametrize("identifier", [0.5, "parameters", None])
def test_what_is_no_budget_is_refused(identifier):
    with pytest.raises(ValueError, match=r"must be one of.*Parameters"):
        budgets.get(identifier)
