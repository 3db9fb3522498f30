"""Edits inside and around custom layers, and models at each step of a sequence."""

import json

import keras
import numpy as np
import pytest

import tfprune
from tests.surgery.models import drawn, example, names
from tfprune import surgery
from tfprune.surgery import by, inputs_of

layers = keras.layers


@keras.saving.register_keras_serializable("tests_surgery_opening")
class Block(layers.Layer):
    """A residual block of two dense layers."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.wide = layers.Dense(units, activation="relu", name="wide")
        self.narrow = layers.Dense(6, name="narrow")

    def build(self, shape):
        self.wide.build(shape)
        self.narrow = layers.Dense(shape[-1], name="narrow")
        self.narrow.build((*shape[:-1], self.wide.units))

    def call(self, inputs):
        return inputs + self.narrow(self.wide(inputs))

    def compute_output_shape(self, shape):
        return shape


class Feed(Block):
    """The same without the sum."""

    def call(self, inputs):
        return self.narrow(self.wide(inputs))


class Stage(layers.Layer):
    """Two blocks."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = Block(8, name="first"), Block(8, name="second")

    def build(self, shape):
        self.first.build(shape)
        self.second.build(shape)

    def call(self, inputs):
        return self.second(self.first(inputs))


class Scaled(Block):
    """A block with a weight of its own, which cannot be inlined."""

    def build(self, shape):
        super().build(shape)
        self.scale = self.add_weight(shape=(self.wide.units,), name="scale", initializer="ones")

    def call(self, inputs):
        return inputs + self.narrow(self.scale * self.wide(inputs))


def blocks(make=Block):
    inputs = keras.Input((4,))
    x = layers.Dense(6, name="stem")(inputs)
    x = make(8, name="two")(Block(8, name="one")(x))
    return drawn(keras.Model(inputs, layers.Dense(2, name="head")(x), name="blocks"))


def staged():
    inputs = keras.Input((4,))
    x = Stage(name="stage")(layers.Dense(6, name="stem")(inputs))
    return drawn(keras.Model(inputs, layers.Dense(2, name="head")(x)))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.stem, self.one = layers.Dense(6, name="stem"), Block(8, name="one")
        self.head = layers.Dense(2, name="head")

    def call(self, inputs):
        return self.head(self.one(self.stem(inputs)))


def assert_same(new, model, x):
    np.testing.assert_allclose(new(x), model(x), rtol=1e-4, atol=1e-5)


SIZES = [  # what is named, and which layers are inlined for it
    ("stem", ["one", "two"]),
    ("one", ["one", "two"]),
    (inputs_of("two"), ["one", "two"]),
    (inputs_of("head"), ["one", "two"]),
    (lambda model: model.get_layer("one").wide, ["one"]),
    ("two_wide", ["two"]),
    ("two_narrow", ["one", "two"]),
]


@pytest.mark.parametrize(("key", "inlined"), SIZES)
def test_what_is_named_grows_and_only_what_must_be_is_inlined(key, inlined):
    model = blocks()
    plan = surgery.edit(model)
    plan.resize({key(model) if callable(key) else key: by(+2)})
    assert plan.effects == ()
    again = surgery.Plan.from_dict(model, plan.to_dict())
    for new in (plan.model, again.model):
        assert_same(new, model, example(model))
        kept = {layer.name for layer in new.layers if isinstance(layer, Block)}
        assert kept == {"one", "two"} - set(inlined)
        assert new.count_params() > model.count_params()
    (name, *_) = inlined
    wide = plan.model.get_layer(f"{name}_wide").kernel
    np.testing.assert_array_equal(wide[:6, :8], model.get_layer(name).wide.kernel)


def test_slots_and_masks_inside_go_along():
    model = tfprune.prunable(blocks())
    mask = np.arange(48).reshape(6, 8) % 3 != 0
    wide = model.get_layer("one").wide
    tfprune.set_masks(model, wide, "kernel", trainable=mask)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    model.train_on_batch(example(model), np.ones((3, 2)))
    new = surgery.resize(model, {wide: by(+1)})
    made = new.get_layer("one_wide")
    np.testing.assert_array_equal(made.trainable_masks["kernel"][:, :8], mask)
    slots = [
        next(np.array(v) for v in m.optimizer.variables if "wide_kernel_momentum" in v.path)
        for m in (model, new)
    ]
    np.testing.assert_array_equal(slots[1][:, :8], slots[0])
    assert np.abs(slots[0]).sum() > 0


