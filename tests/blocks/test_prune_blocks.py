import keras
import numpy as np
import pytest

import tfprune
from tests.blocks import models
from tests.kerashub_models import BACKBONES, hub, inputs_of, randomise
from tfprune import budgets
from tfprune.blocks.find import find_blocks
from tfprune.rebuild.copying import copy_model


def names(model, **filters):
    return [block.name for block in find_blocks(model, **filters).blocks]


def outputs(model, x):
    return [np.asarray(each) for each in keras.tree.flatten(model(x, training=False))]


def assert_equal(ours, theirs, x):
    for a, b in zip(outputs(ours, x), outputs(theirs, x), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * max(1.0, np.abs(a).max()))


def with_identities(model, layers):
    """A copy of a model in which these layers return what they take."""
    copy = copy_model(model)
    for layer in layers:
        copy.layers[layer].call = lambda *args, **kwargs: [*args, *kwargs.values()][0]
    return copy.model


def without_branches(model, *last_layers):
    """A copy of a model in which the last layers of some residual branches give zeros."""
    copy = copy_model(model).model
    for name in last_layers:
        for weight in copy.get_layer(name).weights:
            weight.assign(0 * weight)
    return copy


def own_blocks(model):
    return [layer for layer in model._flatten_layers() if type(layer) is models.OwnBlock]


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


# What a block is ---------------------------------------------------------------------------------


def test_two_residual_additions_that_alternate_are_a_block():
    model = models.stock_transformer()
    assert names(model) == ["sum_0", "sum_1", "sum_2"]
    small = tfprune.prune_blocks(model, 1, lambda m: len(m.layers), data=None, only="wide_1")
    names_left = {layer.name for layer in small.layers}
    gone = {"norm_1", "attention_1", "wide_1", "narrow_1", "sum_1"}
    assert not names_left & gone and len(model.layers) == len(small.layers) + len(gone)
    truth = without_branches(model, "attention_1", "narrow_1")
    assert_equal(truth, small, random(4, 5, models.DIM))


def test_blocks_of_a_resnet_are_those_with_an_identity_beside_them():
    model = models.resnet()
    assert names(model) == ["out0_1", "out0_2", "add1_1"]
    small = tfprune.prune_blocks(model, 2, lambda m: 0.0, exclude="a0_1")
    assert_equal(without_branches(model, "b0_2", "b1_1"), small, random(4, 8, 8, 3))


@pytest.mark.parametrize("make", [models.subclassed, models.with_stack])
def test_blocks_in_subclassed_models_and_in_layers_are_found(make):
    model = make()
    x = np.arange(10).reshape(2, 5) if make is models.subclassed else random(2, 5, models.DIM)
    blocks = own_blocks(model)
    small = tfprune.prune_blocks(model, 1, lambda m: 0.0, only=blocks[1])
    assert len(own_blocks(small)) == 2
    assert_equal(with_identities(model, blocks[1:2]), small, x)
    assert own_blocks(model) == blocks


def test_a_nested_model_may_be_a_block_and_may_hold_blocks():
    def residual(number):
        inputs = keras.Input((4,))
        x = keras.layers.Dense(4, "relu", name=f"inner_{number}")(inputs)
        return keras.Model(inputs, inputs + x, name=f"part_{number}")

    x = inputs = keras.Input((4,))
    for number in range(3):
        x = residual(number)(x)
    body = keras.Model(inputs, x, name="body")
    inputs = keras.Input((4,))
    model = randomise(keras.Model(inputs, keras.layers.Dense(2, name="end")(body(inputs))))
    assert names(model) == [f"body/part_{number}" for number in range(3)]
    small = tfprune.prune_blocks(model, 1, lambda m: 0.0, only="inner_1")
    truth = copy_model(model).model
    layer = truth.get_layer("body").get_layer("part_1").get_layer("inner_1")
    layer.set_weights([0 * weight for weight in layer.get_weights()])
    assert_equal(truth, small, random(4, 4))
    assert len(small.get_layer("body").layers) == len(model.get_layer("body").layers) - 1


