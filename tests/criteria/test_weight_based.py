"""Criteria over the weights of units, against what NumPy works out by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tests.batched import batched
from tests.criteria.models import residual_model, scores, with_drawn_weights
from tfprune import layers
from tfprune.criteria import units as criteria
from tfprune.criteria.unit_slices import roles
from tfprune.criteria.weight_based import L1, L2, SecondOrder, Taylor
from tfprune.units.prunable import PrunableUnits
from tfprune.units.scores import UnitScores

DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(8, 4)).astype("float32")
Y = DRAW.normal(size=(8, 2)).astype("float32")


def drawn(model):
    return with_drawn_weights(model, DRAW)


@pytest.fixture(scope="module")
def residual():
    return drawn(residual_model())


@pytest.fixture(scope="module")
def convolutional():
    return drawn(
        keras.Sequential(
            [
                keras.Input((4, 4, 2)),
                layers.Conv2D(3, 3, name="conv"),
                layers.BatchNormalization(name="bn"),
                layers.ReLU(),
                layers.Flatten(),
                layers.Dense(2, name="out"),
            ]
        )
    )


def weights(model, layer):
    return {
        name: np.array(getattr(model.get_layer(layer), name), "float64")
        for name in ("kernel", "bias", "gamma", "beta")
        if getattr(model.get_layer(layer), name, None) is not None
    }


def parts(model):
    """The slices of the units of `residual`, an array (units, elements) for each layer and role."""
    a, bn, b, out = (weights(model, name) for name in ("a", "bn", "b", "out"))
    return {
        "a": np.vstack([a["kernel"], a["bias"]]).T,
        "b": np.vstack([b["kernel"], b["bias"]]).T,
        "bn": np.vstack([bn["gamma"], bn["beta"]]).T,
        "rows of b": b["kernel"],
        "rows of out": out["kernel"],
    }


AGGREGATES = {"sum": np.sum, "mean": np.mean, "max": np.max}


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("l1", lambda rows: np.abs(rows).sum(axis=1)),
        ("l2", lambda rows: np.sqrt(np.square(rows).sum(axis=1))),
    ],
)
def test_all_slices_of_a_residual_unit_count(residual, name, of, aggregate):
    by_hand = AGGREGATES[aggregate]([of(rows) for rows in parts(residual).values()], axis=0)
    np.testing.assert_allclose(scores(residual, name, aggregate=aggregate), by_hand, rtol=1e-6)


@pytest.mark.parametrize(
    ("role", "names"),
    [("makers", ["a", "b"]), ("norms", ["bn"]), ("consumers", ["rows of b", "rows of out"])],
)
def test_the_roles_that_count_can_be_chosen(residual, role, names):
    by_hand = sum(np.abs(parts(residual)[name]).sum(axis=1) for name in names)
    np.testing.assert_allclose(scores(residual, L1(role)), by_hand, rtol=1e-6)


def test_magnitude_is_that_of_all_makers(residual):
    rows = [parts(residual)[name] for name in ("a", "b")]
    lengths = [np.sqrt(np.square(r[:, :-1]).sum(axis=1)) + np.abs(r[:, -1]) for r in rows]
    np.testing.assert_allclose(scores(residual, "magnitude"), sum(lengths), rtol=1e-6)


def test_slices_of_a_flattened_convolution(convolutional):
    conv, bn, out = (weights(convolutional, name) for name in ("conv", "bn", "out"))
    rows = np.abs(out["kernel"]).reshape(2, 2, 3, 2).sum(axis=(0, 1, 3))
    by_hand = np.abs(conv["kernel"]).sum(axis=(0, 1, 2)) + np.abs(conv["bias"])
    by_hand += np.abs(bn["gamma"]) + np.abs(bn["beta"]) + rows
    np.testing.assert_allclose(scores(convolutional, "l1"), by_hand, rtol=1e-6)


def test_rows_of_a_grouped_convolution_are_those_of_its_own_group():
    model = drawn(
        keras.Sequential(
            [
                keras.Input((4,)),
                layers.Dense(4, use_bias=False, name="a"),
                layers.Reshape((1, 4)),
                layers.Conv1D(6, 1, groups=2, name="grouped"),
                layers.Flatten(),
                layers.Dense(1, name="out"),
            ]
        )
    )
    units = PrunableUnits(model)
    found = UnitScores(L1(["consumers"])).of(units)[units.sets[0].units]
    (kernel,) = weights(model, "grouped")["kernel"]  # (2 channels of a group, 6 filters)
    by_hand = [np.abs(kernel[c % 2, 3 * (c // 2) :][:3]).sum() for c in range(4)]
    np.testing.assert_allclose(found, by_hand, rtol=1e-6)


def test_gates_of_a_recurrent_layer_are_one_unit():
    model = drawn(keras.Sequential([keras.Input((5, 4)), layers.GRU(3, name="a"), layers.Dense(2)]))
    cell = model.get_layer("a").cell
    kernel, recurrent, bias = (np.abs(np.array(w)) for w in cell.weights)
    by_hand = kernel.reshape(4, 3, 3).sum(axis=(0, 1)) + recurrent.reshape(3, 3, 3).sum(axis=(0, 1))
    by_hand += bias.reshape(2, 3, 3).sum(axis=(0, 1))
    by_hand += recurrent.sum(axis=1)  # what it feeds back
    by_hand += np.abs(np.array(model.layers[-1].kernel)).sum(axis=1)
    np.testing.assert_allclose(scores(model, "l1"), by_hand, rtol=1e-6)


def test_heads_of_an_attention():
    inputs = keras.Input((3, 4))
    attended = layers.MultiHeadAttention(2, 3, use_bias=False, name="a")(inputs, inputs)
    model = drawn(keras.Model(inputs, attended))
    units = PrunableUnits(model)
    heads = next(s for s in units.sets if s.name == "a/heads")
    found = UnitScores("l1").of(units)[heads.units]
    query, key, value, output = (np.abs(np.array(w, "float64")) for w in model.weights)
    by_hand = sum(w.sum(axis=(0, 2)) for w in (query, key, value)) + output.sum(axis=(1, 2))
    np.testing.assert_allclose(found, by_hand, rtol=1e-6)


def test_slices_in_stock_layers_count_too():
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, name="a"), keras.layers.Dense(2, name="out")]
    )
    found = scores(drawn(model), L1("consumers"))
    np.testing.assert_allclose(found, np.abs(weights(model, "out")["kernel"]).sum(axis=1))
    hidden = X @ weights(model, "a")["kernel"] + weights(model, "a")["bias"]
    outputs = hidden @ weights(model, "out")["kernel"] + weights(model, "out")["bias"]
    gradient = hidden.T @ (outputs - Y) * 2 / Y.size
    by_hand = np.abs(weights(model, "out")["kernel"] * gradient).sum(axis=1)
    np.testing.assert_allclose(scores(model, Taylor("consumers"), data=(X, Y)), by_hand, rtol=1e-4)


def gradients(model, x, y):
    """dL/dw of `residual` by NumPy, in the form of `parts`, and its parts."""
    a, bn, b, out = (weights(model, name) for name in ("a", "bn", "b", "out"))
    norm = model.get_layer("bn")
    deviation = np.sqrt(np.array(norm.moving_variance, "float64") + norm.epsilon)
    made = x @ a["kernel"] + a["bias"]
    normed = (made - np.array(norm.moving_mean)) / deviation
    h = np.maximum(normed * bn["gamma"] + bn["beta"], 0)
    added = made + h @ b["kernel"] + b["bias"]
    d_outputs = 2 * (added @ out["kernel"] + out["bias"] - y) / y.size
    d_added = d_outputs @ out["kernel"].T
    d_normed = (d_added @ b["kernel"].T) * (h > 0)
    d_made = d_added + d_normed * bn["gamma"] / deviation
    d_b = h.T @ d_added
    return {
        "a": np.vstack([x.T @ d_made, d_made.sum(axis=0)]).T,
        "b": np.vstack([d_b, d_added.sum(axis=0)]).T,
        "bn": np.vstack([(d_normed * normed).sum(axis=0), d_normed.sum(axis=0)]).T,
        "rows of b": d_b,
        "rows of out": added.T @ d_outputs,
    }


def test_taylor_counts_makers_norms_and_consumers(residual):
    found = parts(residual)
    of = gradients(residual, X, Y)
    by_hand = sum(np.abs(rows * of[name]).sum(axis=1) for name, rows in found.items())
    np.testing.assert_allclose(scores(residual, "taylor", data=(X, Y)), by_hand, rtol=1e-4)
    in_batches = scores(residual, "taylor", data=batched((X, Y), 4))
    np.testing.assert_allclose(in_batches, by_hand, rtol=1e-4)


def test_taylor_does_not_ignore_the_norm(residual):
    by_hand = np.abs(parts(residual)["bn"] * gradients(residual, X, Y)["bn"]).sum(axis=1)
    found = scores(residual, Taylor("norms"), data=(X, Y))
    np.testing.assert_allclose(found, by_hand, rtol=1e-4)
    assert (found > 0).all()


def test_second_order_takes_all_examples_and_not_the_last(residual):
    def by_hand(examples):
        each = [gradients(residual, X[i : i + 1], Y[i : i + 1]) for i in examples]
        return sum(
            np.mean([np.square(rows * of[name]) for of in each], axis=0).sum(axis=1)
            for name, rows in parts(residual).items()
        )

    found = scores(residual, "second_order", data=batched((X, Y), 1))
    np.testing.assert_allclose(found, by_hand(range(8)), rtol=1e-4)
    assert not np.allclose(found, by_hand([7]), rtol=0.1)


def test_fpgm_is_the_sum_of_distances_to_the_other_filters(convolutional):
    filters = weights(convolutional, "conv")["kernel"].reshape(-1, 3).T
    by_hand = [sum(np.sqrt(np.square(f - g).sum()) for g in filters) for f in filters]
    np.testing.assert_allclose(scores(convolutional, "fpgm"), by_hand, rtol=1e-6)


def test_fpgm_tells_a_filter_from_its_negative():
    w = np.array([[1.0, 2.0], [-1.0, -2.0], [1.0, 2.0]])
    found = criteria.FPGM()({"kernel": w, "bias": np.array([[9.0], [0.0], [0.0]])})
    np.testing.assert_allclose(found, np.sqrt(20) * np.array([1, 2, 1]))
    assert criteria.FPGM()({"kernel": np.ones((4, 3), "float32") / 3}).tolist() == [0.0] * 4


def test_fpgm_of_a_residual_unit_is_the_sum_over_its_makers(residual):
    by_hand = sum(
        np.sqrt(np.square(rows[:, None] - rows[None]).sum(axis=2)).sum(axis=1)
        for rows in (weights(residual, name)["kernel"].T for name in ("a", "b"))
    )
    np.testing.assert_allclose(scores(residual, "fpgm"), by_hand, rtol=1e-6)


def test_bn_scale_is_the_size_of_gamma(convolutional, residual):
    for model in (convolutional, residual):
        gamma = weights(model, "bn")["gamma"]
        np.testing.assert_allclose(scores(model, "bn_scale"), np.abs(gamma), rtol=1e-6)


def test_units_without_a_norm_have_no_bn_scale():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="a"), layers.Dense(2)])
    with pytest.raises(ValueError, match=r"says nothing.*layers='a', 3 of 3.*`exclude`"):
        scores(model, "bn_scale")


def test_random_is_the_same_for_a_seed(residual):
    assert (
        scores(residual, "random", seed=1).tolist() == scores(residual, "random", seed=1).tolist()
    )
    assert (
        scores(residual, "random", seed=1).tolist() != scores(residual, "random", seed=2).tolist()
    )


def test_a_callable_says_which_roles_it_looks_at(residual):
    seen = []

    def mine(layer, role, weights, squared_gradient):
        seen.append((layer.name, role))
        assert squared_gradient.keys() == weights.keys()
        return None if role == "norms" else np.ones(5)

    mine.roles = ("makers", "norms", "consumers")
    assert scores(residual, mine, data=(X, Y)).tolist() == [4.0] * 5
    expected = {("a", "makers"), ("b", "makers"), ("bn", "norms"), ("b", "consumers")}
    assert set(seen) == {*expected, ("out", "consumers")}


def test_ties_are_broken_so_that_as_many_go_as_asked_for():
    for criterion in ("l1", "fpgm", "taylor"):
        model = keras.Sequential(
            [keras.Input((4,)), layers.Dense(6, kernel_initializer="ones"), layers.Dense(2)]
        )
        model.layers[1].kernel.assign(np.ones((6, 2)))
        model.compile("sgd", "mse")
        (count,) = tfprune.prune_units(model, 0.5, criterion, data=(X, Y))
        assert count.pruned == 3


def test_units_seen_by_some_consumers_only_have_the_mean_over_those():
    inputs = keras.Input((4,))
    a = layers.Dense(4, name="a")(inputs)
    ends = [layers.Dense(1, name="left")(a[:, :2]), layers.Dense(1, name="all")(a)]
    model = drawn(
        keras.Model(inputs, layers.Dense(1, name="out")(keras.layers.Concatenate()(ends)))
    )
    left, both = (np.abs(weights(model, n)["kernel"]).sum(axis=1) for n in ("left", "all"))
    units = PrunableUnits(model, only=["a"])
    found = UnitScores(L2("consumers", aggregate="mean")).of(units)[units.sets[0].units]
    by_hand = [(left[0] + both[0]) / 2, (left[1] + both[1]) / 2, both[2], both[3]]
    np.testing.assert_allclose(found, by_hand, rtol=1e-6)


@pytest.mark.parametrize("name", ["taylor", "second_order"])
def test_data_and_a_loss_are_needed(residual, name):
    with pytest.raises(ValueError, match="data=None"):
        scores(residual, name)
    with pytest.raises(ValueError, match="no batches"):
        scores(residual, name, data=(X[:0], Y[:0]))
    with pytest.raises(ValueError, match="no batches"):
        scores(residual, name, data=tf.data.Dataset.from_tensor_slices((X, Y)).batch(4).take(0))
    plain = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dense(2)])
    with pytest.raises(ValueError, match="Compile"):
        tfprune.prune_units(plain, 0.5, name, data=(X, Y))
    assert all(np.all(np.asarray(m)) for m in plain.layers[0].trainable_masks.values())


def test_gradients_that_are_not_finite_are_refused_with_the_layer(residual):
    with pytest.raises(ValueError, match=r"not finite, layer='(a|b|bn|out)'"):
        scores(residual, "taylor", data=(np.full_like(X, 1e38), Y))


@pytest.mark.parametrize("argument", ["aggregate", "normalize"])
def test_arguments_out_of_range_are_named(argument):
    with pytest.raises(ValueError, match=f"`{argument}` must be one of.*'median'"):
        L1(**{argument: "median"})


@pytest.mark.parametrize("bad", [[], "kernel", ["makers", "biases"]])
def test_unknown_roles_are_refused(bad):
    with pytest.raises(ValueError, match=r"`roles` must be.*makers.*consumers"):
        L1(bad)


@pytest.mark.parametrize("criterion", [L1, L2, Taylor, SecondOrder])
def test_round_trip_by_name_and_config(criterion):
    name = criteria.serialize(criterion())
    assert isinstance(name, str) and type(criteria.get(name)) is criterion
    again = criteria.get(criteria.serialize(criterion(["norms"])))
    assert type(again) is criterion and again.roles == ("norms",)


def test_roles_of_slices(residual):
    units = PrunableUnits(residual)
    role_of = roles(units.coupling)
    found = {
        (piece.layer.name, role_of[id(piece)])
        for piece in units.coupling.slices
        if id(piece) in role_of
        and np.isin(units.sets[0].units, units.coupling.roots[piece.labels]).any()
    }
    assert found == {
        ("a", "makers"),
        ("b", "makers"),
        ("bn", "norms"),
        ("b", "consumers"),
        ("out", "consumers"),
    }
