"""Depth: residual blocks that go, and that come again."""

import keras
import numpy as np
import pytest

import tfprune
from tests.kerashub_models import BACKBONES, inputs_of, randomise
from tests.surgery.models import drawn, example
from tests.surgery.test_inlining import Block, Stage
from tfprune import surgery
from tfprune.blocks.find import find_blocks
from tfprune.surgery import by

layers = keras.layers


def stack(norm=None, after=None, nested=False):
    """Three residual blocks of dense layers."""
    inputs = keras.Input((6,))
    x = layers.Dense(5, activation="relu", name="stem")(inputs)
    outer, x = (x, keras.Input((5,))) if nested else (inputs, x)
    start = x
    for number in range(3):
        y = layers.LayerNormalization(name=f"norm_{number}")(x) if norm == "before" else x
        y = layers.Dense(7, activation="relu", name=f"wide_{number}")(y)
        y = layers.Dense(5, name=f"narrow_{number}")(y)
        if norm == "after":
            y = layers.BatchNormalization(name=f"scale_{number}")(y)
        x = layers.Add(name=f"sum_{number}")([x, y])
        x = after(x) if after else x
    if nested:
        x = keras.Model(start, x, name="stack")(outer)
    return drawn(keras.Model(inputs, layers.Dense(2, name="head")(x)))


def images():
    """Two blocks of a ResNet, after a convolution."""
    x = inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="stem")(x)
    for number in range(2):
        y = layers.Conv2D(4, 3, padding="same", name=f"conv_{number}a")(x)
        y = layers.ReLU()(layers.BatchNormalization(name=f"norm_{number}a")(y))
        y = layers.Conv2D(4, 3, padding="same", name=f"conv_{number}b")(y)
        y = layers.BatchNormalization(name=f"norm_{number}b")(y)
        x = layers.ReLU(name=f"relu_{number}")(layers.Add(name=f"sum_{number}")([x, y]))
    return drawn(keras.Model(inputs, layers.GlobalAveragePooling2D()(x)))


def attentions():
    """Two decoder blocks: attention, then an MLP, normalised before each."""
    x = inputs = keras.Input((5, 4))
    for number in range(2):
        y = layers.LayerNormalization(name=f"first_{number}")(x)
        y = layers.MultiHeadAttention(2, 3, name=f"attention_{number}")(y, y, use_causal_mask=True)
        x = layers.Add(name=f"sum_{number}a")([x, layers.Dropout(0.1)(y)])
        y = layers.LayerNormalization(name=f"second_{number}")(x)
        y = layers.Dense(6, activation="gelu", name=f"wide_{number}")(y)
        x = layers.Add(name=f"sum_{number}b")([x, layers.Dense(4, name=f"narrow_{number}")(y)])
    return drawn(keras.Model(inputs, layers.Dense(2, name="head")(x)))


def custom():
    inputs = keras.Input((4,))
    x = Block(8, name="two")(Block(8, name="one")(inputs))
    return drawn(keras.Model(inputs, layers.Dense(2, name="head")(x)))


def staged():
    inputs = keras.Input((4,))
    return drawn(keras.Model(inputs, layers.Dense(2, name="head")(Stage(name="stage")(inputs))))


def in_sequence():
    return drawn(keras.Sequential([keras.Input((4,)), Block(8, name="one"), Block(8, name="two")]))


CASES = [  # the model, a layer of the block, a layer of the block before the end, zero weights
    (stack, "sum_1", ["narrow_1"]),
    (lambda: stack("before"), "wide_1", ["narrow_1"]),
    (lambda: stack("after"), "narrow_2", ["scale_2"]),
    (lambda: stack(nested=True), "wide_0", ["narrow_0"]),
    (lambda: stack(after=lambda x: layers.ReLU()(x)), "wide_1", ["narrow_1"]),
    (images, "conv_1a", ["norm_1b"]),
    (attentions, "attention_0", ["attention_0", "narrow_0"]),
    (custom, "one", ["one"]),
    (staged, "stage_first", ["stage_first"]),
    (in_sequence, "two", ["two"]),
]
IDS = ["plain", "norm", "scale", "nested", "relu", "images", "attention", "custom", "staged"]
IDS = [*IDS, "sequence"]


