"""Which elements are frozen, against NumPy by hand."""

import keras
import numpy as np
import pytest

import tfprune
from tests.batched import batched
from tests.small_mlp import X, Y, mlp
from tfprune import layers
from tfprune.criteria import freezing


def linear(loss="mse"):
    """y = x W + b, of which every example's gradient is known."""
    model = keras.Sequential([keras.Input((6,)), layers.Dense(2, name="d")])
    model.compile("sgd", loss)
    return model


def gradients_of_examples(model):
    """dL_i/dW, (examples, 6, 2), and dL_i/db for L_i = mean over outputs of (x W + b - y)^2."""
    kernel, bias = (np.array(w, "float64") for w in model.get_weights())
    error = X @ kernel + bias - Y
    return X[:, :, None].astype("float64") * error[:, None, :], error


def frozen(model, layer, name="kernel"):
    return np.array(model.get_layer(layer).frozen_masks[name])


def everything(layer, name):
    return True


@pytest.mark.parametrize("batch_size", [24, 5])
def test_the_lowest_preconditioned_gradients_are_frozen_biases_too_where_asked(batch_size):
    model = linear()
    tfprune.freeze_weights(model, 0.5, data=batched((X, Y), batch_size), only=everything)
    for gradients, name in zip(gradients_of_examples(model), ("kernel", "bias"), strict=True):
        score = np.abs(gradients.mean(axis=0) / gradients.var(axis=0))
        lowest = np.argsort(score.ravel())[: score.size // 2]
        assert set(np.flatnonzero(frozen(model, "d", name))) == set(lowest)


def test_the_lowest_gradients_are_frozen():
    model = linear()
    tfprune.freeze_weights(model, 1 / 3, "gradient", data=(X, Y))
    gradient = np.abs(gradients_of_examples(model)[0].mean(axis=0))
    assert set(np.flatnonzero(frozen(model, "d"))) == set(np.argsort(gradient.ravel())[:4])
    assert not frozen(model, "d", "bias").any()


def test_the_smallest_weights_are_frozen_and_keep_their_value():
    model = mlp()
    before = np.array(model.get_layer("first").kernel)
    counts = tfprune.freeze_weights(model, 0.4, "magnitude", only=["first"])
    smallest = np.argsort(np.abs(before).ravel())[:24]
    assert set(np.flatnonzero(frozen(model, "first"))) == set(smallest)
    np.testing.assert_array_equal(model.get_layer("first").kernel, before)
    assert (counts.elements, counts.pruned, counts.frozen) == (60, 0, 24)


def test_random_ones_are_the_same_for_the_same_seed():
    masks = []
    for seed in (3, 3, 4):
        model = mlp()
        tfprune.freeze_weights(model, 0.5, tfprune.criteria.Random(seed=seed))
        masks.append(frozen(model, "first"))
    np.testing.assert_array_equal(masks[0], masks[1])
    assert (masks[0] != masks[2]).any()
    assert masks[0].sum() == 30


def test_a_function_decides():
    model = mlp()
    tfprune.freeze_weights(model, 0.5, lambda weight: np.arange(weight.size).reshape(weight.shape))
    assert np.flatnonzero(frozen(model, "first")).tolist() == list(range(30))


def test_globally_all_weights_are_ranked_as_one():
    model = mlp()
    kernels = [np.array(model.get_layer(name).kernel) for name in ("first", "last")]
    kernels[1] = kernels[1] * 100
    model.get_layer("last").kernel.assign(kernels[1])
    tfprune.freeze_weights(model, 0.5, "magnitude", distribution="global")
    everything = np.abs(np.concatenate([k.ravel() for k in kernels]))
    lowest = set(np.argsort(everything)[:40])
    masks = np.concatenate([frozen(model, name).ravel() for name in ("first", "last")])
    assert set(np.flatnonzero(masks)) == lowest
    assert frozen(model, "last").sum() < 5


def test_layers_have_fractions_of_their_own():
    model = mlp()
    tfprune.freeze_weights(model, 0.5, "magnitude", distribution={"last": 0.1})
    assert (frozen(model, "first").sum(), frozen(model, "last").sum()) == (30, 2)


def test_a_lower_fraction_sets_the_highest_free():
    model = mlp()
    kernel = np.abs(np.array(model.get_layer("first").kernel))
    tfprune.freeze_weights(model, 0.5, "magnitude")
    tfprune.freeze_weights(model, 0.2, "magnitude")
    assert set(np.flatnonzero(frozen(model, "first"))) == set(np.argsort(kernel.ravel())[:12])
    tfprune.freeze_weights(model, 0.0, "magnitude")
    assert tfprune.masks.count_masks(model).frozen == 0


def test_what_is_frozen_already_counts_and_stays():
    model = mlp()
    tfprune.freeze(model, "first", "kernel", 0)
    tfprune.freeze_weights(model, 0.5, lambda weight: -np.arange(weight.size).reshape(weight.shape))
    assert np.flatnonzero(frozen(model, "first")).tolist() == [*range(10), *range(40, 60)]


def test_pruned_elements_are_left_alone():
    model = mlp()
    tfprune.prune_weights(model, 0.5, only=["first"])
    pruned = ~np.array(model.get_layer("first").trainable_masks["kernel"])
    tfprune.freeze_weights(model, 0.3, "magnitude", only=["first"])
    assert frozen(model, "first").sum() == 18
    assert not frozen(model, "first")[pruned].any()
    tfprune.freeze_weights(model, 0.8, "magnitude", only=["first"])  # no more than there are
    np.testing.assert_array_equal(frozen(model, "first"), ~pruned)


def test_a_fraction_that_is_reached_measures_nothing():
    model = mlp()
    tfprune.freeze_weights(model, 0.5, "magnitude")
    before = frozen(model, "first")
    tfprune.freeze_weights(model, 0.5, "gradient")  # would need data
    np.testing.assert_array_equal(frozen(model, "first"), before)


def test_equal_scores_are_frozen_from_the_end_and_exactly_as_many():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(5, kernel_initializer="ones")])
    tfprune.freeze_weights(model, 0.5, "magnitude")
    mask = np.array(model.layers[0].frozen_masks["kernel"])
    assert np.flatnonzero(mask).tolist() == list(range(10, 20))


