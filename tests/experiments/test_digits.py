"""The digits experiment, cut short."""

import numpy as np
import pytest

from tfprune.experiments import digits, digits_plot, stacked

QUICK = digits.Protocol(repeats=2, steps_before=10, steps_after=15)


@pytest.fixture(scope="module")
def network():
    made, batches = digits.start(QUICK, 0)
    data = digits.load()
    return stacked.train(made, data.x_train, data.y_train, batches[:10], QUICK.update(1257))


def test_the_data_is_that_of_the_paper_notebook():
    data = digits.load()
    assert data.x_train.shape == (1257, 61)
    assert data.x_test.shape == (540, 61)
    np.testing.assert_allclose(data.x_train.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(data.x_train.std(axis=0), 1, atol=1e-6)


def test_a_network_has_2314_weights_and_n_is_the_size_of_the_data():
    network, batches = digits.start(QUICK, 0)
    assert sum(w.size for w in network.weights) == 2314
    assert batches.shape == (25, 33)
    assert QUICK.update(1257).dataset_size == 1257
    assert digits.Protocol.of_notebook().update(1257).dataset_size == 2314


def test_the_smallest_of_each_tensor_are_pruned_and_untrained(network):
    pruned = digits.intervene(network, "prune", "magnitude", 0.3, [0])
    for before, after, mask in zip(network.weights, pruned.weights, pruned.masks, strict=True):
        count = before.size * 3 // 10
        assert set(np.flatnonzero(~mask)) == set(np.argsort(np.abs(before).ravel())[:count])
        np.testing.assert_array_equal(after, np.where(mask, before, 0))


@pytest.mark.parametrize("criterion", ["preconditioned_gradient", "gradient"])
def test_the_lowest_gradients_are_frozen_where_they_stand(network, criterion):
    frozen = digits.intervene(network, "freeze", criterion, 0.5, [0])
    data = digits.load()
    gradients = stacked.gradients(network, data.x_train, data.y_train)
    for weight, after, gradient, c, mask in zip(
        network.weights, frozen.weights, gradients, network.covariance, frozen.masks, strict=True
    ):
        np.testing.assert_array_equal(after, weight)
        score = np.abs(gradient / c) if criterion == "preconditioned_gradient" else np.abs(gradient)
        assert (~mask).sum() == weight.size // 2
        assert score[~mask].max() <= score[mask].min()


def test_a_second_mask_holds_with_the_first(network):
    pruned = digits.intervene(network, "prune", "random", 0.4, [0])
    both = digits.intervene(pruned, "freeze", "random", 0.6, [1])
    for first, second, weight in zip(pruned.masks, both.masks, both.weights, strict=True):
        assert not second[~first].any()
        assert (~second).sum() == int(0.6 * weight.size + 1e-6)
        assert not weight[~first].any()


@pytest.fixture(scope="module")
def results():
    return digits.sweep(QUICK, fractions=[0.0, 0.5, 0.9], verbose=0)


def test_a_sweep_trains_each_and_starts_all_of_a_repeat_alike(results):
    assert results.trainings == 5 * 3 * 2
    untouched = [results.test[name][0] for name in results.test]
    assert len(np.unique(untouched, axis=0)) == 1  # at p = 0 they are one and the same training
    assert untouched[0][0] != untouched[0][1]
    assert results.mean("prune magnitude", 0.9) < results.mean("freeze random", 0.9)


def test_in_chunks_a_sweep_is_the_same(results):
    again = digits.sweep(
        QUICK, sweeps=digits.SWEEPS[:1], fractions=[0.0, 0.5, 0.9], at_once=2, verbose=0
    )
    np.testing.assert_allclose(again.test["prune magnitude"], results.test["prune magnitude"])


def test_results_are_written_and_read_again(results, tmp_path):
    results.save(tmp_path / "results.json")
    again = digits.Results.load(tmp_path / "results.json")
    assert again.protocol == results.protocol
    for name in results.test:
        np.testing.assert_allclose(again.test[name], results.test[name], atol=1e-5)
        np.testing.assert_allclose(again.train[name], results.train[name], atol=1e-5)
    with pytest.raises(ValueError, match=r"`fraction`.*0.33"):
        results.mean("prune random", 0.33)


def test_a_lead_is_the_mean_difference_of_each_repeat(results):
    lead = results.lead("freeze random", "prune random", 0.5, 1.0)
    test = results.test
    by_hand = [np.mean(test["freeze random"][1:, r] - test["prune random"][1:, r]) for r in (0, 1)]
    np.testing.assert_allclose(lead, by_hand)


def test_the_picture_has_a_curve_and_a_band_for_each_sweep(results):
    left, right = digits_plot.figure(results).axes
    assert (len(left.lines), len(right.lines)) == (2, 3)
    np.testing.assert_allclose(left.lines[0].get_ydata(), results.mean("prune magnitude"))
    assert (len(left.collections), len(right.collections)) == (2, 3)


def test_the_whole_experiment_is_1265_trainings():
    points = sum(len(digits.fractions_of(action)) for action, _ in digits.SWEEPS)
    assert 5 * points == 1265
