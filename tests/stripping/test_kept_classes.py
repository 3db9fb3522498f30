"""Layers and models of users' classes that stay what they are: traced and resized in place."""

import keras
import numpy as np
import pytest

import tfprune
from tests.coupling.rules.comparing import randomised
from tests.user_code import LowRank
from tfprune.coupling import couple

layers, ops = keras.layers, keras.ops


class Attention(layers.Layer):
    """Causal attention with weights of its own, heads by reshape and sizes among its attributes."""

    def __init__(self, dim, heads, **kwargs):
        super().__init__(**kwargs)
        self.dim, self.heads = dim, heads
        self.out = layers.Dense(dim, name="out")

    def build(self, shape):
        self.qkv = self.add_weight(shape=(self.dim, 3 * self.dim), name="qkv")
        self.out.build((*shape[:-1], self.dim))

    def call(self, x):
        batch, length = ops.shape(x)[0], ops.shape(x)[1]
        parts = ops.split(self.qkv, 3, axis=1)
        q, k, v = (
            ops.transpose(ops.reshape(x @ w, (batch, length, self.heads, -1)), (0, 2, 1, 3))
            for w in parts
        )
        scores = ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) / 2.0
        later = ops.arange(length)[None] > ops.arange(length)[:, None]
        scores = ops.where(later, -1e9, scores)
        mixed = ops.transpose(ops.matmul(ops.softmax(scores), v), (0, 2, 1, 3))
        return self.out(ops.reshape(mixed, (batch, length, -1)))

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


class Block(layers.Layer):
    """A residual block with scales of its own, and layers in a list and a dict."""

    def __init__(self, dim, heads, wide, **kwargs):
        super().__init__(**kwargs)
        self.attention = Attention(dim, heads, name="attention")
        self.norms = [layers.LayerNormalization(name="norm_a"), layers.LayerNormalization()]
        self.mlp = {
            "up": layers.Dense(wide, activation="gelu", name="up"),
            "down": layers.Dense(dim, name="down"),
        }

    def build(self, shape):
        self.attention.build(shape)
        for norm in self.norms:
            norm.build(shape)
        self.mlp["up"].build(shape)
        self.mlp["down"].build((*shape[:-1], self.mlp["up"].units))
        self.scales = [
            self.add_weight(shape=(shape[-1],), initializer="ones", name=f"scale_{i}")
            for i in range(2)
        ]

    def call(self, x):
        x = x + self.scales[0] * self.attention(self.norms[0](x))
        return x + self.scales[1] * self.mlp["down"](self.mlp["up"](self.norms[1](x)))


class Tokens(layers.Layer):
    """A class token before the others, and a position for each."""

    def build(self, shape):
        self.first = self.add_weight(shape=(1, 1, shape[-1]), name="first")
        self.positions = self.add_weight(shape=(1, 8, shape[-1]), name="positions")

    def call(self, x):
        first = ops.broadcast_to(self.first, (ops.shape(x)[0], 1, self.first.shape[-1]))
        x = ops.concatenate([first, x], axis=1)
        return x + self.positions[:, : ops.shape(x)[1]]


def transformer():
    inputs = keras.Input((6, 3))
    x = Tokens(name="tokens")(layers.Dense(16, name="patches")(inputs))
    for number in range(2):
        x = Block(16, 4, 24, name=f"block_{number}")(x)
    return randomised(keras.Model(inputs, layers.Dense(2, name="head")(x)))


def pruned(model):
    masked = tfprune.prunable(model)
    tfprune.prune_units(masked, 0.5, tfprune.criteria.Random(seed=0))
    return masked


def data(length=6):
    return np.random.default_rng(0).normal(size=(5, length, 3)).astype("float32")


