"""The covariance of single-example gradients, and the optimal step sizes that follow from it."""

import math
import numbers
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from tfprune import _keras
from tfprune.masks.setting import masked_layers
from tfprune.measuring.accumulators import accumulators
from tfprune.measuring.data_pass import DataPass, Untracked
from tfprune.measuring.replicas import read_variables
from tfprune.optimizers.preconditioned import check_integer

MAX_MATRIX = 4096
"""The most parameters for which the full covariance is measured: 128 MB."""


@dataclass(frozen=True, eq=False)
class GradientNoise:
    """The result of `gradient_noise`.

    Attributes:
        examples: N, the number of examples.
        parameters: D, the number of trainable elements, neither pruned nor frozen.
        mean: The gradient of the mean loss: a list of arrays, one for each trainable weight.
        variance: The diagonal of C in the same form; 0 in masked elements.
        covariance: C, array (P, P) over all P elements of the trainable weights in their order,
            each flattened; None without `full=True`.
    """

    examples: int
    parameters: int
    mean: list
    variance: list
    covariance: np.ndarray | None

    @property
    def trace(self):
        """Tr C."""
        return float(sum(np.sum(v) for v in self.variance))

    def __repr__(self):
        return (
            f"GradientNoise(examples={self.examples}, parameters={self.parameters}, "
            f"trace={self.trace:.6g}, full={self.covariance is not None})"
        )


def gradient_noise(model, data, *, full=False, batch_size=None, verbose=0):
    """Measures the covariance C of the gradient of a single example, at the current weights.

        C = 1/N sum_i (g_i - g)(g_i - g)^T,    g = 1/N sum_i g_i

    Each example is a separate pass in inference mode (no dropout, moving statistics).

    Args:
        model: A model compiled with its loss. Pruned and frozen elements have no gradient.
        data: `(x, y)` or `(x, y, sample_weight)`, or a dataset of such batches, as Keras takes it.
        full: Whether to measure the whole matrix, not only its diagonal.
        batch_size: Integer, for arrays: how many examples are loaded at once.
        verbose: 0 is quiet, 1 shows Keras's progress bar.

    Returns:
        A `GradientNoise`.

    Raises:
        ValueError: If the model has no loss or nothing to train, the data is empty, or `full=True`
            with more than 4,096 elements.

    Example:

    >>> x, y = np.array([[1.0], [1.0]]), np.array([[1.0], [3.0]])
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    >>> model.compile("sgd", "mse")
    >>> model.set_weights([np.array([[2.0]])])  # gradients 2 and -2
    >>> gradient_noise(model, (x, y))
    GradientNoise(examples=2, parameters=1, trace=4, full=False)
    """
    variables = list(model.trainable_variables)
    size = sum(math.prod(v.shape) for v in variables)
    if not variables:
        raise ValueError(f"The model has nothing to train. Received: model={model.name!r}.")
    if not model.compiled or _keras.compile_arguments(model).get("loss") is None:
        raise ValueError(
            "The noise is that of the gradient of the loss, and the model has none. Compile it "
            f"with its loss first. Received: model={model.name!r}."
        )
    if full and size > MAX_MATRIX:
        raise ValueError(
            f"The full covariance can be had of at most {MAX_MATRIX:,} elements. "
            f"Received: model={model.name!r} with {size:,}. Leave it at the diagonal."
        )
    live = {
        id(mask.weight): np.asarray(mask.live)
        for layer in masked_layers(model)
        for mask in layer.masks_by_name.values()
    }
    live = [live.get(id(v), np.ones(v.shape, bool)) for v in variables]
    data_pass = _Noise(model, variables, live, full)
    data_pass.run(data, verbose, batch_size)
    return data_pass.found()