def layer_of(model, name):
    return next(each for each in model._flatten_layers() if each.name == name)


@pytest.mark.parametrize(("make", "name", "zeros"), CASES, ids=IDS)
def test_a_repeated_block_begins_as_the_identity_and_trains(make, name, zeros):
    model = make()
    plan = surgery.edit(model)
    plan.repeat_block(name, 2)
    assert plan.effects == ()
    new, x = plan.model, example(model)
    assert type(new) is type(model)
    np.testing.assert_allclose(new(x), model(x), rtol=1e-5, atol=1e-6)
    again = surgery.Plan.from_dict(model, plan.to_dict()).model
    np.testing.assert_allclose(again(x), model(x), rtol=1e-5, atol=1e-6)
    for suffix in ("_repeat", "_repeat_2"):
        for each in zeros:
            made = layer_of(new, each + suffix)
            assert any((np.array(weight) == 0).all() for weight in made.trainable_weights)
            assert not all((np.array(weight) == 0).all() for weight in layer_of(new, each).weights)
    new.compile(keras.optimizers.Adam(0.001), "mse", run_eagerly=True)  # to trace it takes longer
    kernels = [w for w in new.trainable_variables if w.name == "kernel"]
    before = [np.array(weight) for weight in kernels]
    for _ in range(2):  # the first step moves the zeros, and the second what is in front of them
        new.train_on_batch(x, np.zeros(new(x).shape))
    assert all((np.array(w) != b).any() for w, b in zip(kernels, before, strict=True))


def test_a_copy_computes_the_block_twice():
    model = stack()
    new = surgery.repeat_block(model, "narrow_1", init="copy")
    x = example(model)
    value = np.maximum(x @ model.get_layer("stem").kernel + model.get_layer("stem").bias, 0)
    for number in (0, 1, 1, 2):
        wide, narrow = (model.get_layer(f"{name}_{number}") for name in ("wide", "narrow"))
        hidden = np.maximum(value @ wide.kernel + wide.bias, 0)
        value = value + hidden @ narrow.kernel + narrow.bias
    truth = value @ model.get_layer("head").kernel + model.get_layer("head").bias
    np.testing.assert_allclose(new(x), truth, rtol=1e-4, atol=1e-4)
    plan = surgery.edit(model)
    plan.repeat_block("narrow_1", init="copy")
    assert plan.effects == ("block 'sum_1' is repeated",)


@pytest.mark.parametrize(("make", "name", "_"), CASES[3:], ids=IDS[3:])
def test_a_block_goes_and_comes_back(make, name, _):
    model = make()
    deeper = surgery.repeat_block(model, name)
    names = {each.name for each in deeper._flatten_layers()}
    added = next(each for each in sorted(names) if each.endswith("_repeat"))
    back = surgery.remove_block(deeper, added)
    np.testing.assert_allclose(back(example(model)), model(example(model)), rtol=1e-5, atol=1e-6)
    assert back.count_params() == model.count_params()


def test_blocks_that_go_are_bypassed_and_their_neighbours_stay():
    model, x = stack(), example(stack())
    plan = surgery.edit(model)
    plan.remove_block(model.get_layer("wide_0"))
    plan.remove_block("sum_1")
    plan.resize({"wide_2": by(+2)})
    value = np.maximum(x @ model.get_layer("stem").kernel + model.get_layer("stem").bias, 0)
    wide, narrow, head = (model.get_layer(name) for name in ("wide_2", "narrow_2", "head"))
    hidden = np.maximum(value @ wide.kernel + wide.bias, 0)
    truth = (value + hidden @ narrow.kernel + narrow.bias) @ head.kernel + head.bias
    np.testing.assert_allclose(plan.model(x), truth, rtol=1e-4, atol=1e-4)
    assert "block 'sum_0' is removed" in plan.effects
    assert [layer.name for layer in plan.model.layers][1:] == [
        *("stem", "wide_2", "narrow_2", "sum_2", "head")
    ]