def assert_same(small, masked, x):
    expected = np.asarray(masked(x))
    np.testing.assert_allclose(small(x), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_transformer_by_hand_loses_width_heads_and_hidden_units():
    masked = pruned(transformer())
    small, report = tfprune.strip(masked, return_report=True)
    assert report.error < 1e-5
    assert_same(small, masked, data())
    block = small.get_layer("block_0")
    assert type(block) is Block
    assert block.attention.qkv.shape == (8, 24)
    assert block.mlp["up"].units == 12
    assert block.scales[0].shape == (8,)
    assert (block.attention.heads, block.attention.dim) == (2, 8)
    assert small.get_layer("tokens").positions.shape == (1, 8, 8)
    assert small.count_params() < 0.35 * masked.count_params()


def test_positions_after_the_traced_ones_stay():
    masked = pruned(transformer())
    positions = masked.get_layer("tokens").positions
    assert tfprune.strip(masked).get_layer("tokens").positions.shape[1] == positions.shape[1]


class FixedSize(layers.Layer):
    """Has the size of its input as a number in its code."""

    def build(self, shape):
        self.dense = layers.Dense(16, name="inner")
        self.dense.build(shape)
        self.scale = self.add_weight(shape=(8,), initializer="ones", name="scale")

    def call(self, x):
        batch = ops.shape(x)[0]
        return ops.reshape(ops.reshape(self.dense(x), (batch, 2, 8)) * self.scale, (batch, 16))


def test_units_with_their_number_in_the_code_stay_and_others_go():
    inputs = keras.Input((3,))
    x = FixedSize(name="fixed")(layers.Dense(16, name="before")(inputs))
    masked = pruned(randomised(keras.Model(inputs, layers.Dense(2, name="after")(x))))
    small = tfprune.strip(masked)
    assert small.get_layer("fixed").dense.kernel.shape == (8, 16)
    assert_same(small, masked, np.random.default_rng(0).normal(size=(5, 3)).astype("float32"))


class Composite(layers.Layer):
    """A block that can be inlined."""

    def __init__(self, wide=8, **kwargs):
        super().__init__(**kwargs)
        self.wide = wide
        self.up = layers.Dense(wide, activation="relu", name="up")
        self.down = layers.Dense(4, name="down")

    def build(self, shape):
        self.up.build(shape)
        self.down.build((*shape[:-1], self.wide))

    def call(self, x):
        return x + self.down(self.up(x))


def composite_model():
    inputs = keras.Input((3,))
    x = Composite(name="block")(layers.Dense(4, name="before")(inputs))
    return randomised(keras.Model(inputs, layers.Dense(2, name="after")(x)))


def test_custom_layers_are_kept_or_inlined_as_is_asked(tmp_path):
    masked = pruned(composite_model())
    x = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    kept = tfprune.strip(masked, custom_layers="keep")
    block = kept.get_layer("block")
    assert (type(block), block.wide, block.up.units) == (Composite, 4, 4)
    assert_same(kept, masked, x)
    inline = tfprune.strip(masked, custom_layers="inline")
    assert "block_up" in [layer.name for layer in inline.layers]
    assert kept.count_params() == inline.count_params()
    with pytest.raises(ValueError, match="custom_layers='both'"):
        tfprune.strip(masked, custom_layers="both")


def test_what_cannot_be_inlined_is_refused_where_that_is_asked():
    with pytest.raises(ValueError, match="'tokens' \\(Tokens\\).*custom_layers=None"):
        tfprune.strip(transformer(), custom_layers="inline")


class Net(keras.Model):
    """A subclassed model with a weight and a `train_step` of its own."""

    def __init__(self):
        super().__init__(name="net")
        self.hidden = layers.Dense(8, activation="tanh", name="hidden_units")
        self.last = layers.Dense(2, name="last_units")
        self.steps = 0

    def build(self, shape):
        self.gain = self.add_weight(shape=(8,), initializer="ones", name="gain")
        self.hidden.build(shape)
        self.last.build((*shape[:-1], 8))

    def call(self, x):
        return self.last(self.gain * self.hidden(x))

    def train_step(self, given):
        self.steps += 1
        return super().train_step(given)


@pytest.mark.parametrize("custom_layers", [None, "keep"])
def test_a_subclassed_model_stays_one_of_its_class_and_trains_on(custom_layers):
    model = Net()
    x = np.random.default_rng(0).normal(size=(16, 3)).astype("float32")
    model(x)
    model.compile("adam", "mse")
    model.fit(x, x[:, :2], verbose=0)
    masked = pruned(model)
    small, report = tfprune.strip(masked, custom_layers=custom_layers, return_report=True)
    assert type(small) is Net
    assert (small.hidden.kernel.shape, small.gain.shape) == ((3, 4), (4,))
    assert report.not_from_config in ((), ("net",))
    assert_same(small, masked, x)
    before, steps = np.array(small.gain), small.steps
    small.fit(x, x[:, :2], verbose=0)
    assert small.steps > steps
    assert (np.array(small.gain) != before).any()
    assert model.hidden.kernel.shape == (3, 8)


@keras.saving.register_keras_serializable("tests")
class Sized(Composite):
    """A block whose config has its sizes."""

    def __init__(self, dim, wide, **kwargs):
        super().__init__(wide, **kwargs)
        self.dim = dim
        self.down = layers.Dense(dim, name="down")

    def get_config(self):
        return {**super().get_config(), "dim": self.dim, "wide": self.wide}


class Unsized(Composite):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)