class _Noise(DataPass):
    """Sums gradients of single examples and their products, in double precision."""

    def __init__(self, model, variables, live, full):
        super().__init__(model, variables)
        self._live = live
        self._full = full
        size = sum(mask.size for mask in live)
        shapes = [(size,), (size, size) if full else (size,)]
        self._totals = Untracked(accumulators(shapes, "float64"))

    def add_batch(self, x, y, sample_weight, size):
        def add(place, total, products):
            example = [_one(part, place) for part in (x, y, sample_weight)]
            gradient = self._gradient(*example)
            product = gradient[:, None] * gradient if self._full else tf.square(gradient)
            return place + 1, total + gradient, products + product

        zeros = [tf.zeros(total.shape, "float64") for total in self._totals.items]
        _, *added = tf.while_loop(
            lambda place, *_: place < tf.cast(size, "int32"), add, (tf.constant(0), *zeros)
        )
        for total, addend in zip(self._totals.items, added, strict=True):
            total.assign_add(addend)

    def _gradient(self, x, y, sample_weight):
        weights = [read_variables(variable) for variable in self.variables_read.items]
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=False), sample_weight)
        found = tape.gradient(loss, weights, unconnected_gradients="zero")
        found = [tf.add_n([tf.convert_to_tensor(part) for part in each]) for each in found]
        flat = [tf.reshape(gradient, [-1]) for gradient in found]
        return tf.concat([tf.cast(gradient, "float64") for gradient in flat], axis=0)

    def found(self):
        """The sums as a `GradientNoise`."""
        examples = self.examples_read
        totals = self.replicas.totals(self._totals.items)
        mean, covariance = (total / float(examples) for total in totals)
        covariance = covariance - (np.outer(mean, mean) if self._full else mean**2)
        variance = np.diag(covariance) if self._full else covariance
        shapes = [mask.shape for mask in self._live]
        return GradientNoise(
            examples=examples,
            parameters=sum(int(mask.sum()) for mask in self._live),
            mean=_split(mean, shapes),
            variance=_split(np.maximum(variance, 0), shapes),
            covariance=covariance if self._full else None,
        )


def _one(part, place):
    """An example of a batch, as a batch of one."""
    if part is None:
        return None
    return keras.tree.map_structure(lambda tensor: tensor[place : place + 1], part)


def _split(flat, shapes):
    ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    return [part.reshape(shape) for part, shape in zip(np.split(flat, ends), shapes, strict=True)]


def optimal_learning_rate(noise, *, batch_size, dataset_size=None, momentum=0.0):
    """The constant learning rate for which the iterates of plain SGD are nearest the posterior.

        learning rate = 2 (1 - momentum) S D / (N Tr C)

    It minimises KL(q || N(w*, A^-1 / N)) over learning rates, q being the stationary law of SGD
    with batches of S independent examples: Sigma A + A Sigma = (learning rate / S) C. With Keras's
    momentum, v <- momentum v - learning_rate g, w <- w + v, the learning rate divided by
    (1 - momentum) takes its place (exactly where A and C commute).

    Args:
        noise: A `GradientNoise` near the optimum; or C as an array (D, D), or its diagonal as an
            array (D,) or a list of arrays, of the elements that train.
        batch_size: Integer S.
        dataset_size: Integer N; by default the examples that a `GradientNoise` was measured on.
        momentum: Float in [0, 1), as in `keras.optimizers.SGD`.

    Returns:
        A float.

    Raises:
        ValueError: If the noise is 0, or an argument is out of range.

    Example:

    >>> optimal_learning_rate(np.eye(3), batch_size=10, dataset_size=1000)
    0.02

    Reference:
        Mandt, Hoffman & Blei, https://arxiv.org/abs/1704.04289, theorem 1 and section 4.3.
    """
    dataset_size = _checked_sizes(noise, batch_size, dataset_size)
    if not isinstance(momentum, numbers.Real) or not 0 <= momentum < 1:
        raise ValueError(f"Argument `momentum` must be in [0, 1). Received: momentum={momentum}.")
    if isinstance(noise, GradientNoise):
        parameters, trace = noise.parameters, noise.trace
    else:
        matrix = _as_array(noise)
        parameters = matrix.shape[0]
        trace = float(np.trace(matrix) if matrix.ndim == 2 else matrix.sum())
    if not 0 < trace < math.inf:
        raise ValueError(
            "The trace of C must be positive and finite: without noise there is no best learning "
            f"rate. Received: trace={trace}."
        )
    return 2 * (1 - momentum) * batch_size * parameters / (dataset_size * trace)


def optimal_preconditioner(noise, *, batch_size, dataset_size=None, damping=0.0):
    """The preconditioner for which the iterates of SGD sample from the posterior.

        H = (2 S / N) C^-1,    then Sigma = A^-1 / N     (theorem 2)
        H_kk = 2 S / (N C_kk),    where only a diagonal C is given     (corollary 3)

    Args:
        noise: A `GradientNoise` near the optimum; or C as an array (D, D), or its diagonal as an
            array (D,) or a list of arrays.
        batch_size: Integer S.
        dataset_size: Integer N; by default the examples that a `GradientNoise` was measured on.
        damping: Float >= 0, added to the diagonal of C.

    Returns:
        An array (D, D) or (D,), 0 for elements without any noise, such as pruned ones.

    Raises:
        ValueError: If C cannot be inverted, or an argument is out of range.

    Example:

    >>> optimal_preconditioner(np.diag([2.0, 4.0]), batch_size=10, dataset_size=100)
    array([[0.1 , 0.  ],
           [0.  , 0.05]])

    Reference:
        Mandt, Hoffman & Blei, https://arxiv.org/abs/1704.04289, theorem 2 and corollary 3.
    """
    dataset_size = _checked_sizes(noise, batch_size, dataset_size)
    matrix = _as_array(noise)
    factor = 2 * batch_size / dataset_size
    if matrix.ndim == 1:
        has_noise = matrix > 0
        return np.where(has_noise, factor / np.where(has_noise, matrix + damping, 1), 0)
    has_noise = check_covariance(matrix, damping)
    found = np.zeros_like(matrix)
    kept = np.ix_(has_noise, has_noise)
    found[kept] = factor * np.linalg.inv(matrix[kept] + damping * np.eye(has_noise.sum()))
    return (found + found.T) / 2


