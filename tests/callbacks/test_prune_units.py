import keras
import numpy as np
import pytest

import tfprune
from tfprune import Selection, budgets, layers, schedules
from tfprune.callbacks import PruneUnits
from tfprune.criteria.contribution import ActivationContribution
from tfprune.units.prunable import PrunableUnits


def model(loss="mse", optimizer="adam", **compile_arguments):
    made = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(8, activation="relu", name="a"),
            layers.Dense(4, activation="relu", name="b"),
            layers.Dense(1, name="out"),
        ]
    )
    made.compile(optimizer, loss, **compile_arguments)
    return made


def data(count=32):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(count, 3)).astype("f")
    return x, x.sum(axis=1, keepdims=True)


def pruned(made):
    return [c.pruned for c in PrunableUnits(made).counts()]


def fit(made, callback, epochs=4, **arguments):
    return made.fit(
        *data(), batch_size=4, epochs=epochs, verbose=0, callbacks=[callback], **arguments
    )


class Watch(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(sum(pruned(self.model)))


def test_a_schedule_says_how_many_at_each_step():
    made, watch = model(), Watch()
    schedule = schedules.PolynomialDecay(0.0, 0.5, 2, 10, power=1, frequency=4)
    made.fit(*data(), batch_size=4, epochs=2, verbose=0, callbacks=[PruneUnits(schedule), watch])
    # 8 + 4 units: a quarter at step 6, half from step 10 on.
    assert watch.seen == [0] * 5 + [3] * 4 + [6] * 7


def test_a_fraction_is_reached_gradually_over_the_first_half_of_fit():
    made, watch = model(), Watch()
    made.fit(*data(), batch_size=4, epochs=4, verbose=0, callbacks=[PruneUnits(0.5), watch])
    assert watch.seen[15:] == [6] * 17
    assert 0 < watch.seen[2] < 6
    assert watch.seen == sorted(watch.seen)


@pytest.mark.parametrize("criterion", ["magnitude", "random", "activation_contribution"])
def test_the_criteria_by_name(criterion):
    made = model()
    history = fit(made, PruneUnits(0.5, criterion))
    assert pruned(made) == [4, 2]
    assert history.history["unit_sparsity"][-1] == 0.5
    small = tfprune.strip(made)
    assert (small.get_layer("a").units, small.get_layer("b").units) == (4, 2)
    np.testing.assert_allclose(small(data()[0]), made(data()[0]), rtol=1e-4, atol=1e-5)


def test_the_contribution_finds_the_units_that_do_nothing():
    made = model()
    kernel = np.array(made.get_layer("b").kernel)
    kernel[[1, 4, 6, 7]] = 0  # nobody listens to these
    made.get_layer("b").kernel.assign(kernel)
    made.optimizer.learning_rate = 0.0
    fit(made, PruneUnits(schedules.OneShot(0.5, step=8), "activation_contribution", only=["a"]))
    gone = ~np.asarray(made.get_layer("a").trainable_masks["bias"])
    assert np.flatnonzero(gone).tolist() == [1, 4, 6, 7]


def test_a_callable_criterion_scores_layers():
    made = model()
    fit(made, PruneUnits(0.5, lambda layer: np.arange(layer.units)))
    assert (
        np.asarray(made.get_layer("b").trainable_masks["bias"]).tolist() == [False] * 2 + [True] * 2
    )


def test_at_zero_training_is_plain_training_bit_for_bit():
    plain, masked = model(), None
    start = plain.get_weights()
    keras.utils.set_random_seed(5)
    plain.fit(*data(), batch_size=4, epochs=2, verbose=0)
    masked = model()
    masked.set_weights(start)
    keras.utils.set_random_seed(5)
    fit(masked, PruneUnits(0.0, "activation_contribution"), epochs=2)
    for a, b in zip(plain.get_weights(), masked.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_measuring_ends_with_training():
    made = model()
    fit(made, PruneUnits(0.5, "activation_contribution"))
    assert made.get_layer("a").observer is None


def test_measuring_begins_though_the_model_was_trained_before():
    made = model()
    made.fit(*data(), verbose=0)
    fit(made, PruneUnits(0.5, "activation_contribution"))
    assert pruned(made) == [4, 2]


@pytest.mark.parametrize("arguments", [{"steps_per_execution": 3}, {"jit_compile": True}])
def test_coarser_hooks_and_compilation(arguments):
    made = model(**arguments)
    fit(made, PruneUnits(0.5, "activation_contribution"))
    assert pruned(made) == [4, 2]


def test_a_step_at_which_nothing_is_measured_yet_says_what_to_do():
    with pytest.raises(ValueError, match="begins after step 0"):
        fit(model(), PruneUnits(schedules.OneShot(0.5, step=0), "activation_contribution"))


def test_a_loop_of_ones_own():
    made = model()
    callback = PruneUnits(schedules.OneShot(0.5, step=5), ActivationContribution(every=2))
    callback.after_step(made)
    for _ in range(6):
        made.train_on_batch(*data())
        logs = callback.after_step(made)
    assert logs == {"unit_sparsity": 0.5}


def test_a_fraction_needs_fit_or_a_schedule():
    with pytest.raises(ValueError, match=r"give a schedule.*PolynomialDecay"):
        PruneUnits(0.5).after_step(model())


def test_training_goes_on_after_an_interruption(tmp_path):
    """Stopped after two of four epochs and resumed by BackupAndRestore: the same masks."""

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    whole = model(optimizer=keras.optimizers.SGD(0.01))
    start = whole.get_weights()
    fit_arguments = {"batch_size": 4, "epochs": 4, "verbose": 0, "shuffle": False}
    whole.fit(*data(), callbacks=[PruneUnits(0.5)], **fit_arguments)

    def part(*more):
        made = model(optimizer=keras.optimizers.SGD(0.01))
        made.set_weights(start)
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        made.fit(*data(), callbacks=[PruneUnits(0.5), backup, *more], **fit_arguments)
        return made

    with pytest.raises(KeyboardInterrupt):
        part(Stop())
    resumed = part()
    for a, b in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_config_round_trip():
    made = PruneUnits(
        schedules.OneShot(0.5, step=3),
        ActivationContribution(every=2, aggregate="max"),
        only=["a"],
        verbose=1,
        selection=tfprune.Selection(min_units=2),
    )
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(made))
    assert again.get_config() == made.get_config()
    assert (
        again.schedule(3) == 0.5 and again.criterion.every == 2 and again.selection.min_units == 2
    )


@keras.saving.register_keras_serializable("test_prune_units")
def is_first(layer):
    return layer.name == "a"


def test_predicates_and_layers_in_a_config_come_back():
    made = PruneUnits(0.5, only=is_first, exclude=[layers.Dense(2, name="b")])
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(made))
    assert again.get_config() == made.get_config()
    assert again.only is is_first and again.exclude == ["b"]


