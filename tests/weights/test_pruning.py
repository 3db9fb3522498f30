import keras
import numpy as np
import pytest

import tfprune
from tests.batched import batched
from tfprune import layers, patterns
from tfprune.callbacks import PruneWeights
from tfprune.criteria import weights as criteria
from tfprune.criteria.measuring import measure
from tfprune.weights.prunable import select_weights
from tfprune.weights.prune_weights import prune_weights

DRAW = np.random.default_rng(0)
X, Y = DRAW.normal(size=(16, 8)), DRAW.normal(size=(16, 2))


def model(scale=1.0):
    made = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(12, activation="relu", name="a"),
            layers.Dense(6, activation="relu", name="b"),
            layers.Dense(2, name="c"),
        ]
    )
    made.compile("sgd", "mse")
    for layer in made.layers:
        layer.kernel.assign(DRAW.normal(size=layer.kernel.shape))
    made.get_layer("c").kernel.assign(scale * made.get_layer("c").kernel)
    return made


def kernels(made):
    return [np.array(layer.kernel) for layer in made.layers]


def masks(made):
    return [np.array(layer.trainable_masks["kernel"]) for layer in made.layers]


def test_a_global_ranking_keeps_the_largest_of_all():
    made = model()
    before = kernels(made)
    counts = prune_weights(made, 0.7, distribution="global")
    everything = np.concatenate([np.abs(kernel).ravel() for kernel in before])
    threshold = np.sort(everything)[round(0.7 * len(everything))]
    assert counts.pruned == round(0.7 * len(everything))
    for kernel, mask in zip(before, masks(made), strict=True):
        np.testing.assert_array_equal(mask, np.abs(kernel) >= threshold)


def test_a_global_ranking_empties_no_weight():
    made = model(scale=1e-6)
    best = np.abs(kernels(made)[2]).argmax()
    counts = prune_weights(made, 0.9, distribution="global")
    assert counts.pruned == round(0.9 * 180)
    last = masks(made)[2]
    assert last.sum() == 1 and last.ravel()[best]
    prune_weights(made, 1.0, distribution="global")
    assert not any(mask.any() for mask in masks(made))


def test_what_is_pruned_or_frozen_counts_in_a_global_ranking():
    made = model()
    tfprune.set_masks(made, "a", "kernel", trainable=np.s_[4:])
    tfprune.set_masks(made, "b", "kernel", frozen=True)
    counts = prune_weights(made, 0.5, distribution="global")
    assert counts.pruned == 90
    assert masks(made)[1].all()
    assert not masks(made)[0][:4].any()
    before = masks(made)
    prune_weights(made, 0.5, distribution="global", criterion="random")
    for ours, theirs in zip(before, masks(made), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_lamp_scores_are_comparable_between_layers():
    made = model(scale=1e-6)
    prune_weights(made, 0.5, criterion="lamp", distribution="global")
    assert masks(made)[2].sum() > 1  # by magnitude all but one would go


def test_erk_is_exact_as_a_whole_up_to_rounding():
    made = model()
    counts = prune_weights(made, 0.8, distribution="erk")
    assert abs(counts.pruned - 144) <= 2
    densities = [mask.mean() for mask in masks(made)]
    assert densities[0] < densities[1] < densities[2]


def test_nm_holds_in_each_group_and_follows_the_schedule():
    made = model()
    pattern = patterns.NM(keep=2, of=4)
    before = np.abs(kernels(made)[0])
    prune_weights(made, 0.25, pattern=pattern)
    first = masks(made)[0]
    assert (~first).sum() == 24
    prune_weights(made, 0.5, pattern=pattern)
    mask = masks(made)[0]
    assert not (mask & ~first).any()
    groups = mask.T.reshape(12, 2, 4)
    assert (groups.sum(axis=2) == 2).all()
    sizes = before.T.reshape(12, 2, 4)
    assert (np.where(groups, sizes, np.inf).min(2) >= np.where(groups, 0, sizes).max(2)).all()


def test_nm_goes_on_where_unstructured_pruning_has_reached_the_sparsity():
    made = model()
    prune_weights(made, 0.5, only=["a"])
    prune_weights(made, 0.5, pattern=patterns.NM(keep=2, of=4), only=["a"])
    groups = masks(made)[0].T.reshape(12, 2, 4)
    assert (groups.sum(axis=2) <= 2).all()


def test_a_pattern_of_matrices_cannot_be_ranked_together():
    with pytest.raises(ValueError, match="pattern=.*NM.*'uniform' or 'erk'"):
        prune_weights(model(), 0.5, pattern=patterns.NM(keep=2, of=4), distribution="global")


def test_a_bias_has_no_matrix_and_the_error_names_it():
    made = model()
    with pytest.raises(ValueError, match="'bias' of layer 'a'"):
        prune_weights(
            made, 0.5, pattern=patterns.NM(keep=2, of=4), only=lambda layer, name: name == "bias"
        )
    assert all(mask.all() for mask in masks(made))


@pytest.mark.parametrize("distribution", ["uniform", "global"])
def test_scores_that_are_not_finite_name_the_layer_and_change_nothing(distribution):
    made = model()
    kernel = kernels(made)[1]
    kernel[2, 3] = np.nan
    made.get_layer("b").kernel.assign(kernel)
    with pytest.raises(ValueError, match=r"'kernel' of layer 'b'.*\(2, 3\)"):
        prune_weights(made, 0.5, distribution=distribution)
    assert all(mask.all() for mask in masks(made))


@pytest.mark.parametrize(
    "criterion", ["gradient", "second_order", "movement", "synflow", "grasp", "wanda"]
)
def test_criteria_on_data_prune_what_their_scores_say(criterion):
    made = model()
    weights, before = select_weights(made), kernels(made)
    function = criteria.get(criterion)
    (name,) = criteria.measures_of(function)
    found = measure([name], made, weights, batched((X, Y), 4))[name]
    prune_weights(made, 0.5, criterion, pattern="unstructured", data=batched((X, Y), 4))
    for kernel, measured, mask in zip(before, found, masks(made), strict=True):
        scores = np.broadcast_to(function(kernel, measured), kernel.shape)
        assert (~mask).sum() == round(mask.size / 2)
        assert scores[mask].min() >= scores[~mask].max()


def einsum_model():
    made = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(6, name="wide"),
            layers.EinsumDense("ac,cde->ade", (3, 2), name="heads"),
            layers.EinsumDense("ade,dec->ac", (4,), name="joined"),
        ]
    )
    for layer in made.layers:
        layer.kernel.assign(DRAW.normal(size=layer.kernel.shape))
    return made


