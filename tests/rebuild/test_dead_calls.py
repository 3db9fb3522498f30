"""Branches whose units all die go as a whole."""

import keras
import numpy as np
import pytest

import tfprune

layers = keras.layers


def residual(join=layers.Add, **compile_arguments):
    inputs = keras.Input((4,))
    x = layers.Dense(6, activation="relu", name="stem")(inputs)
    branch = layers.Dense(5, activation="relu", name="inner")(x)
    branch = layers.Dense(6, name="branch")(branch)
    model = keras.Model(inputs, layers.Dense(2, name="out")(join(name="join")([x, branch])))
    if compile_arguments:
        model.compile(**compile_arguments)
    return model


def zero(model, layer, weight="kernel", rows=slice(None)):
    variable = getattr(model.get_layer(layer), weight)
    value = np.array(variable)
    value[rows] = 0
    variable.assign(value)


def data(shape=(8, 4)):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def names(model):
    return [layer.name for layer in model.layers]


def test_a_residual_branch_that_adds_zero_goes_and_so_does_the_sum():
    model = residual()
    zero(model, "branch")
    small, report = tfprune.strip(model, return_report=True)
    assert names(small)[1:] == ["stem", "out"]
    np.testing.assert_allclose(small(data()), model(data()), rtol=1e-5)
    assert {layer.name: layer.after for layer in report.layers} == {
        "stem": 6,
        "inner": 0,
        "branch": 0,
        "out": 2,
    }


def test_a_raw_sum_goes_too():
    inputs = keras.Input((4,))
    x = layers.Dense(6, activation="relu", name="stem")(inputs)
    x = x + layers.Dense(6, name="branch")(x)
    model = keras.Model(inputs, layers.Dense(2, name="out")(x))
    zero(model, "branch")
    small = tfprune.strip(model)
    assert [operation.name for operation in small.operations][1:] == ["stem", "out"]
    np.testing.assert_allclose(small(data()), model(data()), rtol=1e-5, atol=1e-6)


def test_a_branch_that_adds_a_constant_stays():
    model = residual()
    zero(model, "branch")
    model.get_layer("branch").bias.assign(np.ones(6))
    small = tfprune.strip(model)
    assert {"inner", "branch"} <= set(names(small))
    np.testing.assert_allclose(small(data()), model(data()), rtol=1e-5)


def test_a_product_with_zero_is_no_sum():
    model = residual(layers.Multiply)
    zero(model, "branch")
    small = tfprune.strip(model)
    np.testing.assert_allclose(small(data()), model(data()), atol=1e-6)


def test_a_concatenated_branch_that_nobody_uses_goes():
    model = residual(layers.Concatenate)
    zero(model, "out", rows=slice(6, 12))
    small = tfprune.strip(model)
    assert names(small)[1:] == ["stem", "out"]
    np.testing.assert_allclose(small(data()), model(data()), rtol=1e-5)


def test_of_three_branches_two_are_left():
    inputs = keras.Input((4,))
    parts = [layers.Dense(3, name=name)(inputs) for name in "abc"]
    model = keras.Model(inputs, layers.Dense(2, name="out")(layers.Concatenate(name="cat")(parts)))
    zero(model, "out", rows=slice(3, 6))
    small = tfprune.strip(model)
    assert "b" not in names(small) and "cat" in names(small)
    np.testing.assert_allclose(small(data()), model(data()), rtol=1e-5, atol=1e-6)


def test_where_all_branches_are_dead_one_keeps_a_unit():
    model = residual(layers.Concatenate)
    zero(model, "out")
    small = tfprune.strip(model)
    np.testing.assert_allclose(small(data()), model(data()), atol=1e-6)
    assert small.count_params() < 20


def test_slots_and_compile_state_survive_the_cut():
    model = residual(optimizer="adam", loss="mse")
    x, y = data(), np.ones((8, 2))
    model.train_on_batch(x, y)
    zero(model, "branch")
    zero(model, "branch", "bias")
    small = tfprune.strip(model)
    assert int(small.optimizer.iterations) == 1
    ours = {v.path: np.array(v) for v in model.optimizer.variables}
    for variable in small.optimizer.variables:
        np.testing.assert_array_equal(variable, ours[variable.path])
    small.train_on_batch(x, y)


def test_a_nested_model_in_a_dead_branch_goes():
    inputs = keras.Input((4,))
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="in")], name="inner")
    both = layers.Concatenate()([layers.Dense(3, name="a")(inputs), inner(inputs)])
    model = keras.Model(inputs, layers.Dense(2, name="out")(both))
    zero(model, "out", rows=slice(3, 6))
    small = tfprune.strip(model)
    assert "inner" not in names(small)
    np.testing.assert_allclose(small(data()), model(data()), rtol=1e-5, atol=1e-6)


