"""Callbacks whose schedule is in epochs, beside the same schedule in steps."""

import keras
import numpy as np
import pytest

from tfprune import layers
from tfprune.callbacks import PruneUnits, PruneWeights
from tfprune.schedules import Chain, Linear, OneShot, Periodic

X = np.random.default_rng(0).normal(size=(24, 6)).astype("float32")
Y = X[:, :2]
STEPS = 12  # batches of 2
IN_EPOCHS = Linear(0.1, 0.7, begin_step=0.5, end_step=2.25, frequency=0.5, unit="epoch")
IN_STEPS = Linear(0.1, 0.7, begin_step=6, end_step=27, frequency=6)
each_callback = pytest.mark.parametrize("callback", [PruneWeights, PruneUnits])


class Watch(keras.callbacks.Callback):
    """The masks after each batch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        every = [np.ravel(m) for d in self.model.layers for m in d.trainable_masks.values()]
        self.seen.append(np.concatenate(every))


def compiled_model(optimizer="adam", **kwargs):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(10, activation="relu"), layers.Dense(2)]
    )
    model.compile(optimizer, "mse", **kwargs)
    return model


def masks(model, callback, epochs=3, **kwargs):
    watch = Watch()
    arguments = {"x": X, "y": Y, "batch_size": 2, "epochs": epochs, "verbose": 0, **kwargs}
    model.fit(**arguments, shuffle=False, callbacks=[callback, watch])
    return np.array(watch.seen)


@each_callback
@pytest.mark.parametrize("steps_per_execution", [1, 5])
def test_masks_are_those_of_the_schedule_in_steps(callback, steps_per_execution):
    seen = [
        masks(compiled_model(steps_per_execution=steps_per_execution), callback(schedule))
        for schedule in (IN_EPOCHS, IN_STEPS)
    ]
    np.testing.assert_array_equal(*seen)
    if steps_per_execution == 1:
        changes = np.flatnonzero((seen[0][1:] != seen[0][:-1]).any(axis=1)) + 2
        assert [*changes] == [s for s in (6, 12, 18, 24, 27) if s in changes]
        assert {12, 18, 24} <= {*changes}
    assert seen[0][-1].mean() < 0.5


@each_callback
def test_a_loaded_model_goes_on_at_its_epoch(callback, tmp_path):
    whole = masks(compiled_model(), callback(IN_EPOCHS))
    model = compiled_model()
    first = masks(model, callback(IN_EPOCHS), epochs=1)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    rest = masks(loaded, callback(IN_EPOCHS), epochs=2)
    np.testing.assert_array_equal([*first, *rest], whole)


@each_callback
def test_a_training_restored_from_a_backup_follows_the_same_course(callback, tmp_path):
    def trained(backup, dies_at=None):
        model = compiled_model()

        def die(batch, logs):
            if int(model.optimizer.iterations) == dies_at:
                raise KeyboardInterrupt

        watch = Watch()
        callbacks = [
            callback(IN_EPOCHS),
            watch,
            keras.callbacks.LambdaCallback(on_train_batch_end=die),
            keras.callbacks.BackupAndRestore(tmp_path / backup),
        ]
        try:
            model.fit(X, Y, batch_size=2, epochs=3, verbose=0, shuffle=False, callbacks=callbacks)
        except KeyboardInterrupt:
            assert dies_at is not None
        return np.array(watch.seen)

    whole = trained("a")
    assert len(trained("b", dies_at=17)) == 17
    np.testing.assert_array_equal(trained("b"), whole[STEPS:])


@pytest.mark.parametrize("wrap", [lambda o: o, keras.optimizers.LossScaleOptimizer])
def test_batches_that_are_accumulated_are_one_step(wrap):
    def sparse_from(schedule):
        optimizer = wrap(keras.optimizers.SGD(gradient_accumulation_steps=5))
        kept = masks(compiled_model(optimizer), PruneWeights(schedule))
        return np.flatnonzero(~kept.all(axis=1))[0] + 1

    # Epoch 2 begins after 24 batches, 4.8 steps of the optimizer; step 5 is the 25th batch.
    assert sparse_from(OneShot(0.5, step=2, unit="epoch")) == sparse_from(OneShot(0.5, 5)) == 25


@each_callback
def test_an_epoch_of_unknown_length_needs_steps_per_epoch(callback):
    def endless():
        while True:
            yield X[:2], Y[:2]

    data = {"x": endless(), "y": None, "batch_size": None}
    with pytest.raises(ValueError, match="schedule=Linear.*steps=None. Pass `steps_per_epoch`"):
        masks(compiled_model(), callback(IN_EPOCHS), **data)
    kept = masks(
        compiled_model(), callback(OneShot(0.5, 1, unit="epoch")), steps_per_epoch=4, **data
    )
    assert [*kept.all(axis=1)] == [True] * 3 + [False] * 9


@each_callback
def test_a_custom_loop_asks_for_steps(callback):
    model, follows = compiled_model(), callback(OneShot(0.5, 1.5, unit="epoch"))
    with pytest.raises(ValueError, match="schedule=OneShot.*in_steps"):
        follows.after_step(model)
    masks(model, follows, epochs=1)  # what `fit` said does not outlive it
    with pytest.raises(ValueError, match="schedule=OneShot.*in_steps"):
        follows.after_step(model)
    model, follows = compiled_model(), callback(follows.schedule.in_steps(4))
    sparsities = []
    for _ in range(7):
        model.train_on_batch(X, Y)
        sparsities += follows.after_step(model).values()
    assert [value > 0 for value in sparsities] == [False] * 5 + [True] * 2


@each_callback
def test_the_config_keeps_the_unit(callback):
    follows = callback(IN_EPOCHS)
    masks(compiled_model(), follows, epochs=1)
    again = callback.from_config(follows.get_config())
    assert again.schedule.get_config() == IN_EPOCHS.get_config()


@each_callback
def test_what_is_pruned_in_a_cycle_does_not_come_back_in_the_next(callback):
    cycle = Linear(0.0, 0.5, 0, 4, frequency=2)
    falls = masks(compiled_model(), callback(Periodic(cycle, 8)), epochs=1)
    stays = masks(compiled_model(), callback(cycle), epochs=1)
    np.testing.assert_array_equal(falls, stays)


def test_a_chain_is_followed():
    chain = Chain([OneShot(0.5, 0.5, unit="epoch"), OneShot(0.8, 1, unit="epoch")], [1])
    model = compiled_model()
    history = model.fit(X, Y, epochs=3, batch_size=2, verbose=0, callbacks=[PruneWeights(chain)])
    kernels = [np.asarray(layer.trainable_masks["kernel"]) for layer in model.layers]
    assert history.history["sparsity"] == [0.5, 0.8, 0.8]
    assert [kernel.mean() for kernel in kernels] == pytest.approx([0.2, 0.2])
