"""Incidence of coupled units, by hand for a small model."""

import keras
import numpy as np

from tfprune.coupling.analysis import couple
from tfprune.units.incidence import incidence, row_hashes


def test_units_of_a_layer_occur_in_their_slices_and_tensors_equally_often():
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(2)]
    )
    coupling = couple(model)
    (hidden,) = [s.units for s in coupling.sets if s.name == "hidden"]
    matrix = incidence(coupling, more=[hidden[:1]])
    assert matrix.shape[1] == len(coupling.slices) + len(coupling.tensor_labels) + 1
    counts = matrix[hidden].toarray()
    # The kernel's columns, the bias, the rows of the next kernel, and the tensor between.
    assert counts[:, :-1].sum(axis=1).tolist() == [4] * 4
    assert counts[:, -1].tolist() == [1, 0, 0, 0]
    hashes = row_hashes(matrix)[hidden]
    assert len(np.unique(hashes[1:])) == 1
    assert hashes[0] != hashes[1]