def test_layers_come_in_go_and_are_replaced_inside():
    model, x = blocks(), example(blocks())
    one = model.get_layer("one")
    new = surgery.insert(model, one.wide, layers.Dense(8, activation="relu", name="new"))
    assert names(new) == ["stem", "one_wide", "new", "one_narrow", "two", "head"]
    assert_same(new, model, x)
    h = x @ model.get_layer("stem").kernel + model.get_layer("stem").bias
    without = surgery.remove(surgery.resize(model, {one.wide: 6}), "one_wide")
    narrow = without.get_layer("one_narrow")
    rest = without.get_layer("head")(without.get_layer("two")(h + narrow(h)))
    np.testing.assert_allclose(without(x), rest, rtol=1e-4, atol=1e-4)
    other = surgery.replace(model, one.wide, layers.Dense(8, activation="tanh"))
    inner = np.tanh(h @ one.wide.kernel + one.wide.bias)
    h = h + inner @ one.narrow.kernel + one.narrow.bias
    truth = model.get_layer("head")(model.get_layer("two")(h))
    np.testing.assert_allclose(other(x), truth, rtol=1e-4, atol=1e-4)
    assert surgery.remove(model, "one").count_params() == model.count_params() - one.count_params()


def test_a_layer_in_a_layer_is_named_by_itself_or_with_those_around_it():
    model = staged()
    given = model.get_layer("stage").first.wide
    for key in (given, "stage_first_wide"):
        new = surgery.resize(model, {key: by(+1)})
        assert new.get_layer("stage_first_wide").units == 9
        assert isinstance(new.get_layer("stage_second"), Block)
        assert_same(new, model, example(model))
    message = "names 2 layers, in 'stage'.*: 'stage_first_wide', 'stage_second_wide'"
    with pytest.raises(ValueError, match=message):
        surgery.resize(model, {"wide": by(+1)})


def test_layers_of_a_subclassed_model_can_be_given():
    model = Subclassed()
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    model(x)
    for key in (model.stem, model.one.wide, "one_wide", model.head):
        change = by(+1)
        if key is model.head:
            key = inputs_of(key)
        assert_same(surgery.resize(model, {key: change}), model, x)


def test_a_new_channel_goes_into_a_block():
    inputs = keras.Input((4,))
    x, y = (layers.Dense(3, name=name)(inputs) for name in "xy")
    joined = layers.Concatenate(name="joined")([x, y])
    outputs = layers.Dense(2, name="head")(Feed(8, name="one")(joined))
    model = drawn(keras.Model(inputs, [outputs, layers.Dense(4, name="z")(inputs)]))
    old = model.get_layer("one").wide.kernel.numpy()
    new = surgery.disconnect(model, "y", "joined")
    np.testing.assert_array_equal(new.get_layer("one_wide").kernel, old[:3])
    new = surgery.connect(model, "z", "joined")
    np.testing.assert_array_equal(new.get_layer("one_wide").kernel, np.pad(old, ((0, 4), (0, 0))))
    for ours, theirs in zip(new(example(model)), model(example(model)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_custom_layer_that_does_not_fit_any_more_is_no_model():
    inputs = keras.Input((4,))
    x = Feed(8, name="one")(layers.Dense(6, name="stem")(inputs))
    model = drawn(keras.Model(inputs, layers.Dense(2, name="head")(x)))
    with pytest.raises(ValueError, match="there is no model.*insert after stem"):
        surgery.insert(model, "stem", layers.Dense(7, name="new"), init="default")


def test_what_is_inlined_cannot_go_as_a_whole_in_the_same_plan():
    model = blocks()
    plan = surgery.edit(model)
    plan.remove("one")
    plan.resize({"stem": by(+1)})
    with pytest.raises(ValueError, match="'one', to remove. Make one model after the other"):
        plan.model  # noqa: B018
    plan = surgery.edit(model)
    plan.insert("one", layers.Dense(6, name="new"))
    plan.resize({model.get_layer("one").wide: by(+1), "one": by(+1)})
    assert plan.effects == ()
    assert_same(plan.model, model, example(model))
    assert plan.model.get_layer("new").kernel.shape == (7, 6)


def test_what_cannot_be_inlined_says_why():
    model = blocks(Scaled)
    with pytest.raises(ValueError, match="layer='wide', in 'two' .Scaled.*weights of its own"):
        surgery.resize(model, {model.get_layer("two").wide: by(+1)})
    new = surgery.resize(model, {"stem": by(-1)})  # around it, it is resized in place
    assert isinstance(new.get_layer("two"), Scaled)
    inputs = keras.Input((4, 3))
    attention = layers.MultiHeadAttention(2, 4, name="attention")
    model = keras.Model(inputs, attention(inputs, inputs))
    for key in (attention.query_dense, "query"):
        with pytest.raises(ValueError, match="in 'attention'.*edited as a whole"):
            surgery.resize(model, {key: by(+1)})


# At each step of a sequence -----------------------------------------------------------------------


def steps():
    inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    y = layers.Conv2D(3, 3, name="other")(inputs)
    x = layers.Concatenate(name="joined")([x, y])
    x = layers.GlobalAveragePooling2D()(layers.ReLU(name="relu")(x))
    frame = keras.Model(inputs, layers.Dense(5, activation="relu", name="feature")(x), name="frame")
    inputs = keras.Input((3, 8, 8, 2))
    x = layers.TimeDistributed(frame, name="frames")(inputs)
    return drawn(keras.Model(inputs, layers.Dense(2, name="head")(layers.GRU(4, name="gru")(x))))


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: surgery.resize(m, {"conv": by(+2)}),
        lambda m: surgery.resize(m, {"frames": by(+2)}),
        lambda m: surgery.resize(m, {inputs_of("gru"): by(+1)}),
        lambda m: surgery.resize(m, {inputs_of("joined"): by(+3)}),
        lambda m: surgery.insert(m, "frames", layers.Dense(5, name="new")),
        lambda m: surgery.insert(m, "relu", layers.Dense(7, name="new")),
        lambda m: surgery.insert(
            m, "frames", layers.TimeDistributed(layers.Dense(5, activation="relu"), name="new")
        ),
        lambda m: surgery.connect(m, "conv", "joined"),
        lambda m: surgery.resize_kernel(m, "conv", by(+2), padding=1),
    ],
    ids=range(9),
)
def test_edits_at_each_step_keep_the_function(edit):
    model = steps()
    new = edit(model)
    assert_same(new, model, example(model))
    assert new.count_params() > model.count_params()


