"""Trains many small networks of one shape together: each array has a leading axis of replicas.

The network is D inputs - H hidden units (tanh) - K classes (softmax), its weights a list of arrays
kernel (R, D, H), bias (R, H), kernel (R, H, K), bias (R, K) for R replicas. They all see the same
batches, so the hidden layer of all of them is one matrix product.
"""

import functools
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf


@dataclass(frozen=True)
class Update:
    """How a step moves the weights: w <- w - rate * H * g_S * mask.

    "preconditioned" estimates the diagonal C of the covariance of the gradient of one example as
    it goes, from g_S, the mean gradient over the batch, and g_1, that of one example besides:

        C_t = (1 - k / t) C_{t-1} + (k / t) (g_1 - g_S)^2        H = 2 S / (N C_t)

    With g_1 from outside of the batch the expectation of (g_1 - g_S)^2 is C (1 + 1 / S). "sgd"
    takes H = 1 and estimates nothing.

    Args:
        rate: Float, the learning rate.
        batch_size: Integer, S.
        dataset_size: Integer, N.
        kappa: Float, k.
        rule: "preconditioned" or "sgd".
        double_softmax: Whether the loss takes the softmax for logits and applies another one.

    Reference:
        S. Mandt, M. Hoffman, D. Blei, "Stochastic Gradient Descent as Approximate Bayesian
        Inference", https://arxiv.org/abs/1704.04289, corollary 3 and section 6.
    """

    rate: float
    batch_size: int
    dataset_size: int
    kappa: float = 1.0
    rule: str = "preconditioned"
    double_softmax: bool = False

    def __post_init__(self):
        if self.rule not in ("preconditioned", "sgd"):
            raise ValueError(
                f"Argument `rule` must be 'preconditioned' or 'sgd'. Received: rule={self.rule!r}."
            )


@dataclass(frozen=True)
class Networks:
    """Replicas with what their training holds; nothing is changed in place.

    Args:
        weights: List of four arrays, as the module describes them, all float32 or all float64,
            in which everything is then computed.
        covariance: List of arrays of the same shapes, the estimate C.
        masks: List of boolean arrays of the same shapes, False = not trained. Default: all are.
        step: The t of the next step.
    """

    weights: list = field(repr=False)
    covariance: list = field(repr=False)
    masks: list = field(default=None, repr=False)
    step: int = 10

    def __post_init__(self):
        if self.masks is None:
            masks = [np.ones(weight.shape, bool) for weight in self.weights]
            object.__setattr__(self, "masks", masks)

    @property
    def replicas(self):
        """How many there are."""
        return len(self.weights[0])

    def take(self, indices):
        """Some of the replicas, each as often as it is named."""
        arrays = (self.weights, self.covariance, self.masks)
        return Networks(*([a[indices] for a in group] for group in arrays), step=self.step)


def together(networks):
    """Replicas of several `Networks` as one."""
    groups = zip(*((n.weights, n.covariance, n.masks) for n in networks), strict=True)
    arrays = ([np.concatenate(parts) for parts in zip(*group, strict=True)] for group in groups)
    return Networks(*arrays, step=networks[0].step)


def train(networks, x, y, batches, update, on_steps=None):
    """Trains all replicas on the same batches.

    Args:
        networks: `Networks`.
        x: Array of shape (examples, D).
        y: Integer array of shape (examples,), the classes.
        batches: Integer array of shape (steps, S + 1): the examples of each batch, and last the
            one whose gradient is g_1.
        update: `Update`.
        on_steps: Called with the number of steps made, every hundred or so.

    Returns:
        `Networks` after these steps.

    Raises:
        ValueError: If the batches are not of the size that the update says.

    Example:

    >>> x, y = np.eye(3, dtype="float32"), np.arange(3)
    >>> shapes = [(2, 3, 4), (2, 4), (2, 4, 3), (2, 3)]
    >>> weights = [np.full(shape, 0.1, "float32") for shape in shapes]
    >>> networks = Networks(weights, weights)
    >>> batches = np.array([[0, 1, 2]] * 5)
    >>> train(networks, x, y, batches, Update(0.1, batch_size=2, dataset_size=3)).step
    15
    """
    if np.ndim(batches) != 2 or np.shape(batches)[1] != update.batch_size + 1:
        raise ValueError(
            "Argument `batches` must have the shape (steps, batch_size + 1). "
            f"Received: shape={np.shape(batches)}, batch_size={update.batch_size}."
        )
    dtype = networks.weights[0].dtype
    x, y = tf.constant(x, dtype), tf.one_hot(y, networks.weights[3].shape[1], dtype=dtype)
    run = _steps(update)
    weights, covariance, masks = (
        [tf.constant(array, dtype) for array in _replicas_inside(group)]
        for group in (networks.weights, networks.covariance, networks.masks)
    )
    for start in range(0, len(batches), 100):
        piece = tf.constant(batches[start : start + 100], "int32")
        first = tf.constant(networks.step + start, dtype)
        weights, covariance = run(weights, covariance, masks, x, y, piece, first)
        if on_steps is not None:
            on_steps(len(piece))
    return Networks(
        *([np.array(a) for a in _replicas_first(group)] for group in (weights, covariance)),
        networks.masks,
        networks.step + len(batches),
    )


