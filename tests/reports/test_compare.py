import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import rich.console
import tensorflow as tf

import tfprune
from tfprune.measuring.file_size import size_on_disk
from tfprune.reports.compare import Change, compare

L = keras.layers


def dense(*units, inputs=6, name="model"):
    layers = [L.Dense(n, name=f"d{i}") for i, n in enumerate(units)]
    return keras.Sequential([keras.Input((inputs,)), *layers], name=name)


def by_name(layers):
    return {layer.name: layer for layer in layers}


def test_compare_counts_by_hand():
    found = compare(dense(8, 4), dense(2, 4), batch_sizes=())
    d0, d1 = found.layers
    assert (d0.name, d0.status) == ("d0", "kept")
    assert d0.units == Change(8, 2)
    assert d0.parameters == Change(6 * 8 + 8, 6 * 2 + 2)
    assert d1.units == Change(4, 4)
    assert d1.macs == Change(8 * 4, 2 * 4)
    assert found.parameters == Change(56 + 36, 14 + 12)
    assert found.macs == Change(80, 20)
    assert found.macs.ratio == 0.25
    assert found.latency == {} and found.metrics == {} and found.notes == ()


def test_layers_that_went_or_came_are_said():
    found = compare(dense(8, 8, 4), dense(8), batch_sizes=())
    assert [(row.name, row.status) for row in found.layers] == [
        ("d0", "kept"),
        ("d1", "removed"),
        ("d2", "removed"),
    ]
    assert by_name(found.layers)["d2"].units == Change(4, None)
    assert "d1 (removed)" in str(found)
    assert [row.status for row in compare(dense(8), dense(8, 4), batch_sizes=()).layers] == [
        "kept",
        "added",
    ]


def test_bytes_are_those_of_both_files():
    before, after = dense(500, inputs=600), dense(100, inputs=600)
    found = compare(before, after, batch_sizes=())
    for format in ("saved_model", "keras"):
        assert found.bytes[format].before == pytest.approx(
            size_on_disk(before, format).bytes, rel=1e-3
        )
        assert 4 * after.count_params() < found.bytes[format].after < 4.4 * after.count_params()


def test_zeros_count_in_the_zipped_size_alone():
    dense_model, sparse = (tfprune.prunable(dense(400, inputs=500)) for _ in "ab")
    tfprune.prune_weights(sparse, 0.9)
    found = compare(dense_model, sparse, batch_sizes=())
    for format in ("saved_model", "keras"):
        assert found.bytes[format].ratio == pytest.approx(1, rel=1e-3)
        assert found.zipped[format].ratio < 0.2


def test_masked_model_is_measured_as_its_stock_model():
    stock = dense(300, 300, inputs=300)
    masked = tfprune.prunable(stock)
    tfprune.set_masks(masked, "d0", "kernel", trainable=np.s_[:, 100:])
    small = dense(200, 300, inputs=300)
    found = compare(masked, small, batch_sizes=(1,))
    assert found.parameters.before == stock.count_params()
    assert found.macs.before == 2 * 300 * 300
    for format, change in found.bytes.items():
        assert change.before == pytest.approx(size_on_disk(stock, format).bytes, rel=0.01)
    zeros = 100 * 300 + 300  # the masked columns, and fresh biases
    assert by_name(found.layers)["d0"].sparsity.before == pytest.approx(zeros / (300 * 301))
    assert found.latency[1].before > 0
    assert found.notes == ()
    assert np.asarray(masked.get_layer("d0").trainable_masks["kernel"])[:, :100].sum() == 0


def test_latency_is_given_by_batch_size():
    found = compare(dense(4), dense(2), batch_sizes=(1, 3))
    assert list(found.latency) == [1, 3]
    assert all(0 < change.before < 1 and change.ratio > 0 for change in found.latency.values())


def test_what_cannot_be_measured_is_noted():
    inputs = keras.Input((None, 3))
    model = keras.Model(inputs, L.Conv1D(2, 3, name="c")(inputs))
    found = compare(model, model, batch_sizes=(1,))
    assert found.macs == Change(None, None)
    assert found.latency == {1: Change(None, None)}
    notes = " ".join(found.notes)
    assert "MACs of 'c' are not known" in notes
    assert "latency for a batch of 1 was not measured" in notes
    assert "–" in str(found)
    given = compare(model, model, input_shapes=(9, 3), batch_sizes=(1,))
    assert given.macs == Change(7 * 18, 7 * 18)
    assert given.latency[1].before > 0


