"""Layers taken out, exchanged and connected; masks, slots and arguments of every such edit."""

import keras
import numpy as np
import pytest

import tfprune
from tests.surgery.models import chain, drawn, example, images, names, two_branches
from tfprune import surgery
from tfprune.surgery import by
from tfprune.surgery.edits.kernel import window_indices

layers = keras.layers


# Remove and replace -------------------------------------------------------------------------------


def test_an_identity_goes_without_a_trace():
    model = images()
    new = surgery.insert(model, "pool", layers.Dense(4, name="new"))
    plan = surgery.edit(new)
    plan.remove("new")
    assert plan.effects == ()
    back, x = plan.model, example(model)
    np.testing.assert_array_equal(back(x), model(x))
    assert names(back) == names(model)


@pytest.mark.parametrize(
    ("name", "sizes"), [("a", {"b": (3, 5), "c": (5, 2)}), ("b", {"a": (3, 4), "c": (4, 2)})]
)
def test_removed_layers_leave_fitting_neighbours(name, sizes):
    model = chain()
    new = surgery.remove(model, name)
    assert {k.name: tuple(k.kernel.shape) for k in new.layers} == sizes


def test_the_last_layer_goes_where_the_one_before_can_take_its_size():
    new = surgery.remove(chain(), "c")
    assert new.outputs[0].shape == (None, 2)
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Dense(2, name="only")(inputs))
    with pytest.raises(ValueError, match="'only' takes and what it gives.*keep their number"):
        surgery.remove(model, "only")


@pytest.mark.parametrize(
    ("make", "name", "message"),
    [
        (two_branches, "total", "2 inputs"),
        (images, "flatten", "number of axes"),
        (images, "pool", "does not fit"),
        (two_branches, "nothing", "'nothing'"),
    ],
)
def test_what_cannot_be_removed_is_refused(make, name, message):
    keras.backend.clear_session()
    with pytest.raises(ValueError, match=message):
        surgery.remove(make(), name)