@pytest.mark.parametrize("argument", ["only", "exclude"])
def test_what_is_no_choice_of_layers_is_refused_at_once(argument):
    with pytest.raises(ValueError, match=f"`{argument}`.*`layer -> bool`.*{argument}=3"):
        PruneUnits(0.5, **{argument: 3})


def test_an_unknown_layer_is_named():
    with pytest.raises(ValueError, match="'nope'"):
        fit(model(), PruneUnits(0.5, only=["nope"]))


class Counted(keras.callbacks.Callback):
    """The parameters that stripping would leave, by hand, after each batch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        gone_a, gone_b = pruned(self.model)
        a, b = 8 - gone_a, 4 - gone_b
        self.seen.append(a * 4 + b * (a + 1) + b + 1)


DENSE = 8 * 4 + 4 * 9 + 5


@pytest.mark.parametrize("scope", ["uniform", "global", "greedy", "exact"])
def test_a_budget_is_reached_gradually_and_met(scope):
    made, watch = model(), Counted()
    callback = PruneUnits(budgets.Parameters(0.4), selection=scope)
    made.fit(*data(), batch_size=4, epochs=4, verbose=0, callbacks=[callback, watch])
    assert watch.seen == sorted(watch.seen, reverse=True)
    assert len(set(watch.seen)) > 3 and watch.seen[0] > 0.8 * DENSE
    assert len(set(watch.seen[16:])) == 1  # the second half is left to recover
    assert watch.seen[-1] == tfprune.strip(made).count_params() <= 0.4 * DENSE
    # What is chosen anew for the same budget is what there is.
    before = pruned(made)
    tfprune.prune_units(made, budgets.Parameters(0.4), selection=scope)
    assert pruned(made) == before


def test_a_schedule_says_how_far_a_budget_is_reached():
    made, watch = model(), Counted()
    schedule = schedules.PolynomialDecay(0.0, 1.0, 2, 10, power=1, frequency=4)
    callback = PruneUnits(budgets.Parameters(33), schedule=schedule, selection="greedy")
    made.fit(*data(), batch_size=4, epochs=2, verbose=0, callbacks=[callback, watch])
    half = watch.seen[6]
    assert watch.seen[:5] == [DENSE] * 5
    assert (DENSE + 33) / 2 - 13 < half <= (DENSE + 33) / 2
    assert watch.seen[5:9] == [half] * 4
    assert watch.seen[9:] == [watch.seen[-1]] * 7 and 33 - 13 < watch.seen[-1] <= 33


def test_a_schedule_says_how_far_a_fraction_is_reached():
    made, watch = model(), Watch()
    schedule = schedules.PolynomialDecay(0.0, 1.0, 2, 10, power=1, frequency=4)
    callback = PruneUnits(0.5, schedule=schedule)
    made.fit(*data(), batch_size=4, epochs=2, verbose=0, callbacks=[callback, watch])
    assert watch.seen == [0] * 5 + [3] * 4 + [6] * 7


def test_a_budget_in_a_loop_of_ones_own():
    made = model()
    with pytest.raises(ValueError, match=r"give a schedule.*`schedule=tfprune"):
        PruneUnits(budgets.Units(6)).after_step(made)
    callback = PruneUnits(budgets.Units(6), schedule=schedules.OneShot(1.0, step=1))
    callback.after_step(made)
    made.train_on_batch(*data())
    assert callback.after_step(made) == {"unit_sparsity": 0.5}


def test_an_unreachable_budget_is_an_error_before_training():
    made = model()
    callback = PruneUnits(budgets.Parameters(5), selection=tfprune.Selection(min_units=2))
    with pytest.raises(ValueError, match=r"cannot be met.*the least that can remain is 17"):
        fit(made, callback)
    assert pruned(made) == [0, 0] and int(made.optimizer.iterations) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"target": budgets.MACs(0.5), "selection": Selection("greedy", round_to=8)},
        {"target": budgets.Latency(3.0), "selection": Selection(max_fraction={"a": 0.5})},
        {"target": 0.5, "schedule": schedules.OneShot(1.0, step=3), "selection": "global"},
        {"target": schedules.OneShot(0.5, step=3)},
    ],
)
def test_the_arguments_of_a_choice_survive_the_config(arguments):
    callback = PruneUnits(**arguments)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(callback))
    assert again.get_config() == callback.get_config()
    assert repr(again.selection) == repr(callback.selection)
    if isinstance(arguments["target"], budgets.Budget):
        assert again.target == arguments["target"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": schedules.Constant(0.5), "schedule": 1.0}, "must be one of these"),
        ({"target": 0.5, "schedule": schedules.OneShot(0.5, step=3)}, "must end at 1"),
        ({"target": 0.5, "selection": "best"}, "`selection`"),
        ({"target": "half"}, "Argument `target` must be a number.*a budget.*a schedule"),
        ({"target": True}, "Argument `target` must be a number.*a budget.*a schedule"),
        ({"target": 1.5}, "Argument `target` must be a number from 0 to 1"),
        ({"target": 1.5, "schedule": 1.0}, "Argument `target` must be a number from 0 to 1"),
        ({"target": budgets.Latency(3.0), "selection": "exact"}, "measured and not worked out"),
    ],
)
def test_bad_arguments_of_a_choice(arguments, message):
    with pytest.raises(ValueError, match=message):
        PruneUnits(**arguments)


@pytest.mark.parametrize("target", [0.5, np.float32(0.5), 1, np.int64(1)])
def test_a_number_of_numpy_is_a_number(target):
    callback = PruneUnits(target)
    assert callback.target == target and type(callback.target) is float


def test_caps_of_unknown_layers_are_an_error_before_training():
    with pytest.raises(ValueError, match="none of whose units can be pruned.*'out'"):
        fit(model(), PruneUnits(0.5, selection=tfprune.Selection(max_fraction={"out": 0.5})))
