"""Dense layers over another axis than that of the units, as over the tokens of an MLP-Mixer."""

import keras
import numpy as np
import pytest

import tfprune
from tests.coupling.rules.comparing import randomised

layers, ops = keras.layers, keras.ops
TOKENS, CHANNELS = 5, 12


class Mixer(layers.Layer):
    """Mixes tokens by two dense layers over the transposed tensor, then channels by two."""

    def __init__(self, hidden, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.LayerNormalization(name="norm")
        self.of_tokens = self.two(hidden, TOKENS, "of_tokens")
        self.of_channels = self.two(16, CHANNELS, "of_channels")

    def two(self, hidden, made, name):
        name = f"{self.name}_{name}"
        up = layers.Dense(hidden, activation="gelu", name=f"{name}_up")
        return keras.Sequential([up, layers.Dense(made, name=f"{name}_down")], name=name)

    def build(self, shape):
        self.norm.build(shape)
        self.of_tokens.build((None, CHANNELS, TOKENS))
        self.of_channels.build(shape)

    def call(self, x):
        y = ops.transpose(self.norm(x), (0, 2, 1))
        x = x + ops.transpose(self.of_tokens(y), (0, 2, 1))
        return x + self.of_channels(self.norm(x))


def mixer(hidden=7, ends_with_channels=False, blocks=("one",)):
    inputs = keras.Input((TOKENS, 3), name="inputs")
    x = layers.Dense(CHANNELS, name="stem")(inputs)
    for name in blocks:
        x = Mixer(hidden, name=name)(x)
    if not ends_with_channels:
        x = layers.Dense(4, name="last")(layers.GlobalAveragePooling1D()(x))
    return tfprune.prunable(randomised(keras.Model(inputs, x)))


def images(count=6):
    return np.random.default_rng(1).normal(size=(count, TOKENS, 3)).astype("float32")


def sizes(model):
    sets = tfprune.explain(model).sets
    return {name: one.removable for one in sets for name in one.name.split(" + ")}


def stripped(model, **options):
    small, report = tfprune.strip(model, return_report=True, **options)
    np.testing.assert_allclose(small(images()), model(images()), rtol=1e-4, atol=1e-5)
    return small, {layer.name: (layer.before, layer.after) for layer in report.layers}


@pytest.mark.parametrize("custom_layers", [None, "keep"])
def test_channels_pass_through_dense_layers_over_tokens(custom_layers):
    model = mixer(blocks=("one", "two"))
    tfprune.prune_units(model, 0.5)
    _, found = stripped(model, custom_layers=custom_layers)
    assert found["stem"] == (12, 6)
    tokens = {name: sizes for name, sizes in found.items() if "of_tokens" in name}
    assert set(tokens.values()) == {(7, 7), (5, 5)}
    channels = {name: sizes for name, sizes in found.items() if "of_channels" in name}
    assert set(channels.values()) == {(16, 8), (12, 6)}
    reasons = [why for one in tfprune.explain(model).sets for why in one.pinned]
    assert any("units stand on another axis of the output" in why for why in reasons)


def test_units_over_tokens_go_where_channels_must_stay():
    model = mixer(hidden=8, ends_with_channels=True)
    free = sizes(model)
    assert free["stem"] == 0
    assert sum(free[name] for name in free if name.endswith("of_tokens_up")) == 8
    assert sum(free[name] for name in free if name.endswith("of_tokens_down")) == 0
    tfprune.prune_units(model, 0.5)
    _, found = stripped(model)
    assert {v for name, v in found.items() if name.endswith("of_tokens_up")} == {(8, 4)}


def test_units_over_tokens_go_where_more_can_go_then():
    model = mixer(hidden=200)
    tfprune.prune_units(model, 0.5)
    _, found = stripped(model)
    assert {v for name, v in found.items() if name.endswith("of_tokens_up")} == {(200, 100)}
    assert found["stem"] == (12, 12)


@pytest.mark.parametrize(
    ("target", "criterion"),
    [(0.5, "apoz"), (tfprune.budgets.MACs(0.6), "taylor")],
)
def test_criteria_budgets_and_recovery_take_them(target, criterion):
    model = mixer()
    model.compile("sgd", "mse")
    y = np.random.default_rng(2).normal(size=(40, 4)).astype("float32")
    tfprune.prune_units(model, target, criterion, data=(images(40), y))
    small, found = stripped(model)
    assert found["stem"][1] < 12
    _, report = tfprune.compensate(small, model, (images(40),), return_report=True)
    assert not any("of_tokens" in layer.name for layer in report.layers)
    _, report = tfprune.reconstruct(small, model, (images(40),), return_report=True)
    reasons = {layer.name.rpartition("/")[2]: layer.reason for layer in report.skipped}
    assert reasons["one_of_tokens_up"] == "units were removed along another axis of its inputs"