def test_blocks_in_a_sequential_model():
    blocks = [models.OwnBlock(models.DIM, 2, name=f"own_{place}") for place in range(3)]
    model = randomise(keras.Sequential([keras.Input((5, models.DIM)), *blocks]))
    small = tfprune.prune_blocks(model, 1, lambda m: 0.0, only="own_0")
    assert isinstance(small, keras.Sequential) and len(small.layers) == 2
    assert_equal(with_identities(model, blocks[:1]), small, random(2, 5, models.DIM))


def test_what_is_used_elsewhere_too_is_no_block():
    x = inputs = keras.Input((4,))
    wide = []
    for number in range(3):
        wide.append(keras.layers.Dense(8, name=f"wide_{number}")(x))
        x = x + keras.layers.Dense(4, name=f"narrow_{number}")(wide[-1])
    model = keras.Model(inputs, [x, wide[1]])
    (stays,) = find_blocks(model).stays
    assert stays.endswith("stays: what is computed in it goes to 'the outputs' too.")
    assert [layer.name for block in find_blocks(model).blocks for layer in block.layers] == [
        *("wide_0", "narrow_0", "wide_2", "narrow_2"),
    ]


@pytest.mark.parametrize("name", ["Llama", "ViT", "Bert", "Mixtral"])
def test_layers_of_kerashub_are_blocks(name):
    model = randomise(BACKBONES[name]())
    kinds = kerashub_blocks(model)
    x = inputs_of(model)
    small, report = tfprune.prune_blocks(model, 1, data=(x,), return_report=True)
    (place,) = [place for place, each in enumerate(report.blocks) if each.removed]
    assert len(report.blocks) == len(kinds) == 2
    assert_equal(with_identities(model, kinds[place : place + 1]), small, x)
    assert len(kerashub_blocks(small)) == 1


def kerashub_blocks(model):
    names = "TransformerDecoder", "TransformerEncoder", "ViTEncoderBlock"
    layers = dict.fromkeys(model._flatten_layers())
    found = [layer for layer in layers if type(layer).__name__.endswith(names)]
    return sorted(found, key=lambda layer: layer.name)


