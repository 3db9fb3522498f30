"""Weights of each kind of layer where its inputs and outputs change, and blocks of such layers."""

import keras
import numpy as np
import pytest

from tests.surgery.graphs import scores
from tests.surgery.models import drawn, example
from tfprune import surgery
from tfprune.surgery import by, inputs_of

layers = keras.layers
IMAGE, SERIES = (5, 5), (6,)
RECURRENT = {"return_sequences": True, "name": "x"}

# A layer, the axes of its input before the channels, and what stands along each axis of its
# weights: i for its inputs, o for its outputs, o4 for those of 4 gates one after the other.
KINDS = [
    (layers.Dense(3, name="x"), (), {"kernel": "i o", "bias": "o"}),
    (layers.Dense(3, use_bias=False, name="x"), (), {"kernel": "i o"}),
    (layers.EinsumDense("abc,cd->abd", (None, 3), name="x"), SERIES, {"kernel": "i o"}),
    (layers.Conv1D(3, 2, name="x"), SERIES, {"kernel": ". i o", "bias": "o"}),
    (layers.Conv2D(3, (2, 3), name="x"), IMAGE, {"kernel": ". . i o", "bias": "o"}),
    (layers.Conv2D(3, 2, use_bias=False, name="x"), IMAGE, {"kernel": ". . i o"}),
    (layers.Conv3D(3, 2, name="x"), (3, 3, 3), {"kernel": ". . . i o", "bias": "o"}),
    (layers.Conv1DTranspose(3, 2, name="x"), SERIES, {"kernel": ". o i", "bias": "o"}),
    (layers.Conv2DTranspose(3, 2, name="x"), IMAGE, {"kernel": ". . o i", "bias": "o"}),
    (
        layers.SeparableConv2D(3, 2, name="x"),
        IMAGE,
        {"depthwise_kernel": ". . i .", "pointwise_kernel": ". . i o", "bias": "o"},
    ),
    (layers.DepthwiseConv2D(2, name="x"), IMAGE, {"kernel": ". . i .", "bias": "i"}),
    (
        layers.BatchNormalization(name="x"),
        IMAGE,
        dict.fromkeys(("gamma", "beta", "moving_mean", "moving_variance"), "i"),
    ),
    (layers.LayerNormalization(name="x"), (), {"gamma": "i", "beta": "i"}),
    (layers.GroupNormalization(-1, name="x"), IMAGE, {"gamma": "i", "beta": "i"}),
    (layers.PReLU(shared_axes=[1], name="x"), SERIES, {"alpha": ". i"}),
    (
        layers.SimpleRNN(3, **RECURRENT),
        SERIES,
        {"kernel": "i o", "recurrent_kernel": "o o", "bias": "o"},
    ),
    (
        layers.LSTM(3, **RECURRENT),
        SERIES,
        {"kernel": "i o4", "recurrent_kernel": "o o4", "bias": "o4"},
    ),
    (
        layers.GRU(3, **RECURRENT),
        SERIES,
        {"kernel": "i o3", "recurrent_kernel": "o o3", "bias": ". o3"},
    ),
    (
        layers.GRU(3, reset_after=False, **RECURRENT),
        SERIES,
        {"kernel": "i o3", "recurrent_kernel": "o o3", "bias": "o3"},
    ),
]
IDS = [f"{type(layer).__name__}-{len(axes)}" for layer, _, axes in KINDS]


def between(layer, shape):
    """The layer behind one of 4 units, `before`, and before another, `last`."""
    layer = type(layer).from_config(layer.get_config())
    inputs = keras.Input((*shape, 3))
    x = layer(layers.Dense(4, name="before")(inputs))
    return drawn(keras.Model(inputs, layers.Dense(2, name="last")(x)))


def weights(model, name):
    return {w.path.rsplit("/", 1)[-1]: np.array(w) for w in model.get_layer(name).weights}


def picked(value, axes, ins, outs):
    """A weight with only these inputs and outputs."""
    for axis, what in enumerate(axes.split()):
        if what != ".":
            gates = int(what[1:] or 1)
            units = np.array(ins if what[0] == "i" else outs)
            size = value.shape[axis] // gates
            index = np.concatenate([units + gate * size for gate in range(gates)])
            value = np.take(value, index, axis)
    return value


