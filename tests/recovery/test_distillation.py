"""Distillation through Keras's Distiller: what is trained, what stays, what callbacks see."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tfprune.recovery.distillation import _default_losses, _distiller_class

DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(40, 5)).astype("float32")
Y = DRAW.integers(0, 3, 40)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(loss=LOSS, last=None, **kwargs):
    model = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(8, activation="relu", name="hidden", **kwargs),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(3, activation=last, name="last"),
        ]
    )
    model.compile(keras.optimizers.Adam(1e-2), loss, metrics=["accuracy"])
    return model


@pytest.fixture(scope="module")
def models():
    """A dense model that is trained, and the masked one made of it."""
    keras.utils.set_random_seed(0)
    dense = network()
    dense.get_layer("norm").trainable = False
    dense.fit(X, Y, epochs=2, verbose=0)
    masked = tfprune.prunable(dense)
    tfprune.prune_units(masked, 0.5)
    tfprune.set_masks(masked, "last", "bias", frozen=[0])
    return dense, masked


@pytest.mark.parametrize("stripped", [False, True])
def test_the_student_learns_what_the_dense_model_says(models, stripped):
    dense, masked = models
    student = tfprune.strip(masked) if stripped else masked
    before = [np.array(v) for v in (*dense.variables, *student.variables)]
    flags = [layer.trainable for layer in dense.layers]
    trained = tfprune.distill(student, dense, (X, Y), epochs=15, label_weight=0.0, verbose=0)
    losses = trained.history.history["distillation_loss"]
    assert losses[-1] < 0.5 * losses[0]
    for variable, value in zip((*dense.variables, *student.variables), before, strict=True):
        np.testing.assert_array_equal(np.array(variable), value)
    assert [layer.trainable for layer in dense.layers] == flags == [True, False, True]
    assert "accuracy" in trained.evaluate(X, Y, verbose=0, return_dict=True)
    steps = int(student.optimizer.iterations)
    assert int(trained.optimizer.iterations) == steps + 15 * 2
    trained.fit(X, Y, verbose=0)  # goes on from there
    dense.fit(X, Y, verbose=0, epochs=0)
    assert dense.trainable_variables


def test_masks_hold(models):
    dense, masked = models
    trained = tfprune.distill(masked, dense, (X, Y), epochs=2, verbose=0)
    for ours, theirs in zip(
        tfprune.masks.masked_layers(masked), tfprune.masks.masked_layers(trained), strict=True
    ):
        for name, weight in theirs.masked_weights.items():
            kept = np.array(ours.trainable_masks[name])
            np.testing.assert_array_equal(kept, np.array(theirs.trainable_masks[name]))
            assert not np.array(weight)[~kept].any()
    bias, before = (np.array(m.get_layer("last").bias) for m in (trained, masked))
    assert bias[0] == before[0]
    assert (bias[1:] != before[1:]).all()


def test_the_own_loss_counts_sample_weights_and_penalties():
    dense, student = network(), network(kernel_regularizer=keras.regularizers.L2(0.1))
    weights = DRAW.random(40).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((X, Y, weights)).batch(40)
    trained = tfprune.distill(student, dense, data, label_weight=1.0, verbose=0)
    logits = np.array(student(X, training=True), "float64")
    logits -= logits.max(axis=1, keepdims=True)
    entropies = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(40), Y]
    penalty = 0.1 * np.square(np.array(student.get_layer("hidden").kernel, "float64")).sum()
    expected = (weights * entropies).mean() + penalty
    np.testing.assert_allclose(trained.history.history["student_loss"], [expected], rtol=1e-4)


def test_callbacks_see_the_student(models, tmp_path):
    dense, _ = models
    student = tfprune.prunable(network())
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append((self.model, sorted(logs)))

    callbacks = [
        tfprune.callbacks.PruneUnits(0.5),
        keras.callbacks.ModelCheckpoint(tmp_path / "student.keras"),
        keras.callbacks.EarlyStopping("distillation_loss", patience=0, min_delta=1e9, mode="min"),
        Watch(),
    ]
    trained = tfprune.distill(
        student, dense, (X, Y), epochs=9, callbacks=callbacks, verbose=0, validation_data=(X, Y)
    )
    assert len(seen) < 9  # stopped early
    assert all(model is trained for model, _ in seen)
    assert "unit_sparsity" in trained.history.history
    assert "val_accuracy" in trained.history.history
    saved = keras.saving.load_model(tmp_path / "student.keras")
    assert [layer.name for layer in saved.layers] == ["hidden", "norm", "last"]


@pytest.mark.parametrize(
    ("loss", "last", "expected"),
    [
        (LOSS, None, "LogitsDistillation"),
        ("sparse_categorical_crossentropy", "softmax", "ProbabilitiesDistillation"),
        ("categorical_crossentropy", "softmax", "ProbabilitiesDistillation"),
        ("mse", None, "FeatureDistillation"),
        (keras.losses.BinaryCrossentropy(), "sigmoid", "FeatureDistillation"),
    ],
)
def test_the_loss_fits_the_models_own(loss, last, expected):
    assert type(_default_losses(network(loss, last))).__name__ == expected


def softmax(logits):
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def test_the_default_is_the_divergence_at_temperature_3(models):
    dense, _ = models
    student = network()
    trained = tfprune.distill(student, dense, (X, Y), batch_size=40, verbose=0)
    outputs = np.array(dense(X), "float64"), np.array(student(X, training=True), "float64")
    ours, theirs = (softmax(array / 3) for array in outputs)
    expected = 9 * (ours * np.log(ours / theirs)).sum(axis=1).mean()
    np.testing.assert_allclose(trained.history.history["distillation_loss"], [expected], rtol=1e-4)


def test_probabilities_give_the_loss_of_their_logits():
    dense, student = network(), network()
    given = [network("sparse_categorical_crossentropy", "softmax") for _ in range(2)]
    for new, old in zip(given, (dense, student), strict=True):
        new.set_weights(old.get_weights())
    found = [
        tfprune.distill(s, d, (X, Y), batch_size=40, verbose=0).history.history
        for s, d in ((student, dense), given[::-1])
    ]
    for name in ("student_loss", "distillation_loss"):
        np.testing.assert_allclose(found[0][name], found[1][name], rtol=1e-4)


def test_what_cannot_be_is_refused(models, monkeypatch):
    dense, masked = models
    bare = keras.Model(dense.inputs, dense.outputs)
    with pytest.raises(ValueError, match="compiled with a loss"):
        tfprune.distill(bare, dense, (X, Y))
    other = keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="incompatible"):
        tfprune.distill(masked, other, (X, Y))
    plain = keras.distillation.LogitsDistillation()  # of clipped logits in Keras 3.15
    logits = np.array([[0.0, 1.0, 2.0]])
    if abs(float(plain.compute_loss(logits, logits + 10))) > 1e-3:
        with pytest.raises(ValueError, match="KLDivergence"):
            tfprune.distill(masked, dense, (X, Y), losses=plain)
    inputs = keras.Input((5,))
    double = keras.Model(inputs, [keras.layers.Dense(1)(inputs), keras.layers.Dense(1)(inputs)])
    double.compile("sgd", "mse")
    with pytest.raises(ValueError, match="one output"):
        tfprune.distill(double, dense, (X, Y))
    _distiller_class.cache_clear()
    monkeypatch.delattr(keras, "distillation")
    with pytest.raises(ImportError, match="Keras"):
        tfprune.distill(masked, dense, (X, Y))