def test_wanda_prunes_equally_many_of_each_output_as_its_paper_does():
    made = einsum_model()
    wide, heads, joined = kernels(made)
    after_wide = X @ wide
    after_heads = np.einsum("ac,cde->ade", after_wide, heads)
    prune_weights(made, 0.5, "wanda", data=(X,))
    norms = [np.sqrt(np.square(x).sum(axis=0)) for x in (X, after_wide, after_heads)]
    scores = [
        np.abs(wide) * norms[0][:, None],
        (np.abs(heads) * norms[1][:, None, None]).reshape(6, 6),
        (np.abs(joined) * norms[2][:, :, None]).reshape(6, 4),
    ]
    for of_inputs, mask in zip(scores, masks(made), strict=True):
        ranks = of_inputs.argsort(axis=0).argsort(axis=0)
        expected = ranks >= len(of_inputs) // 2
        np.testing.assert_array_equal(mask.reshape(of_inputs.shape), expected)


@pytest.mark.parametrize("options", [{"pattern": "unstructured"}, {"distribution": "global"}])
def test_wanda_compares_more_where_that_is_named(options):
    made = model()
    prune_weights(made, 0.5, "wanda", data=(X,), **options)
    assert len({*(~masks(made)[0]).sum(axis=0)}) > 1
    config = PruneWeights(0.5, "wanda", **options).get_config()
    assert PruneWeights.from_config(config).pattern.compare == "weight"
    assert PruneWeights(0.5, "wanda").pattern.compare == "output"


def test_the_callback_measures_at_every_update_and_a_dict_gives_layers_their_own():
    made = model()
    schedule = tfprune.schedules.Linear(0.0, 0.8, begin_step=0, end_step=8, frequency=2)
    callback = PruneWeights(
        schedule, "gradient", distribution={"b": 0.4, "c": 0.0}, data=batched((X, Y), 16)
    )
    history = made.fit(X, Y, batch_size=4, epochs=2, verbose=0, callbacks=[callback])
    a, b, c = ((~mask).mean() for mask in masks(made))
    assert (round(a * 96), round(b * 72), c) == (77, 29, 0)
    assert history.history["sparsity"][-1] == pytest.approx((77 + 29) / 180)
    config = PruneWeights(schedule, pattern=patterns.NM(keep=1, of=4)).get_config()
    again = PruneWeights.from_config(config)
    assert again.pattern.keep == 1 and again.get_config() == config


def test_a_dict_needs_an_end():
    with pytest.raises(ValueError, match="`end_step`"):
        PruneWeights(lambda step: 0.5, distribution={"a": 0.5})