def test_a_replaced_layer_keeps_what_fits_and_others_follow_its_size():
    model = chain()
    new = surgery.replace(model, "b", layers.Dense(5, activation="tanh"))
    assert new.get_layer("b").activation is keras.activations.tanh
    for ours, theirs in zip(new.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    wider = surgery.replace(model, "b", layers.Dense(7))
    np.testing.assert_array_equal(wider.get_layer("b").kernel[:, :5], model.get_layer("b").kernel)
    np.testing.assert_array_equal(wider.get_layer("c").kernel[5:], 0)
    fresh = surgery.replace(model, "b", layers.Dense(5), keep_weights=False)
    assert (np.array(fresh.get_layer("b").bias) == 0).all()
    built = layers.Dense(5)
    built.build((None, 4))
    given = surgery.replace(model, "b", built)
    np.testing.assert_array_equal(given.get_layer("b").kernel, built.kernel)


def test_weights_of_the_same_name_and_shape_are_told_apart_by_what_is_around_them():
    inputs = keras.Input((4, 3))
    attention = layers.MultiHeadAttention(1, 3, name="attention")(inputs, inputs)
    model = drawn(keras.Model(inputs, attention))
    new = surgery.replace(model, "attention", layers.MultiHeadAttention(1, 3, dropout=0.5))
    x = example(model)
    np.testing.assert_allclose(new(x), model(x), rtol=1e-5)
    assert new.get_layer("attention").dropout == 0.5


def test_another_kind_of_layer_takes_the_place():
    model = images()
    new = surgery.replace(model, "pool", layers.AveragePooling2D(2))
    x = example(model)
    conv = keras.Model(model.input, model.get_layer("conv").output)(x)
    pooled = np.array(conv).reshape(3, 2, 2, 2, 2, 4).mean(axis=(2, 4))
    last = model.get_layer("last")
    np.testing.assert_allclose(new(x), pooled.reshape(3, -1) @ last.kernel + last.bias, rtol=1e-4)
    with pytest.raises(ValueError, match="does not fit.*replace pool"):
        surgery.replace(model, "pool", layers.AveragePooling2D(4))
    with pytest.raises(ValueError, match="does not take"):
        surgery.replace(model, "pool", layers.LSTM(4))
    with pytest.raises(ValueError, match="output of the model"):
        surgery.replace(model, "last", layers.Dense(3))


# Connect and disconnect ---------------------------------------------------------------------------


def test_a_concatenation_with_another_input_computes_the_same():
    model = two_branches()
    plan = surgery.edit(model)
    plan.connect("a", "joined")
    assert plan.effects == ()
    new, x = plan.model, example(model)
    np.testing.assert_allclose(new(x), model(x), rtol=1e-5, atol=1e-5)
    assert new.get_layer("joined").output.shape == (None, 13)
    np.testing.assert_array_equal(new.get_layer("norm").moving_variance[9:], 1)
    np.testing.assert_array_equal(new.get_layer("last").kernel[9:], 0)
    back = surgery.disconnect(new, "a", "joined")
    for ours, theirs in zip(back.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_behind_flatten_new_channels_stand_at_each_place():
    inputs = keras.Input((2, 2, 3))
    a, b = (layers.Conv2D(n, 1, name=name)(inputs) for n, name in ((2, "a"), (3, "b")))
    joined = layers.Concatenate(name="joined")([a, a])
    x = layers.Add()([layers.Dense(2, name="last")(layers.Flatten()(joined))])
    model = drawn(keras.Model(inputs, [x, b]))
    new, x = surgery.connect(model, "b", "joined"), example(model)
    np.testing.assert_allclose(new(x)[0], model(x)[0], rtol=1e-5, atol=1e-5)
    kernel = np.array(new.get_layer("last").kernel).reshape(4, 7, 2)
    old = np.array(model.get_layer("last").kernel).reshape(4, 4, 2)
    np.testing.assert_array_equal(kernel[:, :4], old)
    without = surgery.disconnect(new, "a", "joined")
    kernel = np.array(without.get_layer("last").kernel).reshape(4, 5, 2)
    np.testing.assert_array_equal(kernel, np.concatenate([old[:, :2], 0 * kernel[:, 2:]], 1))


def test_a_sum_gets_a_term_and_all_become_equally_wide():
    model = two_branches()
    new = surgery.connect(model, "b", "total")
    widths = {new.get_layer(name).units for name in "abc"}
    assert len(widths) == 1
    x = example(model)
    by_hand = sum(x @ np.array(new.get_layer(n).kernel) + new.get_layer(n).bias for n in "abc")
    total = keras.Model(new.input, new.get_layer("total").output)(x)
    np.testing.assert_allclose(total, by_hand, rtol=1e-4, atol=1e-5)


def test_where_one_input_is_left_the_operation_goes():
    model = two_branches()
    new = surgery.disconnect(model, "c", "total")
    assert names(new) == ["a", "b", "joined", "norm", "last"]
    for ours in new.weights:
        theirs = next(w for w in model.weights if w.path == ours.path)
        np.testing.assert_array_equal(ours, theirs)
    alone = surgery.disconnect(model, "b", "joined")
    old = model.get_layer("last").kernel.numpy()
    np.testing.assert_array_equal(alone.get_layer("last").kernel, old[:4])
    np.testing.assert_array_equal(alone.get_layer("norm").gamma, model.get_layer("norm").gamma[:4])


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("last", "total", "depend"),
        ("a", "last", "list of tensors"),
        ("a", "nowhere", "'nowhere'"),
    ],
)
def test_what_cannot_be_connected_is_refused(source, target, message):
    with pytest.raises(ValueError, match=message):
        surgery.connect(two_branches(), source, target)


def test_what_is_no_input_cannot_be_disconnected():
    with pytest.raises(ValueError, match="must be one of several inputs"):
        surgery.disconnect(two_branches(), "b", "total")


# How sizes are made equal -------------------------------------------------------------------------


def sizes(model):
    return {k.name: tuple(k.kernel.shape) for k in model.layers if hasattr(k, "kernel")}


