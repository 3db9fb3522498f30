"""Users' layers in subclassed models, and in models that these hold, shrink in place too."""

import keras
import numpy as np
import pytest

import tfprune
from tests import user_code as user

layers = keras.layers


def sequential(steps):
    return keras.Sequential([keras.Input((5, 3)), *steps])


def functional(steps):
    x = inputs = keras.Input((5, 3))
    for step in steps:
        x = step(x)
    return keras.Model(inputs, x)


def called_twice(steps):
    x = inputs = keras.Input((5, 3))
    for step in [*steps, steps[-1], layers.Dense(8, name="out")]:
        x = step(x)
    return keras.Model(inputs, x)


@pytest.mark.parametrize("make", [sequential, functional, called_twice])
@pytest.mark.parametrize(
    ("inside", "sizes"),
    [
        # Keras asks the class of `LowRank` for its shape, and it answers with an attribute.
        (lambda: [user.LowRank(8, name="low"), user.LowRank(8, name="rank")], {"low": 4}),
        # The code says that a head has 4 units, so that whole heads go.
        (lambda: [layers.Dense(8, name="in"), user.SplitHeads(2, name="heads")], {"heads": 4}),
        # The cell says how large its state is.
        (
            lambda: [
                layers.RNN(user.Cell(8, name="cell"), return_sequences=True, name="steps"),
                user.LowRank(8, name="low"),
            ],
            {"steps": 8},  # two kernels side by side
        ),
    ],
)
def test_layers_in_a_model_of_a_subclassed_model_shrink(make, inside, sizes):
    keras.utils.set_random_seed(1)
    model = user.Vae(make(inside()))
    x = np.random.default_rng(0).normal(size=(3, 5, 3)).astype("float32")
    model(x)
    masked = tfprune.prunable(model)
    tfprune.prune_units(masked, 0.5)
    with pytest.warns(UserWarning, match="which the `call` of .* does not use"):
        small = tfprune.strip(masked)
    assert type(small) is user.Vae
    np.testing.assert_allclose(small(x), masked(x), atol=1e-5)
    for name, size in sizes.items():
        assert small.encoder.get_layer(name).weights[0].shape[-1] == size
    assert small.count_params() < 0.6 * model.count_params()


def test_a_layer_that_cannot_be_resized_stays_and_the_others_shrink():
    """With a single head its 4 units, a number in the code, would have to go one by one."""
    keras.utils.set_random_seed(1)
    steps = [
        layers.Dense(8, activation="relu", name="wide"),
        layers.Dense(6, name="in"),
        user.SplitHeads(1, name="heads"),
        layers.GlobalAveragePooling1D(name="pool"),
        layers.Dense(2, name="out"),
    ]
    model = user.NetWithLoss(steps)
    x = np.random.default_rng(0).normal(size=(3, 5, 3)).astype("float32")
    model(x)
    masked = tfprune.prunable(model)
    tfprune.prune_units(masked, 0.5)
    small = tfprune.strip(masked)
    assert type(small) is user.NetWithLoss
    assert [small.steps[0].units, small.steps[1].units] == [4, 6]
    np.testing.assert_allclose(small(x), masked(x), atol=1e-5)
    assert "'heads' (SplitHeads) does not run with other sizes" in " ".join(
        str(tfprune.explain(small)).split()
    )
