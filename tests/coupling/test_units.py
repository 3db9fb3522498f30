import keras
import numpy as np
import pytest

import tfprune
from tfprune.coupling import couple

layers = keras.layers


def sets(model):
    return {s.name: (len(s.units), set(s.pinned)) for s in couple(model).sets}


def pieces(model, name):
    """Where the first unit of a layer stands: (layer, weight, axis, how often)."""
    coupling = couple(model)
    (unit_set,) = [s for s in coupling.sets if s.name == name]
    unit = unit_set.units[0]
    return {
        (p.layer.name, p.variable.name, p.axis): int((coupling.roots[p.labels] == unit).sum())
        for p in coupling.slices
        if (coupling.roots[p.labels] == unit).any()
    }


def test_a_hidden_unit_goes_with_its_bias_norm_and_consumers_row():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4, name="d"),
            layers.BatchNormalization(name="bn"),
            layers.ReLU(),
            layers.Dense(2, name="out"),
        ]
    )
    assert sets(model) == {"d": (4, {None}), "out": (2, {"it is an output of the model"})}
    assert pieces(model, "d") == {
        ("d", "kernel", 1): 1,
        ("d", "bias", 0): 1,
        ("bn", "gamma", 0): 1,
        ("bn", "beta", 0): 1,
        ("bn", "moving_mean", 0): 1,
        ("bn", "moving_variance", 0): 1,
        ("out", "kernel", 0): 1,
    }


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_a_filter_has_a_row_for_each_position_after_flatten(data_format):
    shape = (4, 5, 3) if data_format == "channels_last" else (3, 4, 5)
    model = keras.Sequential(
        [
            keras.Input(shape),
            layers.Conv2D(2, 3, padding="same", data_format=data_format, name="c"),
            layers.Flatten(data_format=data_format),
            layers.Dense(2, name="out"),
        ]
    )
    assert pieces(model, "c")["out", "kernel", 0] == 20


@pytest.mark.parametrize("make, gates", [(layers.SimpleRNN, 1), (layers.GRU, 3), (layers.LSTM, 4)])
def test_a_recurrent_unit_has_its_gates_and_its_feedback(make, gates):
    model = keras.Sequential([keras.Input((5, 3)), make(4, name="r"), layers.Dense(2, name="out")])
    found = pieces(model, "r")
    assert found["r", "kernel", 1] == gates
    assert found["r", "recurrent_kernel", 0] == 1
    assert found["r", "recurrent_kernel", 1] == gates
    assert found["out", "kernel", 0] == 1


def test_the_outputs_of_a_depthwise_channel_go_together():
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(3, 1, name="c"),
            layers.DepthwiseConv2D(3, depth_multiplier=2, name="dw"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(1, name="out"),
        ]
    )
    found = pieces(model, "c")
    assert found["dw", "kernel", 2] == 1
    assert found["dw", "bias", 0] == 2
    assert found["out", "kernel", 0] == 2


def test_a_shared_layer_ties_its_inputs_and_outputs():
    inputs = keras.Input((3,))
    shared = layers.Dense(4, name="shared")
    first = layers.Dense(4, name="first")(inputs)
    model = keras.Model(inputs, layers.Dense(1, name="out")(shared(shared(first))))
    assert sets(model)["first + shared"] == (4, {None})


@pytest.mark.parametrize(
    "make, reason",
    [
        (lambda: layers.Softmax(), "joins its units"),
        (lambda: layers.Activation("softmax"), "joins its units"),
        (
            lambda: layers.Lambda(lambda x: x + x[:, ::-1], name="mine"),
            "'mine' (Lambda) has no rule",
        ),
        (lambda: layers.LayerNormalization(center=False, scale=False), "its weights cannot name"),
    ],
)
def test_what_cannot_be_cut_is_pinned_with_the_reason(make, reason):
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(4, name="d"), make(), layers.Dense(1)]
    )
    (found,) = sets(model)["d"][1]
    assert reason in found


def test_flatten_over_dynamic_axes_is_pinned():
    model = keras.Sequential(
        [keras.Input((None, 3)), layers.Dense(4, name="d"), layers.GlobalMaxPooling1D()]
    )
    assert sets(model)["d"][1] == {"it is an output of the model"}


def test_groups_of_a_group_normalization_are_noted():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(6, name="d"),
            layers.GroupNormalization(groups=2),
            layers.Dense(1),
        ]
    )
    (unit_set,) = [s for s in couple(model).sets if s.name == "d"]
    assert unit_set.groups.shape == (2, 3)


class Named(keras.layers.Dense):
    """A dense layer that does nothing of its own when it is called."""

    def __init__(self, units, tag="x", **kwargs):
        super().__init__(units, **kwargs)
        self.tag = tag


def test_a_subclass_that_is_called_otherwise_is_tried():
    class Own(keras.layers.Dense):
        def call(self, inputs):
            return super().call(inputs)[..., ::-1]

    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(4, name="before"), Own(4, name="own")]
    )
    assert sets(model)["before"] == (4, {None})


def test_a_subclass_of_a_drop_in_layer_that_is_called_otherwise_has_not_its_rule():
    class Own(tfprune.layers.Dense):
        def call(self, inputs):
            return super().call(inputs)[..., ::-1]

    inputs = keras.Input((3,))
    x = layers.Dense(4, name="before")(inputs)
    model = keras.Model(inputs, layers.Dense(2)(Own(4, name="own")(x)))
    assert sets(model)["before"] == (4, {None})
    small = tfprune.strip(model)
    x = np.random.default_rng(0).normal(size=(4, 3))
    np.testing.assert_allclose(small(x), model(x), rtol=1e-5, atol=1e-6)


def test_a_subclass_without_a_call_of_its_own_has_the_rule_of_its_base():
    model = keras.Sequential([keras.Input((3,)), Named(4, name="own"), layers.Dense(2)])
    assert sets(model)["own"] == (4, {None})


class Orthogonal(keras.regularizers.Regularizer):
    """Of matrices of a size that it is given once; it has no config."""

    def __init__(self, size):
        self.eye = keras.ops.eye(size)

    def __call__(self, value):
        value = keras.ops.reshape(value, (-1, *self.eye.shape))
        return keras.ops.sum(keras.ops.square(value @ value - self.eye))


def regularized(**kwargs):
    inputs = keras.Input((4,))
    x = keras.layers.Dense(6, activation="relu", name="before")(inputs)
    x = keras.layers.Dense(9, activation="relu", name="hidden", **kwargs)(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(x))
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize(
    ("kwargs", "reason"),
    [
        (
            {"activity_regularizer": Orthogonal(3)},
            "the activity_regularizer of 'hidden' fails for fewer units: InvalidArgumentError: ",
        ),
        (
            {"bias_regularizer": Orthogonal(3)},
            "the regularizer of 'hidden' for 'bias' fails for fewer units: InvalidArgumentError: ",
        ),
    ],
)
def test_units_of_which_a_regularizer_needs_all_are_pinned(kwargs, reason):
    masked = tfprune.prunable(regularized(**kwargs))
    sets = {each.name: each for each in tfprune.explain(masked).sets}
    assert next(iter(sets["hidden"].pinned)).startswith(reason)
    assert not sets["before"].pinned
    tfprune.prune_units(masked, 0.5)
    small = tfprune.strip(masked)
    assert [small.get_layer(name).units for name in ("before", "hidden")] == [3, 9]
    x = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    np.testing.assert_allclose(small(x), masked(x), rtol=1e-5, atol=1e-6)
    small.train_on_batch(x, np.zeros((6, 2)))
