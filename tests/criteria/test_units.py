import keras
import numpy as np
import pytest

import tfprune
from tfprune.criteria import units as criteria
from tfprune.criteria.contribution import ActivationContribution


def test_magnitude_is_the_length_of_the_weights_plus_the_bias_by_hand():
    weights = {
        "kernel": np.array([[3.0, 4.0], [0.0, 0.0]]),
        "recurrent_kernel": np.array([[0.0, 12.0], [1.0, 0.0]]),
        "bias": np.array([[-2.0], [0.5]]),
    }
    assert criteria.Magnitude()(weights).tolist() == [15.0, 1.5]


def test_random_is_the_same_for_a_seed_and_differs_between_seeds():
    weights = {"kernel": np.zeros((5, 2))}
    a, b, c = (criteria.Random()(weights, seed=s) for s in ([1, 0], [1, 0], [1, 1]))
    assert a.tolist() == b.tolist() != c.tolist()


def test_a_criterion_gets_what_it_asks_for():
    layer = keras.layers.Dense(2, name="d")
    seen = {}

    def mine(layer, seed):
        seen.update(layer=layer, seed=seed)
        return [1.0, 2.0]

    scores = criteria.score(criteria.get(mine), layer, {"kernel": np.zeros((2, 3))}, seed=7)
    assert scores.tolist() == [1.0, 2.0]
    assert seen == {"layer": layer, "seed": 7}


@pytest.mark.parametrize("bad", [[1.0], [1.0, np.nan], [1.0, np.inf]])
def test_scores_that_are_not_one_finite_number_a_unit_are_refused(bad):
    layer = keras.layers.Dense(2, name="d")
    with pytest.raises(ValueError, match=r"one finite score for each of the 2 units.*'d'"):
        criteria.score(criteria.get(lambda weights: bad), layer, {"kernel": np.zeros((2, 3))})


@pytest.mark.parametrize("bad", ["magnitdue", 3, dict])
def test_an_unknown_criterion_is_refused_with_the_names(bad):
    with pytest.raises(ValueError, match=r"activation_contribution.*magnitude.*random"):
        criteria.get(bad)


def test_a_criterion_that_asks_for_something_else_is_refused():
    with pytest.raises(ValueError, match=r"`layer`, `weights` and `seed`.*\['hessian'\]"):
        criteria.get(lambda hessian: hessian)


def test_round_trip_of_every_criterion():
    for name in ("magnitude", "random"):
        assert criteria.serialize(criteria.get(name)) == name
    again = criteria.get(criteria.serialize(ActivationContribution(every=3, weight=0.5)))
    assert (again.every, again.weight) == (3, 0.5)


