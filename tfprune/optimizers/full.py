"""SGD with a full preconditioner matrix, for small models."""

import math

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfprune import _keras
from tfprune.optimizers.noise import GradientNoise, check_covariance
from tfprune.optimizers.preconditioned import check_precision, check_sizes

MAX_PARAMETERS = 512
"""The largest size of the Cholesky decomposition in each step."""


@keras.saving.register_keras_serializable("tfprune")
class FullPreconditionedSGD(_keras.JointUpdate, keras.optimizers.Optimizer):
    """SGD with the full preconditioner H = (2 S / N) C^-1, which samples from the posterior.

    C is the covariance of the gradient of a single example. The update is

        w <- w - learning_rate H g_S,    then with learning_rate = 1    Sigma = A^-1 / N

    The covariance Sigma of the iterates is exact for small steps, S much smaller than N, near an
    optimum and with independent batches (`independent_batches`). C stays fixed: train with another
    optimizer first, then measure it near the optimum with `gradient_noise(model, data, full=True)`.

    In each step, only the rows and columns of C of elements without a mask are inverted. Elements
    without measured noise, such as those that were pruned then, do not move: measure again when
    they are regrown. A model of other sizes needs another matrix: compile with another optimizer
    before `strip`.

    Args:
        noise: A `GradientNoise` with its covariance, or C as an array (P, P) over all elements of
            the trainable weights in their order, each flattened. P is at most 512.
        dataset_size: Integer N.
        batch_size: Integer S below N, the examples of a batch of `fit`, over all replicas.
        learning_rate: Float, schedule or callable. Default: 1.0.
        damping: Float >= 0, added to the diagonal of C.
        **kwargs: Arguments of every Keras optimizer. Clipping applies to g, before H.

    Raises:
        ValueError: If C is not symmetric, too large, or cannot be inverted; in the first step, if
            it does not have the size of the model.

    Example:

    >>> from tfprune.optimizers import gradient_noise
    >>> x = np.random.normal(size=(64, 2))
    >>> y = x.sum(1, keepdims=True) + np.random.normal(size=(64, 1))
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> noise = gradient_noise(model, (x, y), full=True)
    >>> model.compile(FullPreconditionedSGD(noise, dataset_size=64, batch_size=8), "mse")
    >>> history = model.fit(x, y, batch_size=8, verbose=0)

    Reference:
        Mandt, Hoffman & Blei, https://arxiv.org/abs/1704.04289, theorem 2.
    """

    def __init__(
        self, noise, *, dataset_size, batch_size, learning_rate=1.0, damping=0.0, **kwargs
    ):
        check_sizes(dataset_size, batch_size, kwargs.get("gradient_accumulation_steps"))
        if isinstance(noise, GradientNoise):
            if noise.covariance is None:
                raise ValueError(
                    "The full covariance is needed. Received: "
                    f"noise={noise!r}. Measure it with `gradient_noise(..., full=True)`."
                )
            noise = noise.covariance
        matrix = np.array(noise, "float64")
        if max(matrix.shape, default=0) > MAX_PARAMETERS:
            raise ValueError(
                f"Argument `noise` may have at most {MAX_PARAMETERS} rows, since a system of that "
                f"size is solved in each step. Received: shape={matrix.shape}. Use "
                "`PreconditionedSGD`, or freeze weights with `layer.trainable = False`."
            )
        has_noise = check_covariance(matrix, damping)
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.noise = matrix
        self.dataset_size = int(dataset_size)
        self.batch_size = int(batch_size)
        self.damping = float(damping)
        self._has_noise = has_noise

    def build(self, variables):
        """Checks that the covariance is of these variables."""
        if self.built:
            return
        size = sum(math.prod(variable.shape) for variable in variables)
        if size != len(self.noise):
            raise ValueError(
                "The covariance must be of the trainable weights of the model. "
                f"Received: shape={self.noise.shape} for {size} elements in {len(variables)} "
                "weights. Measure it on this model, with the same layers trainable; to strip or "
                "resize a model, compile it with another optimizer first."
            )
        for variable in variables:
            check_precision(variable)
        super().build(variables)
        self._built_with = tuple(variables)

    def joined(self, gradients, variables):
        """H g, in the shapes of the variables."""
        places = [_keras.variable_index(self, variable) for variable in variables]
        given = dict(zip(places, gradients, strict=True))
        flat, live = [], []
        for place, variable in enumerate(self._built_with):
            shape = variable.shape
            gradient = tf.convert_to_tensor(given.get(place, tf.zeros(shape)))
            flat.append(tf.cast(tf.reshape(gradient, [-1]), "float64"))
            has_gradient = _keras.live_elements(variable) if place in given else tf.zeros(shape)
            live.append(tf.reshape(tf.cast(has_gradient, "bool"), [-1]))
        step = self._solved(tf.concat(flat, 0), tf.concat(live, 0) & self._has_noise)
        parts = tf.split(step, [math.prod(v.shape) for v in self._built_with])
        return [
            tf.cast(tf.reshape(parts[place], variable.shape), variable.dtype)
            for place, variable in zip(places, variables, strict=True)
        ]

    def _solved(self, gradient, live):
        """H g over the elements that are live, 0 elsewhere."""
        matrix = tf.where(live[:, None] & live, tf.constant(self.noise), tf.zeros((), "float64"))
        diagonal = tf.where(live, tf.constant(self.damping, "float64"), tf.ones((), "float64"))
        factor = tf.linalg.cholesky(matrix + tf.linalg.diag(diagonal))
        gradient = tf.where(live, gradient, tf.zeros((), "float64"))
        solved = tf.linalg.cholesky_solve(factor, gradient[:, None])[:, 0]
        examples = self.batch_size * (self.gradient_accumulation_steps or 1)
        return solved * (2 * examples / self.dataset_size)

    def update_step(self, gradient, variable, learning_rate):
        """Applies the update of `joined`."""
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * gradient)

    def get_config(self):
        """The arguments of the constructor."""
        config = super().get_config()
        names = ("noise", "dataset_size", "batch_size", "damping")
        return {**config, **{name: getattr(self, name) for name in names}}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Makes an optimizer from its `get_config()`, also after saving to a file."""
        noise = config["noise"]
        if isinstance(noise, dict):
            noise = keras.saving.deserialize_keras_object(noise)
        return super().from_config({**config, "noise": noise}, custom_objects)
