import json

import keras
import numpy as np
import pytest

import tfprune
from tfprune import layers, patterns
from tfprune._tools.tables import share


@pytest.fixture
def model():
    model = keras.Sequential(
        [
            keras.Input((6, 6, 8)),
            layers.Conv2D(4, 3, name="conv"),
            keras.layers.Flatten(),
            layers.Dense(10, name="wide"),
            layers.LayerNormalization(name="norm"),
            layers.Dense(5, name="last"),
        ],
        name="small",
    )
    tfprune.prune_weights(model, 0.5, pattern=patterns.NM(keep=2, of=4), only=["conv"])
    tfprune.prune_weights(model, 0.75, pattern=patterns.Block((4, 1)), only=["wide"])
    tfprune.set_masks(model, "last", "kernel", trainable=np.s_[:, 1:], frozen=np.s_[:, 4])
    tfprune.set_masks(model, "last", "bias", trainable=np.s_[1:])
    return model


def test_every_weight_has_its_numbers_and_pattern(model):
    found = {(one.layer, one.weight): one for one in tfprune.summary(model).weights}
    assert list(found) == [
        ("conv", "kernel"),
        ("conv", "bias"),
        ("wide", "kernel"),
        ("wide", "bias"),
        ("norm", "gamma"),
        ("norm", "beta"),
        ("last", "kernel"),
        ("last", "bias"),
    ]
    conv, wide, last = (found[name, "kernel"] for name in ("conv", "wide", "last"))
    assert (conv.shape, conv.sparsity, conv.frozen, conv.pattern) == ((3, 3, 8, 4), 0.5, 0, "2:4")
    assert (wide.shape, wide.sparsity, wide.pattern) == ((64, 10), 0.75, "blocks 4x1")
    assert (last.sparsity, last.frozen) == (pytest.approx(0.2), pytest.approx(0.2))
    assert (last.pattern, found["last", "bias"].pattern) == ("units", "units")
    assert found["norm", "gamma"].pattern == "dense"


def test_the_totals_are_those_of_all_elements(model):
    found = tfprune.summary(model)
    elements = 288 + 4 + 640 + 10 + 10 + 10 + 50 + 5
    assert found.elements == elements
    assert found.sparsity == (144 + 480 + 10 + 1) / elements
    assert found.frozen == 10 / elements


def test_a_weight_without_matrix_form_is_told_by_its_elements():
    model = keras.Sequential([keras.Input((4, 3)), layers.PReLU(name="slopes")])
    tfprune.set_masks(model, "slopes", "alpha", trainable=np.s_[:, 1:])
    assert tfprune.summary(model).weights[0].pattern == "unstructured"


def test_layers_inside_of_others_are_listed():
    model = keras.Sequential(
        [keras.Input((5, 4)), keras.layers.Bidirectional(layers.LSTM(2, name="lstm"))]
    )
    names = {one.layer for one in tfprune.summary(model).weights}
    assert names == {"forward_lstm", "backward_lstm"}


def test_a_model_without_masks_says_so():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    found = tfprune.summary(model)
    assert (found.weights, found.elements, found.sparsity, found.frozen) == ((), 0, 0.0, 0.0)
    assert "tfprune.prunable" in str(found)


def test_it_prints_as_a_table_of_80_columns(model, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    found = tfprune.summary(model)
    printed = str(found)
    assert all(len(line) <= 80 for line in printed.splitlines())
    for expected in ("small", "conv", "(3, 3, 8, 4)", "2:4", "blocks 4x1", "units", "75.0 %"):
        assert expected in printed
    assert "1,017 elements" in printed.splitlines()[-1]
    assert share(found.sparsity) in printed.splitlines()[-1]


def test_it_goes_through_json(model):
    found = json.loads(json.dumps(tfprune.summary(model).to_dict()))
    assert found["weights"][0]["pattern"] == "2:4"
    assert found["weights"][0]["shape"] == [3, 3, 8, 4]
