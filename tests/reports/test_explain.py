"""Explanations: sets, what one unit saves (against models stripped of one), reasons, pictures."""

import json

import keras
import numpy as np
import pytest
from matplotlib import image

import tfprune
from tfprune.coupling import couple
from tfprune.coupling.costs import costs
from tfprune.reports import graph_layout
from tfprune.reports.explain import explain
from tfprune.units.cost_model import removal_savings

L = keras.layers


def chain(shape, *layers):
    x = inputs = keras.Input(shape)
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x)


def residual():
    x = inputs = keras.Input((6, 6, 3))
    x = L.Activation("relu")(L.BatchNormalization(name="bn")(L.Conv2D(5, 3, name="stem")(x)))
    y = L.Conv2D(4, 3, padding="same", name="inner")(x)
    y = L.Conv2D(5, 1, name="back")(y)
    x = L.GlobalAveragePooling2D()(L.Add(name="sum")([x, y]))
    return keras.Model(inputs, L.Dense(2, name="logits")(x), name="residual")


def concatenated():
    inputs = keras.Input((6, 6, 3))
    sides = [L.Conv2D(filters, 3, name=f"side_{filters}")(inputs) for filters in (3, 4)]
    x = L.Conv2D(2, 2, name="after")(L.Concatenate()(sides))
    return keras.Model(inputs, L.Dense(2)(L.Flatten()(x)))


def shared():
    dense = L.Dense(4, activation="tanh", name="twice")
    x = inputs = keras.Input((4,))
    x = L.Dense(4, name="first")(x)
    return keras.Model(inputs, L.Dense(2)(dense(dense(x))))


def attending():
    x = inputs = keras.Input((5, 6))
    x = L.Dense(6, name="width")(x)
    x = L.Add()([x, L.MultiHeadAttention(3, 4, name="attention")(x, x)])
    return keras.Model(inputs, L.Dense(2)(x))


def sliced():
    x = inputs = keras.Input((6, 6, 3))
    x = L.Conv2D(6, 3, name="conv")(x)
    left, right = L.Conv2D(2, 1, name="left")(x[..., :2]), L.Conv2D(3, 1, name="right")(x[..., 2:])
    return keras.Model(inputs, [L.Flatten()(left), L.Flatten()(right)])


MODELS = {
    "attention": attending,
    "sliced": sliced,
    "dense": lambda: chain((3,), L.Dense(6), L.Dense(4), L.Dense(2)),
    "residual": residual,
    "concatenated": concatenated,
    "shared": shared,
    "flattened": lambda: chain((5, 5, 2), L.Conv2D(4, 2), L.Flatten(), L.Dense(3), L.Dense(2)),
    "depthwise": lambda: chain(
        (6, 6, 2), L.Conv2D(4, 1), L.DepthwiseConv2D(3, depth_multiplier=2), L.Flatten(), L.Dense(2)
    ),
    "separable": lambda: chain(
        (6, 6, 3), L.SeparableConv2D(4, 3, depth_multiplier=2), L.SeparableConv2D(3, 2), L.Flatten()
    ),
    "transposed": lambda: chain((3, 3, 2), L.Conv2DTranspose(4, 2, strides=2), L.Conv2D(2, 1)),
    "recurrent": lambda: chain(
        (5, 3), L.LSTM(4, return_sequences=True), L.GRU(3, return_sequences=True), L.Dense(2)
    ),
    "bidirectional": lambda: chain((5, 3), L.Bidirectional(L.LSTM(4)), L.Dense(2)),
    "time distributed": lambda: chain(
        (5, 3), L.TimeDistributed(L.Dense(4)), L.TimeDistributed(L.Dense(3)), L.Dense(2)
    ),
    "grouped": lambda: chain(
        (6, 6, 3), L.Conv2D(8, 1), L.Conv2D(8, 3, groups=2), L.Conv2D(2, 1), L.Flatten()
    ),
}


def total(model):
    found = costs(model)
    return sum(c.parameters for c in found), sum(c.macs for c in found)