@pytest.mark.parametrize(("layer", "shape", "axes"), KINDS, ids=IDS)
def test_weights_stay_with_their_inputs_and_outputs(layer, shape, axes):
    model = between(layer, shape)
    is_same = not any("o" in each for each in axes.values())
    changes = {"before": 2} if is_same else {"before": 2, "x": 2}
    utility = {"before": [0, 2, 1, 3], "x": [2, 0, 3]}
    if is_same:
        utility["x"] = utility["before"][:]
    new = surgery.resize(model, changes, criterion=scores(utility))
    ins, outs = [1, 3], [0, 2]
    old, ours = weights(model, "x"), weights(new, "x")
    assert set(axes) == set(ours) - {"seed_generator_state"}
    for name, along in axes.items():
        np.testing.assert_array_equal(ours[name], picked(old[name], along, ins, outs))
    np.testing.assert_array_equal(
        weights(new, "before")["kernel"], weights(model, "before")["kernel"][:, ins]
    )
    np.testing.assert_array_equal(
        weights(new, "last")["kernel"], weights(model, "last")["kernel"][ins if is_same else outs]
    )


@pytest.mark.parametrize(("layer", "shape", "axes"), KINDS, ids=IDS)
def test_new_weights_are_0_for_new_inputs_and_random_for_new_outputs(layer, shape, axes):
    model = between(layer, shape)
    is_same = not any("o" in each for each in axes.values())
    plan = surgery.edit(model)
    is_grouped = isinstance(layer, layers.GroupNormalization)  # each group grows by one
    added = 4 if is_grouped else 2
    plan.resize({"before": by(added)} if is_same else {"before": by(added), "x": by(+1)})
    new, x = plan.model, example(model)
    old, ours = weights(model, "x"), weights(new, "x")
    ins, outs = [0, 2, 4, 6] if is_grouped else [0, 1, 2, 3], [0, 1, 2]
    for name, along in axes.items():
        np.testing.assert_array_equal(picked(ours[name], along, ins, outs), old[name])
        if "i" in along and "o" in along:
            assert not picked(ours[name], along, [4, 5], outs).any()
            assert picked(ours[name], along, ins, [3]).any()
        elif along.endswith("i") and not is_same or name == "bias":
            fresh = picked(ours[name], along, [4, 5], [3])
            is_lstm = isinstance(layer, layers.LSTM)  # which begins with an open forget gate
            assert not fresh.any() or is_lstm
        elif along == "i":
            expected = name in ("gamma", "moving_variance")
            np.testing.assert_array_equal(np.delete(ours[name], ins), expected)
    if isinstance(layer, (layers.LayerNormalization, layers.GroupNormalization)):
        assert any("statistics" in reason for reason in plan.effects)
        return
    assert plan.effects == ()
    np.testing.assert_allclose(new(x), model(x), rtol=1e-4, atol=1e-5)


# Concatenations of each kind ----------------------------------------------------------------------

SAME = {"padding": "same"}


def pooled(units):
    return [layers.Conv2D(units, 3, **SAME), layers.MaxPooling2D(3, 1, **SAME)]


JOINED = {
    "dense": ((), lambda n: [layers.Dense(n)]),
    "rnn": (SERIES, lambda n: [layers.SimpleRNN(n, return_sequences=True)]),
    "gru": (SERIES, lambda n: [layers.GRU(n, return_sequences=True)]),
    "lstm": (SERIES, lambda n: [layers.LSTM(n, return_sequences=True)]),
    "convolution": (IMAGE, lambda n: [layers.Conv2D(n, 3, **SAME)]),
    "transposed": (IMAGE, lambda n: [layers.Conv2DTranspose(n, 3, **SAME)]),
    "pooled": (IMAGE, pooled),
    "normalised": (IMAGE, lambda n: [layers.Conv2D(n, 1), layers.BatchNormalization()]),
}


def joined(shape, make):
    """What is made of two inputs, of 3 and 5 units, concatenated, and what follows."""
    inputs, outputs = [keras.Input((*shape, n)) for n in (2, 4)], []
    for name, units, x in zip("ab", (3, 5), inputs, strict=True):
        first, *rest = make(units)
        first.name = name
        x = first(x)
        for layer in rest:
            x = layer(x)
        outputs.append(x)
    x = layers.Concatenate(name="join")(outputs)
    for layer in make(4):
        x = layer(x)
    return drawn(keras.Model(inputs, x))