def check_covariance(matrix, damping):
    """Which elements have noise; refuses a matrix that is not symmetric or not invertible."""
    if not isinstance(damping, numbers.Real) or not 0 <= damping < math.inf:
        raise ValueError(
            f"Argument `damping` must be a number of at least 0. Received: damping={damping}."
        )
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.allclose(matrix, matrix.T):
        raise ValueError(
            f"The covariance must be a symmetric matrix. Received: an array of {matrix.shape}."
        )
    has_noise = np.diag(matrix) > 0
    kept = matrix[np.ix_(has_noise, has_noise)] + damping * np.eye(has_noise.sum())
    scale = np.sqrt(np.diag(kept))
    smallest = np.linalg.eigvalsh(kept / np.outer(scale, scale)).min(initial=1)
    if smallest < 1e-10:
        raise ValueError(
            "The covariance cannot be inverted: some direction has no noise, as with fewer "
            f"examples than parameters. Received: {matrix.shape[0]} parameters, smallest "
            f"eigenvalue {smallest:.3g} of the correlations, damping={damping}. Pass a `damping`, "
            "such as the precision of a prior divided by N."
        )
    return has_noise


def averaging_covariance(hessian, noise, *, batch_size, steps):
    """The covariance of the mean of the iterates over `steps` steps of constant SGD.

        A^-1 C A^-1 / (T S)

    It depends on neither learning rate nor preconditioner, for T much longer than the memory of
    the iterates, 1 / (learning rate * smallest eigenvalue of A). After one pass over the data,
    T = N / S, it is A^-1 C A^-1 / N: that of the maximum likelihood estimate itself.

    Args:
        hessian: A, array (D, D), the Hessian of the mean loss at the optimum.
        noise: C, as in `optimal_preconditioner`.
        batch_size: Integer S.
        steps: Integer T.

    Returns:
        An array (D, D).

    Raises:
        ValueError: If the shapes do not fit, or an argument is out of range.

    Example:

    >>> averaging_covariance(np.eye(2), np.eye(2), batch_size=10, steps=100)
    array([[0.001, 0.   ],
           [0.   , 0.001]])

    Reference:
        Mandt, Hoffman & Blei, https://arxiv.org/abs/1704.04289, section 5.
    """
    check_integer("batch_size", batch_size)
    check_integer("steps", steps)
    hessian, matrix = np.asarray(hessian, float), _as_array(noise)
    matrix = np.diag(matrix) if matrix.ndim == 1 else matrix
    if hessian.shape != matrix.shape:
        raise ValueError(
            "Argument `hessian` must be of the shape of the noise's covariance, "
            f"{matrix.shape}. Received: shape={hessian.shape}."
        )
    return np.linalg.solve(hessian, np.linalg.solve(hessian, matrix).T) / (steps * batch_size)


def _as_array(noise):
    """C, or its diagonal."""
    if isinstance(noise, GradientNoise):
        noise = noise.variance if noise.covariance is None else noise.covariance
    if isinstance(noise, (list, tuple)):
        return np.concatenate([np.ravel(np.asarray(part, float)) for part in noise])
    matrix = np.asarray(noise, float)
    if matrix.ndim not in (1, 2) or (matrix.ndim == 2 and matrix.shape[0] != matrix.shape[1]):
        raise ValueError(
            "Argument `noise` must be a `GradientNoise`, an array (D, D), or an array (D,). "
            f"Received: an array of shape {matrix.shape}."
        )
    return matrix


def _checked_sizes(noise, batch_size, dataset_size):
    if dataset_size is None and isinstance(noise, GradientNoise):
        dataset_size = noise.examples
    if dataset_size is None:
        raise ValueError("Argument `dataset_size` must be given with noise that is an array.")
    check_integer("batch_size", batch_size)
    check_integer("dataset_size", dataset_size)
    return dataset_size
