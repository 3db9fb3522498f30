import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tfprune.coupling.composite import open_composite
from tfprune.coupling.layer_runs import NotTracedError
from tfprune.coupling.model_inputs import call_arguments
from tfprune.coupling.trace import trace

layers, ops = keras.layers, keras.ops


class Composite(layers.Layer):
    """Two layers, and whatever `call` a subclass has."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.wide = layers.Dense(8, activation="relu", name="wide")
        self.narrow = layers.Dense(4, name="narrow")

    def build(self, shape):
        self.wide.build(shape)
        self.narrow.build((*shape[:-1], 8))

    def call(self, inputs):
        return self.narrow(self.wide(inputs))


class Fails(Composite):
    def call(self, inputs):
        hidden = self.wide(inputs)
        return self.narrow(hidden) + ops.zeros((inputs.shape[0] + 1, 1))  # fails here

    def compute_output_spec(self, inputs):
        return keras.KerasTensor((*inputs.shape[:-1], 4))


class FailsInside(Composite):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.Reshape((5,), name="inner")

    def call(self, inputs):
        return self.narrow(self.wide(self.inner(inputs)))

    def compute_output_spec(self, inputs):
        return keras.KerasTensor((*inputs.shape[:-1], 4))


class OwnWeight(Composite):
    def build(self, shape):
        super().build(shape)
        self.factor = self.add_weight(shape=(4,), name="factor")

    def call(self, inputs):
        return super().call(inputs) * self.factor


class OwnWeightComputed(OwnWeight):
    def call(self, inputs):
        factor = ops.exp(self.factor)
        return Composite.call(self, inputs) * factor


class UsesAWeightOfALayer(Composite):
    def call(self, inputs):
        return self.narrow(self.wide(inputs)) * self.narrow.bias


class Unused(Composite):
    """Has a layer and a weight that `call` does not use."""

    def build(self, shape):
        super().build(shape)
        self.spare = layers.Dense(3, name="spare")
        self.spare.build(shape)
        self.unused = self.add_weight(shape=(4,), name="unused")


class ReturnsAConstant(Composite):
    def call(self, inputs):
        return self.narrow(self.wide(inputs)), 3.0

    def compute_output_spec(self, inputs):
        return keras.KerasTensor((*inputs.shape[:-1], 4)), keras.KerasTensor(())


class ReturnsConstants(Composite):
    def call(self, inputs):
        return 3.0, None


class NeedsTraining(Composite):
    def call(self, inputs, training):
        return self.narrow(self.wide(inputs)) if not training else inputs / None


def line_of(cls, text):
    import inspect

    lines, first = inspect.getsourcelines(cls)
    return first + next(place for place, line in enumerate(lines) if text in line)


def opened(layer):
    layer.build((None, 4))
    return open_composite(layer, [keras.KerasTensor((None, 4))], {})


def test_the_line_that_failed_and_the_words_of_the_exception():
    with pytest.raises(NotTracedError) as caught:
        opened(Fails(name="block"))
    line = line_of(Fails, "# fails here")
    assert str(caught.value).startswith(
        f"'block' (Fails) could not be traced: line {line} of test_composite.py: TypeError: "
        "unsupported operand"
    )


def test_the_line_is_one_of_the_layer_and_the_words_stand_on_one_line():
    with pytest.raises(NotTracedError) as caught:
        opened(FailsInside(name="block"))
    line = line_of(FailsInside, "self.inner(inputs)")
    assert f"line {line} of test_composite.py: ValueError: The total size" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


class FailsLaterWithNumbers(Composite):
    """Needs a number as size, and then a number as a value."""

    def call(self, inputs):
        places = ops.reshape(ops.arange(0.0, ops.shape(inputs)[0]), (-1, 1))
        x = self.narrow(self.wide(inputs))
        return x + places if ops.sum(x) > 0 else x  # the cause


class FailsSoonerWithNumbers(Composite):
    def call(self, inputs):
        if inputs.shape[0] is not None:
            raise ValueError("not this")
        return self.narrow(self.wide(inputs)) + None  # the cause


@pytest.mark.parametrize("cls", [FailsLaterWithNumbers, FailsSoonerWithNumbers])
def test_of_two_runs_the_one_that_came_further_says_why(cls):
    with pytest.raises(NotTracedError) as caught:
        opened(cls(name="block"))
    assert f"line {line_of(cls, '# the cause')} of test_composite.py" in str(caught.value)


@pytest.mark.parametrize(
    ("cls", "name"),
    [(OwnWeight, "factor"), (OwnWeightComputed, "factor"), (UsesAWeightOfALayer, "bias")],
)
def test_weights_that_are_used_outside_of_a_layer_are_in_the_graph(cls, name):
    block = cls(name="block")
    inside = opened(block)
    assert inside.in_place
    own = {id(tensor): weight for tensor, weight in inside.weights}
    taken = [
        own.get(id(leaf), inside.originals.get(id(leaf)))
        for node in inside.nodes
        for leaf in keras.tree.flatten([list(node.arguments.args), dict(node.arguments.kwargs)])
    ]
    weight = block.narrow.bias if name == "bias" else block.factor
    assert any(each is weight for each in taken)


def test_what_is_not_used_does_not_matter():
    inside = opened(Unused())
    assert [node.operation.name for node in inside.nodes] == ["wide", "narrow"]


def test_an_output_that_is_no_tensor():
    inside = opened(ReturnsAConstant())
    assert inside.in_place and inside.outputs[1] == 3.0
    with pytest.raises(NotTracedError, match="returns something else"):
        opened(ReturnsConstants())


def test_training_is_false_where_it_must_be_given():
    assert len(opened(NeedsTraining()).nodes) == 2


# Sizes that are not known ------------------------------------------------------------------------


class Attention(layers.Layer):
    """Attention as it is written by hand, with `split` and `join` in place of the sizes."""

    def __init__(self, split, join, **kwargs):
        super().__init__(**kwargs)
        self.to_query = layers.Dense(8, name="q")
        self.to_key = layers.Dense(8, name="k")
        self.to_value = layers.Dense(8, name="v")
        self.to_output = layers.Dense(8, name="o")
        self.sizes = split, join

    def build(self, shape):
        for part in (self.to_query, self.to_key, self.to_value, self.to_output):
            part.build(shape)

    def call(self, inputs):
        batch, length = ops.shape(inputs)[0], ops.shape(inputs)[1]

        def heads(x):
            return ops.transpose(ops.reshape(x, self.sizes[0](batch, length)), (0, 2, 1, 3))

        query, key, value = (
            heads(part(inputs)) for part in (self.to_query, self.to_key, self.to_value)
        )
        scores = ops.softmax(ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) / 2.0)
        x = ops.transpose(ops.matmul(scores, value), (0, 2, 1, 3))
        return self.to_output(ops.reshape(x, self.sizes[1](batch, length)))


class FoldsTime(Composite):
    """Reads the product of two sizes."""

    def call(self, inputs):
        batch, length = ops.shape(inputs)[0], ops.shape(inputs)[1]
        x = self.narrow(self.wide(ops.reshape(inputs, (batch * length, 4))))
        return ops.reshape(x, (batch, length, 4))

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, inputs.dtype)


class Windows(Composite):
    """Cuts images into windows, and puts them together."""

    def call(self, images):
        batch, height, width, channels = ops.shape(images)
        x = ops.reshape(images, (batch, height // 4, 4, width // 4, 4, channels))
        x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, 16, channels))
        x = self.narrow(self.wide(x))
        x = ops.reshape(x, (batch, height // 4, width // 4, 4, 4, 4))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (batch, height, width, 4))


class WindowsByTheirNumber(Composite):
    """Puts windows together whose number alone is known, and not how large an image was."""

    def call(self, images):
        batch, height, width, channels = ops.shape(images)
        x = ops.reshape(images, (batch, height // 4, 4, width // 4, 4, channels))
        x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, 16, channels))
        x = self.narrow(self.wide(x))
        batch = ops.shape(x)[0] // ((height // 4) * (width // 4))
        x = ops.reshape(x, (batch, height // 4, width // 4, 4, 4, -1))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (batch, height, width, -1))


class Causal(Composite):
    """Adds what depends on the length."""

    def call(self, inputs):
        places = ops.reshape(ops.arange(0.0, ops.shape(inputs)[1]), (1, -1, 1))
        return self.narrow(self.wide(inputs)) + places  # by length

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, inputs.dtype)


def attention(split, join):
    return lambda: Attention(split, join, name="attention")


SIZED = {
    "batch and length": attention(lambda b, t: (b, t, 2, 4), lambda b, t: (b, t, 8)),
    "batch": attention(lambda b, t: (b, -1, 2, 4), lambda b, t: (b, -1, 8)),
    "length": attention(lambda b, t: (-1, t, 2, 4), lambda b, t: (-1, t, 8)),
    "mixed": attention(lambda b, t: (b, -1, 2, 4), lambda b, t: (-1, t, 8)),
    "product": lambda: FoldsTime(name="folds"),
}


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
@pytest.mark.parametrize("length", [6, None])
@pytest.mark.parametrize("name", SIZED)
def test_sizes_that_are_read_are_left_open(name, length, dtype):
    if length is None and name == "product":
        pytest.skip("the result has two sizes that are not known, and neither is the batch")
    keras.config.set_dtype_policy(dtype)
    inputs = keras.Input((length, 4))
    x = layers.Dense(8 if name != "product" else 4, name="first")(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="last")(SIZED[name]()(x)))
    model = tfprune.prunable(model)
    tfprune.prune_units(model, 0.5)
    small = tfprune.strip(model)
    assert {type(layer).__module__.partition(".")[0] for layer in small.layers} == {"keras"}
    assert small.count_params() < 0.6 * model.count_params()
    for batch in (1, 7):
        x = np.random.default_rng(0).normal(size=(batch, length or 9, 4)).astype("float32")
        tolerance = 1e-5 if dtype == "float32" else 2e-2
        np.testing.assert_allclose(small(x), model(x), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("cls", [Windows, WindowsByTheirNumber])
def test_windows_of_images(cls):
    inputs = keras.Input((8, 12, 3))
    block = cls(name="windows")
    block.wide.build((None, 16, 3))
    block.narrow.build((None, 16, 8))
    block.built = True
    model = tfprune.prunable(keras.Model(inputs, block(inputs)))
    tfprune.prune_units(model, 0.5)
    small = tfprune.strip(model)
    assert small.get_layer("windows_wide").units == 4
    x = np.random.default_rng(0).normal(size=(5, 8, 12, 3))
    np.testing.assert_allclose(small(x), model(x), rtol=1e-4, atol=1e-5)


def test_what_else_depends_on_a_size_is_kept_as_it_is():
    model = model_with(Causal(name="causal"), (None, 4))
    kept = tfprune.strip(model)
    assert isinstance(kept.get_layer("causal"), Causal)
    x = np.random.default_rng(0).normal(size=(5, 7, 4))
    np.testing.assert_allclose(kept(x), model(x), rtol=1e-5, atol=1e-6)
    masked = tfprune.prunable(model)
    tfprune.prune_units(masked, 0.5, tfprune.criteria.Random(seed=0))
    small = tfprune.strip(masked)
    assert small.get_layer("causal").wide.units == model.get_layer("causal").wide.units // 2
    np.testing.assert_allclose(small(x), masked(x), rtol=1e-5, atol=1e-6)


class Constants(Composite):
    """Computes with tensors that depend on no input."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        table = np.random.default_rng(1).normal(size=(6, 4)).astype("float32")
        self.table = ops.convert_to_tensor(table)

    def call(self, inputs):
        length = inputs.shape[1]
        x = self.narrow(self.wide(inputs + self.table))
        future = ops.triu(ops.ones((length, length)), 1)
        scores = ops.matmul(x, ops.transpose(x, (0, 2, 1)))
        scores = ops.where(future > 0, -1e9, scores + 0.5 * future)
        return ops.matmul(ops.softmax(scores), x) * ops.convert_to_tensor([1.0, 2.0, 3.0, 4.0])