def test_repeated_layers_can_be_named_in_the_same_plan():
    model = stack()
    plan = surgery.edit(model)
    plan.repeat_block("sum_1")
    plan.resize({"wide_1_repeat": by(+3)})
    plan.insert("wide_1_repeat", layers.Dense(7, activation="relu", name="new"))
    assert plan.effects == ()
    new, x = plan.model, example(model)
    np.testing.assert_allclose(new(x), model(x), rtol=1e-5, atol=1e-6)
    assert new.get_layer("wide_1_repeat").units == 10


def test_masks_and_slots_stay_and_repeated_layers_have_the_masks_of_the_block():
    model = tfprune.prunable(stack())
    mask = np.arange(35).reshape(5, 7) % 4 != 0
    tfprune.set_masks(model, "wide_1", "kernel", trainable=mask)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    x = example(model)
    model.train_on_batch(x, np.ones((3, 2)))
    new = surgery.repeat_block(model, "sum_1")
    for name in ("wide_1", "wide_1_repeat"):
        np.testing.assert_array_equal(new.get_layer(name).trainable_masks["kernel"], mask)
    slots = [
        {v.path.split("/")[-1]: np.array(v) for v in m.optimizer.variables} for m in (model, new)
    ]
    key = "wide_1_kernel_momentum"
    np.testing.assert_array_equal(slots[1][key], slots[0][key])
    new.train_on_batch(x, np.ones((3, 2)))
    assert (np.array(new.get_layer("wide_1_repeat").kernel)[~mask] == 0).all()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: surgery.remove_block(m, "head"), "block='head', of no block.*'sum_0'"),
        (lambda m: surgery.remove_block(m, "nowhere"), "block='nowhere'"),
        (lambda m: surgery.repeat_block(m, "sum_0", 0), "`times`.*0"),
        (lambda m: surgery.repeat_block(m, "sum_0", 1.5), "`times`.*1.5"),
        (lambda m: surgery.repeat_block(m, "sum_0", "2"), "`times`.*'2'"),
        (lambda m: surgery.repeat_block(m, "sum_0", init="zeros"), "`init`.*'zeros'"),
    ],
)
def test_wrong_blocks_are_refused(edit, message):
    with pytest.raises(ValueError, match=message):
        edit(stack())


def test_names_that_come_twice_in_a_plan_are_refused():
    plan = surgery.edit(stack())
    plan.repeat_block("sum_0")
    with pytest.raises(ValueError, match=r"repeat_block\(block, times\).*_repeat', twice"):
        plan.repeat_block("sum_0")
    with pytest.raises(ValueError, match="'again', twice"):
        plan.insert("sum_1", [layers.ReLU(name="again"), layers.ReLU(name="again")])


def test_what_cannot_begin_as_the_identity_is_refused():
    model = stack(after=lambda x: layers.LayerNormalization()(x))
    weights = model.get_weights()
    with pytest.raises(ValueError, match="cannot begin as the identity.*init='copy'"):
        surgery.repeat_block(model, "wide_1")
    for ours, theirs in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    shared = stack(after=layers.ReLU(name="shared"))
    with pytest.raises(ValueError, match="called elsewhere too.*'shared'"):
        surgery.repeat_block(shared, "wide_1")


# Models of others ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Llama", "GPT2", "ViT"])
def test_backbones_become_deeper_and_compute_the_same(name):
    model = BACKBONES[name]()
    randomise(model)
    (first, *_), inputs = find_blocks(model).blocks, inputs_of(model)
    new = surgery.repeat_block(model, first.name)
    for ours, theirs in zip(*(keras.tree.flatten(m(inputs)) for m in (new, model)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    assert len(find_blocks(new).blocks) == len(find_blocks(model).blocks) + 1


@pytest.mark.slow
def test_encoders_with_norms_after_sums_are_refused():
    model = BACKBONES["Bert"]()
    randomise(model)
    with pytest.raises(ValueError, match="'transformer_layer_0'.*a norm after a sum"):
        surgery.repeat_block(model, "transformer_layer_0")


@pytest.mark.slow
def test_blocks_of_a_resnet_come_and_go():
    model = keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3), classes=5)
    new = surgery.repeat_block(model, "conv3_block2_add")
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(new(x), model(x), rtol=1e-5, atol=1e-6)
    back = surgery.remove_block(new, "conv3_block2_1_conv")
    assert back.count_params() == model.count_params() < new.count_params()
