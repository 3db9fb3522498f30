import json

import keras
import numpy as np
import pytest

from tfprune import patterns
from tfprune.patterns import NM, Block, Pattern, Unstructured, top_k_mask

EVERY = [
    Unstructured(),
    Unstructured(compare="output"),
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


def test_compared_by_output_each_loses_its_lowest():
    rng = np.random.default_rng(0)
    scores = rng.random((2, 5, 6)) * np.arange(1, 7)  # the last outputs have the highest scores
    axes = patterns.MatrixAxes(stack=(0,), inputs=(1,), outputs=(2,))
    pattern = Unstructured(compare="output")
    for sparsity in (0.1, 0.3, 0.5, 0.71, 0.99):
        mask = pattern.mask(scores, sparsity, matrix=axes)
        gone = (~mask).sum((0, 1))
        assert gone.sum() == round(sparsity * 60) and np.ptp(gone) <= 1
        for scored, kept in zip(scores.reshape(10, 6).T, mask.reshape(10, 6).T, strict=True):
            assert not kept[np.argsort(scored)[: (~kept).sum()]].any()
        lowest_of_rank = np.sort(scores.reshape(10, 6), axis=0)[gone.min()]
        one_more = gone > gone.min()
        if one_more.any() and not one_more.all():
            assert lowest_of_rank[one_more].max() < lowest_of_rank[~one_more].min()


def test_compared_by_output_what_is_pruned_and_frozen_counts_in_its_output():
    scores = np.arange(24.0).reshape(6, 4)
    kept, frozen = np.ones((6, 4), bool), np.zeros((6, 4), bool)
    kept[5, 0], frozen[:2, 1] = False, True
    pattern = Unstructured(compare="output")
    mask = pattern.mask(scores, 0.5, trainable=kept, frozen=frozen)
    assert ((~mask).sum(0) == 3).all() and not mask[5, 0] and mask[:2, 1].all()
    mask = pattern.mask(scores, 0.9, trainable=kept, frozen=frozen)
    assert (~mask).sum() == 22 and mask[:2, 1].all()
    with pytest.raises(ValueError, match="23 of 24|unfreeze"):
        pattern.mask(scores, 1.0, trainable=kept, frozen=frozen)
