"""Depth and width under one budget."""

import keras
import numpy as np
import pytest
from tfprune.budgets import Bytes, Latency, MACs, Parameters, Units

import tfprune
from tests.blocks.models import OwnModel
from tfprune.blocks.budget_search import shallower
from tfprune.coupling.costs import total_macs
from tfprune.masks.layer_filter import CounterpartsByName

DIM = 8
X = np.random.default_rng(0).normal(size=(96, DIM)).astype("float32")


def quickly(model, target, x=X, **arguments):
    """`prune` of blocks and units, without the recovery that takes its time."""
    arguments = {"selection": tfprune.Selection("global", blocks=True), **arguments}
    return tfprune.prune(model, target, (x,), criterion="magnitude", recover=(), **arguments)


def residual(used=(0, 2), blocks=4, dim=DIM):
    """Residual blocks, of which those that are not in `used` add next to nothing."""
    keras.utils.set_random_seed(3)
    x = inputs = keras.Input((dim,))
    for place in range(blocks):
        y = keras.layers.Dense(16, activation="relu", name=f"wide_{place}")(x)
        y = keras.layers.Dense(dim, name=f"narrow_{place}")(y)
        x = keras.layers.Add(name=f"sum_{place}")([x, y])
    model = keras.Model(inputs, keras.layers.Dense(3, name="head")(x))
    for place in range(blocks):
        layer = model.get_layer(f"narrow_{place}")
        layer.kernel.assign(layer.kernel * (1.5 if place in used else 1e-3))
    return model


@pytest.fixture(scope="module")
def model():
    return residual()


COSTS = {
    Parameters(0.5): lambda m: m.count_params(),
    MACs(0.5): total_macs,
    Bytes(0.5): lambda m: 4 * m.count_params(),
    Parameters(400): lambda m: m.count_params(),
}


@pytest.mark.parametrize("budget", COSTS, ids=str)
def test_blocks_and_units_meet_a_budget_together(model, budget):
    before = model.get_weights()
    small, report = quickly(model, budget, return_report=True)
    cost = COSTS[budget]
    assert cost(small) <= budget.allowed(cost(model))
    assert report.blocks == ("sum_1", "sum_3") or report.blocks == ("sum_3", "sum_1")
    names = {layer.name for layer in small.layers}
    assert not names & {"wide_1", "narrow_1", "wide_3", "narrow_3"}
    assert small.get_layer("wide_0").units + small.get_layer("wide_2").units < 32  # units went too
    assert report.parameters.before == model.count_params()
    assert report.parameters.after == small.count_params()
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_it_is_better_than_width_alone_where_blocks_do_nothing(model):
    wide = quickly(model, MACs(0.5), selection="global")
    both = quickly(model, MACs(0.5))
    expected = model.predict(X, verbose=0)
    errors = [np.square(m.predict(X, verbose=0) - expected).mean() for m in (wide, both)]
    assert errors[1] < 0.5 * errors[0]


def test_the_result_computes_what_the_model_does_without_the_blocks_and_units():
    made = residual()
    small, report = quickly(made, Parameters(0.4), return_report=True)
    assert report.blocks
    hidden, fewer = X, 0
    for place in range(4):
        if f"sum_{place}" in report.blocks:
            continue
        wide, narrow = made.get_layer(f"wide_{place}"), made.get_layer(f"narrow_{place}")
        left = small.get_layer(f"wide_{place}").kernel.numpy()
        columns = wide.kernel.numpy()
        kept = [
            index
            for index in range(16)
            if any(np.array_equal(columns[:, index], each) for each in left.T)
        ]
        assert len(kept) == left.shape[1]
        fewer += 16 - len(kept)
        y = np.maximum(hidden @ columns + wide.bias.numpy(), 0)[:, kept]
        hidden = hidden + y @ narrow.kernel.numpy()[kept] + narrow.bias.numpy()
    assert fewer
    head = made.get_layer("head")
    expected = hidden @ head.kernel.numpy() + head.bias.numpy()
    np.testing.assert_allclose(small.predict(X, verbose=0), expected, rtol=1e-4, atol=1e-4)
    printed = " ".join(str(report).split())
    assert f"without the blocks {', '.join(report.blocks)}" in printed
    assert [each.stage.startswith("depth") for each in report.decisions] == [True]


