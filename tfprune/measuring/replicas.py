"""The replicas of a `tf.distribute` strategy that share a measurement, and sums over them.

Batch i goes to replica i modulo their number, whole, and runs there as on a single device: outside
of `strategy.run`, where Keras would divide losses by the number of replicas, and layers could tell
that there are others. So whatever is summed over batches is what a single device sums, but for
rounding. Replicas send nothing meanwhile; the sums are added when all is read.
"""

import contextlib
import contextvars
import threading
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from tfprune import _keras

ELEMENTS_AT_ONCE = 2**26
"""How many elements processes send at once."""

_thread = threading.local()


@dataclass(frozen=True, eq=False)
class Replicas:
    """The replicas that share a measurement.

    Attributes:
        strategy: The `tf.distribute` strategy; None for a single replica.
        devices: The devices of the replicas in this process.
        first: Integer, the number of the first of them.
        count: Integer, how many replicas there are in all processes.
    """

    strategy: object = None
    devices: tuple = (None,)
    first: int = 0
    count: int = 1

    @property
    def has_others(self):
        """Whether there are replicas in other processes."""
        return self.count > len(self.devices)

    def check_can_fit(self):
        """Raises a `ValueError` where Keras's `fit` does not run: in several processes."""
        self.check_one_process(
            "training by Keras's `fit`",
            "Train it in a loop of your own, see `docs/guides/distribution.md`, or under "
            "`MirroredStrategy`.",
        )

    def check_can_time(self):
        """Raises a `ValueError` where each of several processes would measure another latency."""
        self.check_one_process(
            "a budget of latency, which each measures anew",
            "Take a budget of MACs, or a `table` of latencies that was measured before.",
        )

    def check_one_process(self, what, advice):
        """Raises a `ValueError` if there are several processes, which cannot share something.

        Args:
            what: What they cannot share, in words.
            advice: What to do, a sentence.
        """
        if self.has_others:
            raise ValueError(
                f"Several processes cannot share {what}. Received: a model under "
                f"`MultiWorkerMirroredStrategy`, {self.count} replicas. {advice}"
            )

    @contextlib.contextmanager
    def on(self, place):
        """While open, what runs is that of one replica of this process."""
        before = here()
        _thread.here = place, self.devices[place]
        try:
            with contextlib.nullcontext() if self.strategy is None else tf.device(here()[1]):
                yield
        finally:
            _thread.here = before

    def total(self, accumulator):
        """The sum of an `Accumulator` over all replicas, as an array."""
        return self.totals([accumulator])[0]

    def totals(self, accumulators):
        """The sums of `Accumulator`s over all replicas, as arrays, by one all-reduce."""
        return self.summed([sum(each.parts()) for each in accumulators])

    def moments(self, sums):
        """Merges counts, means and sums of squared deviations over all replicas, as arrays.

        Args:
            sums: Triples of `Accumulator`s, the count a scalar.

        Returns:
            A list of triples of arrays.
        """
        parts = [list(zip(*(each.parts() for each in one), strict=True)) for one in sums]
        if self.count == 1:
            return [one[0] for one in parts]
        firsts = self.summed([sum(n * part for n, part, _ in one) for one in parts])
        counts = self.summed([np.asarray(sum(n for n, _, _ in one)) for one in parts])
        means = [first / max(float(n), 1.0) for first, n in zip(firsts, counts, strict=True)]
        squares = self.summed(
            [
                sum(square + n * np.square(part - mean) for n, part, square in one)
                for one, mean in zip(parts, means, strict=True)
            ]
        )
        return list(zip(counts, means, squares, strict=True))

    def gathered(self, values):
        """Some numbers of each process, as an array (processes, numbers)."""
        if not self.has_others:
            return np.asarray(values)[None]
        table = np.zeros((self.count, 1 + len(values)), "float64")
        table[self.first] = 1.0, *values
        (table,) = self.summed([table])
        return table[table[:, 0] == 1, 1:]

    def agreed(self, number):
        """The number that the first process has, in all of them; None stays None."""
        return number if number is None else int(self.gathered([number])[0, 0])

    def summed(self, arrays):
        """The sums of arrays over processes, each added in its own precision."""
        arrays = [np.asarray(array) for array in arrays]
        if not self.has_others:
            return arrays
        found = [None] * len(arrays)
        for dtype in sorted({array.dtype.name for array in arrays}):
            some = [place for place, array in enumerate(arrays) if array.dtype.name == dtype]
            flat = np.concatenate([arrays[place].reshape(-1) for place in some])
            flat = self._all_reduced(flat)
            ends = np.cumsum([arrays[place].size for place in some])
            for place, part in zip(some, np.split(flat, ends[:-1]), strict=True):
                found[place] = part.reshape(arrays[place].shape)
        return found

    def _all_reduced(self, flat):
        parts = []
        for start in range(0, max(flat.size, 1), ELEMENTS_AT_ONCE):
            part = flat[start : start + ELEMENTS_AT_ONCE]

            def given(context, part=part):
                is_first = context.replica_id_in_sync_group == self.first
                return tf.constant(part if is_first else np.zeros_like(part))

            value = self.strategy.experimental_distribute_values_from_function(given)
            parts.append(self.strategy.reduce("SUM", value, axis=None).numpy())
        return np.concatenate(parts)