@pytest.mark.parametrize(
    ("widths", "fit", "fitted"),
    [
        ((4, 5), "grow", {"a": (3, 5), "c": (5, 2)}),
        ((4, 5), "shrink", {"a": (3, 4), "c": (4, 2)}),
        ((6, 4), "grow", {"a": (3, 6), "c": (6, 2)}),
        ((6, 4), "shrink", {"a": (3, 4), "c": (4, 2)}),
    ],
)
def test_what_is_left_by_a_layer_grows_or_shrinks(widths, fit, fitted):
    a, b = (layers.Dense(n, name=name) for n, name in zip(widths, "ab", strict=True))
    model = drawn(keras.Sequential([keras.Input((3,)), a, b, layers.Dense(2, name="c")]))
    new = surgery.remove(model, "b", fit=fit)
    assert sizes(new) == fitted
    for name, axis in (("a", 1), ("c", 0)):
        old, made = (np.moveaxis(m.get_layer(name).kernel.numpy(), axis, 0) for m in (model, new))
        kept = [unit for unit in made.tolist() if unit in old.tolist()]
        assert len(kept) == min(len(old), len(made))  # all trained units, or none but these
    plan = surgery.edit(model)
    plan.remove("b", fit=fit)
    assert sizes(surgery.Plan.from_dict(model, plan.to_dict()).model) == fitted
    assert f"fit={fit}" in str(plan)


def test_what_cannot_be_fitted_that_way_is_refused():
    model = chain()  # 3 -> 4 -> 5 -> 2
    assert sizes(surgery.remove(model, "a", fit="shrink")) == {"b": (3, 5), "c": (5, 2)}
    with pytest.raises(ValueError, match="'a' takes and what it gives.*fit='grow'"):
        surgery.remove(model, "a", fit="grow")  # the input cannot grow
    with pytest.raises(ValueError, match="`fit` must be one of.*'both'"):
        surgery.remove(model, "b", fit="both")
    with pytest.raises(ValueError, match="`fit` must be one of.*'both'"):
        surgery.connect(two_branches(), "b", "total", fit="both")


@pytest.mark.parametrize(("fit", "width"), [("grow", 5), ("shrink", 4)])
def test_terms_of_a_sum_grow_or_shrink_to_the_new_one(fit, width):
    model = two_branches()  # a and c of 4, b of 5
    new = surgery.connect(model, "b", "total", fit=fit)
    assert {new.get_layer(name).units for name in "abc"} == {width}


@pytest.mark.parametrize(("fit", "width"), [("grow", 13), ("shrink", 9), (None, 13)])
def test_a_concatenation_has_more_channels_or_makes_room(fit, width):
    model = two_branches()
    new = surgery.connect(model, "a", "joined", fit=fit)
    assert new.get_layer("joined").output.shape == (None, width)
    assert new.get_layer("last").kernel.shape == (width, 2)
    if fit != "shrink":
        x = example(model)
        np.testing.assert_allclose(new(x), model(x), rtol=1e-5, atol=1e-5)


# Masks, and known architectures -------------------------------------------------------------------


def test_masks_go_along():
    model = tfprune.prunable(images())
    mask = np.arange(72).reshape(3, 3, 2, 4) % 3 != 0
    tfprune.set_masks(model, "conv", "kernel", trainable=mask)
    added = tfprune.layers.Conv2D(4, 1, name="new")
    new = surgery.insert(model, "pool", added)
    np.testing.assert_array_equal(new.get_layer("conv").trainable_masks["kernel"], mask)
    assert np.array(new.get_layer("new").trainable_masks["kernel"]).all()
    x = example(model)
    np.testing.assert_allclose(new(x), model(x), rtol=1e-5)
    smaller = surgery.resize_kernel(model, "conv", 2)
    rows, columns = window_indices(np.array(model.get_layer("conv").kernel), (2, 2))
    kept = np.array(smaller.get_layer("conv").trainable_masks["kernel"])
    np.testing.assert_array_equal(kept, mask[rows][:, columns])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNetV2", "EfficientNetB0", "ConvNeXtTiny"])
