import keras
import numpy as np
import pytest

import tfprune
from tests.blocks import models
from tests.blocks.test_prune_blocks import assert_equal, outputs
from tests.kerashub_models import BACKBONES, hub, inputs_of, randomise
from tfprune.rebuild.copying import copy_model


def routers(model):
    layers = dict.fromkeys(model._flatten_layers())
    found = [each for each in layers if isinstance(each, keras.layers.Dense) and each.units == 4]
    return sorted(found, key=lambda layer: layer.path)


def without_experts(model, gone):
    """A copy whose routers give experts that are gone no chance."""
    copy = copy_model(model)
    for router, experts in zip(routers(model), gone, strict=True):
        layer, call = copy.layers[router], copy.layers[router].call
        columns = np.isin(np.arange(4), experts)

        def called(inputs, training=None, call=call, columns=columns):
            return keras.ops.where(columns, -1e9, call(inputs))

        layer.call = called
    return copy.model


@pytest.mark.parametrize("name", ["Mixtral", "QwenMoe", "Qwen3Moe", "GptOss"])
def test_the_rest_computes_what_the_model_does_that_never_chooses_them(name):
    model = randomise(BACKBONES[name]())
    x = inputs_of(model)  # with as many tokens as there are, so that all experts are used
    x["token_ids"] = np.random.default_rng(0).integers(0, 50, x["token_ids"].shape)
    small, report = tfprune.prune_experts(model, 2, (x,), return_report=True)
    assert type(small) is type(model) and small.num_experts == 2 and model.num_experts == 4
    assert [len(each.removed) for each in report.layers] == [2, 2]
    order = sorted(report.layers, key=lambda each: each.name)
    truth = without_experts(model, [each.removed for each in order])
    assert_equal(truth, small, x)
    assert not np.allclose(outputs(model, x)[0], outputs(small, x)[0], atol=1e-3)
    assert report.parameters.ratio < 0.9 and "experts" in str(report)


def test_a_score_is_the_change_of_the_output_of_the_layer():
    model = randomise(BACKBONES["Mixtral"]())
    x = inputs_of(model)
    _, report = tfprune.prune_experts(model, 2, (x,), return_report=True)
    first = model.get_layer("transformer_layer_0")
    block, given = first._sparse_moe_block, []
    copy = copy_model(model)
    layer = copy.layers[block]
    call = layer.call

    def called(inputs, **kwargs):
        given.append(np.asarray(inputs))
        return call(inputs, **kwargs)

    layer.call = called
    copy.model(x)
    tokens = given[0].reshape(-1, given[0].shape[-1]).astype("float64")
    logits = tokens @ np.asarray(block._sparse_feedforward_gate_dense.kernel)
    bank = block.expert_bank
    gate, up, down = (np.asarray(weight) for weight in bank.weights)
    silu = np.einsum("th,ehm->etm", tokens, gate)
    silu = silu / (1 + np.exp(-silu))
    made = np.einsum("etm,emh->eth", silu * np.einsum("th,ehm->etm", tokens, up), down)

    def mixed(logits):
        chances = np.exp(logits - logits.max(-1, keepdims=True))
        best = np.argsort(-chances, -1)[:, :2]
        shares = np.zeros_like(chances)
        np.put_along_axis(shares, best, np.take_along_axis(chances, best, -1), -1)
        return np.einsum("te,eth->th", shares / shares.sum(-1, keepdims=True), made)

    expected = []
    for expert in range(4):
        others = np.where(np.arange(4) == expert, -np.inf, logits)
        expected.append(np.linalg.norm(mixed(others) - mixed(logits), axis=-1).mean())
    (found,) = [each for each in report.layers if "transformer_layer_0" in each.name]
    np.testing.assert_allclose(found.scores, expected, rtol=1e-3, atol=1e-6)
    assert sorted(found.removed) == sorted(np.argsort(expected)[:2])


@keras.saving.register_keras_serializable("blocks_tests")
class Mixture(keras.layers.Layer):
    """Experts as a user writes them, the router with a bias."""

    def __init__(self, number, **kwargs):
        super().__init__(**kwargs)
        self.number, self.router = number, keras.layers.Dense(number, name="router")

    def build(self, shape):
        self.router.build(shape)
        self.kernels = self.add_weight(shape=(self.number, shape[-1], shape[-1]), name="kernels")

    def call(self, inputs):
        chances, chosen = keras.ops.top_k(keras.ops.softmax(self.router(inputs)), 2)
        shares = keras.ops.sum(keras.ops.one_hot(chosen, self.number) * chances[..., None], -2)
        return inputs + keras.ops.einsum("bte,btd,edf->btf", shares, inputs, self.kernels)

    def get_config(self):
        return {**super().get_config(), "number": self.number}


def test_experts_of_users_layers():
    inputs = keras.Input((5, 6))
    x = Mixture(4, name="first")(inputs)
    model = keras.Model(inputs, Mixture(4, name="second")(x))
    model = randomise(model)
    model.compile(keras.optimizers.Adam(0.1), "mse")
    x = np.random.default_rng(0).normal(size=(8, 5, 6)).astype("float32")
    model.fit(x, x, verbose=0)
    small, report = tfprune.prune_experts(model, 0.25, (x,), return_report=True)
    assert [small.get_layer(name).number for name in ("first", "second")] == [3, 3]
    truth = without_experts(model, [each.removed for each in report.layers])
    assert_equal(truth, small, x)
    assert not np.allclose(outputs(model, x)[0], outputs(small, x)[0], atol=1e-3)
    small.fit(x, x, verbose=0)


def test_a_task_still_generates():
    backbone = BACKBONES["Mixtral"]()
    task = randomise(hub().models.MixtralCausalLM(backbone=backbone, preprocessor=None))
    x = inputs_of(backbone)
    small = tfprune.prune_experts(task, 0.5, (x,))
    assert type(small) is type(task) and small.backbone.num_experts == 2
    small.compile(sampler="greedy")
    given = np.repeat([[1] * 4 + [0] * 4], 2, axis=0).astype("int32")
    small.generate({"token_ids": x["token_ids"], "padding_mask": given}, stop_token_ids=None)


def test_what_cannot_be_is_refused():
    model = randomise(BACKBONES["Mixtral"]())
    x = inputs_of(model)
    for target in (0, 4, 1.0, "all"):
        with pytest.raises(ValueError, match="`target` must"):
            tfprune.prune_experts(model, target, (x,))
    with pytest.raises(ValueError, match="no mixture of experts"):
        tfprune.prune_experts(models.subclassed(), 1, (np.arange(10).reshape(2, 5),))
    masked = tfprune.prunable(model)
    tfprune.prune_weights(masked, 0.5)
    with pytest.raises(ValueError, match="carries masks"):
        tfprune.prune_experts(masked, 1, (x,))
    with pytest.raises(ValueError, match="too few are left for each token"):
        tfprune.prune_experts(model, 3, (x,))  # of the four, two are chosen for each token
