"""Mistakes that users make often are answered in one sentence that names them and what helps."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tfprune import callbacks, schedules
from tfprune.coupling import costs

ROOT = pathlib.Path(tfprune.__file__).parents[1]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 6)).astype("float32")
Y = (X.sum(axis=1) > 0).astype("int64")
L = keras.layers


def network(masked=True, units=8):
    kind = tfprune.layers.Dense if masked else L.Dense
    inputs = keras.Input((6,))
    hidden = kind(units, activation="relu", name="hidden")(inputs)
    normed = L.BatchNormalization(name="norm")(hidden)
    model = keras.Model(inputs, kind(2, name="logits")(normed), name="net")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    return model


def one_sentence(error):
    text = str(error.value)
    return "\n" not in text and len(text) < 500 and "Traceback" not in text


# Models ------------------------------------------------------------------------------------------

FUNCTIONS = {
    "capture": tfprune.capture,
    "compare": lambda m: tfprune.compare(m, network()),
    "compare after": lambda m: tfprune.compare(network(), m),
    "compare_exports": lambda m: tfprune.compare_exports(m, []),
    "compensate": lambda m: tfprune.compensate(m, network(), (X,)),
    "compensate dense": lambda m: tfprune.compensate(network(), m, (X,)),
    "coupling": tfprune.coupling.couple,
    "costs": costs.costs,
    "distill": lambda m: tfprune.distill(m, network(), (X, Y)),
    "distill dense": lambda m: tfprune.distill(network(), m, (X, Y)),
    "explain": tfprune.explain,
    "export": lambda m: tfprune.export(m, "nowhere"),
    "fit_and_shrink": lambda m: tfprune.fit_and_shrink(m, X, Y, stages=0.5),
    "freeze": lambda m: tfprune.freeze(m, "hidden"),
    "freeze_weights": lambda m: tfprune.freeze_weights(m, 0.5),
    "inspect": tfprune.inspect,
    "pareto": lambda m: tfprune.pareto(m, (X, Y)),
    "prunable": tfprune.prunable,
    "prune": lambda m: tfprune.prune(m, 0.5),
    "prune_units": lambda m: tfprune.prune_units(m, 0.5),
    "prune_weights": lambda m: tfprune.prune_weights(m, 0.5),
    "recalibrate": lambda m: tfprune.recalibrate(m, (X,)),
    "reconstruct": lambda m: tfprune.reconstruct(m, network(), (X,)),
    "reconstruct dense": lambda m: tfprune.reconstruct(network(), m, (X,)),
    "rewind": lambda m: tfprune.rewind(m, None),
    "sensitivity": lambda m: tfprune.sensitivity(m, (X, Y)),
    "set_masks": lambda m: tfprune.set_masks(m, "hidden", "kernel", trainable=[0]),
    "strip": tfprune.strip,
    "summary": tfprune.summary,
    "surgery": tfprune.surgery.edit,
    "unfreeze": lambda m: tfprune.unfreeze(m, "hidden"),
}
NO_MODELS = {
    "None": (None, "NoneType"),
    "path": ("model.keras", "load_model"),
    "a path": (pathlib.Path("model.keras"), "load_model"),
    "layer": (L.Dense(2), "keras.Sequential"),
    "class": (keras.Model, "the class Model"),
    "tuple": ((network(), 1), "return_report"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_no_model_is_named(name):
    for kind, (value, word) in NO_MODELS.items():
        if (name, kind) == ("set_masks", "layer"):  # it takes a layer by itself
            continue
        with pytest.raises(ValueError, match=f"must be a Keras model.*{word}") as error:
            FUNCTIONS[name](value)
        assert one_sentence(error)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_model_of_tf_keras_is_sent_to_from_tfmot(name):
    tf_keras = pytest.importorskip("tf_keras", reason="the extra tfmot is not installed")
    model = tf_keras.Sequential([tf_keras.layers.Dense(2, input_shape=(6,))])
    with pytest.raises(ValueError, match="tf_keras.*tfprune.interop.tfmot.from_tfmot") as error:
        FUNCTIONS[name](model)
    assert one_sentence(error)


def test_another_backend_is_said_at_import():
    done = subprocess.run(
        [sys.executable, "-c", "import tfprune"],
        env={**os.environ, "KERAS_BACKEND": "numpy", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: tfprune needs the TensorFlow backend")
    assert "'numpy'" in last and "KERAS_BACKEND=tensorflow" in last


@pytest.mark.parametrize("batch_sizes", [1, (0,), ("1",), (1.5,), None, "32"])
def test_batch_sizes_are_checked(batch_sizes):
    for compare in (
        lambda: tfprune.compare(network(), network(), batch_sizes=batch_sizes),
        lambda: tfprune.compare_exports(network(), [], batch_sizes=batch_sizes),
    ):
        with pytest.raises(ValueError, match="`batch_sizes` must be a tuple of integers"):
            compare()


def test_an_optimizer_is_an_object():
    with pytest.raises(ValueError, match="`optimizer` must be the optimizer object.*'adam'"):
        tfprune.capture(network(), "adam")


# Data --------------------------------------------------------------------------------------------


def as_dataset(data):
    return tf.data.Dataset.from_tensor_slices(data).batch(8)


USES = {
    "units": lambda d: tfprune.prune_units(network(), 0.5, "taylor", data=d),
    "weights": lambda d: tfprune.prune_weights(network(), 0.5, "gradient", data=d),
    "prune": lambda d: tfprune.prune(network(masked=False), 0.5, d, criterion="taylor"),
    "distill": lambda d: tfprune.distill(network(), network(), d, verbose=0),
    "compare": lambda d: tfprune.compare(network(), network(), d, batch_sizes=()),
    "recalibrate": lambda d: tfprune.recalibrate(network(), d),
    "reconstruct": lambda d: tfprune.reconstruct(network(), network(), d),
}
WITH_LABELS = ("units", "weights", "prune", "distill", "compare")


@pytest.mark.parametrize("use", USES)
def test_inputs_of_a_wrong_shape_are_named(use):
    for wrap in (tuple, as_dataset):
        with pytest.raises(ValueError, match=r"inputs of the shapes \[\(None, 6\)\]") as error:
            USES[use](wrap((X[:, :3], Y)))
        assert one_sentence(error) and ", 3)]" in str(error.value)


@pytest.mark.parametrize("use", USES)
def test_complex_data_is_refused(use):
    with pytest.raises(ValueError, match="must hold real numbers.*complex64") as error:
        USES[use]((X.astype("complex64"), Y))
    assert one_sentence(error)


@pytest.mark.parametrize("use", WITH_LABELS)
def test_labels_that_are_no_classes_are_named(use):
    for labels, received in ((Y + 5, "labels from 5 to 6"), (Y - 1, "labels from -1 to 0")):
        with pytest.raises(ValueError, match=f"labels from 0 to 1, .*{received}") as error:
            USES[use]((X, labels))
        assert one_sentence(error)
    with pytest.raises(ValueError, match="labels from 0 to 1, ") as error:
        USES[use](as_dataset((X, Y + 5)))
    assert one_sentence(error)


@pytest.mark.parametrize("use", ["units", "weights", "prune"])
def test_gradients_without_labels_say_so(use):
    for given in ((X,), as_dataset(X)):
        with pytest.raises(ValueError, match=r"`data` must be `\(x, y\)`") as error:
            USES[use](given)
        assert one_sentence(error)


def test_models_keep_their_state_where_data_is_refused():
    model = network()
    before = model.get_weights()
    with pytest.raises(ValueError, match="shapes"):
        tfprune.prune_units(model, 0.5, "taylor", data=(X[:, :3], Y))
    for ours, theirs in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


# Models that are not built, quantized layers, LoRA -----------------------------------------------


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = tfprune.layers.Dense(8, activation="relu", name="hidden")
        self.logits = tfprune.layers.Dense(2, name="logits")

    def call(self, inputs):
        return self.logits(self.hidden(inputs))


def not_built(kind):
    layers = [tfprune.layers.Dense(8, activation="relu", name="hidden")]
    layers.append(tfprune.layers.Dense(2, name="logits"))
    model = keras.Sequential(layers) if kind == "sequential" else Subclassed()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    return model


CALLBACKS = {
    "PruneWeights": lambda: callbacks.PruneWeights(schedules.OneShot(0.5, step=0)),
    "PruneUnits": lambda: callbacks.PruneUnits(0.5),
    "FreezeWeights": lambda: callbacks.FreezeWeights(schedules.OneShot(0.5, step=0), "magnitude"),
    "Rewire": lambda: callbacks.Rewire(schedules.Constant(0.5, end_step=9), grow="gradient"),
    "StraightThrough": lambda: callbacks.StraightThrough(schedules.OneShot(0.5, step=0)),
    "DynamicSurgery": lambda: callbacks.DynamicSurgery(0.5),
    "Capture": lambda: callbacks.Capture([0, 3]),
    "LogMasks": callbacks.LogMasks,
}


@pytest.mark.parametrize("kind", ["sequential", "subclassed"])
@pytest.mark.parametrize("name", CALLBACKS)
def test_masks_are_made_when_fit_builds_the_model(name, kind):
    model, callback = not_built(kind), CALLBACKS[name]()
    assert not model.built
    history = model.fit(X, Y, batch_size=8, epochs=3, verbose=0, callbacks=[callback])
    found = tfprune.summary(model)
    if name in ("PruneWeights", "PruneUnits", "Rewire", "StraightThrough", "DynamicSurgery"):
        assert found.sparsity == pytest.approx(0.45, abs=0.06)
    if name == "FreezeWeights":
        assert found.frozen == pytest.approx(0.45, abs=0.06)
    if name == "Capture":
        assert sorted(callback.snapshots) == [0, 3]
    if name == "LogMasks":
        assert any("hidden/kernel" in key for key in history.history)


def test_quantized_layers_and_layers_with_lora_are_named():
    quantized = network(masked=False)
    quantized.quantize("int8")
    for what in (
        lambda: tfprune.prune_units(quantized, 0.5),
        lambda: tfprune.prune_weights(tfprune.prunable(quantized), 0.5),
    ):
        with pytest.raises(ValueError, match=r"'hidden'.*is quantized \(int8\)"):
            what()
    lora = network(masked=False)
    lora.get_layer("hidden").enable_lora(2)
    with pytest.raises(ValueError, match="'hidden' has LoRA"):
        tfprune.prune_units(lora, 0.5)
    with pytest.raises(ValueError, match="LoRA.*layer='hidden'.*exclude"):
        tfprune.prunable(lora)
    assert tfprune.prunable(lora, exclude=["hidden"]).get_layer("logits").trainable_masks