def test_a_wrapper_is_replaced_with_what_is_in_it():
    model = steps()
    x = example(model)
    flat = layers.TimeDistributed(
        keras.Sequential([keras.Input((8, 8, 2)), layers.Flatten(), layers.Dense(5, name="all")]),
        name="given",
    )
    plan = surgery.edit(model)
    plan.replace("frames", flat)
    plan.to_dict()
    for new in (plan.model, surgery.Plan.from_dict(model, plan.to_dict()).model):
        assert [tuple(w.shape) for w in new.get_layer("frames").weights] == [(128, 5), (5,)]
        kernel, bias = new.get_layer("frames").get_weights()
        features = x.reshape(3, 3, -1) @ kernel + bias
        truth = model.get_layer("head")(model.get_layer("gru")(features))
        np.testing.assert_allclose(new(x), truth, rtol=1e-4, atol=1e-5)
    reshaped = surgery.replace(model, "frames", layers.Reshape((3, 128)))
    assert reshaped.get_layer("gru").cell.kernel.shape == (128, 12)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: surgery.remove(m, "frames"), "'frames', .None, 3, 8, 8, 2. -> .None, 3, 5."),
        (lambda m: surgery.remove(m, "frame"), "model in a model.*'frame'"),
        (lambda m: surgery.connect(m, "head", "joined"), "different models.*'head'.*'joined'"),
        (lambda m: surgery.resize(m, {"frame": 3}), "'frame'|name a layer in it"),
        (lambda m: surgery.replace(m, "frames", layers.Flatten()), "as many axes.*'frames'"),
    ],
)
def test_what_does_not_fit_at_each_step_is_refused_by_name(edit, message):
    with pytest.raises(ValueError, match=message):
        edit(steps())


def test_blocks_of_users_at_each_step():
    inputs = keras.Input((3, 4))
    x = layers.TimeDistributed(layers.Dense(6, name="stem"), name="stems")(inputs)
    wrapped = layers.TimeDistributed(Block(8, name="one"), name="ones")
    model = drawn(keras.Model(inputs, layers.Dense(2, name="head")(wrapped(x))))
    for key in ("wide", wrapped.layer.wide, "stems", "ones", inputs_of("head")):
        assert_same(surgery.resize(model, {key: by(+1)}), model, example(model))


class Joining(keras.Model):
    """Joins by `keras.ops`, and has a layer of the name that Keras gives such an operation."""

    def __init__(self):
        super().__init__()
        self.parts = [layers.Dense(n, name=f"part_{n}") for n in (3, 4, 5)]
        self.last = layers.Dense(2, name="concatenate")

    def call(self, inputs):
        first, *others = [part(inputs) for part in self.parts]
        for other in others:
            first = keras.ops.concatenate([first, other], -1)
        return self.last(first)


def test_operations_of_a_subclassed_model_have_the_same_names_in_each_trace():
    model, x = Joining(), np.ones((2, 3), "float32")
    model(x)
    for _ in range(2):
        plan = surgery.edit(model)
        plan.resize({"concatenate_2": by(+4), "concatenate_1": by(0)})
        assert_same(plan.model, model, x)
        assert plan.model.get_layer("part_5").units == 9
        again = surgery.Plan.from_dict(model, json.loads(json.dumps(plan.to_dict())))
        assert again.model.get_layer("part_5").units == 9
    with pytest.raises(ValueError, match="not operations of `keras.ops`.*'concatenate_1'.*Use a"):
        surgery.connect(model, "part_5", "concatenate_1")
