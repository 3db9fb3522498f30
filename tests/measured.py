"""Measures on data on one device, on two replicas or in two processes, and writes what is found.

python -m tests.measured CASE OUT: what `tests/test_distributed_measures.py` starts. The batches are
of different sizes and their number is odd, so replicas have different shares.
"""

import sys

import keras
import numpy as np
import tensorflow as tf

import tfprune
from tests.blocks.models import resnet
from tests.distributed import mirrored
from tfprune.blocks.find import find_blocks
from tfprune.blocks.scores import scores_of
from tfprune.criteria import weights as weight_criteria
from tfprune.measuring.data_pass import DataPass
from tfprune.optimizers import gradient_noise
from tfprune.units.prunable import PrunableUnits
from tfprune.units.scores import UnitScores
from tfprune.weights.prunable import select_weights
from tfprune.weights.scores import WeightScores

EXAMPLES, BATCH = 70, 16
X = np.random.default_rng(0).normal(1.0, 2.0, size=(EXAMPLES, 4, 4, 2)).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, EXAMPLES)

UNITS = ("taylor", "taylor_activation", "activation_variance", "layerwise_obs")
LAYERS = {"only": ["inside", "hidden"]}


def batches(labels=True, scale=1.0):
    """A dataset of batches that does not say how many there are."""
    data = tf.data.Dataset.from_tensor_slices((scale * X, Y) if labels else X).batch(BATCH)
    return data.filter(lambda *_: True)


def make_model():
    """A small network with a norm and a residual connection."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 2))
    x = keras.layers.Conv2D(6, 3, padding="same", name="stem")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.ReLU(name="relu")(x)
    y = keras.layers.Conv2D(6, 3, padding="same", activation="relu", name="inside")(x)
    x = keras.layers.Add(name="add")([x, y])
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = keras.layers.Dense(8, activation="relu", name="hidden")(x)
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax", name="classes")(x))
    loss = "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.SGD(0.05), loss, metrics=["accuracy"])
    return model


def without_norm():
    """A small network that trains on replicas as on one device."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            keras.layers.Flatten(),
            keras.layers.Dense(8, activation="relu", name="hidden"),
            keras.layers.Dense(3, name="logits"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.05), "mse")
    return model


def weights_of(model, name="weight"):
    """The weights, on each replica of this process."""
    return {
        f"{name} {place} {replica}": np.array(value)
        for place, variable in enumerate(model.weights)
        for replica, value in enumerate(STRATEGY.experimental_local_results(variable.value))
    }


def masks_of(model, name="mask"):
    """The masks, on each replica of this process."""
    return {
        f"{name} {layer.name} {weight} {replica}": np.array(value)
        for layer in model.layers
        for weight, mask in getattr(layer, "masks_by_name", {}).items()
        for replica, value in enumerate(STRATEGY.experimental_local_results(mask.trainable.value))
    }


def other_measures(weights, gradient_variance, hessian_gradient):
    """A criterion of one's own."""
    return gradient_variance + hessian_gradient


def of_units(model):
    """Scores of units, and the masks by them."""
    found = {}
    for name in UNITS:
        masked = tfprune.prunable(model)
        found[f"scores {name}"] = UnitScores(name, data=batches()).of(PrunableUnits(masked))
        tfprune.prune_units(masked, 0.4, name, selection="global", data=batches())
        found |= masks_of(masked, f"mask {name}") | weights_of(masked, f"weight {name}")
    return found


def of_weights(model):
    """Scores of weights, and the masks by them; SparseGPT and OBC change weights too."""
    found = {}
    criteria = {"fisher": "second_order", "wanda": "wanda", "own": other_measures}
    for name, criterion in criteria.items():
        masked = tfprune.prunable(model)
        weights = select_weights(masked, **LAYERS)
        scores = WeightScores(weight_criteria.get(criterion), data=batches())
        for place, each in scores.of(masked, weights, range(len(weights))).items():
            found[f"scores {name} {place}"] = each
        tfprune.prune_weights(masked, 0.5, criterion, data=batches(), **LAYERS)
        found |= masks_of(masked, f"mask {name}")
    for name, criterion in (("sparsegpt", "sparsegpt"), ("obc", tfprune.criteria.OBC(rounds=2))):
        masked = tfprune.prunable(model)
        tfprune.prune_weights(masked, 0.5, criterion, data=batches(), **LAYERS)
        found |= masks_of(masked, f"mask {name}") | weights_of(masked, f"weight {name}")
    return found


def of_chance(model):
    """Masks by a seed that nobody gave: of the processes, all have that of the first."""
    masked = tfprune.prunable(model)
    tfprune.prune_weights(masked, 0.5, "random")
    return masks_of(masked, "chance")


def of_recovery(model):
    """Models after recovery."""
    masked = tfprune.prunable(model)
    tfprune.prune_units(masked, 0.4)
    with STRATEGY.scope():
        found = weights_of(tfprune.recalibrate(masked, batches()), "recalibrated")
    found |= weights_of(tfprune.compensate(masked, model, X, batch_size=BATCH), "compensated")
    return found | weights_of(tfprune.reconstruct(masked, model, batches()), "reconstructed")