def test_model_that_cannot_be_exported_is_noted():
    def double(inputs):
        doubled = tf.numpy_function(lambda x: x * 2, [inputs], tf.float32)
        return tf.ensure_shape(doubled, (None, 3))

    inputs = keras.Input((3,))
    model = keras.Model(inputs, L.Lambda(double, output_shape=(3,))(inputs))
    found = compare(model, model, batch_sizes=())
    assert found.bytes["saved_model"] == found.zipped["saved_model"] == Change(None, None)
    assert any("calls back into Python" in note for note in found.notes)


def test_dynamic_sizes_come_from_the_data():
    inputs = keras.Input((None, 3))
    model = keras.Model(inputs, L.GlobalAveragePooling1D()(L.Conv1D(2, 3)(inputs)))
    data = np.zeros((4, 9, 3), "float32"), np.zeros((4, 2), "float32")
    found = compare(model, model, data, metrics=["mae"], batch_sizes=(1,))
    assert found.macs.before == 7 * 18
    assert found.latency[1].before > 0


def test_metrics_of_both_models_are_compared():
    x = np.random.default_rng(0).normal(size=(20, 6)).astype("float32")
    before, after = dense(1), dense(1)
    after.layers[0].kernel.assign(before.layers[0].kernel)
    after.layers[0].bias.assign([1.0])
    y = np.asarray(before(x))
    found = compare(before, after, (x, y), metrics=["mae"], batch_sizes=())
    assert found.metrics["mae"].before == pytest.approx(0, abs=1e-6)
    assert found.metrics["mae"].after == pytest.approx(1, rel=1e-5)
    assert "mae" in str(found)


def test_models_are_untouched():
    before, after = tfprune.prunable(dense(4, 4)), dense(2, 4)
    before.compile("adam", "mse")
    state = [np.copy(w) for model in (before, after) for w in model.get_weights()]
    optimizer = before.optimizer
    compare(before, after, (np.ones((2, 6)), np.ones((2, 4))), metrics=["mae"], batch_sizes=(1,))
    assert before.optimizer is optimizer
    assert not after.compiled
    now = [w for model in (before, after) for w in model.get_weights()]
    for old, new in zip(state, now, strict=True):
        np.testing.assert_array_equal(old, new)


# How it shows itself -----------------------------------------------------------------------------


@pytest.fixture
def comparison():
    x = np.ones((2, 6), "float32")
    y = np.ones((2, 4), "float32")
    return compare(dense(80, 4), dense(20, 4), (x, y), metrics=["mae"], batch_sizes=(1,))


def test_comparison_goes_through_json(comparison):
    found = json.loads(json.dumps(comparison.to_dict()))
    assert found["layers"][0]["units"] == {"before": 80, "after": 20, "ratio": 0.25}
    assert found["parameters"]["before"] == 6 * 80 + 80 + 80 * 4 + 4
    assert set(found["bytes"]) == {"saved_model", "keras"}
    assert set(found["latency"]) == {"1"}
    assert set(found["metrics"]) == {"mae"}


def test_comparison_prints_as_tables_of_80_columns(comparison, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    printed = str(comparison)
    assert all(len(line) <= 80 for line in printed.splitlines())
    for expected in (
        "80 → 20",
        "560 → 140",
        "parameters",
        "bytes, saved_model",
        "zipped, saved_model",
        "latency",
        "mae",
    ):
        assert expected in printed


def test_comparison_prints_on_a_rich_console(comparison):
    console = rich.console.Console(record=True, width=80)
    console.print(comparison)
    assert "80 → 20" in console.export_text()


def test_plot_draws_a_file(comparison, tmp_path):
    path = comparison.plot(tmp_path / "units.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert "d0" in comparison.plot(tmp_path / "units.svg").read_text()


def test_plot_without_matplotlib_says_what_to_install(comparison, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'tfprune\[demo\]'"):
        comparison.plot(tmp_path / "units.png")


def test_import_leaves_matplotlib_alone():
    code = "import sys; sys.modules['matplotlib'] = None; import tfprune.reports.compare"
    root = str(tfprune.__file__).rsplit("/", 2)[0]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
