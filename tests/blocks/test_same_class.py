"""Models without some blocks that are made by the model's own class."""

import keras
import numpy as np
import pytest

import tfprune
from tests.blocks import models
from tests.blocks.test_prune_blocks import (
    assert_equal,
    kerashub_blocks,
    own_blocks,
    random,
    with_identities,
)
from tests.kerashub_models import BACKBONES, hub, inputs_of, randomise


def without(model, *layers, same_class=True, **arguments):
    """The model without the blocks of these layers."""
    return tfprune.prune_blocks(
        model, len(layers), lambda m: 0.0, only=list(layers), same_class=same_class, **arguments
    )


@pytest.mark.parametrize("name", ["Mixtral", "ViT"])
def test_backbones_say_their_depth(name):
    model = randomise(BACKBONES[name]())
    first, _ = kerashub_blocks(model)
    small = without(model, first)
    assert type(small) is type(model) and small.num_layers == 1 and model.num_layers == 2
    assert_equal(with_identities(model, [first]), small, inputs_of(model))


def test_a_causal_model_generates_with_its_cache():
    backbone = BACKBONES["Llama"]()
    task = randomise(hub().models.LlamaCausalLM(backbone=backbone, preprocessor=None))
    first, _ = kerashub_blocks(task)
    small = without(task, first)
    assert type(small) is type(task) and small.backbone.num_layers == 1
    tokens = np.random.default_rng(1).integers(1, 50, (2, 12)).astype("int32")
    given = np.repeat([[1] * 4 + [0] * 8], 2, axis=0).astype("int32")
    small.compile(sampler="greedy")
    found = small.generate({"token_ids": tokens, "padding_mask": given}, stop_token_ids=None)
    tokens, truth = np.asarray(found["token_ids"]), with_identities(task, [first])
    logits = truth({"token_ids": tokens, "padding_mask": np.ones_like(tokens)})
    np.testing.assert_array_equal(np.argmax(logits, -1)[:, 3:-1], tokens[:, 4:])


def test_a_resnet_has_fewer_blocks_in_the_stages_that_lost_some():
    model = randomise(BACKBONES["ResNet"]())
    small = without(model, "stack1_block1_1_conv", "stack0_block1_1_conv")
    assert small.stackwise_num_blocks == [1, 1, 2]
    plain = without(model, "stack1_block1_1_conv", "stack0_block1_1_conv", same_class=False)
    assert type(plain) is not type(model)
    assert_equal(plain, small, inputs_of(model))


def test_lists_of_an_entry_for_each_layer_lose_those_of_the_layers_that_go():
    config = BACKBONES["SmolLM3"]().get_config()
    config["rope_layer_enabled_list"] = [True, False]
    model = randomise(type(BACKBONES["SmolLM3"]()).from_config(config))
    first = model.get_layer("transformer_layer_0")
    small = without(model, first)
    assert list(small.get_config()["rope_layer_enabled_list"]) == [False]
    assert_equal(with_identities(model, [first]), small, inputs_of(model))


def test_a_subclassed_model_stays_one_and_trains_on():
    model = models.subclassed()
    model.compile(keras.optimizers.Adam(0.1), "mse")
    x, y = np.arange(10).reshape(2, 5), random(2, 5, 3)
    model.fit(x, y, epochs=1, verbose=0)
    small, report = without(model, "own_0", return_report=True)
    assert type(small) is models.OwnModel and small.depth == 2
    assert report.why_not_same_class is None and report.parameters.after == small.count_params()
    assert_equal(with_identities(model, own_blocks(model)[:1]), small, x)
    slots = [v for v in model.optimizer.variables if "own_1_wide_kernel" in v.path]
    kept = [v for v in small.optimizer.variables if "own_0_wide_kernel" in v.path]
    for ours, theirs in zip(slots, kept, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    small.fit(x, y, epochs=1, verbose=0)


def test_what_a_config_cannot_say_is_a_functional_model_or_refused():
    model = randomise(BACKBONES["Bart"]())  # one number for encoder and decoder
    layer = model.get_layer("transformer_encoder_layer_1")
    small, report = without(model, layer, same_class=None, return_report=True)
    assert type(small) is not type(model) and "no numbers in its config" in (
        report.why_not_same_class
    )
    assert_equal(with_identities(model, [layer]), small, inputs_of(model))
    with pytest.raises(ValueError, match="no numbers in its config make the layers that stay"):
        without(model, layer)
    both = [layer, model.get_layer("transformer_decoder_layer_1")]
    small = without(model, *both)
    assert type(small) is type(model) and small.num_layers == 1
    assert_equal(with_identities(model, both), small, inputs_of(model))


def test_the_place_of_a_layer_may_say_what_it_computes():
    model = Alternating(3, name="alternating")
    model(np.zeros((2, 4), "float32"))
    randomise(model)
    small, report = without(model, "part_0", same_class=None, return_report=True)
    assert type(small) is not Alternating and "compute" in report.why_not_same_class
    assert_equal(with_identities(model, model.parts[:1]), small, random(4, 4))
    assert type(without(model, "part_2")) is Alternating


@keras.saving.register_keras_serializable("blocks_tests")
class Scaled(keras.layers.Layer):
    """A residual layer that has an argument which is no weight."""

    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)
        self.factor, self.dense = factor, keras.layers.Dense(4, "tanh", name="dense")

    def build(self, shape):
        self.dense.build(shape)

    def call(self, inputs):
        return inputs + self.factor * self.dense(inputs)


@keras.saving.register_keras_serializable("blocks_tests")
class Alternating(keras.Model):
    """A model whose layers depend on their place."""

    def __init__(self, depth, **kwargs):
        super().__init__(**kwargs)
        self.depth = depth
        self.parts = [Scaled(float(place + 1), name=f"part_{place}") for place in range(depth)]

    def call(self, inputs):
        for part in self.parts:
            inputs = part(inputs)
        return inputs

    def get_config(self):
        return {**super().get_config(), "depth": self.depth}


def test_masks_are_not_made_by_the_class():
    masked = tfprune.prunable(models.subclassed())
    tfprune.prune_weights(masked, 0.5)
    with pytest.raises(ValueError, match="carries masks"):
        without(masked, "own_0")