def test_no_block_goes_where_all_are_needed():
    made = residual(used=range(4))
    small, report = quickly(made, Parameters(0.9), return_report=True)
    assert report.blocks == () and len(small.layers) == len(made.layers)
    assert small.count_params() <= 0.9 * made.count_params()


def test_layers_that_are_left_out_keep_their_blocks_and_their_units(model):
    chosen = tfprune.Selection(blocks=True, max_fraction={"wide_2": 0.25, "wide_3": 0.0})
    exclude = [model.get_layer("wide_1"), "narrow_3"]
    options = {"selection": chosen, "exclude": exclude, "return_report": True}
    small, report = quickly(model, Parameters(0.8), **options)
    assert set(report.blocks) <= {"sum_0", "sum_2"}
    assert small.get_layer("wide_1").units == 16 and small.get_layer("wide_3").units == 16


@pytest.mark.slow
def test_a_subclassed_model_stays_of_its_class():
    keras.utils.set_random_seed(0)
    made = OwnModel(depth=3)
    tokens = np.random.default_rng(0).integers(0, 11, (90, 4))
    made(tokens[:1])
    made.blocks[1].narrow.kernel.assign(1e-3 * made.blocks[1].narrow.kernel)
    output = made.blocks[1].attention.output_dense
    output.kernel.assign(1e-3 * output.kernel)
    chosen = tfprune.Selection("same_class", blocks=True)
    small = quickly(made, Parameters(0.6), tokens, selection=chosen)
    assert type(small) is OwnModel and small.depth == 2
    assert small.count_params() <= 0.6 * made.count_params()


def test_a_latency_is_that_of_the_model_given_at_all_depths():
    wide = residual(dim=256)
    x = np.random.default_rng(0).normal(size=(96, 256))
    found = list(shallower(wide, Latency(fraction=0.6, batch_size=256), (x,)))
    assert [len(removed) for _, removed, _ in found] == list(range(len(found)))
    assert len(found) > 1  # the model itself takes longer
    (budget,) = {budget for _, _, budget in found}
    assert budget.fraction is None and budget.milliseconds > 0 and budget.batch_size == 256


def test_blocks_and_units_meet_a_latency_together():
    wide = residual(blocks=6, dim=256)
    x = np.random.default_rng(0).normal(size=(96, 256)).astype("float32")
    # What takes so long is the machine's affair, so most of the tolerance is for its noise.
    budget = Latency(fraction=0.3, batch_size=1024, tolerance=1.0)
    small, report = quickly(wide, budget, x, return_report=True)
    assert report.blocks and total_macs(small) < total_macs(wide)
    expected, found = (each.predict(x, verbose=0) for each in (wide, small))
    assert np.square(found - expected).mean() < 0.5 * expected.var()


def test_what_cannot_be_is_refused(model):
    chosen = tfprune.Selection(blocks=True)
    for target in (0.5, Units(0.5)):
        with pytest.raises(ValueError, match="needs a budget that blocks and units share"):
            tfprune.prune(model, target, (X,), selection=chosen)
    with pytest.raises(ValueError, match="is measured on data"):
        tfprune.prune(model, MACs(0.5), selection=chosen)
    with pytest.raises(ValueError, match="Leave `blocks` out"):
        tfprune.prune_units(tfprune.prunable(model), MACs(0.5), selection=chosen)
    with pytest.raises(ValueError, match="Leave `blocks` out"):
        tfprune.callbacks.PruneUnits(MACs(0.5), selection=chosen)
    with pytest.raises(ValueError, match="no residual block"):
        tfprune.prune(
            keras.Sequential([keras.Input((DIM,)), keras.layers.Dense(4)]),
            MACs(0.5),
            (X,),
            selection=chosen,
        )
    with pytest.raises(ValueError, match="budget"):
        quickly(model, Parameters(3))


def test_a_layer_that_has_no_counterpart_is_refused():
    inner = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="a")], name="in")
    outer = keras.Sequential([keras.Input((2,)), inner, keras.layers.Dense(2, name="b")])
    other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="b")])
    names = CounterpartsByName(outer, other, [])
    assert names.filter(["b"]) == [other.get_layer("b")]
    with pytest.raises(ValueError, match=r"\['a'\]"):
        names.filter(["a", "b"])
    assert CounterpartsByName(outer, other, [inner.get_layer("a")]).filter(["a"]) == []
