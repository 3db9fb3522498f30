"""Training towards the outputs of a dense model, where there are no labels."""

import math

import keras
import tensorflow as tf

from tfprune import _keras
from tfprune.criteria.saturating_layers import saturating_layers
from tfprune.measuring.data import fit_arguments, running, sample_weights_given
from tfprune.measuring.data_pass import Untracked, count_batches
from tfprune.recovery.students import StopsWithStudent

_RATE = 1e-3


def output_distance(dense, outputs, others):
    """The distance between the outputs of a dense model and of another one, to be made small.

    The mean over outputs, as tensors, of: where a softmax or a sigmoid ends the model, the
    Kullback-Leibler divergence of the probabilities, in nats; else the squared difference divided
    by the variance of the dense model's output over the batch.

    Args:
        dense: The dense model.
        outputs: What it gives for a batch, in any structure.
        others: What the other gives, in the same structure.

    Returns:
        A scalar tensor.

    Raises:
        ValueError: If the outputs differ in number or shape.
    """
    shapes = [[tuple(t.shape[1:]) for t in keras.tree.flatten(each)] for each in (outputs, others)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "The outputs of the model and of the dense one have incompatible shapes. Received: "
            f"{shapes[1]} and {shapes[0]}."
        )
    activations = {index: layer.activation.__name__ for index, layer in saturating_layers(dense)}
    pairs = zip(keras.tree.flatten(outputs), keras.tree.flatten(others), strict=True)
    found = [_distance(activations.get(index), *pair) for index, pair in enumerate(pairs)]
    return tf.add_n(found) / len(found)


def _distance(activation, dense, other):
    dense, other = (tf.cast(each, "float32") for each in (dense, other))
    if activation is None:
        spread = tf.math.reduce_variance(dense)
        return tf.reduce_mean(tf.square(other - dense)) / tf.maximum(spread, 1e-12)
    classes = [(dense, other)]
    if activation == "sigmoid":
        classes.append((1.0 - dense, 1.0 - other))
    smallest = keras.backend.epsilon()
    divergence = tf.add_n(
        [
            p * (tf.math.log(tf.maximum(p, smallest)) - tf.math.log(tf.maximum(q, smallest)))
            for p, q in classes
        ]
    )
    if activation == "softmax":
        divergence = tf.reduce_sum(divergence, axis=-1)
    return tf.reduce_mean(divergence)


class _Trainer(StopsWithStudent, keras.Model):
    """Trains a model towards the outputs of a dense one."""

    def __init__(self, student, dense):
        super().__init__(name=student.name)
        self.student = student
        self._dense = Untracked([dense])  # it has nothing that is trained

    def call(self, inputs, training=False):
        """The outputs of the model that is trained."""
        return self.student(inputs, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The distance of the outputs, and the penalties of regularizers."""
        (dense,) = self._dense.items
        loss = output_distance(dense, dense(x, training=False), y_pred)
        loss = tf.add_n([loss, *(tf.cast(each, "float32") for each in self.losses)])
        # Optimizers add up the gradients of replicas.
        return loss / tf.distribute.get_strategy().num_replicas_in_sync


def check_unlabelled(data, arguments):
    """Refuses what weighs labels where there are none.

    Args:
        data: Arrays or a dataset, without labels.
        arguments: A dict of arguments of `fit`.

    Raises:
        ValueError: If there are weights of classes or examples.
    """
    given = [n for n in ("class_weight", "sample_weight") if arguments.get(n) is not None]
    if sample_weights_given(data):
        given.append("sample weights in `data`")
    if given:
        raise ValueError(
            "Classes and examples are weighted in a loss of labels; without them a model is "
            "trained towards the outputs of the dense one, each example counting the same. "
            f"Received: {', '.join(given)}, data without labels. Leave the weights out, or pass "
            "labels."
        )


def train_towards(student, dense, data, *, epochs, batch_size=None, **arguments):
    """Trains a model, in place, towards the outputs of a dense one; labels are not read.

    Args:
        student: The model. With an optimizer, if it is compiled, that one is used; else Adam, at a
            rate that falls from 0.001 to 0 along half a cosine.
        dense: The dense model.
        data: `(x,)` or a dataset.
        epochs: Integer.
        batch_size: For arrays.
        **arguments: Of `keras.Model.fit`.

    Returns:
        What `fit` returns; its "loss" is `output_distance`.
    """
    options, optimizer = {}, None
    if student.compiled:
        optimizer, compiled = student.optimizer, _keras.compile_arguments(student)
        kept = ("run_eagerly", "steps_per_execution", "jit_compile", "auto_scale_loss")
        options = {name: compiled[name] for name in kept if name in compiled}
    with student.distribute_strategy.scope():
        trainer = _Trainer(student, dense)
        trainer.compile(optimizer or _adam(epochs * count_batches(data, batch_size)), **options)
    fitted = fit_arguments(data)
    if isinstance(data, (tuple, list)):
        fitted, arguments["batch_size"] = {"x": data[0]}, batch_size
    with running(dense), running(student):
        return trainer.fit(**fitted, epochs=epochs, **arguments)


def _adam(steps):
    if math.isinf(steps):
        return keras.optimizers.Adam(_RATE)
    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(_RATE, max(int(steps), 1)))
