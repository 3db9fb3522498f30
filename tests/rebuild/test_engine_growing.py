"""New units: what was there stays where its unit is, what is new is as the layers make it."""

import keras
import numpy as np
import pytest

from tfprune.coupling import couple, select
from tfprune.rebuild.engine import rebuild

layers = keras.layers


def grown(model, name, indices, family=None):
    layer = model.get_layer(name)
    key = layer if family is None else (layer, family)
    return rebuild(model, select(couple(model), {key: indices}))


def randomised(model, seed=0):
    """The model with random weights; fresh ones are 0, since its initializers are zeros."""
    draw = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(draw.normal(size=weight.shape) ** 2 + 0.1)
    return model


def zeros(**kwargs):
    return {"kernel_initializer": "zeros", **kwargs}


def mlp():
    return keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4, activation="relu", name="grow", **zeros()),
            layers.BatchNormalization(),
            layers.Dense(2, **zeros()),
        ]
    )


def residual():
    inputs = keras.Input((3,))
    first = layers.Dense(4, name="grow", **zeros())(inputs)
    x = layers.Dense(5, activation="tanh", **zeros())(first)
    x = layers.Add()([layers.Dense(4, **zeros())(x), first])
    x = layers.Concatenate()([x, first])
    return keras.Model(inputs, layers.Dense(2, **zeros())(x))


def depthwise():
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, name="grow", **zeros())(inputs)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, depthwise_initializer="zeros")(x)
    x = layers.SeparableConv2D(
        3, 2, depthwise_initializer="zeros", pointwise_initializer="zeros", depth_multiplier=2
    )(x)
    return keras.Model(inputs, layers.Conv2DTranspose(2, 3, **zeros())(x))


def recurrent():
    inputs = keras.Input((5, 3))
    x = layers.LSTM(
        4,
        return_sequences=True,
        name="grow",
        recurrent_initializer="zeros",
        unit_forget_bias=False,
        **zeros(),
    )(inputs)
    x = layers.GRU(3, recurrent_initializer="zeros", **zeros())(x)
    return keras.Model(inputs, layers.Dense(2, **zeros())(x))


def sliced():
    inputs = keras.Input((3,))
    x = layers.Dense(4, name="grow", **zeros())(inputs)
    first, last = keras.ops.split(x, [1], axis=-1)
    x = layers.Concatenate()([x, x[:, 1:3], last, first, keras.ops.take(x, [2, 1], axis=-1)])
    return keras.Model(inputs, layers.Dense(2, **zeros())(x))


def embedded():
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(7, 4, embeddings_initializer="zeros", name="grow")(inputs)
    x = layers.Conv1D(4, 3, padding="same", **zeros())(x) + x
    return keras.Model(inputs, layers.Dense(2, **zeros())(x))


def taken():
    inputs = keras.Input((3,))
    x = layers.Dense(4, name="grow", **zeros())(inputs)
    x = keras.ops.concatenate([keras.ops.flip(x, axis=-1), keras.ops.repeat(x, 2, -1)], -1)
    return keras.Model(inputs, layers.Dense(2, **zeros())(x))


MODELS = [mlp, residual, depthwise, recurrent, embedded, taken, sliced]


def example(model, seed=0):
    draw = np.random.default_rng(seed)
    (tensor,) = model.inputs
    shape = (3, *tensor.shape[1:])
    if "int" in tensor.dtype:
        return draw.integers(0, 7, shape)
    return draw.normal(size=shape)


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize(
    "indices", [[0, 1, 2, 3, -1], [-1, 0, 1, 2, 3], [0, -1, -1, 1, 2, -1, 3]], ids=str
)
def test_units_that_are_all_zero_change_nothing_wherever_they_are_put(make, indices):
    model = randomised(make())
    new = grown(model, "grow", indices)
    layer = new.get_layer("grow")
    assert layer.output.shape[-1] == len(indices)
    x = example(model)
    np.testing.assert_allclose(new(x), model(x), rtol=1e-5, atol=1e-5)
    assert np.std(np.array(model(x))) > 1e-3


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_places_behind_flatten_are_found(data_format):
    inputs = x = keras.Input((4, 4, 2))
    x = layers.Conv2D(4, 3, name="grow", **zeros())(x)
    if data_format == "channels_first":
        x = layers.Permute((3, 1, 2))(x)
    x = layers.Flatten(data_format=data_format)(x)
    model = randomised(keras.Model(inputs, layers.Dense(2, **zeros())(x)))
    new = grown(model, "grow", [0, 2, -1, 3])
    # The removed unit is made to do nothing in the model that is compared with.
    kernel, bias = (np.array(w) for w in model.get_layer("grow").weights)
    kernel[..., 1], bias[1] = 0, 0
    model.get_layer("grow").set_weights([kernel, bias])
    x = example(model)
    np.testing.assert_allclose(new(x), model(x), rtol=1e-5, atol=1e-5)