def gradients(networks, x, y, *, double_softmax=False):
    """The gradient of the mean loss over the examples, for each replica: four arrays."""
    weights = [tf.constant(array) for array in _replicas_inside(networks.weights)]
    dtype = weights[0].dtype
    labels = tf.one_hot(y, weights[3].shape[1], dtype=dtype)
    mean, _ = _gradients(weights, tf.constant(x, dtype), labels, len(x), double_softmax)
    return [np.array(array) for array in _replicas_first(mean)]


def accuracy(networks, x, y):
    """The share of examples of which each replica finds the class: an array of shape (R,)."""
    hidden_kernel, hidden_bias, kernel, bias = networks.weights
    hidden = np.tanh(x @ hidden_kernel + hidden_bias[:, None])
    return ((hidden @ kernel + bias[:, None]).argmax(axis=2) == y).mean(axis=1)


def _replicas_inside(arrays):
    """The first kernel as (D, R, H), so that all replicas are the columns of one matrix."""
    return [np.ascontiguousarray(np.moveaxis(arrays[0], 0, 1)), *arrays[1:]]


def _replicas_first(tensors):
    return [np.moveaxis(np.asarray(tensors[0]), 1, 0), *map(np.asarray, tensors[1:])]


def _gradients(weights, x, y, size, double_softmax):
    """Gradients of the mean over the first `size` examples, and of the last example alone."""
    hidden_kernel, hidden_bias, kernel, bias = weights
    features, replicas, units = hidden_kernel.shape
    hidden = tf.reshape(x @ tf.reshape(hidden_kernel, (features, -1)), (-1, replicas, units))
    hidden = tf.tanh(hidden + hidden_bias)
    by_replica = tf.transpose(hidden, (1, 0, 2))
    outputs = tf.nn.softmax(by_replica @ kernel + bias[:, None])
    to_logits = outputs - y
    if double_softmax:
        to_outputs = tf.nn.softmax(outputs) - y
        along = tf.reduce_sum(outputs * to_outputs, axis=-1, keepdims=True)
        to_logits = outputs * (to_outputs - along)
    back = tf.transpose(tf.matmul(to_logits, kernel, transpose_b=True), (1, 0, 2))
    back *= 1 - tf.square(hidden)
    flat = tf.reshape(back[:size], (size, -1))
    mean = [
        tf.reshape(tf.matmul(x[:size], flat, transpose_a=True), hidden_kernel.shape) / size,
        tf.reduce_mean(back[:size], axis=0),
        tf.matmul(by_replica[:, :size], to_logits[:, :size], transpose_a=True) / size,
        tf.reduce_mean(to_logits[:, :size], axis=1),
    ]
    of_last = [
        x[-1][:, None, None] * back[-1],
        back[-1],
        by_replica[:, -1, :, None] * to_logits[:, -1, None, :],
        to_logits[:, -1],
    ]
    return mean, of_last


@functools.lru_cache
def _steps(update):
    """A function that makes steps, traced once for each number of replicas."""
    size, scale = update.batch_size, 2 * update.batch_size / update.dataset_size

    @tf.function
    def run(weights, covariance, masks, x, y, batches, first):
        def step(index, weights, covariance):
            batch = batches[index]
            labels = tf.gather(y, batch)
            mean, one = _gradients(
                weights, tf.gather(x, batch), labels, size, update.double_softmax
            )
            moves = [update.rate * g * mask for g, mask in zip(mean, masks, strict=True)]
            if update.rule == "preconditioned":
                kappa = update.kappa / (first + tf.cast(index, first.dtype))
                covariance = [
                    (1 - kappa) * c + kappa * tf.square(g_1 - g_s)
                    for c, g_1, g_s in zip(covariance, one, mean, strict=True)
                ]
                moves = [scale * m / c for m, c in zip(moves, covariance, strict=True)]
            weights = [w - move for w, move in zip(weights, moves, strict=True)]
            return index + 1, weights, covariance

        steps = tf.shape(batches)[0]
        _, weights, covariance = tf.while_loop(
            lambda index, *_: index < steps, step, [0, weights, covariance]
        )
        return weights, covariance

    return run