def test_where_the_gradient_never_varies_the_score_is_finite_and_highest():
    gradient, variance = np.array([2.0, 0.0, 1e-30]), np.array([0.0, 0.0, 1.0])
    scores = freezing.preconditioned_gradient(np.zeros(3), gradient, variance)
    assert np.isfinite(scores).all()
    assert scores[0] > 1e6
    assert scores[1] == 0
    assert scores[2] == 1e-30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": 1.5}, "`target`.*1.5"),
        ({"target": True}, "`target`.*True"),
        ({"criterion": "gradient"}, r"data=None.*`data=\(x, y\)`"),
        ({"criterion": "movement"}, r"`criterion`.*preconditioned_gradient.*'movement'"),
        ({"criterion": lambda weight, wish: weight}, "wish"),
        (
            {"criterion": lambda weight: weight * np.nan},
            "Cannot freeze weight 'kernel' of layer 'first'.*finite",
        ),
        (
            {"criterion": lambda weight: weight * np.nan, "distribution": "global"},
            "Cannot freeze weight 'kernel' of layer 'first'.*finite",
        ),
        ({"only": ["nowhere"]}, "'nowhere'"),
        ({"exclude": everything}, "left to freeze"),
    ],
)
def test_what_is_wrong_is_refused_and_changes_nothing(arguments, message):
    model = mlp()
    with pytest.raises(ValueError, match=f"(?s){message}"):
        tfprune.freeze_weights(model, **{"target": 0.5, "criterion": "magnitude", **arguments})
    assert tfprune.masks.count_masks(model).frozen == 0


def test_gradients_need_a_loss():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(2)])
    with pytest.raises(ValueError, match="gradient.*Compile"):
        tfprune.freeze_weights(model, 0.5, data=(X, Y))
