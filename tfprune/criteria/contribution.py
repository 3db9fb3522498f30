"""The contribution of units to the loss, measured while the model trains."""

import functools

import keras
import numpy as np
from keras import ops

from tfprune._tools.checks import check_integer
from tfprune.criteria.criterion import Criterion
from tfprune.layers.layer_masks import keep_measured, measured_of
from tfprune.layers.masked import Masked


@keras.saving.register_keras_serializable("tfprune")
class ActivationContribution(Criterion):
    """First-order change of the loss without a unit, measured while the model trains.

    For the activations a of unit c, of shape `(batch, *positions, units)`, and the loss L:

        u_c = mean over the batch | mean over positions (a * dL/da) |

    Units inside a layer, such as the heads of an attention, are scored by magnitude among
    themselves.

    It is kept as a running average over training steps, `u <- (1 - w) u + w * new`, which begins
    with the first value measured. The averages belong to the layers: they are saved with the masks
    in `.keras`, `.h5` and `.weights.h5` files, and go on in what `tfprune.strip` and
    `tfprune.surgery` return, made prunable again; new units begin with the mean of the others.

    With a low weight the average lags behind a network that learns fast, with a high one it is as
    noisy as a batch. Of 1,343 networks that learned XOR in 50 steps of all its data, half of the 32
    hidden units could go without that the loss changed by more than 1e-5 in 53% with a weight of
    0.1, in 77% with 0.3, and in 76% with 0.95, as in NaiveNASflux. Of networks for digits, trained
    on batches of 32, the better half of 64 hidden units alone reached an accuracy of 78% with 0.1,
    76% with 0.3 and 71% with 0.95 (`benchmarks/contribution_weight.py`).

    Args:
        every: Integer, steps from one measurement to the next.
        weight: Float above 0 and up to 1, the weight w of the new value.
        aggregate, normalize: See `tfprune.criteria.Criterion`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> import tfprune
    >>> model = keras.Sequential([
    ...     keras.Input((4,)),
    ...     tfprune.layers.Dense(3, activation="relu", name="hidden"),
    ...     tfprune.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> criterion = ActivationContribution()
    >>> criterion.attach(model.get_layer("hidden"), units=3, axis=-1)
    >>> loss = model.train_on_batch(np.ones((8, 4)), np.zeros((8, 1)))
    >>> criterion(model.get_layer("hidden")).shape
    (3,)

    Reference:
        P. Molchanov, S. Tyree, T. Karras, T. Aila, J. Kautz, "Pruning Convolutional Neural
        Networks for Resource Efficient Inference", https://arxiv.org/abs/1611.06440, equation 8.
    """

    def __init__(self, every=1, weight=0.3, *, aggregate="sum", normalize=None):
        super().__init__(aggregate=aggregate, normalize=normalize)
        check_integer("every", every)
        if not 0 < weight <= 1:
            raise ValueError(
                f"Argument `weight` must be above 0 and at most 1. Received: {weight!r}."
            )
        self.every = every
        self.weight = weight
        self._observers = {}

    def attach(self, layer, units=None, axis=None):
        """Starts to measure the units in the output of a layer.

        `tfprune.callbacks.PruneUnits` does it for the layers that make units. In training of your
        own it may be any layer, also one without weights: pooling, a sum, a concatenation. Training
        functions that are traced already do not measure: make them again.

        Args:
            layer: The layer, or operation.
            units: How many units its output has; by default the size of the axis.
            axis: The axis of its output along which they stand; by default that of its channels,
                or along which it concatenates, else the last.
        """
        if axis is None:
            axis = _unit_axis(layer)
        if units is None:
            units = keras.tree.flatten(layer.output)[0].shape[axis]
        observer = _Observer(layer.name, units, axis, self.every, self.weight)
        before = measured_of(layer)
        if before is not None and before[0].shape == (units,):
            observer.average.assign(before[0])
            observer.calls.assign(before[1])
        self._observers[id(layer)] = observer
        if isinstance(layer, Masked):
            layer.observer = observer
        else:
            vars(layer)["call"] = _observed(type(layer).call.__get__(layer), observer)
        keep_measured(layer, observer)

    def detach(self, layer):
        """Stops measuring a layer; its measured values stay."""
        if isinstance(layer, Masked):
            layer.observer = None
        else:
            vars(layer).pop("call", None)
        keep_measured(layer, measured_of(layer))

    def is_ready(self):
        """Whether every layer it is attached to was measured at least once."""
        return bool(self._observers) and all(
            int(ops.convert_to_numpy(observer.calls)) > 0 for observer in self._observers.values()
        )

    def __call__(self, layer):
        """The contributions of the units of a layer, an array of shape (units,).

        They are those that it measured, or that the layer brought along, as from a file or from
        the model that it was made from by surgery.

        Raises:
            ValueError: If the layer was not measured yet.
        """
        observer = self._observers.get(id(layer))
        kept = measured_of(layer)
        if observer is None and kept is not None and kept[1]:
            return np.asarray(kept[0])
        if observer is None or not int(ops.convert_to_numpy(observer.calls)):
            raise ValueError(
                "The activation contribution is measured while the model trains, and this layer "
                f"was not trained yet. Received: layer={layer.name!r}. Use "
                "`tfprune.callbacks.PruneUnits` with a schedule that begins after step 0; in a "
                "training loop of your own call its `after_step` before the first step."
            )
        return ops.convert_to_numpy(observer.average)

    def get_state(self):
        """The averages, and how many steps they are of, for each layer it is attached to."""
        numpy = ops.convert_to_numpy
        return [[numpy(o.average), int(numpy(o.calls))] for o in self._observers.values()]

    def set_state(self, state):
        """Gives the state back."""
        for observer, (average, calls) in zip(self._observers.values(), state, strict=True):
            observer.average.assign(average)
            observer.calls.assign(calls)

    def get_config(self):
        """The arguments that make this criterion again."""
        return {"every": self.every, "weight": self.weight, **super().get_config()}


