import keras
import numpy as np
import pytest

import tfprune
from tfprune import layers
from tfprune.coupling import couple, keeping
from tfprune.rebuild.engine import rebuild

optimizers = keras.optimizers


def since(name):
    """Skips what an older Keras does not have."""
    return pytest.mark.skipif(not hasattr(optimizers, name), reason=f"Keras has no {name} yet")


def model(optimizer="adam"):
    made = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4, name="a"),
            layers.BatchNormalization(name="bn"),
            layers.Dense(5, name="b"),
            layers.Dense(2, name="out"),
        ]
    )
    made.compile(optimizer, "mse")
    return made


def without(made, name, *indices):
    coupling = couple(made)
    kept = np.ones(coupling.size, bool)
    (unit_set,) = [s for s in coupling.sets if s.name == name]
    kept[unit_set.units[list(indices)]] = False
    return rebuild(made, keeping(coupling, kept))


def test_every_slice_of_a_removed_unit_goes_and_the_others_stay_in_order():
    made = model()
    small = without(made, "a", 1, 2)
    for layer, weight, axis in [
        ("a", "kernel", 1),
        ("a", "bias", 0),
        ("bn", "gamma", 0),
        ("bn", "moving_variance", 0),
        ("b", "kernel", 0),
    ]:
        ours = np.array(getattr(made.get_layer(layer), weight))
        theirs = np.array(getattr(small.get_layer(layer), weight))
        np.testing.assert_array_equal(theirs, np.take(ours, [0, 3], axis=axis))
    np.testing.assert_array_equal(small.get_layer("out").kernel, made.get_layer("out").kernel)


def test_keeping_all_gives_the_same_model():
    made = model()
    x = np.random.default_rng(0).normal(size=(4, 3))
    np.testing.assert_array_equal(without(made, "a")(x), made(x))


@pytest.mark.parametrize(
    "make",
    [
        lambda: optimizers.SGD(0.01, momentum=0.9),
        lambda: optimizers.Adagrad(0.01),
        lambda: optimizers.AdamW(0.01, use_ema=True, ema_overwrite_frequency=None),
        lambda: optimizers.Adam(0.01, amsgrad=True, gradient_accumulation_steps=2),
        lambda: optimizers.Ftrl(0.01),
        lambda: optimizers.Adafactor(0.01),
        lambda: optimizers.LossScaleOptimizer(optimizers.Nadam(0.01)),
        pytest.param(lambda: optimizers.ScheduleFreeAdamW(0.01), marks=since("ScheduleFreeAdamW")),
        pytest.param(
            lambda: optimizers.MultiOptimizer(
                optimizers.OptimizerMap(optimizers.Adam(0.01), {".*bias": optimizers.SGD(0.1)})
            ),
            marks=since("MultiOptimizer"),
        ),
    ],
)
def test_slots_are_cut_with_their_weights_and_counters_are_kept(make):
    made = model(make())
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(8, 3)), draw.normal(size=(8, 2))
    for _ in range(3):
        made.train_on_batch(x, y)
    small = without(made, "b", 0, 3)
    ours = [np.array(v) for v in made.optimizer.variables]
    theirs = [np.array(v) for v in small.optimizer.variables]
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        for axis in range(a.ndim):
            if a.shape[axis] != b.shape[axis]:
                a = np.take(a, [1, 2, 4], axis=axis)
        np.testing.assert_array_equal(a, b)
    assert sum(a.shape != b.shape for a, b in zip(ours, theirs, strict=True)) >= 1
    small.train_on_batch(x, y)


def test_an_uncompiled_model_stays_uncompiled():
    made = keras.Sequential([keras.Input((3,)), layers.Dense(4, name="b"), layers.Dense(2)])
    assert not without(made, "b", 0).compiled


def test_a_nested_model_is_cut_inside():
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dense(5, name="in"), layers.Dense(6, name="last")], name="inner"
    )
    inputs = keras.Input((3,))
    x = inner(layers.Dense(4, name="a")(inputs))
    made = keras.Model(inputs, layers.Dense(2)(x))
    small = without(made, "a", 0)
    assert small.get_layer("inner").get_layer("in").kernel.shape == (3, 5)
    small = without(made, "in", 0, 1)
    assert small.get_layer("inner").get_layer("last").kernel.shape == (3, 6)
    x = np.ones((2, 3))
    np.testing.assert_array_equal(without(made, "last")(x), made(x))


def test_constants_in_a_model_that_is_called_twice_are_cut_once():
    numbers = np.arange(6.0, dtype="float32")
    units = keras.Input((6,))
    shared = keras.Model(units, layers.Dense(6, name="in")(units) * numbers, name="shared")
    inputs = keras.Input((6,))
    made = keras.Model(inputs, layers.Dense(2)(shared(shared(inputs) * 0.5)))
    draw = np.random.default_rng(0)
    for weight in made.weights:
        weight.assign(draw.normal(size=weight.shape))
    layer = shared.get_layer("in")
    assert not [s for s in couple(made).sets if s.name == "in" and s.removable]

    inputs = keras.Input((3,))
    first, second = (layers.Dense(6, name=name)(inputs) for name in ("a", "b"))
    made = keras.Model(inputs, layers.Dense(2)(shared(first) + shared(second)))
    for weight in made.weights:
        weight.assign(draw.normal(size=weight.shape))
    kernel = np.array(layer.kernel)
    kernel[:, [0, 2, 5]] = 0
    layer.set_weights([kernel, np.zeros(6)])
    x = draw.normal(size=(4, 3))
    small = tfprune.strip(made)
    np.testing.assert_allclose(small(x), made(x), rtol=1e-5)
    assert small.get_layer("shared").get_layer("in").units == 3