def silence(coupling, units):
    """Sets all that belongs to units to 0."""
    for piece in coupling.slices:
        value = np.array(piece.variable)
        is_gone = np.isin(coupling.roots[piece.labels], units)
        if is_gone.ndim == 1:
            np.moveaxis(value, piece.axis, 0)[is_gone] = 0
        else:
            value[np.broadcast_to(is_gone, value.shape)] = 0
        piece.variable.assign(value)


@pytest.mark.parametrize("name", MODELS)
def test_savings_are_what_a_model_stripped_of_one_unit_lacks(name):
    model = MODELS[name]()
    dense, weights = total(model), model.get_weights()
    coupling = couple(model)
    removable = [unit_set.removable for unit_set in coupling.sets]
    found = removal_savings(model, coupling)
    assert [bool(each) for each in found] == removable
    for saving in (saving for each in found for saving in each):
        model.set_weights(weights)
        silence(coupling, saving.units)
        small = total(tfprune.strip(model))
        assert (saving.parameters, saving.macs) == (dense[0] - small[0], dense[1] - small[1])


def test_a_flattened_channel_takes_all_its_rows():
    x = inputs = keras.Input((6, 6, 3))
    x = L.Conv2D(2, 3, name="conv")(x)
    x = L.Flatten()(L.ZeroPadding2D(1)(x))
    narrow = explain(keras.Model(inputs, L.Dense(2)(x))).sets[0]
    assert narrow.parameters.least == narrow.parameters.most == 27 + 1 + 36 * 2
    assert [str(p) for p in narrow.slices if p.layer != "conv"] == ["kernel[0]×36"]


def test_units_that_different_layers_read_save_differently():
    found = explain(sliced()).sets[0]
    assert (found.units, found.removable) == (6, 6)
    assert (found.parameters.least, found.parameters.most) == (28 + 2, 28 + 3)
    assert str(found.macs) == f"{16 * 29} to {16 * 30}"


def test_groups_with_equal_counts_go_together():
    model = chain((4, 4, 4), L.Conv2D(8, 1), L.Conv2D(6, 3, groups=2, name="g"), L.Conv2D(1, 1))
    before, grouped, _ = explain(model).sets
    assert (before.at_once, grouped.at_once) == (2, 2)
    assert grouped.parameters.least == 2 * (9 * 4 + 1) + 2
    assert before.parameters.least == 2 * (4 + 1) + 9 * 6
    assert "equal counts" in before.constraint


def test_a_set_names_the_layers_that_make_units_and_those_that_follow():
    joined, inner, logits = explain(residual()).sets
    assert (joined.name, joined.layers) == ("stem + back", ("stem", "back"))
    assert set(joined.followers) == {"bn", "inner", "logits"}
    assert (joined.units, joined.removable, joined.at_once) == (5, 5, 1)
    axes = {(p.layer, p.weight): p.axis for p in joined.slices}
    assert axes["stem", "kernel"] == axes["back", "kernel"] == 3
    assert axes["inner", "kernel"] == 2
    assert axes["logits", "kernel"] == axes["bn", "gamma"] == axes["bn", "moving_variance"] == 0
    assert joined.parameters.least == (27 + 1) + (4 + 1) + 4 + 9 * 4 + 2
    assert joined.macs.most == 16 * (27 + 4 + 9 * 4) + 2
    assert inner.followers == ("back",)
    assert (logits.removable, logits.parameters, logits.macs) == (0, None, None)
    assert logits.pinned == {"it is an output of the model": 2}


def test_gates_are_counted_as_one_unit():
    unit = explain(chain((5, 3), L.LSTM(4, name="lstm"), L.Dense(2))).sets[0]
    kernels = {(p.weight, p.axis): p.indices for p in unit.slices if p.layer == "lstm"}
    assert kernels["lstm_cell/kernel", 1] == kernels["lstm_cell/bias", 0] == 4
    assert kernels["lstm_cell/recurrent_kernel", 0] == 1