def test_a_class_stays_where_its_config_can_say_the_size_and_else_is_inlined(tmp_path):
    inputs = keras.Input((3,))
    x = Sized(4, 8, name="sized")(layers.Dense(4, name="before")(inputs))
    x = Unsized(name="unsized")(x)
    masked = pruned(randomised(keras.Model(inputs, layers.Dense(2, name="after")(x))))
    small = tfprune.strip(masked)
    x = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    assert_same(small, masked, x)
    names = [layer.name for layer in small.layers]
    assert "sized" in names and "unsized_up" in names
    assert (small.get_layer("sized").dim, small.get_layer("sized").wide) == (2, 4)
    small.save(tmp_path / "small.keras")
    again = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_allclose(again(x), small(x), rtol=1e-6, atol=1e-6)


class Split(layers.Layer):
    """Multiplies within groups of units by weights; the number of groups is in the code or not."""

    def __init__(self, fixed, **kwargs):
        super().__init__(**kwargs)
        self.fixed = fixed
        self.inner = layers.Dense(16, name="inner")

    def build(self, shape):
        self.inner.build(shape)
        self.scale = self.add_weight(shape=(4,), initializer="ones", name="scale")

    def call(self, x):
        groups, batch = 4 if self.fixed else -1, ops.shape(x)[0]
        scaled = ops.reshape(self.inner(x), (batch, groups, 4)) * self.scale
        return ops.reshape(scaled, (batch, -1))

    def compute_output_spec(self, x):
        return keras.KerasTensor((x.shape[0], self.inner.units), x.dtype)


@pytest.mark.parametrize("order", [(False, True), (True, False)])
def test_what_is_shown_of_a_layer_is_not_taken_for_others_of_its_class(order):
    for fixed in order:
        inputs = keras.Input((3,))
        x = Split(fixed, name="split")(inputs)
        model = randomised(keras.Model(inputs, layers.Dense(2, name="after")(x)))
        removable = [s.name for s in couple(model).sets if s.removable]
        assert removable == ([] if fixed else ["split_inner"])


class Fused(layers.Layer):
    """Two kernels and their biases, concatenated and applied in one product."""

    def build(self, shape):
        self.left = self.add_weight(shape=(shape[-1], 4), name="left")
        self.right = self.add_weight(shape=(shape[-1], 6), name="right")
        self.shifts = [self.add_weight(shape=(size,), name=f"shift_{size}") for size in (4, 6)]

    def call(self, x):
        product = ops.matmul(x, ops.concatenate([self.left, self.right], axis=-1))
        return ops.relu(product + ops.concatenate(self.shifts, axis=0))