def test_a_branch_inside_a_nested_model_goes():
    inner = residual()
    zero(inner, "branch")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(inner(inputs)))
    small = tfprune.strip(model)
    (nested,) = [layer for layer in small.layers if isinstance(layer, keras.Model)]
    assert "branch" not in names(nested)
    np.testing.assert_allclose(small(data()), model(data()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("is_output", [True, False])
@pytest.mark.parametrize("times", [1, 2])
def test_a_nested_functional_model_stays_where_a_branch_around_it_goes(times, is_output):
    inputs = keras.Input((4,))
    nested_input = keras.Input((4,))
    nested = keras.Model(nested_input, layers.Dense(4)(nested_input), name="nested")
    x = layers.Concatenate()([layers.Dense(3, name="a")(inputs), layers.Dense(3, name="b")(inputs)])
    x = layers.Dense(4, name="joined")(x)
    for _ in range(times):
        x = nested(x)
    model = keras.Model(inputs, x if is_output else layers.Dense(2)(x))
    zero(model, "joined", rows=slice(3, 6))
    small = tfprune.strip(model)
    assert "b" not in names(small) and "nested" in names(small)
    np.testing.assert_allclose(small(data()), model(data()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("times", [1, 2])
def test_a_model_that_is_called_twice_keeps_what_one_call_needs(times):
    inner = residual()
    zero(inner, "branch")
    inputs = keras.Input((4,))
    outputs = [inner(inputs) for _ in range(times)]
    x = layers.Concatenate()(outputs) if times > 1 else outputs[0]
    model = keras.Model(inputs, layers.Dense(2)(x))
    np.testing.assert_allclose(tfprune.strip(model)(data()), model(data()), rtol=1e-5, atol=1e-6)


def test_a_branch_that_another_output_uses_stays():
    inputs = keras.Input((4,))
    a, b = layers.Dense(3, name="a")(inputs), layers.Dense(3, name="b")(inputs)
    out = layers.Dense(2, name="out")(layers.Concatenate()([a, b]))
    model = keras.Model(inputs, [out, layers.Dense(1, name="other")(b)])
    zero(model, "out", rows=slice(3, 6))
    small = tfprune.strip(model)
    for ours, theirs in zip(model(data()), small(data()), strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-6)


def two_outputs(x, dead):
    """A nested model with two outputs, of which one is 0."""
    given = keras.Input((6,))
    first = layers.Dense(6, activation="relu", name="first")(given)
    second = layers.Dense(6, name="second")(given)
    inner = keras.Model(given, [first, second], name="inner")
    zero(inner, dead)
    return inner(x)


@pytest.mark.parametrize("dead", ["first", "second"])
def test_a_dead_output_of_a_model_with_several_is_still_joined(dead):
    inputs = keras.Input((4,))
    x = layers.Dense(6, activation="relu", name="stem")(inputs)
    model = keras.Model(inputs, layers.Dense(2)(layers.Add()([*two_outputs(x, dead), x])))
    small = tfprune.strip(model)
    np.testing.assert_allclose(small(data()), model(data()), rtol=1e-5, atol=1e-6)
    tfprune.strip(small)


def test_an_output_that_only_a_dead_branch_uses_keeps_a_unit_beside_the_others():
    inputs = keras.Input((4,))
    x = layers.Dense(6, activation="relu", name="stem")(inputs)
    first, second = two_outputs(x, dead="second")
    branch = layers.Dense(6, name="branch")(second)
    model = keras.Model(inputs, layers.Dense(2)(layers.Add()([first, branch])))
    zero(model, "branch")
    small = tfprune.strip(model)
    np.testing.assert_allclose(small(data()), model(data()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("is_first", [True, False])
def test_what_is_dead_in_one_call_of_a_shared_model_alone_stays(is_first):
    left, right = keras.Input((6,)), keras.Input((6,))
    shared = keras.Model([left, right], layers.Add(name="join")([left, right]), name="shared")
    inputs = keras.Input((4,))
    a, b = (layers.Dense(6, activation="relu", name=n)(inputs) for n in ("a", "b"))
    dead = layers.Dense(6, name="dead")(inputs)
    calls = [shared([a, dead]), shared([a, b])]
    model = keras.Model(
        inputs, layers.Dense(2)(layers.Concatenate()(calls if is_first else calls[::-1]))
    )
    zero(model, "dead")
    small = tfprune.strip(model)
    np.testing.assert_allclose(small(data()), model(data()), rtol=1e-5, atol=1e-6)


def in_groups(*branch):
    """A branch that ends in zeros beside a stem of which three filters are dead."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 5, 3))
    y = x = layers.Conv2D(8, 3, padding="same", name="stem")(inputs)
    for layer in branch:
        y = layer(y)
    x = layers.Conv2D(4, 1, name="after")(layers.Add()([x, y]))
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    zero(model, branch[-1].name)
    zero(model, "stem", rows=(..., [0, 2, 3]))
    return model


def grouped(name):
    return layers.Conv2D(8, 3, padding="same", groups=4, name=name)


@pytest.mark.parametrize(
    "branch",
    [
        lambda: [grouped("ends")],  # its groups are left with one channel or with two
        lambda: [grouped("inner"), layers.Conv2D(8, 1, name="ends")],  # with none
        lambda: [layers.Conv2D(8, 1), grouped("inner"), layers.Conv2D(8, 1, name="ends")],
        lambda: [grouped("inner"), layers.DepthwiseConv2D(3, padding="same", name="ends")],
    ],
)
def test_a_grouped_convolution_in_a_dead_branch_goes(branch):
    model = in_groups(*branch())
    small, report = tfprune.strip(model, return_report=True)
    assert names(small)[1:3] == ["stem", "after"]
    assert {layer.name: layer.after for layer in report.layers}["stem"] == 5
    x = data((4, 5, 5, 3))
    np.testing.assert_allclose(small(x), model(x), rtol=1e-4, atol=1e-6)


def test_a_shared_grouped_convolution_that_is_dead_in_one_call_keeps_equal_groups():
    shared = grouped("shared")
    model = in_groups(shared, layers.Conv2D(8, 1, name="ends"))
    x = model.get_layer("stem").output
    y = layers.Dense(2)(layers.GlobalAveragePooling2D()(shared(x)))
    model = keras.Model(model.inputs, [*model.outputs, y])
    small = tfprune.strip(model)
    assert "ends" not in names(small)
    for ours, theirs in zip(model(data((4, 5, 5, 3))), small(data((4, 5, 5, 3))), strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-6)