@pytest.mark.parametrize("kind", JOINED)
def test_concatenations_of_each_kind_grow_and_shrink(kind):
    shape, make = JOINED[kind]
    model = joined(shape, make)
    draw = np.random.default_rng(2)
    x = [draw.normal(size=(2, *tensor.shape[1:])).astype("float32") for tensor in model.inputs]
    plan = surgery.edit(model)
    plan.resize({"join": by(+3), "a": by(+1)})
    assert plan.effects == ()
    assert plan.model.get_layer("b").output.shape[-1] == 7
    np.testing.assert_allclose(plan.model(x), model(x), rtol=1e-4, atol=1e-4)
    utility = {"a": [5, 1, 6], "b": [2, 7, 3, 8, 4]}
    smaller = surgery.resize(model, {inputs_of("join"): by(-3)}, criterion=scores(utility))
    sizes = [smaller.get_layer(name).output.shape[-1] for name in ("a", "b", "join")]
    assert sizes == [2, 3, 5]
    for name, gone in (("a", [1]), ("b", [0, 2])):
        layer = model.get_layer(name)
        if "recurrent_kernel" in weights(model, name):  # what goes reaches no step after its own
            kernel, recurrent, *rest = layer.get_weights()
            recurrent[gone] = 0
            layer.set_weights([kernel, recurrent, *rest])
    join = model.get_layer("join")
    keeps = np.array([1, 0, 1, 0, 1, 0, 1, 1], "float32")
    middle = keras.Model(model.inputs, join.output)(x) * keeps
    expected = keras.Model(join.output, model.outputs)(middle)
    np.testing.assert_allclose(smaller(x), expected, rtol=1e-4, atol=1e-4)


# Blocks -------------------------------------------------------------------------------------------


def convolved(x, units, name):
    return layers.BatchNormalization(name=f"norm_{name}")(
        layers.Conv2D(units, 3, padding="same", name=name)(x)
    )


def residual(is_forked):
    inputs = keras.Input((4, 4, 3))
    first = convolved(inputs, 5, "first")
    parts = [
        convolved(first, n, name) for n, name in (((3, "a"), (2, "b")) if is_forked else [(5, "a")])
    ]
    x = layers.Concatenate(name="join")(parts) if is_forked else parts[0]
    x = layers.MaxPooling2D(2)(layers.Add(name="sum")([x, first]))
    return drawn(keras.Model(inputs, layers.Conv2D(3, 3, padding="same", name="out")(x)))


@pytest.mark.parametrize("is_forked", [False, True])
@pytest.mark.parametrize("gone", [[1], [0, 4]])
def test_residual_blocks_lose_a_channel_everywhere(is_forked, gone):
    model = residual(is_forked)
    utility = np.arange(10.0, 15.0)
    utility[gone] = 1
    worth = {"first": utility, "a": utility[:3] if is_forked else utility, "b": utility[3:]}
    worth.update({f"norm_{name}": value for name, value in worth.items()})
    changes = {inputs_of("out"): by(-len(gone))}
    new = surgery.resize(model, changes, criterion=scores(worth))
    left = {
        name: new.get_layer(name).filters
        for name in worth
        if not name.startswith("norm_") and (is_forked or name != "b")
    }
    a = 3 - sum(unit < 3 for unit in gone) if is_forked else 5 - len(gone)
    expected_sizes = {"first": 5 - len(gone), "a": a, "b": 5 - len(gone) - a}
    assert left == {name: expected_sizes[name] for name in left}
    mask = np.isin(np.arange(5), gone, invert=True).astype("float32")

    def run(name, x):
        return model.get_layer(f"norm_{name}")(model.get_layer(name)(x))

    x = example(model)
    first = run("first", x) * mask
    inner = [run(name, first) for name in (("a", "b") if is_forked else ("a",))]
    total = keras.ops.concatenate(inner, -1) * mask + first
    expected = model.get_layer("out")(layers.MaxPooling2D(2)(total))
    np.testing.assert_allclose(new(x), expected, rtol=1e-3, atol=1e-3)


def test_a_copy_and_what_it_was_copied_from_are_edited_apart():
    model = residual(True)
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    x, before = example(model), [np.array(w) for w in model.weights]
    new = surgery.resize(copy, {"sum": by(-1)})
    new.get_layer("first").kernel.assign_add(np.ones(new.get_layer("first").kernel.shape))
    for other in (model, copy):
        for ours, theirs in zip(other.weights, before, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(copy(x), model(x))