def test_a_lone_unit_cannot_be_spared():
    lone = explain(chain((3,), L.Dense(1, name="lone"), L.Dense(2))).sets[0]
    assert (lone.removable, lone.parameters) == (0, None)
    assert lone.pinned == {"a layer needs at least one unit": 1}


def test_macs_of_dynamic_sizes_need_input_shapes():
    model = chain((None, None, 3), L.Conv2D(4, 3), L.GlobalAveragePooling2D(), L.Dense(2))
    unknown = explain(model)
    assert unknown.sets[0].macs is None
    assert unknown.sets[0].parameters.least == 27 + 1 + 2
    assert "dynamic" in unknown.notes[0]
    assert explain(model, (8, 8, 3)).sets[0].macs.least == 36 * 27 + 2


def test_masked_models_are_explained_like_the_stock_ones():
    model = residual()
    assert explain(tfprune.prunable(model)).sets == explain(model).sets


def test_explaining_leaves_the_model_alone():
    model = residual()
    before = model.get_weights()
    config = json.dumps(model.get_config())
    explain(model)
    assert json.dumps(model.get_config()) == config
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_it_prints_sets_and_reasons():
    text = str(explain(residual()))
    assert "stem + back" in text
    assert "inner kernel[2]" in text
    assert "it is an output of the model" in text


def test_its_dict_can_be_written_as_json():
    found = explain(residual())
    read = json.loads(json.dumps(found.to_dict()))
    assert read["sets"][0]["parameters"] == {"least": 75, "most": 75}
    assert [node["name"] for node in read["graph"]][-1] == "logits"


def test_the_graph_tells_which_units_each_output_has():
    found = explain(concatenated())
    nodes = {node.type: node for node in found.graph}
    names = [found.sets[place].name for place in nodes["Concatenate"].sets]
    assert names == ["side_3", "side_4"]
    assert nodes["Concatenate"].size == 7
    assert [found.graph[place].name for place in nodes["Concatenate"].inputs] == [
        "side_3",
        "side_4",
    ]


def test_a_model_without_a_graph_is_refused():
    class Subclassed(keras.Model):
        pass

    with pytest.raises(ValueError, match="no graph"):
        explain(Subclassed(name="opaque"))


# Pictures ----------------------------------------------------------------------------------------


def drawn(path):
    """The colours of a picture, as a set of triples."""
    pixels = (image.imread(path)[..., :3] * 255).round().astype(int)
    return set(map(tuple, pixels.reshape(-1, 3).tolist()))


def test_a_picture_shows_coupled_layers_in_one_colour(tmp_path):
    path = explain(residual()).plot(tmp_path / "residual.png")
    assert path == tmp_path / "residual.png"
    assert (0xE8, 0x74, 0x3B) in drawn(path)  # the first colour for sets of several makers
    alone = explain(MODELS["dense"]()).plot(str(tmp_path / "dense.png"))
    assert (0xE8, 0x74, 0x3B) not in drawn(alone)


@pytest.mark.parametrize("suffix", ["svg", "pdf"])
def test_pictures_come_in_other_formats(tmp_path, suffix):
    assert explain(residual()).plot(tmp_path / f"picture.{suffix}").stat().st_size > 1000


@pytest.mark.parametrize("name", MODELS)
def test_every_graph_can_be_drawn_without_boxes_on_each_other(name):
    rows, _, width, height = graph_layout.layout(explain(MODELS[name]()).graph)
    boxes = [item for row in rows for item in row if item.nodes]
    assert all(0 < box.x < width and 0 < box.y < height for box in boxes)
    for row in rows:
        for left, right in zip(row, row[1:], strict=False):
            assert right.x - left.x >= (left.width + right.width) / 2


def test_deep_graphs_are_wrapped_into_columns():
    layers = [L.Dense(3, name=f"dense_{number}") for number in range(60)]
    rows, _, width, height = graph_layout.layout(explain(chain((3,), *layers)).graph)
    assert len(rows) == 61
    assert 0.5 < width / height < 2.5