def _unit_axis(layer):
    """The axis of a layer's output with its channels, or along which it concatenates."""
    if isinstance(layer, keras.layers.Concatenate):
        return layer.axis
    is_pooled = len(keras.tree.flatten(layer.output)[0].shape) == 2
    is_first = getattr(layer, "data_format", None) == "channels_first"
    return 1 if is_first and not is_pooled else -1


def _observed(call, observer):
    """The `call` of a layer that carries no masks, with its outputs observed."""

    @functools.wraps(call)
    def observed(*args, **kwargs):
        return observer(call(*args, **kwargs))

    return observed


class _Observer:
    """Identity on the output of a layer that records a * dL/da in the backward pass."""

    def __init__(self, name, units, axis, every, weight):
        self.axis = axis
        self.every = every
        self.weight = weight
        self.average = keras.Variable(
            np.zeros(units),
            dtype="float32",
            trainable=False,
            autocast=False,
            aggregation="mean",
            name=f"{name}_contribution",
        )
        self.calls = keras.Variable(
            0,
            dtype="int32",
            trainable=False,
            aggregation="only_first_replica",
            name=f"{name}_calls",
        )

    def __call__(self, outputs):
        if isinstance(outputs, (list, tuple)):  # a recurrent layer gives its states as well
            return type(outputs)([self._watch(outputs[0]), *outputs[1:]])
        return self._watch(outputs)

    def _watch(self, activations):
        @ops.custom_gradient
        def watch(a):
            def gradient(*upstreams, upstream=None):
                upstream = upstreams[0] if upstream is None else upstream
                self._record(a, upstream)
                return upstream

            return ops.copy(a), gradient

        return watch(activations)

    def _record(self, activations, gradients):
        is_due = ops.equal(ops.mod(self.calls, self.every), 0)
        average = ops.convert_to_tensor(self.average)
        self.average.assign(
            ops.cond(is_due, lambda: self._moved(average, activations, gradients), lambda: average)
        )
        self.calls.assign(self.calls + 1)

    def _moved(self, average, activations, gradients):
        product = ops.cast(activations, "float32") * ops.cast(gradients, "float32")
        product = ops.moveaxis(product, self.axis, -1)
        positions = list(range(1, len(product.shape) - 1))
        if positions:
            product = ops.mean(product, axis=positions)
        new = ops.mean(ops.abs(product), axis=0)
        weight = ops.cast(ops.where(ops.equal(self.calls, 0), 1.0, self.weight), "float32")
        return (1 - weight) * average + weight * new