class TestActivationContribution:
    def model(self, layer, shape=(3,), **compile_arguments):
        model = keras.Sequential(
            [keras.Input(shape), layer, keras.layers.Flatten(), tfprune.layers.Dense(1, name="out")]
        )
        model.compile(keras.optimizers.SGD(0.0), "mse", **compile_arguments)
        return model

    @pytest.mark.parametrize("jit_compile", [False, True])
    def test_dense_units_against_the_formula_by_hand(self, jit_compile):
        layer = tfprune.layers.Dense(4, activation="relu", name="hidden")
        model = self.model(layer, jit_compile=jit_compile)
        criterion = ActivationContribution()
        criterion.attach(layer, units=4, axis=-1)
        draw = np.random.default_rng(0)
        x, y = draw.normal(size=(8, 3)).astype("f"), draw.normal(size=(8, 1)).astype("f")
        model.train_on_batch(x, y)
        a = np.maximum(x @ np.array(layer.kernel), 0)
        out = model.get_layer("out")
        residual = a @ np.array(out.kernel) - y  # mse: dL/da = 2 / batch * residual * w
        gradient = 2 / 8 * residual @ np.array(out.kernel).T
        np.testing.assert_allclose(
            criterion(layer), np.abs(a * gradient).mean(axis=0), rtol=1e-4, atol=1e-7
        )

    def test_filters_take_the_mean_over_positions_before_the_absolute_value(self):
        layer = tfprune.layers.Conv1D(2, 1, name="hidden")
        model = self.model(layer, shape=(5, 3))
        criterion = ActivationContribution()
        criterion.attach(layer, units=2, axis=2)
        draw = np.random.default_rng(0)
        x, y = draw.normal(size=(4, 5, 3)).astype("f"), draw.normal(size=(4, 1)).astype("f")
        model.train_on_batch(x, y)
        a = x @ np.array(layer.kernel)[0]
        weights = np.array(model.get_layer("out").kernel)
        residual = a.reshape(4, 10) @ weights - y
        gradient = (2 / 4 * residual @ weights.T).reshape(4, 5, 2)
        by_hand = np.abs((a * gradient).mean(axis=1)).mean(axis=0)
        np.testing.assert_allclose(criterion(layer), by_hand, rtol=1e-4)

    def test_it_is_a_running_average_that_begins_with_the_first_value(self):
        layer = tfprune.layers.Dense(2, name="hidden")
        model = self.model(layer)
        criterion = ActivationContribution(weight=0.25)
        criterion.attach(layer, units=2, axis=-1)
        draw = np.random.default_rng(0)
        values = []
        for _ in range(2):
            x, y = draw.normal(size=(8, 3)).astype("f"), draw.normal(size=(8, 1)).astype("f")
            alone = ActivationContribution(weight=1.0)  # it goes on from what was measured
            alone.attach(layer, units=2, axis=-1)
            model.make_train_function(force=True)
            model.train_on_batch(x, y)
            values.append(alone(layer))
            layer.observer = criterion._observers[id(layer)]
            model.make_train_function(force=True)
            model.train_on_batch(x, y)
        np.testing.assert_allclose(criterion(layer), 0.75 * values[0] + 0.25 * values[1], rtol=1e-4)

    def test_it_measures_every_nth_step(self):
        layer = tfprune.layers.Dense(2, name="hidden")
        model = self.model(layer)
        criterion = ActivationContribution(every=3, weight=1.0)
        criterion.attach(layer, units=2, axis=-1)
        draw = np.random.default_rng(0)
        seen = []
        for _ in range(4):
            x, y = draw.normal(size=(8, 3)).astype("f"), draw.normal(size=(8, 1)).astype("f")
            model.train_on_batch(x, y)
            seen.append(criterion(layer).tolist())
        assert seen[0] == seen[1] == seen[2] != seen[3]

    def test_it_changes_nothing_in_training(self):
        results = []
        for measured in (False, True):
            keras.utils.set_random_seed(3)
            layer = tfprune.layers.LSTM(3, return_sequences=True, return_state=False, name="hidden")
            model = keras.Sequential(
                [keras.Input((4, 2)), layer, keras.layers.Flatten(), keras.layers.Dense(1)]
            )
            model.compile("adam", "mse")
            if measured:
                ActivationContribution().attach(layer, units=3, axis=2)
            x = np.random.default_rng(0).normal(size=(8, 4, 2)).astype("f")
            for _ in range(3):
                model.train_on_batch(x, x.sum(axis=(1, 2)))
            results.append([np.array(w) for w in model.weights])
        for a, b in zip(*results, strict=True):
            np.testing.assert_array_equal(a, b)

    def test_before_training_it_says_what_to_do(self):
        layer = tfprune.layers.Dense(2, name="hidden")
        with pytest.raises(ValueError, match=r"layer='hidden'.*begins after step 0"):
            ActivationContribution()(layer)

    @pytest.mark.parametrize("arguments", [{"every": 0}, {"weight": 0.0}, {"weight": 1.5}])
    def test_arguments_out_of_range_are_named(self, arguments):
        with pytest.raises(ValueError, match=f"`{next(iter(arguments))}`"):
            ActivationContribution(**arguments)