def test_old_slices_stand_where_numpy_puts_them_and_new_ones_are_fresh():
    model = randomised(mlp())
    new = grown(model, "grow", [0, -1, 3])
    ours, theirs = model.layers[0].get_weights(), new.layers[0].get_weights()
    np.testing.assert_array_equal(theirs[0][:, [0, 2]], ours[0][:, [0, 3]])
    np.testing.assert_array_equal(theirs[0][:, 1], 0)
    ours, theirs = model.layers[1].get_weights(), new.layers[1].get_weights()
    for before, after, fresh in zip(ours, theirs, (1, 0, 0, 1), strict=True):
        np.testing.assert_array_equal(after, [before[0], fresh, before[3]])
    ours, theirs = model.layers[2].kernel.numpy(), new.layers[2].kernel.numpy()
    np.testing.assert_array_equal(theirs, [ours[0], [0, 0], ours[3]])


def test_slots_of_old_units_are_carried_and_those_of_new_ones_start():
    model = mlp()
    model.compile(keras.optimizers.Adam(0.01), "mse")
    randomised(model)
    draw = np.random.default_rng(1)
    x, y = draw.normal(size=(8, 3)), draw.normal(size=(8, 2))
    for _ in range(3):
        model.train_on_batch(x, y)
    new = grown(model, "grow", [0, 1, 2, 3, -1])
    assert int(new.optimizer.iterations) == 3
    pairs = zip(model.optimizer.variables, new.optimizer.variables, strict=True)
    grew = 0
    for ours, theirs in pairs:
        ours, theirs = np.array(ours), np.array(theirs)
        for axis, size in enumerate(ours.shape):
            if theirs.shape[axis] != size:
                grew += 1
                new_part = np.take(theirs, range(size, theirs.shape[axis]), axis)
                np.testing.assert_array_equal(new_part, 0)
                theirs = np.take(theirs, range(size), axis)
        np.testing.assert_array_equal(theirs, ours)
    assert grew == 2 * 5  # kernel, bias, gamma, beta, next kernel: two moments each
    new.train_on_batch(x, y)


def test_heads_of_attention_grow():
    inputs = keras.Input((5, 6))
    x = layers.MultiHeadAttention(2, 3, name="grow", kernel_initializer="zeros")(inputs, inputs)
    model = randomised(keras.Model(inputs, layers.Dense(2, **zeros())(x)))
    new = grown(model, "grow", [0, 1, -1], family="heads")
    assert new.get_layer("grow").num_heads == 3
    x = example(model)
    np.testing.assert_allclose(new(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([1, 0, 2, 3], "in order"),
        ([0, 0, 1], "in order"),
        ([0, 4], "from 0 to 3"),
        ([], "in order"),
    ],
)
def test_wrong_indices_are_refused(indices, message):
    model = mlp()
    with pytest.raises(ValueError, match=message) as caught:
        grown(model, "grow", indices)
    assert "'grow'" in str(caught.value)


def test_outputs_do_not_grow():
    model = mlp()
    with pytest.raises(ValueError, match="output of the model"):
        grown(model, model.layers[-1].name, [0, 1, -1])


def test_layers_that_disagree_on_coupled_units_are_refused():
    model = residual()
    first = model.get_layer("grow")
    second = model.layers[3]
    coupling = couple(model)
    with pytest.raises(ValueError, match="together"):
        select(coupling, {first: [0, 1, 2, 3, -1], second: [0, 1, 2, 3]})
    same = select(coupling, {first: [0, 2, -1], second: [0, 2, -1]})
    assert rebuild(model, same).get_layer("grow").units == 3


def test_a_shuffle_that_would_change_its_pattern_is_refused_and_the_model_untouched():
    inputs = keras.Input((3,))
    x = layers.Dense(4, name="grow", **zeros())(inputs)
    x = layers.Reshape((2, 2))(x)
    x = layers.Permute((2, 1))(x)
    x = layers.Add()([layers.Flatten()(x), layers.Dense(4, **zeros())(inputs)])
    model = randomised(keras.Model(inputs, layers.Dense(2, **zeros())(x)))
    before = model.get_weights()
    with pytest.raises(ValueError, match="'grow'|dense"):
        grown(model, "grow", [0, 1, 2, 3, -1])
    for ours, theirs in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def grouped():
    inputs = keras.Input((6, 6, 4))
    x = layers.Conv2D(4, 1, name="before", **zeros())(inputs)
    x = layers.Conv2D(6, 3, groups=2, name="grouped", **zeros())(x)
    return keras.Model(inputs, layers.Conv2D(3, 3, **zeros())(x))


@pytest.mark.parametrize(
    "chosen",
    [
        {"before": [0, 1, -1, 2, 3, -1]},
        {"grouped": [0, 1, 2, -1, 3, 4, -1, 5]},
        {"before": [-1, 0, 1, 2, 3, -1], "grouped": [0, 1, 2, -1, 3, 4, -1, 5]},
    ],
)
def test_groups_that_grow_alike_change_nothing(chosen):
    model = randomised(grouped())
    kept_units = select(couple(model), {model.get_layer(k): v for k, v in chosen.items()})
    x = example(model)
    np.testing.assert_allclose(rebuild(model, kept_units)(x), model(x), rtol=1e-5)


@pytest.mark.parametrize("name", ["before", "grouped"])
def test_groups_that_do_not_grow_alike_are_refused(name):
    model = grouped()
    with pytest.raises(ValueError, match="'grouped'.*channels kept"):
        grown(model, name, [*range(model.get_layer(name).filters), -1])
