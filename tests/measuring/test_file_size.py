import pathlib
import shutil

import keras
import numpy as np
import pytest

import tfprune
from tfprune.measuring.file_size import file_size, size_on_disk
from tfprune.rebuild.convert import without_masks

L = keras.layers


def sequential(*layers, shape=(3,), **kwargs):
    return keras.Sequential([keras.Input(shape), *layers], **kwargs)


@pytest.mark.parametrize("format", ["saved_model", "keras"])
def test_bytes_are_those_of_the_weights_and_little_more(format):
    model = sequential(L.Dense(1000), L.Dense(300), shape=(100,))
    weights = 4 * (100 * 1000 + 1000 + 1000 * 300 + 300)
    assert weights < size_on_disk(model, format).bytes < 1.1 * weights


@pytest.mark.parametrize("format", ["saved_model", "keras"])
def test_a_model_of_zeros_in_nine_of_ten_elements_zips_to_a_fraction(format):
    dense, sparse = (sequential(tfprune.layers.Dense(600, name="d"), shape=(500,)) for _ in "ab")
    tfprune.prune_weights(sparse, 0.9)
    sizes = [size_on_disk(without_masks(m), format) for m in (dense, sparse)]
    assert sizes[0].bytes == pytest.approx(sizes[1].bytes, rel=1e-3)
    assert sizes[0].zipped > 0.85 * sizes[0].bytes
    assert sizes[1].zipped < 0.2 * sizes[1].bytes


def test_the_file_of_a_masked_model_zips_to_little_more_than_its_weights(tmp_path):
    model = sequential(tfprune.layers.Dense(600, name="d"), shape=(500,))
    tfprune.prune_weights(model, 0.9)
    model.save(tmp_path / "masked.keras")
    without_masks(model).save(tmp_path / "stock.keras")
    masked, stock = (file_size(tmp_path / f"{n}.keras") for n in ("masked", "stock"))
    masks = 2 * 500 * 600 / 8  # bits, of which those of the frozen mask are all 0
    assert stock.bytes + masks <= masked.bytes < stock.bytes + 1.2 * masks
    assert masked.zipped < stock.zipped + 0.5 * masks < 0.25 * masked.bytes


def test_the_zipped_size_is_that_of_a_zip_file(tmp_path):
    (tmp_path / "model" / "deep").mkdir(parents=True)
    (tmp_path / "model" / "a").write_bytes(b"abc" * 1000)
    (tmp_path / "model" / "deep" / "b").write_bytes(np.random.default_rng(0).bytes(500))
    archive = shutil.make_archive(tmp_path / "archive", "zip", tmp_path, "model")
    found = file_size(tmp_path / "model")
    assert found.bytes == 3500
    # That archive has entries for the directories too.
    assert found.zipped == pytest.approx(pathlib.Path(archive).stat().st_size, abs=300)
    assert 500 < found.zipped < 1000


def test_nothing_to_measure_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or directory"):
        file_size(tmp_path / "missing")
