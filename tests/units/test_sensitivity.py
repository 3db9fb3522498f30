import keras
import numpy as np
import pytest

import tfprune
from tfprune import layers

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3)).astype("float32")


def model_of(hidden=4):
    """y = the sum over hidden units of relu(w x) * v; of "first" two units do next to nothing."""
    model = keras.Sequential(
        [
            keras.Input((3,)),
            L.Dense(hidden, activation="relu", name="first"),
            L.Dense(5, activation="relu", name="second"),
            L.Dense(1, name="last"),
        ]
    )
    kernel, bias = model.get_layer("first").get_weights()
    kernel[:, 2:] = 1e-6 * RNG.normal(size=kernel[:, 2:].shape)
    model.get_layer("first").set_weights([kernel, bias])
    return model


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(3)
    return model_of()


@pytest.fixture(scope="module")
def data(model):
    return X, model.predict(X, verbose=0) + 0.5


@pytest.fixture(scope="module")
def found(model, data):
    return tfprune.sensitivity(model, data, "mae", fractions=(0.25, 0.5, 1.0))


def test_each_value_is_that_of_the_model_pruned_there_alone(model, data, found):
    assert [s.name for s in found.sets] == ["first", "second"]
    assert found.baseline == pytest.approx(0.5, abs=1e-5)
    for measured in found.sets:
        for fraction, pruned, value in zip(
            found.fractions, measured.pruned, measured.values, strict=True
        ):
            alone = tfprune.prunable(model)
            (count,) = tfprune.prune_units(alone, fraction, only=[measured.name])
            assert count.pruned == pruned
            by_hand = np.abs(alone.predict(data[0], verbose=0) - data[1]).mean()
            assert value == pytest.approx(by_hand, abs=1e-5)


def test_the_model_is_not_touched(model, data):
    before = model.get_weights()
    tfprune.sensitivity(model, data, "mae", fractions=[0.5])
    for ours, theirs in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_masks_of_before_count_and_stay(model, data):
    masked = tfprune.prunable(model)
    tfprune.prune_units(masked, 0.5, only=["first"])
    found = tfprune.sensitivity(masked, data, "mae", fractions=[0.25, 0.75])
    assert found.sets[0].pruned == (2, 3)
    assert found.sets[0].values[0] == found.baseline
    assert tfprune.prune_units(masked, 0.5, only=["first"])[0].pruned == 2


def test_caps_stop_before_the_first_loss_that_is_too_large(found):
    caps = found.caps(1e-4)
    assert caps["first"] == 0.5
    assert caps["second"] == 0.0
    assert set(found.caps(1e9).values()) == {1.0}
    with pytest.raises(ValueError, match="tolerance"):
        found.caps(-0.1)


def test_what_is_better_is_told_by_the_name(model):
    labels = (X[:, :1] > 0).astype("float32")
    accuracy = tfprune.sensitivity(model, (X, labels), "binary_accuracy", fractions=[0.5])
    assert accuracy.larger_is_better
    forced = tfprune.sensitivity(
        model, (X, labels), "binary_accuracy", fractions=[0.5], larger_is_better=False
    )
    assert not forced.larger_is_better


def test_layers_that_must_lose_equally_many_are_one_set():
    inputs = keras.Input((6, 6, 4))
    x = L.Conv2D(8, 1, name="before")(inputs)
    x = L.Conv2D(8, 3, groups=2, padding="same", name="grouped")(x)
    x = L.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, L.Dense(2)(x))
    data = np.ones((4, 6, 6, 4), "float32"), np.ones((4, 2), "float32")
    found = tfprune.sensitivity(model, data, "mae", fractions=[0.5])
    assert sum(s.units for s in found.sets) == 16
    assert all(np.isfinite(s.values).all() for s in found.sets)


def test_it_prints_and_plots_and_becomes_json(found, tmp_path):
    import json

    printed = str(found)
    assert "50%" in printed
    assert "second" in printed
    assert json.loads(json.dumps(found.to_dict()))["sets"][0]["units"] == 4
    assert found.plot(tmp_path / "sensitivity.png").stat().st_size > 1000


def test_a_criterion_is_measured_on_the_data(model, data):
    found = tfprune.sensitivity(
        model, data, "mae", fractions=[0.5], criterion="activation_variance", only=["first"]
    )
    assert found.sets[0].values[0] == pytest.approx(found.baseline, abs=1e-3)


@pytest.mark.parametrize("fractions", [(), (0.5, 0.2), (0.0, 0.5), (0.5, 1.5), (float("nan"),)])
def test_bad_fractions_are_named(model, data, fractions):
    with pytest.raises(ValueError, match="fractions"):
        tfprune.sensitivity(model, data, "mae", fractions=fractions)


def test_a_model_of_drop_in_layers_is_taken_as_it_is(data):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4), layers.Dense(1)])
    found = tfprune.sensitivity(model, data, "mae", fractions=[0.5])
    assert found.sets[0].pruned == (2,)


def test_layers_of_the_model_given_are_measured(model, data):
    first = model.get_layer("first")
    for only in ([first], lambda layer: layer is first):
        found = tfprune.sensitivity(model, data, "mae", fractions=[0.5], only=only)
        assert [each.name for each in found.sets] == ["first"]
