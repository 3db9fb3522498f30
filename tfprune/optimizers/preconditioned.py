"""SGD with the diagonal preconditioner under which it samples from the posterior.

Slots are 0 where masks hold an element or bring it back. So C_0, at which the noise estimate of an
element starts, is not stored in its slot: it is added when the slot is read.
"""

import math
import numbers

import keras
import tensorflow as tf
from keras import ops

from tfprune import _keras


@keras.saving.register_keras_serializable("tfprune")
class PreconditionedSGD(keras.optimizers.Optimizer):
    """SGD with a diagonal preconditioner, estimated from the noise of the gradients.

    Use it to sample from the posterior of the weights, or to train with a step size for each
    element.

    The loss is a mean over N examples, g_S its gradient on a batch of S of them, and C the
    covariance of the gradient of a single example, of which the diagonal is estimated:

        H_kk = 2 S / (N C_kk)        w <- w - learning_rate * H g_S

    With `learning_rate=1` and independent batches, the iterates of SGD near an optimum are then
    samples from the posterior N(w*, A^-1 / N), as well as a diagonal H can do it (A: Hessian of
    the loss; exactly where C is diagonal and S is much smaller than N). Collect them with
    `tfprune.callbacks.CollectPosterior`. `fit` shuffles without replacement, which leaves only
    about 0.45 of that variance (0.25 at the ends of epochs): to sample, take batches from
    `independent_batches`. To train, a smaller learning rate such as 0.01 and any batches will do.

    **The noise estimate.** The optimizer only gets g_S. By default (`noise="differences"`) it uses
    the difference of the batch gradients of two steps, which has the noise of both:

        C_t = (1 - kappa_t) C_(t-1) + kappa_t (S / 2) (g_S(t) - g_S(t-1))^2,    kappa_t = k / t

    This needs no second pass and works for every model under `fit`. Its expectation is C for
    independent batches, and also for batches of one epoch drawn without replacement, as long as
    the weights do not change. As they do, the mean gradient changes too: in the stationary state of
    a quadratic loss the expectation is C (2 + h) / (2 - h), where h = learning_rate H_kk A_kk. So
    steps that would be too large become smaller; at h = 0.05, common as h is near 2 S / N, the
    estimate is 5% too high. An incomplete last batch counts as a whole one.

    The paper uses (g_1 - g_S)^2 with the gradient g_1 of one example. That needs a second pass
    back through the network, which `fit` does not make; a custom loop that has g_1 sets
    `noise="observed"` and calls `observe`, which corrects its expectation C (1 - 1/S), or
    C (1 + 1/S), to C, and has no drift. After n steps of k = 1 its variance is (2 + q) C^2 / n, q
    the excess kurtosis of g_1; that of differences is 3 C^2 / n, as batch means are nearly normal.
    The gradients of all examples of a batch would be better still, and cost S passes.

    **Start.** t counts the estimates of each element, from `t_start`. C_0, whose weight in C_t is
    the product of all (1 - kappa), is the mean of C over the tensor: elements of a tensor begin
    with one step size and move on to their own. Before the first estimate, so in the first step,
    nothing moves. Elements that are regrown begin anew, with the mean of their tensor.

    **Options of Keras.** The noise is measured after clipping. Weight
    decay moves weights by `learning_rate * weight_decay * w`, not preconditioned; to have a prior
    N(0, s^2) in the posterior use the regularizer L2(1 / (2 N s^2)). With
    `gradient_accumulation_steps=n`, S is n * `batch_size`. The average of `use_ema` is one of
    iterates; see `averaging_covariance` for what averaging does.

    Args:
        learning_rate: Float, schedule or callable; factor of H. Default: 1.0, the optimum of the
            paper.
        dataset_size: Integer N, the number of examples of the data set.
        batch_size: Integer S below N, the examples of a batch of `fit`, over all replicas. The
            loss must be their mean, as Keras's losses are.
        k: Integer, at least 1 and at most `t_start`; larger values forget faster.
        t_start: Integer of at least 1; C_0 weighs as much as `t_start - 1` estimates for k = 1, and
            nothing with `t_start=k`.
        epsilon: Float >= 0, added to C: the step is at most 2 S / (N epsilon). In units of a
            squared gradient of one example.
        noise: `"differences"` or `"observed"`.
        **kwargs: Arguments of every Keras optimizer: `weight_decay`, `clipnorm`, `use_ema`, ...

    Raises:
        ValueError: If an argument is out of range; while training, if a weight is float16 or
            bfloat16, too coarse for running means (use a `mixed_` policy).

    Cost: three numbers of memory for each weight, two with `noise="observed"`; a step of about 1.5
    times that of Adam where weights bound it. Gradients of embeddings are made dense.

    Example:

    >>> import numpy as np
    >>> x, y = np.random.normal(size=(256, 4)), np.random.normal(size=(256, 1))
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> optimizer = PreconditionedSGD(0.1, dataset_size=256, batch_size=32)
    >>> model.compile(optimizer, "mse")
    >>> history = model.fit(x, y, batch_size=32, verbose=0)
    >>> optimizer.noise_of(model.layers[0].kernel).shape
    (4, 1)

    Reference:
        S. Mandt, M. D. Hoffman & D. M. Blei, "Stochastic Gradient Descent as Approximate Bayesian
        Inference", https://arxiv.org/abs/1704.04289, corollary 3 and section 4.
    """

    def __init__(
        self,
        learning_rate=1.0,
        *,
        dataset_size,
        batch_size,
        k=1,
        t_start=10,
        epsilon=1e-8,
        noise="differences",
        **kwargs,
    ):
        check_sizes(dataset_size, batch_size, kwargs.get("gradient_accumulation_steps"))
        check_integer("t_start", t_start)
        check_integer("k", k)
        if k > t_start:
            raise ValueError(
                "Argument `k` must be at most `t_start`, so that kappa = k / t is at most 1. "
                f"Received: k={k}, t_start={t_start}."
            )
        if not isinstance(epsilon, numbers.Real) or not 0 <= epsilon < math.inf:
            raise ValueError(
                f"Argument `epsilon` must be a number of at least 0. Received: epsilon={epsilon}."
            )
        if noise not in ("differences", "observed"):
            raise ValueError(
                f"Argument `noise` must be 'differences' or 'observed'. Received: noise={noise!r}."
            )
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.dataset_size = int(dataset_size)
        self.batch_size = int(batch_size)
        self.k = int(k)
        self.t_start = int(t_start)
        self.epsilon = float(epsilon)
        self.noise = noise

    def build(self, variables):
        """Creates the slots: C without C_0, the number of estimates, the last gradient."""
        if self.built:
            return
        for variable in variables:
            check_precision(variable)
        super().build(variables)
        self._noises = self.add_optimizer_variables(variables, "noise")
        self._seen = self.add_optimizer_variables(variables, "seen")
        self._gradients = []
        if self.noise == "differences":
            self._gradients = self.add_optimizer_variables(variables, "gradient")

    def update_step(self, gradient, variable, learning_rate):
        """Updates the estimate with the gradient, then the variable."""
        gradient = ops.cast(tf.convert_to_tensor(gradient), variable.dtype)
        place = _keras.variable_index(self, variable)
        noise, seen = self._noises[place], self._seen[place]
        if self.noise == "differences":
            last = self._gradients[place]
            square = ops.square(ops.subtract(gradient, last)) * (self._examples() / 2)
            has_last = ops.greater(seen, 0)
            taken = self._updated(noise, ops.maximum(ops.subtract(seen, 1), 0), square)
            noise_now, seen_now = ops.where(has_last, taken, noise), ops.add(seen, 1)
            self.assign(noise, noise_now)
            self.assign(seen, seen_now)
            self.assign(last, gradient)
        else:
            noise_now, seen_now = ops.convert_to_tensor(noise), ops.convert_to_tensor(seen)
        rate = ops.cast(learning_rate, variable.dtype)
        self.assign_sub(variable, self._scaled(rate * gradient, noise_now, seen_now))

    def observe(self, single, batch, trainable_variables, *, in_batch):
        """Updates the estimate with the paper's (g_1 - g_S)^2, in a custom training loop.

        Its expectation is C (1 - 1/S) if the example is one of the batch, and C (1 + 1/S) if it was
        drawn separately; it is divided by that factor. Call it before `apply`, at the same weights.

        Args:
            single: g_1, the gradients of the loss of one example, in the order of the variables;
                `None` where there is none.
            batch: g_S, those of the mean loss of `batch_size` examples, without loss scaling.
            trainable_variables: The variables.
            in_batch: Whether the example is one of the batch.

        Raises:
            ValueError: If the optimizer estimates the noise itself, if the batch is the example,
                if the lists differ in length, or inside of a strategy with several replicas.
        """
        self._check_can_observe(in_batch)
        if not self.built:
            self.build(list(trainable_variables))
        factor = 1 - 1 / self.batch_size if in_batch else 1 + 1 / self.batch_size
        for one, mean, variable in zip(single, batch, trainable_variables, strict=True):
            if one is None or mean is None:
                continue
            place = _keras.variable_index(self, variable)
            noise, seen = self._noises[place], self._seen[place]
            one, mean = (ops.cast(tf.convert_to_tensor(g), variable.dtype) for g in (one, mean))
            square = ops.square(ops.subtract(one, mean)) / factor
            self.assign(noise, self._updated(noise, seen, square))
            self.assign(seen, ops.add(seen, 1))

    def noise_of(self, variable):
        """The estimate of C for a variable, C_0 included: an array of its shape.

        Raises:
            ValueError: If the optimizer was not built with the variable.
        """
        return ops.convert_to_numpy(self._estimate(*self._slots_of(variable))[0])

    def preconditioner_of(self, variable):
        """H for a variable: an array of its shape, 0 before the first estimate."""
        noise, seen = self._slots_of(variable)
        return ops.convert_to_numpy(self._scaled(ops.ones_like(noise), noise, seen))

    def _slots_of(self, variable):
        try:
            place = _keras.variable_index(self, variable)
        except KeyError:
            raise ValueError(
                "The variable must be one that the optimizer was built with, in its first step. "
                f"Received: variable={variable.path!r}."
            ) from None
        return (ops.convert_to_tensor(slots[place]) for slots in (self._noises, self._seen))

    def _examples(self):
        """S: the examples of a step."""
        return self.batch_size * (self.gradient_accumulation_steps or 1)

    def _updated(self, noise, count, square):
        """(1 - kappa) C + kappa `square`, after `count` estimates."""
        kappa = self.k / ops.add(count, self.t_start)
        return ops.add(noise, kappa * ops.subtract(square, noise))

    def _estimate(self, noise, seen):
        """C with C_0, and whether the tensor has any estimate."""
        count = seen - 1 if self.noise == "differences" else seen
        start_weight = self._start_weight(count)
        weight = ops.sum(ops.where(noise > 0, 1 - start_weight, 0))
        start = ops.sum(noise) / ops.where(weight > 0, weight, 1)
        return noise + start_weight * start, ops.max(count) > 0

    def _start_weight(self, count):
        """The product of 1 - k/t over the estimates so far: the weight of C_0.

        For k = 1 it is (t_start - 1) / t, for larger ones a product of k such fractions.
        """
        t = ops.maximum(count, 1) + (self.t_start - 1)
        weight = ops.ones_like(t)
        for step in range(1, self.k + 1):
            weight *= (self.t_start - step) / (t - (step - 1))
        return ops.where(count > 0, weight, 1)

    def _scaled(self, gradient, noise, seen):
        """H times a gradient; 0 before there is an estimate."""
        estimate, is_known = self._estimate(noise, seen)
        scale = self.dataset_size / (2 * self._examples())
        return ops.where(is_known, gradient / ((estimate + self.epsilon) * scale), 0)

    def _check_can_observe(self, in_batch):
        if self.noise != "observed":
            raise ValueError(
                "The optimizer estimates the noise from differences of batch gradients. "
                f"Received: noise={self.noise!r}. Make it with `noise='observed'` to observe."
            )
        if in_batch and self.batch_size == 1:
            raise ValueError(
                "A batch of one example is that example, so their gradients do not differ. "
                "Received: batch_size=1, in_batch=True. Draw the example by itself."
            )
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            raise ValueError(
                "Single examples cannot be observed by several replicas, since each would have "
                "another one. Use `noise='differences'`."
            )

    def get_config(self):
        """The arguments of the constructor."""
        config = super().get_config()
        names = ("dataset_size", "batch_size", "k", "t_start", "epsilon", "noise")
        return {**config, **{name: getattr(self, name) for name in names}}


def check_integer(name, value):
    """Refuses anything but integers of at least 1."""
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer or value < 1:
        raise ValueError(
            f"Argument `{name}` must be an integer of at least 1. Received: {name}={value!r}."
        )


def check_sizes(dataset_size, batch_size, accumulation=None):
    """Refuses steps over the whole data set, which have no noise."""
    check_integer("dataset_size", dataset_size)
    check_integer("batch_size", batch_size)
    if batch_size * (accumulation or 1) >= dataset_size:
        raise ValueError(
            "A step must take fewer examples than the data set has, or its gradient has no noise. "
            f"Received: batch_size={batch_size}, gradient_accumulation_steps={accumulation}, "
            f"dataset_size={dataset_size}."
        )


def check_precision(variable):
    """Refuses variables too coarse for a running mean."""
    dtype = keras.backend.standardize_dtype(variable.dtype)
    if dtype not in ("float32", "float64"):
        raise ValueError(
            "The variables must be float32 or float64, because running means of noise need it. "
            f"Received: variable={variable.path!r}, dtype={dtype}. Use a policy such as "
            f"'mixed_{dtype}', whose variables are float32."
        )