class NumberTokens(layers.Layer):
    """A vector for each number: a weight is multiplied with what has no units."""

    def build(self, shape):
        self.factors = self.add_weight(shape=(1, shape[-1], 8), name="factors")
        self.shifts = self.add_weight(shape=(shape[-1], 8), name="shifts")

    def call(self, x):
        return x[..., None] * self.factors + self.shifts


@pytest.mark.parametrize(
    ("make", "smaller"),
    [
        (Fused, {"left": (3, 2), "right": (3, 3), "shift_4": (2,), "shift_6": (3,)}),
        (NumberTokens, {"factors": (1, 5, 4), "shifts": (5, 4)}),
    ],
)
def test_weights_that_make_units(make, smaller):
    inputs = keras.Input((5,))
    x = layers.Dense(6, name="before")(inputs) if make is Fused else inputs
    x = layers.Dense(6, activation="relu", name="after")(make(name="own")(x))
    x = layers.Flatten()(x) if make is NumberTokens else x
    model = randomised(keras.Model(inputs, layers.Dense(2, name="logits")(x)))
    masked = tfprune.prunable(model)
    tfprune.prune_units(masked, 0.5)
    small = tfprune.strip(masked)
    own = small.get_layer("own")
    assert {weight.name: tuple(weight.shape) for weight in own.weights} == smaller
    x = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
    np.testing.assert_allclose(small(x), masked(x), rtol=1e-5, atol=1e-5)


@keras.saving.register_keras_serializable("tests.kept_classes")
class ResizedFirst(layers.Layer):
    """`Resizing`, called without a word on training, lets the normalisation after it train."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.resize = layers.Resizing(4, 4, name="resize")
        self.conv = layers.Conv2D(filters, 1, name="conv_inside")
        self.norm = layers.BatchNormalization(name="norm_inside")

    def build(self, shape):
        self.conv.build(shape)
        self.norm.build((*shape[:-1], self.filters))

    def call(self, inputs):
        return self.norm(self.conv(self.resize(inputs))) * (1.0 / ops.shape(inputs)[1])

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}


def test_no_run_of_a_layer_changes_statistics():
    inputs = keras.Input((6, 6, 3))
    x = ResizedFirst(8, name="first")(inputs)
    x = layers.GlobalAveragePooling2D(name="pool")(ops.relu(x))
    model = randomise_statistics(keras.Model(inputs, layers.Dense(2, name="logits")(x)))
    masked = pruned(model)
    before = [keras.ops.convert_to_numpy(v) for v in masked.variables]
    small, _ = tfprune.strip(masked, return_report=True)
    assert small.get_layer("first").filters == 4
    for array, variable in zip(before, masked.variables, strict=True):
        np.testing.assert_array_equal(array, variable)
    x = np.random.default_rng(0).normal(size=(4, 6, 6, 3)).astype("float32")
    expected = masked(x, training=False)
    np.testing.assert_allclose(small(x, training=False), expected, rtol=1e-5, atol=1e-6)


def randomise_statistics(model):
    randomised(model)
    norm = model.get_layer("first").norm
    norm.moving_variance.assign(np.random.default_rng(1).uniform(0.5, 2.0, norm.gamma.shape))
    return model


def test_numbers_that_only_say_the_shape_of_the_output_are_right():
    inputs = keras.Input((5,))
    both = [LowRank(4, name="low"), layers.Dense(4, name="other")]
    product = layers.Multiply()([layer(inputs) for layer in both])
    masked = pruned(randomised(keras.Model(inputs, product)))
    small = tfprune.strip(masked)
    assert small.get_layer("low").first.shape == (5, 2)
    assert small.get_layer("low").units == 4
    x = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
    np.testing.assert_allclose(small(x), masked(x), rtol=1e-5, atol=1e-6)