def test_a_layer_that_is_called_twice_is_two_blocks():
    model = randomise(BACKBONES["Albert"]())
    x = inputs_of(model)
    small, report = tfprune.prune_blocks(model, 1, data=(x,), return_report=True)
    assert [each.name.endswith("(call 2)") for each in report.blocks] == [False, True]
    layer = model.get_layer("group_0_inner_layer_0")
    given = []
    call = layer.call

    def called(inputs, *args, **kwargs):
        given.append(inputs)
        is_gone = report.blocks[len(given) - 1].removed
        return inputs if is_gone else call(inputs, *args, **kwargs)

    small_outputs = outputs(small, x)
    layer.call = called
    for a, b in zip(outputs(model, x), small_outputs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert len(given) == 2 and report.parameters.ratio == 1


def test_a_task_of_kerashub_loses_layers_of_its_backbone():
    backbone = BACKBONES["GPT2"]()
    model = randomise(hub().models.GPT2CausalLM(backbone=backbone, preprocessor=None))
    x = inputs_of(backbone)
    layers = kerashub_blocks(model)
    small = tfprune.prune_blocks(model, 1, lambda m: 0.0, only=layers[1])
    assert_equal(with_identities(model, layers[1:]), small, x)


def test_positions_that_are_added_to_tokens_are_no_block():
    assert names(BACKBONES["GPT2"]()) == ["transformer_layer_0", "transformer_layer_1"]


def test_a_layer_that_gives_the_others_something_stays_and_says_why():
    model = randomise(BACKBONES["T5"]())  # the first layers give the others position biases
    x = inputs_of(model)
    _, report = tfprune.prune_blocks(model, 1, data=(x,), return_report=True, same_class=False)
    assert [each.name[-1] for each in report.blocks] == ["1", "1"]
    assert "'transformer_encoder_layer_0' stays" in str(report.stays)
    assert "'transformer_encoder_layer_1'" in report.stays[0] and "stays" in str(report)


@pytest.mark.parametrize(("name", "depth"), [("DebertaV3", 2), ("T5Gemma", 4)])
def test_what_a_layer_makes_besides_may_be_used_or_not(name, depth):
    # Of sizes alone, from its input; or caches that nothing takes.
    assert len(names(BACKBONES[name]())) == depth


def test_masks_of_steps_go_past_the_block():
    inputs = keras.Input((5, models.DIM))
    x = keras.layers.Masking(name="steps")(inputs)
    for place in range(2):
        y = keras.layers.LayerNormalization(name=f"norm_{place}")(x)
        x = x + keras.layers.MultiHeadAttention(2, 3, name=f"attention_{place}")(y, y)
    model = randomise(keras.Model(inputs, keras.layers.GRU(4, name="gru")(x)))
    x = random(4, 5, models.DIM)
    x[:, 3:] = 0
    small = tfprune.prune_blocks(model, 1, lambda m: 0.0, only="attention_0")
    truth = without_branches(model, "attention_0")
    assert_equal(truth, small, x)
    assert_equal(truth, small, random(4, 5, models.DIM))


# Scores ------------------------------------------------------------------------------------------


def test_block_influence_is_one_minus_the_mean_cosine():
    model = models.stock_transformer(depth=2)
    x = random(40, 5, models.DIM)
    _, report = tfprune.prune_blocks(model, 1, data=(x,), return_report=True)
    inner = [model.get_layer(name).output for name in ("sum_0", "sum_1")]
    start = model.get_layer("norm_0").input
    ends = keras.Model(model.input, [start, *inner])(x)
    a, b, c = (np.asarray(each, "float64") for each in ends)

    def influence(p, q):
        lengths = np.sqrt((p**2).sum(-1) * (q**2).sum(-1))
        return 1 - ((p * q).sum(-1) / lengths).mean()

    expected = [influence(a, b), influence(b, c)]
    np.testing.assert_allclose([each.score for each in report.blocks], expected, rtol=1e-4)
    assert [each.removed for each in report.blocks] == [s == min(expected) for s in expected]


def test_loss_is_that_without_the_block():
    model = models.resnet()
    model.compile("sgd", "mse")
    x, y = random(20, 8, 8, 3), random(20, 3, seed=1)
    small, report = tfprune.prune_blocks(model, 0.34, "loss", data=(x, y), return_report=True)
    expected = []
    for name in ("b0_1", "b0_2", "b1_1"):
        (found,) = outputs(without_branches(model, name), x)
        expected.append(np.mean((found - y) ** 2))
    np.testing.assert_allclose([each.score for each in report.blocks], expected, rtol=1e-4)
    loss = small.evaluate(x, y, verbose=0)
    assert loss == pytest.approx(min(expected), rel=1e-4)


def test_a_callable_gets_the_model_without_each_block():
    model, given = models.stock_transformer(), []
    scores = {"attention_0": 2.0, "attention_1": 1.0, "attention_2": 3.0}

    def criterion(without):
        given.append(
            {layer.name for layer in model.layers} - {each.name for each in without.layers}
        )
        return next(score for name, score in scores.items() if name in given[-1])

    small = tfprune.prune_blocks(model, 2, criterion)
    assert [len(each) for each in given] == [5, 5, 5]
    assert [layer.name for layer in small.layers if layer.name in scores] == ["attention_2"]


# Targets -----------------------------------------------------------------------------------------


def test_budgets_are_met_with_the_fewest_blocks():
    model = models.stock_transformer(depth=4)
    whole, kinds = model.count_params(), ("norm", "attention", "wide", "narrow")
    block = sum(model.get_layer(f"{kind}_0").count_params() for kind in kinds)
    for remaining, gone in ((whole - block, 1), (whole - block - 1, 2), (0.999, 1), (1.0, 0)):
        small = tfprune.prune_blocks(model, budgets.Parameters(remaining), lambda m: 0.0)
        assert small.count_params() == whole - gone * block
        assert small is not model
    order = iter(range(4))
    small, report = tfprune.prune_blocks(
        model, budgets.MACs(0.6), lambda m: next(order), return_report=True
    )
    assert report.macs.ratio <= 0.6 and report.depth.after == 2
    assert [each.removed for each in report.blocks] == [True, True, False, False]
    assert "blocks" in str(report) and report.to_dict()["depth"]["before"] == 4


def test_a_budget_that_blocks_alone_cannot_meet_is_refused():
    model = models.stock_transformer()
    with pytest.raises(ValueError, match="without all 3 that can go, .* remain"):
        tfprune.prune_blocks(model, budgets.Parameters(0.01), lambda m: 0.0)


def test_latency():
    model = models.stock_transformer(depth=6)
    small, report = tfprune.prune_blocks(
        model, budgets.Latency(fraction=0.7, batch_size=4), lambda m: 0.0, return_report=True
    )
    assert 0 < report.depth.after < 6


@pytest.mark.parametrize("target", [0, 1.0, 4, True, "half", budgets.Units(0.5)])
def test_bad_targets_are_refused(target):
    with pytest.raises(ValueError, match="`target` must"):
        tfprune.prune_blocks(models.stock_transformer(), target, lambda m: 0.0)


def test_bad_criteria_and_missing_data_are_refused():
    model = models.stock_transformer()
    with pytest.raises(ValueError, match="must be one of"):
        tfprune.prune_blocks(model, 1, "magnitude")
    with pytest.raises(ValueError, match="data=None"):
        tfprune.prune_blocks(model, 1)
    with pytest.raises(ValueError, match="compiled"):
        tfprune.prune_blocks(model, 1, "loss", data=(random(4, 5, 6), random(4, 5, 3)))
    with pytest.raises(ValueError, match="must be finite"):
        tfprune.prune_blocks(model, 1, lambda m: np.nan)


def test_models_without_blocks_are_refused():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, name="only")])
    with pytest.raises(ValueError, match="no residual block"):
        tfprune.prune_blocks(model, 1, lambda m: 0.0)
    with pytest.raises(ValueError, match="among those chosen"):
        tfprune.prune_blocks(models.stock_transformer(), 1, lambda m: 0.0, only="logits")


# What stays --------------------------------------------------------------------------------------


def test_training_goes_on_with_masks_and_slots():
    model = models.stock_transformer()
    model.compile(keras.optimizers.Adam(0.1), "mse")
    x, y = random(16, 5, models.DIM), random(16, 5, 3, seed=1)
    masked = tfprune.prunable(model)
    tfprune.prune_weights(masked, 0.5)
    masked.fit(x, y, epochs=1, verbose=0)
    small = tfprune.prune_blocks(masked, 1, lambda m: 0.0, only="wide_1")
    theirs, ours = small.get_layer("wide_2"), masked.get_layer("wide_2")
    np.testing.assert_array_equal(theirs.trainable_masks["kernel"], ours.trainable_masks["kernel"])
    slot = lambda m: next(  # noqa: E731
        v for v in m.optimizer.variables if "wide_2_kernel_velocity" in v.path
    )
    np.testing.assert_array_equal(slot(small), slot(masked))
    before = np.asarray(theirs.kernel)
    small.fit(x, y, epochs=1, verbose=0)
    after = np.asarray(theirs.kernel)
    assert (after[before == 0] == 0).all() and (after[before != 0] != before[before != 0]).any()
