"""Training that shrinks, against the same training with masks alone."""

import keras
import numpy as np
import pytest

import tfprune
from tests.shrinking.trained_models import data, mlp, mlp_data, residual


class PruneAt(keras.callbacks.Callback):
    """The same masks at the same epochs, and nothing rebuilt."""

    def __init__(self, stages):
        super().__init__()
        self.stages = stages

    def on_epoch_begin(self, epoch, logs=None):
        if epoch in self.stages:
            tfprune.prune_units(self.model, self.stages[epoch])


def against_masks(build, data, optimizer, stages, **arguments):
    """The losses and outputs of training that shrinks must be those of masks alone."""
    (x, y), arguments = data, {"batch_size": 12, "shuffle": False, "verbose": 0, **arguments}
    masked = tfprune.prunable(build(optimizer()))
    expected = masked.fit(x, y, callbacks=[PruneAt(stages)], **arguments)
    result = tfprune.fit_and_shrink(build(optimizer()), x, y, stages=stages, **arguments)
    assert set(result.history.history) == set(expected.history)
    for name, values in expected.history.items():
        found = result.history.history[name]
        np.testing.assert_allclose(found, values, rtol=1e-4, atol=1e-6, err_msg=name)
    outputs = [model.predict(x, verbose=0) for model in (result.model, masked)]
    np.testing.assert_allclose(*outputs, rtol=1e-3, atol=1e-5)
    assert int(result.model.optimizer.iterations) == int(masked.optimizer.iterations)
    return result


@pytest.mark.slow
def test_the_losses_of_a_residual_model_are_those_of_masks_alone():
    def optimizer():
        return keras.optimizers.Adam(0.01, global_clipnorm=0.5)

    stages = {1: 0.25, 3: 0.75}
    result = against_masks(
        residual, data(), optimizer, stages, epochs=5, validation_data=data(), validation_freq=2
    )
    layers = ("stem", "branch")
    assert [result.model.get_layer(name).filters for name in layers] == [2, 2]
    assert [stage.units.after for stage in result.stages] == [20, 15, 5]


OPTIMIZERS = {
    "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
    "schedule": lambda: keras.optimizers.AdamW(
        keras.optimizers.schedules.CosineDecay(0.02, 24), weight_decay=0.05
    ),
    "averages": lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9),
    "accumulation": lambda: keras.optimizers.RMSprop(0.01, gradient_accumulation_steps=2),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)),
    "accumulators": lambda: keras.optimizers.Adagrad(0.05),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_goes_on(name):
    against_masks(mlp, mlp_data(), OPTIMIZERS[name], {1: 0.25, 2: 0.5}, epochs=4)


def test_data_that_are_not_used_up_are_not_read_twice():
    x, y = mlp_data()

    def batches():
        for number in range(1000):
            yield x[:4] * (number + 1), y[:4]

    arguments = {"steps_per_epoch": 2, "epochs": 3, "verbose": 0}
    masked = tfprune.prunable(mlp("sgd"))
    masked.optimizer.learning_rate = 0.0
    expected = masked.fit(batches(), callbacks=[PruneAt({1: 0.25, 2: 0.5})], **arguments)
    model = mlp("sgd")
    model.optimizer.learning_rate = 0.0
    result = tfprune.fit_and_shrink(model, batches(), stages={1: 0.25, 2: 0.5}, **arguments)
    np.testing.assert_allclose(result.history.history["loss"], expected.history["loss"], rtol=1e-5)


def test_a_branch_that_is_zero_at_first_is_not_taken_for_dead():
    inputs = keras.Input((4,))
    x = keras.layers.Dense(6, activation="relu", name="a")(inputs)
    y = keras.layers.Dense(6, kernel_initializer="zeros", name="branch")(x)
    outputs = keras.layers.Dense(1, kernel_initializer="zeros", name="out")(x + y)
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(16, 4)).astype("f")
    result = tfprune.fit_and_shrink(model, x, x[:, :1], stages={0: 0.5}, epochs=1, verbose=0)
    assert result.model.get_layer("branch").units == 3
    assert np.any(np.asarray(result.model.get_layer("out").kernel))


