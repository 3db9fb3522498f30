"""Samples weights along the trajectory of SGD."""

import contextlib

import keras
import numpy as np

from tfprune import _keras
from tfprune._tools.checks import check_integer
from tfprune._tools.registry import Configurable
from tfprune.masks.first_step import current_step
from tfprune.masks.setting import masked_layers

_STATE = ("count", "samples", "_stride", "_live", "_mean", "_squares", "_last")


@keras.saving.register_keras_serializable("tfprune")
class CollectPosterior(Configurable, keras.callbacks.Callback):
    """Collects posterior samples of the weights while a model trains, and predicts with them.

    SGD at a constant learning rate near an optimum samples from a law around it; with the steps of
    `tfprune.optimizers` (`PreconditionedSGD`, `FullPreconditionedSGD`, or `keras.optimizers.SGD`
    at `optimal_learning_rate`) and batches from `independent_batches` that is nearly the
    posterior. The mean of the samples is iterate averaging, see `averaging_covariance`.

    The first sample is taken `every` steps after `burn_in`, counted by `optimizer.iterations`, and
    then one every `every` steps. Successive iterates are correlated: SGD forgets over N / (2 S)
    steps where C is near A, so an `every` above that makes samples nearly independent. With
    `steps_per_execution` a sample is taken at the first hook after it is due. A further `fit` of
    the same model continues the collection; where masks have changed, it starts again, since the
    earlier samples are of another model.

    All weights are collected, moving statistics too, so a sample is a full state of the model.

    Memory: `max_samples` times the weights, and two float64 numbers for each weight. Once more
    samples are due, every second one is dropped and from then on every second one kept, so those
    kept are spread over all of the trajectory; `mean` and `deviation` are of all that were taken.
    Backups of `tfprune.callbacks.BackupAndRestore` hold the samples; after Keras's
    `BackupAndRestore` the collection starts again.

    Args:
        burn_in: Integer >= 0, steps of the optimizer before the first sample may be taken.
        every: Integer >= 1, steps from one sample to the next.
        max_samples: Integer >= 0, how many are kept; 0 keeps running moments only.

    Attributes:
        count: How many samples were taken; in the logs of `fit` as `posterior_samples`.
        samples: Those kept: a list of lists of arrays, each in the order of `model.weights`.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> from tfprune.optimizers import PreconditionedSGD, independent_batches
    >>> x = np.random.normal(size=(200, 2))
    >>> y = x.sum(axis=1, keepdims=True) + np.random.normal(size=(200, 1))
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile(PreconditionedSGD(dataset_size=200, batch_size=10), "mse")
    >>> posterior = CollectPosterior(burn_in=40, every=20)
    >>> batches = independent_batches((x, y), 10, steps=400, seed=0)
    >>> history = model.fit(batches, callbacks=[posterior], verbose=0)
    >>> posterior.count, posterior.predict(x[:3]).shape
    (18, (18, 3, 1))

    Reference:
        Mandt, Hoffman & Blei, https://arxiv.org/abs/1704.04289.
    """

    def __init__(self, burn_in=0, every=1, *, max_samples=32):
        super().__init__()
        for name, value, least in (
            ("burn_in", burn_in, 0),
            ("every", every, 1),
            ("max_samples", max_samples, 0),
        ):
            check_integer(name, value, least)
        self.burn_in = int(burn_in)
        self.every = int(every)
        self.max_samples = int(max_samples)
        self.reset()

    def reset(self):
        """Removes all samples and moments."""
        self.count = 0
        self.samples = []
        self._stride = 1
        self._collected = None
        self._live = None
        self._mean = self._squares = None
        self._last = None

    def on_train_begin(self, logs=None):
        """Continues the collection, or starts again for another model."""
        if self._collected is not None and self._collected is not self.model:
            self.reset()
        self._last = current_step(self.model)

    def on_train_batch_end(self, batch, logs=None):
        """Takes a sample if one is due."""
        self.after_step(self.model)

    def on_epoch_end(self, epoch, logs=None):
        """Adds the number of samples to the logs."""
        if logs is not None:
            logs["posterior_samples"] = self.count

    def after_step(self, model, optimizer=None):
        """Takes a sample if one is due: the one call per step of a custom loop.

        Args:
            model: The model that is trained.
            optimizer: Its optimizer; by default `model.optimizer`.
        """
        step = current_step(model, optimizer)
        last, self._last = self._last, step
        last = step - 1 if last is None else last
        due = [(at - self.burn_in) // self.every for at in (last, step)]
        if due[1] >= 1 and due[1] > due[0]:
            self._take(model)

    def _take(self, model):
        live = [np.array(mask) for mask in _live_masks(model)]
        moved = self._live is not None and not _same(live, self._live)
        if moved or self._collected is not model:
            last = self._last
            self.reset()
            self._last = last
            self._collected, self._live = model, live
        values = _values(model)
        if self._mean is None:
            self._mean = [np.zeros(value.shape) for value in values]
            self._squares = [np.zeros(value.shape) for value in values]
        if self.max_samples and self.count % self._stride == 0:
            if len(self.samples) == self.max_samples:
                self.samples = self.samples[::2]
                self._stride *= 2
            if self.count % self._stride == 0:
                self.samples.append(values)
        self.count += 1
        for value, mean, squares in zip(values, self._mean, self._squares, strict=True):
            difference = value.astype("float64") - mean
            mean += difference / self.count
            squares += difference * (value - mean)

    @property
    def mean(self):
        """The mean of all samples taken: a list of arrays, as `model.get_weights()`.

        Raises:
            ValueError: If nothing was taken yet.
        """
        self._check_count(1)
        return [
            mean.astype(weight.dtype)
            for mean, weight in zip(self._mean, _values(self._collected), strict=True)
        ]

    @property
    def deviation(self):
        """The standard deviation of all samples taken, in the form of `mean`.

        Raises:
            ValueError: If fewer than two samples were taken.
        """
        self._check_count(2)
        return [np.sqrt(squares / (self.count - 1)) for squares in self._squares]

    def predict(self, x, batch_size=None, verbose=0):
        """The predictions of the model with each sample; its weights are then restored bit for bit.

        Masks stay as they are: pruned elements are 0 and frozen ones keep their value.

        Args:
            x: Inputs as `model.predict` takes them, but no generator.
            batch_size, verbose: As of `model.predict`.

        Returns:
            An array (samples, examples, ...), or a structure of them as the model's outputs. Its
            mean over the first axis is the predictive mean, its deviation the uncertainty.

        Raises:
            ValueError: If no sample is kept, or `x` can be gone through only once.
        """
        self._check_count(1)
        if not self.samples:
            raise ValueError(
                "No samples are kept, only their moments. Received: max_samples=0. Use `at_mean`, "
                "or keep some."
            )
        if hasattr(x, "__next__"):
            raise ValueError(
                "Argument `x` must be something that can be gone through once for each sample. "
                f"Received: {type(x).__name__}. Pass arrays, a dataset or a `PyDataset`."
            )
        model, found = self._collected, []
        with _restored(model):
            for sample in self.samples:
                _assign(model, sample)
                found.append(model.predict(x, batch_size=batch_size, verbose=verbose))
        return keras.tree.map_structure(lambda *parts: np.stack(parts), *found)

    @contextlib.contextmanager
    def at_mean(self):
        """A context in which the weights of the model are the mean; then they are restored."""
        mean = self.mean
        with _restored(self._collected):
            _assign(self._collected, mean)
            yield self._collected

    def _check_count(self, least):
        if self.count < least:
            raise ValueError(
                f"At least {least} sample(s) must have been taken. Received: count={self.count}, "
                f"burn_in={self.burn_in}, every={self.every}. Train for more steps."
            )

    def get_state(self):
        """The state for `BackupAndRestore`: samples and moments."""
        return {name: getattr(self, name) for name in _STATE} if self.count else {}

    def set_state(self, state):
        """Gives the state back."""
        for name, value in state.items():
            setattr(self, name, value)
        self._collected = self.model

    def get_config(self):
        """The arguments that make this callback again."""
        names = ("burn_in", "every", "max_samples")
        return {name: getattr(self, name) for name in names}


def _live_masks(model):
    return [
        _keras.values(mask.live)
        for layer in masked_layers(model)
        for mask in layer.masks_by_name.values()
    ]


def _same(masks, others):
    pairs = zip(masks, others, strict=False)
    return len(masks) == len(others) and all(np.array_equal(a, b) for a, b in pairs)


def _values(model):
    """Copies of all weights."""
    return [np.array(_keras.values(weight)) for weight in model.weights]


def _assign(model, values):
    for weight, value in zip(model.weights, values, strict=True):
        weight.assign(value)


@contextlib.contextmanager
def _restored(model):
    """Puts weights, and the states of recurrent layers, back at the end."""
    states = _keras.recurrent_states(model)
    before, held = _values(model), [np.array(state) for state in states]
    try:
        yield
    finally:
        _assign(model, before)
        for state, value in zip(states, held, strict=True):
            state.assign(value)
