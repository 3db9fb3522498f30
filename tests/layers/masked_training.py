"""A small model with masks, optimizers to train it with, and what must hold then."""

import keras
import numpy as np

import tfprune
from tfprune import layers, optimizers
from tfprune.masks.setting import masked_layers

STEPS = 4


OPTIMIZERS = {
    "SGD": lambda **o: keras.optimizers.SGD(0.1, **o),
    "momentum": lambda **o: keras.optimizers.SGD(0.1, momentum=0.9, **o),
    "nesterov": lambda **o: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True, **o),
    "RMSprop": lambda **o: keras.optimizers.RMSprop(0.01, **o),
    "centered": lambda **o: keras.optimizers.RMSprop(0.01, momentum=0.9, centered=True, **o),
    "Adam": lambda **o: keras.optimizers.Adam(0.01, **o),
    "amsgrad": lambda **o: keras.optimizers.Adam(0.01, amsgrad=True, **o),
    "AdamW": lambda **o: keras.optimizers.AdamW(0.01, **o),
    "Adadelta": lambda **o: keras.optimizers.Adadelta(1.0, **o),
    "Adagrad": lambda **o: keras.optimizers.Adagrad(0.1, **o),
    "Adamax": lambda **o: keras.optimizers.Adamax(0.01, **o),
    "Adafactor": lambda **o: keras.optimizers.Adafactor(0.1, **o),
    "Nadam": lambda **o: keras.optimizers.Nadam(0.01, **o),
    "Ftrl": lambda **o: keras.optimizers.Ftrl(
        0.1, l1_regularization_strength=0.01, l2_regularization_strength=0.01, beta=0.1, **o
    ),
    "Lion": lambda **o: keras.optimizers.Lion(0.01, **o),
    "Lamb": lambda **o: keras.optimizers.Lamb(0.01, **o),
    "Muon": lambda **o: keras.optimizers.Muon(0.01, **o),
    "ScheduleFreeAdamW": lambda **o: keras.optimizers.ScheduleFreeAdamW(0.01, **o),
    "Preconditioned": lambda **o: optimizers.PreconditionedSGD(
        0.1, dataset_size=600, batch_size=6, epsilon=0.01, **o
    ),
    "FullPreconditioned": lambda **o: optimizers.FullPreconditionedSGD(
        np.diag(np.linspace(0.02, 0.1, 47)) + 0.01, dataset_size=600, batch_size=6, **o
    ),
    "LossScale": lambda **o: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.AdamW(0.01, **o), initial_scale=8.0
    ),
    "Multi": lambda **o: keras.optimizers.MultiOptimizer(two_optimizers(o)),
}


def two_optimizers(options):
    first = keras.optimizers.AdamW(0.01, **options)
    second = keras.optimizers.Muon(0.01, **options)
    return lambda variable: first if "bias" in variable.path else second


OPTIONS = {
    "decay and average": {
        "weight_decay": 0.1,
        "global_clipnorm": 0.5,
        "use_ema": True,
        "ema_momentum": 0.5,
        "ema_overwrite_frequency": 2,
    },
    "accumulate": {"gradient_accumulation_steps": 2, "weight_decay": 0.1, "clipvalue": 0.1},
}


def small_model(module=layers, penalty=True):
    """Dense, BatchNormalization, Dense, with penalties and constraints that pull at them."""
    keras.utils.set_random_seed(2)
    options = {}
    if penalty:
        options = {
            "kernel_regularizer": keras.regularizers.L1L2(0.1, 0.1),
            "bias_regularizer": keras.regularizers.L2(0.1),
            "kernel_constraint": keras.constraints.MaxNorm(0.5),
            "bias_initializer": "ones",
        }
    return keras.Sequential(
        [
            keras.Input((5,)),
            module.Dense(4, activation="tanh", name="first", **options),
            module.BatchNormalization(name="norm", gamma_regularizer="l2" if penalty else None),
            module.Dense(3, name="second", **options),
        ]
    )


def data(batch=6, seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(batch, 5)).astype("float32"),
        rng.normal(size=(batch, 3)).astype("float32"),
    )


def mask_model(model):
    """Prunes a row, a column and single elements, freezes others; gives what must hold."""
    marks = []
    for layer in masked_layers(model):
        for name, weight in layer.masked_weights.items():
            pruned, frozen = np.zeros(weight.shape, bool), np.zeros(weight.shape, bool)
            pruned[1], frozen[0] = True, True
            if pruned.ndim == 2:
                pruned[:, -1], frozen[0, -1] = True, False
                pruned[2, 0], frozen[2, 1] = True, True
            tfprune.set_masks(model, layer, name, trainable=~pruned, frozen=frozen)
            marks.append((weight, pruned, frozen, np.asarray(weight).copy()))
    return marks


def assert_held(marks):
    for weight, pruned, frozen, before in marks:
        value = np.asarray(weight)
        assert np.isfinite(value).all(), weight.path
        assert not value[pruned].any(), weight.path
        assert value[frozen].tobytes() == before[frozen].tobytes(), weight.path


def assert_moved(marks):
    for weight, pruned, frozen, before in marks:
        live = ~(pruned | frozen)
        assert (np.asarray(weight)[live] != before[live]).any(), weight.path


def assert_holds_while_training(model, marks):
    x, y = data()
    for _ in range(STEPS):
        model.train_on_batch(x, y)
        assert_held(marks)
    assert_moved(marks)