def test_a_norm_whose_scale_changes_with_its_size_is_taken_back():
    """RMSNormalization is cut with another scale; units that stay compute what they did."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, name="a"),
            keras.layers.RMSNormalization(name="norm"),
            keras.layers.Dense(2, name="out"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.0), "mse")
    x = np.random.default_rng(0).normal(size=(16, 4)).astype("f")
    masked = tfprune.prunable(model)
    arguments = {"epochs": 3, "verbose": 0}
    expected = masked.fit(x, x[:, :2], callbacks=[PruneAt({1: 0.25, 2: 0.5})], **arguments)
    result = tfprune.fit_and_shrink(model, x, x[:, :2], stages={1: 0.25, 2: 0.5}, **arguments)
    assert result.model.get_layer("a").units == 4
    np.testing.assert_allclose(result.history.history["loss"], expected.history["loss"], rtol=1e-5)
    np.testing.assert_allclose(result.model(x), masked(x), rtol=1e-4, atol=1e-5)


def test_frozen_elements_stay_frozen_in_the_small_model():
    model = tfprune.prunable(mlp())
    tfprune.set_masks(model, "a", "kernel", frozen=np.s_[:5, 7])
    kernel = np.array(model.get_layer("a").kernel)
    arguments = {"stages": {1: 0.5}, "epochs": 3, "verbose": 0}
    result = tfprune.fit_and_shrink(model, *mlp_data(), **arguments)
    small = np.asarray(result.model.get_layer("a").kernel)
    assert small.shape == (72, 4)
    np.testing.assert_array_equal(small[:5, -1], kernel[:5, 7])
    assert not np.isin(small[5:, -1], kernel[5:, 7]).any()
    assert type(result.model.get_layer("a")) is keras.layers.Dense


def test_a_masked_result_can_be_pruned_on():
    result = tfprune.fit_and_shrink(
        mlp(), *mlp_data(), stages=0.5, masked=True, epochs=2, verbose=0
    )
    counts = tfprune.prune_units(result.model, 0.5)
    assert [(count.units, count.pruned) for count in counts] == [(4, 2)]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"stages": 1.5}, "from 0 to 1"),
        ({"stages": [0.5, 0.25]}, "must rise"),
        ({"stages": {5: 0.5}}, "epochs that are trained"),
        ({"stages": {2: 0.5, 1: 0.6}}, "must rise"),
        ({"stages": []}, "must hold a target"),
        ({"stages": [0.1, 0.2, 0.3]}, "too short"),
        ({"stages": ["half"]}, "target"),
        ({"stages": 0.5, "only": ["b"]}, "b"),
        ({"stages": 0.5, "criterion": "nothing"}, "nothing"),
        ({"stages": 0.5, "callbacks": [tfprune.callbacks.PruneUnits(0.5)]}, "PruneUnits"),
    ],
)
def test_what_cannot_be_done_is_refused_before_training(arguments, error):
    class Never(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            raise AssertionError("training began")

    arguments["callbacks"] = [Never(), *arguments.get("callbacks", [])]
    with pytest.raises(ValueError, match=error):
        tfprune.fit_and_shrink(mlp(), *mlp_data(), epochs=4, verbose=0, **arguments)


def test_unknown_arguments_are_refused():
    with pytest.raises(TypeError, match="epoch_count"):
        tfprune.fit_and_shrink(mlp(), *mlp_data(), stages=0.5, epoch_count=4)


def test_models_with_steps_of_their_own_are_refused():
    class Own(keras.Model):
        def train_step(self, data):
            return super().train_step(data)

    inputs = keras.Input((3,))
    model = Own(inputs, keras.layers.Dense(2)(inputs))
    with pytest.raises(ValueError, match="compiled"):
        tfprune.fit_and_shrink(model, stages=0.5)
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="train_step"):
        tfprune.fit_and_shrink(model, stages=0.5)


@pytest.mark.slow
def test_compiled_and_in_several_steps_at_once():
    for arguments in ({"jit_compile": True}, {"steps_per_execution": 2}):
        model = mlp(**arguments)
        result = tfprune.fit_and_shrink(
            model, *mlp_data(), stages={1: 0.25, 2: 0.5}, epochs=3, batch_size=12, verbose=0
        )
        assert result.model.get_layer("a").units == 4
        assert int(result.model.optimizer.iterations) == 12


def test_layers_of_the_model_given_are_excluded():
    hidden = [keras.layers.Dense(8, activation="relu", name=name) for name in "ab"]
    model = keras.Sequential(
        [keras.Input((6, 6, 2)), keras.layers.Flatten(), *hidden, keras.layers.Dense(2)]
    )
    model.compile("adam", "mse")
    for exclude in ([hidden[0]], lambda each: each is hidden[0]):
        result = tfprune.fit_and_shrink(
            model, *mlp_data(), stages={0: 0.5}, exclude=exclude, epochs=1, verbose=0
        )
        assert [layer.units for layer in result.model.layers[1:]] == [8, 4, 2]


@pytest.mark.parametrize("verbose", ["auto", 1, 2, 0])
def test_progress_is_shown_as_by_fit(verbose, capsys):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.ones((8, 4)), np.ones((8, 1))
    tfprune.fit_and_shrink(model, x, y, stages={1: 0.5}, epochs=2, verbose=verbose)
    shown = capsys.readouterr().out
    assert ("Epoch 1/2" in shown and "Epoch 2/2" in shown) == (verbose != 0)