def test_known_architectures_grow_and_lose_units(name):
    make = getattr(keras.applications, name)
    model = make(weights=None, input_shape=(32, 32, 3), classes=5)
    convolutions = [layer for layer in model.layers if isinstance(layer, layers.Conv2D)]
    layer = convolutions[len(convolutions) // 2]
    x = example(model)
    plan = surgery.edit(model)
    plan.resize({layer: by(+8)})
    if not plan.effects:
        difference = np.array(plan.model(x)) - np.array(model(x))
        assert np.abs(difference).max() < 1e-5
    else:
        assert all("statistics" in reason for reason in plan.effects)
    smaller = surgery.resize(plan.model, {layer.name: by(-16)})
    assert smaller.get_layer(layer.name).output.shape[-1] == layer.output.shape[-1] - 8
    assert np.isfinite(np.array(smaller(x))).all()


# Compile state, and arguments ---------------------------------------------------------------------


def test_slots_go_along_and_training_goes_on():
    model = two_branches()
    model.compile(keras.optimizers.Adam(0.01), "mse")
    x, y = example(model, 8), np.ones((8, 2))
    for _ in range(2):
        model.train_on_batch(x, y)
    before = {v.path.split("/")[-1]: np.array(v) for v in model.optimizer.variables}
    for new in (
        surgery.connect(model, "a", "joined"),
        surgery.disconnect(model, "c", "total"),
        surgery.insert(model, "a", layers.Dense(4, name="new")),
        surgery.replace(model, "c", layers.Dense(4, activation="tanh")),
    ):
        assert int(new.optimizer.iterations) == 2
        slots = {v.path.split("/")[-1]: np.array(v) for v in new.optimizer.variables}
        for name in ("a_kernel_momentum", "b_bias_velocity", "norm_gamma_momentum"):
            size = len(before[name])
            np.testing.assert_array_equal(slots[name][:size], before[name])
            assert (slots[name][size:] == 0).all()
        new.train_on_batch(x, y)
    after = {v.path.split("/")[-1]: np.array(v) for v in model.optimizer.variables}
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)


@pytest.mark.parametrize(
    ("edit", "argument"),
    [
        (lambda model: surgery.insert(model, 3, keras.layers.ReLU()), "after"),
        (lambda model: surgery.insert(model, "d", 3), "layers"),
        (lambda model: surgery.insert(model, "d", ["relu"]), "layers"),
        (lambda model: surgery.remove(model, 3), "layer"),
        (lambda model: surgery.replace(model, "d", 3), "new_layer"),
        (lambda model: surgery.connect(model, 3, "d"), "source"),
        (lambda model: surgery.disconnect(model, "d", 3), "target"),
    ],
)
def test_errors_name_the_argument(edit, argument):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="d")])
    with pytest.raises(ValueError, match=f"Argument `{argument}` must be a (Keras )?layer"):
        edit(model)


def test_a_residual_sum_over_a_concatenation_in_one_plan():
    inputs = keras.Input((7, 7, 3))
    norm = layers.BatchNormalization(name="norm")(
        layers.Conv2D(5, 3, padding="same", name="conv")(inputs)
    )
    named = layers.Conv2D(7, 5, padding="same", name="named")(inputs)
    join = layers.Concatenate(name="join")([named, norm])
    residual = layers.Conv2D(12, 3, padding="same", name="residual")(join)
    total = layers.Add(name="total")([join, residual])
    model = drawn(keras.Model(inputs, layers.Conv2D(1, 1, name="last")(total)))
    plan = surgery.edit(model)
    plan.resize({"total": by(-3)})
    plan.remove("norm")
    plan.insert("residual", layers.BatchNormalization(name="new"), init="default")
    plan.resize_kernel("named", by(-2), padding=1)
    new = plan.model
    widths = {name: new.get_layer(name).output.shape[-1] for name in ("named", "conv", "total")}
    assert widths["named"] + widths["conv"] == widths["total"] == 9
    kernels = {k.name: tuple(k.kernel.shape) for k in new.layers if hasattr(k, "kernel")}
    assert kernels["residual"] == (3, 3, 9, 9) and kernels["last"] == (1, 1, 9, 1)
    assert kernels["named"] == (3, 3, 3, widths["named"])
    assert new.get_layer("new").gamma.shape == (9,)
    assert new(example(model)).shape == (3, 7, 7, 1)
    assert model.get_layer("total").output.shape == (None, 7, 7, 12)
