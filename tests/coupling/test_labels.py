import numpy as np
import pytest

from tfprune.coupling.labels import FIXED, Labels, along, placed


class Layer:
    name = "layer"


class Variable:
    shape = (3, 2)


def test_fresh_labels_are_nobody_elses():
    labels = Labels()
    assert not set(labels.fresh(3)) & set(labels.fresh(2))
    assert FIXED not in labels.fresh(1)


def test_united_labels_share_a_root_transitively():
    labels = Labels()
    a, b, c = labels.fresh(2), labels.fresh(2), labels.fresh(2)
    labels.unite(a, b, "")
    labels.unite(b, c[::-1], "")
    roots = labels.roots()
    assert roots[a].tolist() == roots[b].tolist() == roots[c[::-1]].tolist()
    assert len({*roots.tolist()}) == 3
    assert roots[FIXED] == 0


def test_uniting_broadcasts():
    labels = Labels()
    a, b = labels.fresh(4).reshape(2, 2), labels.fresh(2).reshape(1, 2)
    labels.unite(a, b, "")
    roots = labels.roots()
    assert (roots[a] == roots[b]).all()


def test_what_meets_the_fixed_is_pinned_one_by_one():
    labels = Labels()
    a = labels.fresh(2)
    labels.unite(a, np.full(2, FIXED), "it meets the input")
    assert labels.pins[0][1] == "it meets the input"
    assert labels.pins[0][0].tolist() == a.tolist()
    assert len({*labels.roots()[a].tolist()}) == 2


def test_a_layer_called_again_unites_its_labels():
    labels, layer, variable = Labels(), Layer(), Variable()
    a, b = labels.fresh(3), labels.fresh(3)
    labels.slice(layer, variable, 0, a)
    labels.slice(layer, variable, 0, b)
    assert len(labels.slices) == 1
    assert (labels.roots()[a] == labels.roots()[b]).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_along_and_placed_are_opposites(axis):
    labels = np.arange(5)
    assert along(placed(labels, axis, 3), axis).tolist() == labels.tolist()


def test_along_is_none_where_labels_change_on_another_axis():
    assert along(np.arange(4).reshape(2, 2), 1) is None
