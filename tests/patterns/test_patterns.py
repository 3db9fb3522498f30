import json

import keras
import numpy as np
import pytest

from tfprune import patterns
from tfprune.patterns import NM, Block, Pattern, Unstructured, top_k_mask

EVERY = [
    Unstructured(),
    NM(keep=2, of=4),
    NM(keep=1, of=3, axis=-1),
    Block((4, 1)),
    Block((2, 3), pooling="max"),
]
each_pattern = pytest.mark.parametrize("pattern", EVERY, ids=repr)


@each_pattern
def test_config_round_trip_through_json(pattern):
    config = json.loads(json.dumps(patterns.serialize(pattern)))
    again = patterns.deserialize(config)
    assert type(again) is type(pattern)
    assert again.get_config() == pattern.get_config()
    scores = np.random.default_rng(1).random((9, 7))
    np.testing.assert_array_equal(again.mask(scores, 0.4), pattern.mask(scores, 0.4))


@each_pattern
def test_arguments_are_attributes_and_are_shown(pattern):
    for name, value in pattern.get_config().items():
        assert getattr(pattern, name) == value
    assert eval(repr(pattern)).get_config() == pattern.get_config()


@each_pattern
def test_get_takes_an_instance_and_its_configuration(pattern):
    assert patterns.get(pattern) is pattern
    assert repr(patterns.get(patterns.serialize(pattern))) == repr(pattern)


@pytest.mark.parametrize("identifier", [None, "unstructured"])
def test_get_defaults_to_unstructured(identifier):
    assert type(patterns.get(identifier)) is Unstructured


@pytest.mark.parametrize("identifier", ["nm", "2:4", 4, NM, np.ones(2), ["unstructured"]])
def test_get_of_anything_else_raises(identifier):
    with pytest.raises(ValueError, match=r"Argument `pattern` must be .*NM\(keep=2, of=4\)"):
        patterns.get(identifier)


@each_pattern
def test_nothing_asked_for_prunes_nothing(pattern):
    assert pattern.mask(np.ones((4, 4)), 0.0).all()


@each_pattern
@pytest.mark.parametrize("sparsity", [-0.1, 1.1, float("nan"), "half"])
def test_bad_sparsity_raises(pattern, sparsity):
    with pytest.raises(ValueError, match="Argument `sparsity`"):
        pattern.mask(np.ones((4, 4)), sparsity)


@each_pattern
def test_masks_of_another_shape_or_type_raise(pattern):
    with pytest.raises(ValueError, match="Argument `trainable`.*shape"):
        pattern.mask(np.ones((4, 4)), 0.3, trainable=np.ones((4, 3), bool))
    with pytest.raises(ValueError, match="Argument `frozen`.*dtype"):
        pattern.mask(np.ones((4, 4)), 0.3, frozen=np.zeros((4, 4)))


def test_unstructured_is_top_k():
    rng = np.random.default_rng(1)
    scores, kept, frozen = rng.random(30), rng.random(30) < 0.8, rng.random(30) < 0.2
    mask = Unstructured().mask(scores, 0.5, trainable=kept, frozen=frozen)
    np.testing.assert_array_equal(mask, top_k_mask(scores, 0.5, trainable=kept, frozen=frozen))


@keras.saving.register_keras_serializable("test_patterns")
class LastRows(Pattern):
    def __init__(self, rows):
        self.rows = rows

    def mask(self, scores, sparsity, *, trainable=None, frozen=None, matrix=None):
        return np.arange(len(scores))[:, None] >= len(scores) - self.rows

    def get_config(self):
        return {"rows": self.rows}


def test_a_pattern_of_ones_own():
    pattern = patterns.get(patterns.serialize(LastRows(2)))
    np.testing.assert_array_equal(pattern.mask(np.ones((3, 1)), 0.3)[:, 0], [0, 1, 1])


def test_a_pattern_without_mask_says_so():
    with pytest.raises(NotImplementedError, match="Pattern must implement `mask`"):
        Pattern().mask(np.ones(2), 0.5)
