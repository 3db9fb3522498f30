"""Composite layers: what is in them is traced, or the line that failed is said."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tests.coupling.composites import Composite, line_of, model_with, traced
from tfprune.coupling.composite import trace_composite
from tfprune.coupling.layer_runs import NotTracedError

layers, ops = keras.layers, keras.ops


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


def test_the_line_that_failed_and_the_words_of_the_exception():
    with pytest.raises(NotTracedError) as caught:
        traced(Fails(name="block"))
    line = line_of(Fails, "# fails here")
    assert str(caught.value).startswith(
        f"'block' (Fails) could not be traced: line {line} of test_composite.py: TypeError: "
        "unsupported operand"
    )


def test_the_line_is_one_of_the_layer_and_the_words_stand_on_one_line():
    with pytest.raises(NotTracedError) as caught:
        traced(FailsInside(name="block"))
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
        traced(cls(name="block"))
    assert f"line {line_of(cls, '# the cause')} of test_composite.py" in str(caught.value)


@pytest.mark.parametrize(
    ("cls", "name"),
    [(OwnWeight, "factor"), (OwnWeightComputed, "factor"), (UsesAWeightOfALayer, "bias")],
)
def test_weights_that_are_used_outside_of_a_layer_are_in_the_graph(cls, name):
    block = cls(name="block")
    inside = traced(block)
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
    inside = traced(Unused())
    assert [node.operation.name for node in inside.nodes] == ["wide", "narrow"]


def test_an_output_that_is_no_tensor():
    inside = traced(ReturnsAConstant())
    assert inside.in_place and inside.outputs[1] == 3.0
    with pytest.raises(NotTracedError, match="returns something else"):
        traced(ReturnsConstants())


def test_training_is_false_where_it_must_be_given():
    assert len(traced(NeedsTraining()).nodes) == 2


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
        traced(cls(name="block"))


def test_the_layer_given_keeps_its_weights():
    block = Constants()
    block.build((None, 6, 4))
    before = [np.array(weight) for weight in block.weights]
    trace_composite(block, [keras.KerasTensor((None, 6, 4))], {})
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


def test_a_call_that_is_a_function_of_tensorflow_is_traced():
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
            traced(cls(name="block"))
    small = tfprune.strip(model)
    assert isinstance(small.get_layer("block"), cls)
    assert len(found) > 0
    x = np.random.default_rng(0).normal(size=(5, 4))
    np.testing.assert_allclose(small(x), model(x), rtol=1e-5, atol=1e-6)


# What could not be traced is said everywhere -----------------------------------------------------


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