ALONE = Replicas()


def here():
    """The replica of this process that runs now, its place and its device."""
    return getattr(_thread, "here", (0, None))


def replicas_of(model):
    """The replicas of the strategy of a model, or of the current one.

    Raises:
        ValueError: If the strategy is of another kind than is known here.

    Example:

    >>> replicas_of(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])).count
    1
    """
    strategy = strategy_of(model)
    if strategy.num_replicas_in_sync == 1:
        return ALONE
    kinds = (tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy)
    if not isinstance(strategy, kinds):
        raise ValueError(
            "What is measured on data runs under `tf.distribute.MirroredStrategy` and "
            f"`MultiWorkerMirroredStrategy`. Received: model={model.name!r} under "
            f"{type(strategy).__name__}. Load its weights into a model of one of these, or of none."
        )
    ids = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(context.replica_id_in_sync_group)
    )
    return Replicas(
        strategy=strategy,
        devices=tuple(strategy.extended.worker_devices),
        first=int(strategy.experimental_local_results(ids)[0]),
        count=strategy.num_replicas_in_sync,
    )


def strategy_of(model):
    """The strategy in whose scope a model or its variables were made, else the current one."""
    own = getattr(model, "distribute_strategy", None) or tf.distribute.get_strategy()
    if own.num_replicas_in_sync > 1:
        return own
    raws = (_keras.raw(variable) for variable in model.variables)
    found = next((each for each in raws if isinstance(each, tf.distribute.DistributedValues)), None)
    return own if found is None else found.distribute_strategy


def read_variables(variable):
    """The `tf.Variable`s that are read of a weight: that of a replica, or of the first in a loop.

    Its gradient is the sum of theirs.
    """
    value = _keras.raw(variable)
    if not isinstance(value, tf.distribute.DistributedValues):
        return [value]
    return list(value.distribute_strategy.experimental_local_results(value))


def outside_scope(function):
    """What a function returns that runs outside of `strategy.scope()`, in a thread of its own.

    Variables that it makes are of no strategy, and losses are those of a single device.
    """
    if not tf.distribute.has_strategy():
        return function()
    found, policy = {}, keras.config.dtype_policy()

    def run():
        keras.config.set_dtype_policy(policy)  # Keras has one for each thread
        try:
            found["result"] = function()
        except BaseException as error:
            found["error"] = error

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,))
    thread.start()
    thread.join()
    if "error" in found:
        raise found["error"]
    return found["result"]