class Attends(layers.Layer):
    """Gives a layer a mask that it makes."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attend = layers.MultiHeadAttention(2, 4, name="attend")

    def build(self, shape):
        self.attend.build(shape, shape)

    def call(self, inputs):
        mask = ops.cast(ops.tril(ops.ones((1, 6, 6))), "bool")
        return inputs + self.attend(inputs, inputs, attention_mask=mask)


class AttendsInEachExample(Attends):
    """Makes a mask for each example, as the example of a small GPT does on keras.io."""

    def call(self, inputs):
        batch, length = ops.shape(inputs)[0], ops.shape(inputs)[1]
        places = ops.arange(length)
        mask = ops.cast(places[:, None] >= places[None], "int32")
        mask = ops.tile(ops.reshape(mask, (1, length, length)), (batch, 1, 1))
        return inputs + self.attend(inputs, inputs, attention_mask=mask)


@pytest.mark.parametrize("cls", [Constants, Attends, AttendsInEachExample])
def test_constant_tensors_are_taken_over(cls, tmp_path):
    model = model_with(cls(name="block"), (6, 4))
    model = tfprune.prunable(model)
    tfprune.prune_units(model, 0.5)
    small = tfprune.strip(model)
    assert not any(isinstance(layer, cls) for layer in small.layers)
    assert small.count_params() < 0.6 * model.count_params()
    small.save(tmp_path / "small.keras")
    x = np.random.default_rng(0).normal(size=(5, 6, 4))
    for each in (small, keras.models.load_model(tmp_path / "small.keras")):
        np.testing.assert_allclose(each(x), model(x), rtol=1e-4, atol=1e-5)


class TiedByHand(Composite):
    """Computes with a weight of a layer that it calls."""

    def call(self, inputs):
        return self.narrow(self.wide(inputs)) * ops.exp(self.narrow.bias)


class AtRandom(Composite):
    def call(self, inputs):
        return self.narrow(self.wide(inputs)) + keras.random.normal((4,))


@pytest.mark.parametrize("cls", [TiedByHand, AtRandom])
def test_what_is_computed_with_weights_or_at_random_is_no_constant(cls):
    line = line_of(cls, "return")
    words = f"line {line} of test_composite.py: it computes with weights, or at random"
    with pytest.raises(NotTracedError, match=words):
        opened(cls(name="block"))


def test_the_layer_given_keeps_its_weights():
    block = Constants()
    block.build((None, 6, 4))
    before = [np.array(weight) for weight in block.weights]
    open_composite(block, [keras.KerasTensor((None, 6, 4))], {})
    for a, b in zip(before, block.weights, strict=True):
        np.testing.assert_array_equal(a, b)


class Branches(Composite):
    """Gives functions that call its layers to an operation."""

    def call(self, inputs):
        hidden = self.wide(inputs)
        return ops.cond(
            ops.sum(inputs) > 1e6, lambda: self.narrow(hidden), lambda: 2.0 * self.narrow(hidden)
        )


class Compiled(Composite):
    @tf.function
    def call(self, inputs):
        return self.narrow(self.wide(inputs))


def test_a_call_that_is_a_function_of_tensorflow_is_opened():
    model = tfprune.prunable(model_with(Compiled(name="block")))
    tfprune.prune_units(model, 0.5)
    small = tfprune.strip(model)
    assert small.get_layer("block_wide").units == 4
    x = np.random.default_rng(0).normal(size=(5, 4))
    np.testing.assert_allclose(small(x), model(x), rtol=1e-5, atol=1e-6)


class WithoutBranches(Composite):
    """Gives an operation functions that use no layers."""

    def call(self, inputs):
        x = self.narrow(self.wide(inputs))
        return ops.cond(ops.sum(inputs) > 1e6, lambda: x, lambda: 2.0 * x)


@pytest.mark.parametrize("cls", [Branches, WithoutBranches])
def test_functions_that_operations_call(cls):
    model = tfprune.prunable(model_with(cls(name="block")))
    found = tfprune.explain(model).sets
    if cls is Branches:
        with pytest.raises(NotTracedError, match="its `Cond` calls functions that use layers"):
            opened(cls(name="block"))
    small = tfprune.strip(model)
    assert isinstance(small.get_layer("block"), cls)
    assert len(found) > 0
    x = np.random.default_rng(0).normal(size=(5, 4))
    np.testing.assert_allclose(small(x), model(x), rtol=1e-5, atol=1e-6)


# What could not be traced is said everywhere -----------------------------------------------------


def model_with(block, shape=(4,)):
    inputs = keras.Input(shape)
    x = layers.Dense(4, name="first")(inputs)
    return keras.Model(inputs, layers.Dense(2, name="last")(block(x)))


REASON = "'block' (Fails) could not be traced: line "


def test_explain_says_why():
    found = tfprune.explain(model_with(Fails(name="block")))
    reasons = {reason for each in found.sets for reason in each.pinned}
    assert any(reason.startswith(REASON) for reason in reasons)
    assert not any("no rule" in reason for reason in reasons)


def test_the_report_of_strip_says_why():
    model = model_with(Fails(name="block"))
    first = model.get_layer("first")
    kernel = np.array(first.kernel)
    kernel[:, 0] = 0
    first.kernel.assign(kernel)
    _, report = tfprune.strip(model, check=False, return_report=True)
    assert any(each.layer == "first" and REASON in each.reason for each in report.kept)


def test_prune_units_says_why():
    masked = tfprune.prunable(model_with(Fails(name="block")))
    with pytest.raises(ValueError, match="no units that can be pruned") as caught:
        tfprune.prune_units(masked, 0.5)
    assert REASON in str(caught.value)


# Subclassed models -------------------------------------------------------------------------------


class Net(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.a = layers.Dense(8, activation="relu", name="a")
        self.b = layers.Dense(3, name="b")

    def call(self, x):
        return self.b(self.a(x))


class TakesADict(Net):
    def call(self, x):
        return {"sum": self.b(self.a(x["left"])) + self.b(self.a(x["right"])), "a": x["left"] * 2.0}


class TakesATuple(Net):
    def call(self, x):
        left, right = x
        return self.b(self.a(left)), self.b(self.a(right))


class TakesTwo(Net):
    def build(self, x_shape, y_shape):
        self.a.build(x_shape)
        self.b.build((*y_shape[:-1], 8))

    def call(self, x, y):
        return self.b(self.a(x) + self.a(y))


class Tokens(keras.Model):
    def __init__(self):
        super().__init__()
        self.embed = layers.Embedding(11, 6, name="embed")
        self.out = layers.Dense(3, name="out")

    def call(self, tokens):
        return self.out(ops.mean(self.embed(tokens), axis=1))


def test_the_calls_of_a_subclassed_model_are_those_of_its_own_layers():
    model = Net()
    model(np.zeros((5, 4)))
    found = trace(model)
    assert [call.operation for call in found.calls] == [model.a, model.b]
    assert [tensor.shape for tensor in (*found.inputs, *found.outputs)] == [(None, 4), (None, 3)]


def test_inputs_in_dicts_and_tuples_and_several():
    x = np.zeros((5, 4))
    for model, given in [(TakesADict(), {"left": x, "right": x}), (TakesATuple(), (x, x))]:
        model(given)
        assert len(trace(model).inputs) == 2
    model = TakesTwo()
    model(x, x)
    args, kwargs = call_arguments(model)
    assert args == ()
    assert list(kwargs) == ["x", "y"]
    assert len(trace(model).inputs) == 2


def test_inputs_that_are_looked_up_are_whole_numbers():
    model = Tokens()
    model(np.zeros((2, 5), "int32"))
    assert [tensor.dtype for tensor in trace(model).inputs] == ["int32"]


def test_a_subclassed_model_that_cannot_be_traced_says_why():
    class Opaque(Net):
        def call(self, x):
            return self.b(self.a(x)) + ops.zeros((len(np.array(x)), 1))

    model = Opaque(name="opaque")
    model(np.zeros((2, 4)))
    for function in (trace, tfprune.explain, tfprune.strip):
        with pytest.raises(ValueError, match=r"no graph.*'opaque' \(Opaque\).*line \d+ of test"):
            function(model)


def test_a_model_without_a_call_says_so():
    class OnlyTrains(keras.Model):
        def __init__(self):
            super().__init__()
            self.net = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
            self.built = True

    with pytest.raises(ValueError, match="no graph"):
        trace(OnlyTrains())


class AddsWhereItCan(Composite):
    """Adds its input if the sizes are the same and known, as they are on data."""

    def call(self, inputs):
        x = self.narrow(self.wide(inputs))
        return inputs + x if x.shape[1:] == inputs.shape[1:] and None not in x.shape else x


def test_a_branch_by_what_is_known_of_a_size_is_the_one_taken_on_data():
    model = model_with(AddsWhereItCan(name="block"), (None, 4))
    small = tfprune.strip(model)
    x = np.random.default_rng(0).normal(size=(5, 7, 4))
    np.testing.assert_allclose(small(x), model(x), rtol=1e-5, atol=1e-6)


# What `call` does beside its outputs -------------------------------------------------------------


class AddsALoss(Composite):
    def call(self, inputs):
        hidden = self.wide(inputs)
        self.add_loss(ops.sum(ops.square(hidden)))
        return self.narrow(hidden)


def test_a_layer_that_adds_a_loss_shrinks_and_still_adds_it():
    masked = tfprune.prunable(model_with(AddsALoss(name="block")))
    tfprune.prune_units(masked, 0.5)
    small = tfprune.strip(masked)
    assert small.get_layer("block").wide.units == 4
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    np.testing.assert_allclose(small(x), masked(x), rtol=1e-5, atol=1e-6)
    assert len(small.losses) == 1
    np.testing.assert_allclose(small.losses[0], masked.losses[0], rtol=1e-5)


class InUpperCase(Composite):
    """Products over letters in upper case and with spaces, as in attention over images."""

    def call(self, inputs):
        wide = self.wide(inputs)
        scores = ops.einsum("bic, bIc -> biI", wide, wide)
        return self.narrow(ops.einsum("biI,bIc->bic", scores, wide))


def test_einsum_in_upper_case_is_traced():
    masked = tfprune.prunable(model_with(InUpperCase(name="block"), (6, 4)))
    tfprune.prune_units(masked, 0.5)
    small = tfprune.strip(masked)
    assert small.count_params() < 0.5 * masked.count_params()
    x = np.random.default_rng(0).normal(size=(5, 6, 4)).astype("float32")
    np.testing.assert_allclose(small(x), masked(x), rtol=1e-5, atol=1e-6)
