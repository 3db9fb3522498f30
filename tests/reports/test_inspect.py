import keras
import numpy as np
import pytest

from tfprune.reports.inspect import inspect

L = keras.layers


def dense(*units, inputs=6, name="model"):
    layers = [L.Dense(n, name=f"d{i}") for i, n in enumerate(units)]
    return keras.Sequential([keras.Input((inputs,)), *layers], name=name)


def test_inspect_lists_shapes_parameters_macs_and_zeros():
    model = keras.Sequential(
        [keras.Input((5, 5, 2)), L.Conv2D(3, 3, name="c"), L.Flatten(name="f"), L.Dense(4)],
        name="small",
    )
    model.get_layer("c").kernel.assign(np.arange(54).reshape(3, 3, 2, 3) % 2)
    found = inspect(model)
    conv, flatten, _ = found.layers
    assert (conv.type, conv.output_shape, conv.units) == ("Conv2D", (None, 3, 3, 3), 3)
    assert (conv.parameters, conv.macs) == (54 + 3, 9 * 54)
    assert conv.sparsity == pytest.approx((27 + 3) / 57)
    assert (flatten.parameters, flatten.macs, flatten.sparsity) == (0, 0, None)
    assert (found.parameters, found.macs) == (57 + 27 * 4 + 4, 9 * 54 + 27 * 4)
    assert found.sparsity == pytest.approx((27 + 3 + 4) / (57 + 112))


def test_inspect_adds_the_calls_of_a_shared_layer():
    inputs = keras.Input((3,))
    shared = L.Dense(3, name="shared")
    found = inspect(keras.Model(inputs, shared(shared(inputs))))
    assert [(layer.name, layer.parameters, layer.macs) for layer in found.layers] == [
        ("shared", 12, 18)
    ]


class Opaque(L.Layer):
    def call(self, inputs):
        return inputs * 2


def test_inspect_says_what_is_not_known_and_why():
    inputs = keras.Input((3,))
    found = inspect(keras.Model(inputs, L.Dense(2)(Opaque(name="mystery")(inputs))))
    assert found.macs is None
    assert "MACs of 'mystery' are not known: no rule counts Opaque" in found.notes[0]
    assert "no rule counts Opaque" in " ".join(str(found).split())


def test_inspect_takes_the_sizes_of_dynamic_dimensions():
    model = keras.Sequential([keras.Input((None, 3)), L.Conv1D(4, 3)])
    assert inspect(model).macs is None
    assert inspect(model, input_shapes=(10, 3)).macs == 8 * 3 * 3 * 4


def test_inspect_prints_every_name_whole(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    printed = str(inspect(dense(1234, 5)))
    assert all(len(line) <= 100 for line in printed.splitlines())
    for expected in ("model", "d0", "Dense", "(1234,)", "8,638", "7,404", "total", "14,813"):
        assert expected in printed


def test_inspect_folds_long_names_and_cuts_nothing_off(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    inputs = keras.Input((3,))
    name = "block_1_of_the_encoder_of_the_left_tower_with_a_long_name_of_its_own"
    printed = str(inspect(keras.Model(inputs, L.Dense(2, name=name)(inputs))))
    assert all(len(line) <= 80 for line in printed.splitlines())
    first_column = [line.split(" ")[0] for line in printed.splitlines()]
    assert name in "".join(first_column)
    assert "…" not in printed
