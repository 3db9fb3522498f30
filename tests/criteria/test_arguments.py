from collections.abc import Callable

import numpy as np
import pytest

from tfprune._tools.registry import Registry
from tfprune.criteria import Random, arguments, units, weights


def test_the_values_come_first_whatever_their_name_is():
    for criterion in (lambda kernel: kernel + 1, lambda seed: seed + 1, lambda *all: all[0] + 1):
        arguments.check(criterion, ["seed"], "", values=1)
        assert arguments.call(criterion, {"seed": 7}, 2) == 3


def test_an_argument_with_a_default_is_left_alone_unless_it_is_offered():
    def criterion(weights, scale=2, seed=0):
        return weights * scale + seed

    arguments.check(criterion, ["weights", "seed"], "")
    assert arguments.call(criterion, {"layer": None, "weights": 3, "seed": 1}) == 7


def test_a_keyword_after_the_values_that_is_not_offered_is_named():
    def criterion(weight=None, *, gradient):
        return weight * gradient

    with pytest.raises(ValueError, match=r"^The rule\. Received: .*requires \['gradient'\]"):
        arguments.check(criterion, ["seed"], "The rule.", values=1)


def test_a_class_among_the_known_is_instantiated_and_another_is_refused():
    class Known:
        def __call__(self):
            return 1

    registry = Registry(Callable, argument="x", expected="known", names={"known": Known})
    for identifier in ("known", Known):
        assert isinstance(registry.get(identifier), Known)
    with pytest.raises(ValueError, match=r"must be known\. Received: .*dict"):
        registry.get(dict)


@pytest.mark.parametrize("module", [units, weights])
def test_random_asks_for_a_seed_and_magnitude_does_not(module):
    assert arguments.requested(module.get("random"), ["seed"])
    assert not arguments.requested(module.get("magnitude"), ["seed"])


def test_a_seed_is_drawn_for_those_who_ask_alone():
    drawn = arguments.resolve_seed(weights.random)
    assert isinstance(drawn, int) and drawn >= 0
    assert isinstance(arguments.resolve_seed(Random()), int)
    assert arguments.resolve_seed(weights.magnitude) is None
    assert arguments.resolve_seed(Random(np.int64(3))) == 3


@pytest.mark.parametrize("wrong", [-1, 0.5, True, "1"])
def test_a_wrong_seed_is_named(wrong):
    with pytest.raises(ValueError, match=f"Argument `seed` must be.*seed={wrong!r}"):
        Random(wrong)