def of_metrics(model):
    """Metrics, noise and ranges of fake quantization."""
    masked = tfprune.prunable(model)
    tfprune.prune_units(masked, 0.4)
    compared = tfprune.compare(model, masked, batches(), batch_sizes=())
    found = {f"metric {name}": change.after for name, change in compared.metrics.items()}
    sensitivity = tfprune.sensitivity(model, batches(), "accuracy", fractions=[0.5])
    found["sensitivity"] = [each.values for each in sensitivity.sets]
    noise = gradient_noise(model, batches())
    found["noise"] = np.concatenate([np.ravel(each) for each in (*noise.mean, *noise.variance)])
    return found | weights_of(tfprune.quantize_aware(model, batches()), "aware")


def of_blocks(model):
    """Scores of residual blocks, and what is left without the least important."""
    del model
    data = np.repeat(np.repeat(np.concatenate([X, X[..., :1]], -1), 2, 1), 2, 2), Y
    with STRATEGY.scope():
        residual = resnet((3,))
        residual.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    found = {"influences": scores_of(find_blocks(residual), "block_influence", data)}
    return found | weights_of(tfprune.prune_blocks(residual, 1, "loss", data=data), "shallow")


def of_prune(model):
    """A small model, pruned and recovered in one call."""
    small = tfprune.prune(model, tfprune.budgets.MACs(0.6), batches())
    return weights_of(small, "small")


def of_training(model):
    """Models after distillation."""
    del model
    with STRATEGY.scope():
        dense = without_norm()
    masked = tfprune.prunable(dense)
    tfprune.prune_units(masked, 0.5)
    options = {"batch_size": 14, "shuffle": False, "verbose": 0}
    labels = np.random.default_rng(2).normal(size=(EXAMPLES, 3)).astype("float32")
    found = weights_of(tfprune.distill(masked, dense, (X, labels), **options), "distilled")
    epochs = {"epochs": 2, "validation_data": (X, labels)}
    small = tfprune.prune(dense, 0.5, (X, labels), recover="distill", **epochs, **options)
    return found | weights_of(small, "trained")


def shares(model):
    """How many batches each replica of this process measured."""
    data_pass = DataPass(model, needs_loss=False)
    data_pass.run(batches())
    assert (data_pass.batches_read, data_pass.examples_read) == (5, EXAMPLES)
    return {"share": [float(part) for part in data_pass.counters.items[0].parts()]}


def refusals_of_replicas(model):
    """What the errors say of what cannot be shared by replicas."""
    other = tf.distribute.experimental.CentralStorageStrategy(["CPU:0", "CPU:1"])
    with other.scope():
        plain = without_norm()
    losses = keras.distillation.FeatureDistillation("mse")
    return errors_of(
        {
            "strategy": lambda: tfprune.prune_weights(
                tfprune.prunable(plain), 0.5, "wanda", data=(X,)
            ),
            "loss": lambda: tfprune.distill(model, model, (X, Y), losses=losses),
        }
    )


def refusals(model):
    """What the errors say of what cannot be shared by processes, or is not the same in them."""
    own = 1.0 + STRATEGY.cluster_resolver.task_id
    with STRATEGY.scope():
        stateful = keras.Sequential(
            [keras.Input((3, 2), batch_size=2), keras.layers.LSTM(2, stateful=True)]
        )
        stateful.compile("sgd", "mse")
    return errors_of(
        {
            "distill": lambda: tfprune.distill(model, model, (X, Y)),
            "epochs": lambda: tfprune.prune(model, 0.5, (X, Y), epochs=1),
            "latency": lambda: tfprune.prune_units(
                tfprune.prunable(model), tfprune.budgets.Latency(fraction=0.5)
            ),
            "other data": lambda: tfprune.recalibrate(model, batches(scale=own)),
            "other size": lambda: tfprune.recalibrate(model, X[: int(30 * own)]),
            "states": lambda: tfprune.prune_weights(
                tfprune.prunable(stateful),
                0.5,
                "gradient",
                data=(np.ones((4, 3, 2)), Y[:4]),
            ),
            "error": lambda: tfprune.recalibrate(model, X if own == 1.0 else X[:, :3]),
        }
    )


def errors_of(functions):
    """What errors say."""
    found = {}
    for name, function in functions.items():
        try:
            function()
        except (ValueError, RuntimeError) as error:
            found[f"refusal {name}"] = str(error)
    return found


KINDS = (of_units, of_weights, of_recovery, of_metrics, of_blocks, of_prune, shares)
OTHERS = {
    "single": (of_training,),
    "mirrored": (of_training, refusals_of_replicas),
    "workers": (of_chance, refusals),
}


def main(case, out):
    """Writes what all kinds give."""
    global STRATEGY
    if case == "workers":
        STRATEGY = tf.distribute.MultiWorkerMirroredStrategy()
        assert STRATEGY.num_replicas_in_sync == 2
    else:
        STRATEGY = mirrored() if case == "mirrored" else tf.distribute.get_strategy()
    with STRATEGY.scope():
        model = make_model()
    found = {}
    for kind in (*KINDS, *OTHERS[case]):
        found |= kind(model)
    np.savez(out, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
