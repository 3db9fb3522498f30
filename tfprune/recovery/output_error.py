"""How far the outputs of models are from those of the dense one."""

import keras
import numpy as np
import tensorflow as tf

from tfprune.measuring.accumulators import accumulators
from tfprune.measuring.data_pass import DataPass, Untracked
from tfprune.recovery.ridge_selection import is_held_out


def output_errors(models, dense, data, *, batch_size=None, verbose=0, held_out=True):
    """Returns how far the outputs of some models are from those of the dense one, relative.

        error = sqrt(sum |outputs - dense outputs|^2 / sum |dense outputs - mean|^2)

    over all outputs of all examples, in inference; the mean is that of all.

    Args:
        models: Models with the inputs and outputs of `dense`.
        dense: The dense model.
        data, batch_size, verbose: As for `tfprune.reconstruct`.
        held_out: Whether to count only the examples that `reconstruct` holds out.

    Returns:
        A list of floats.

    Example:

    >>> dense = keras.Sequential([keras.Input((1,)), keras.layers.Rescaling(2.0)])
    >>> double = keras.Sequential([keras.Input((1,)), keras.layers.Rescaling(3.0)])
    >>> x = np.array([[-1.0], [1.0]], "float32")
    >>> output_errors([dense, double], dense, (x,), held_out=False)
    [0.0, 0.5]
    """
    data_pass = _Outputs(models, dense, held_out)
    data_pass.run(data, verbose, batch_size)
    return data_pass.errors()


class _Outputs(DataPass):
    """Adds up squared differences of the outputs."""

    traces_always = False

    def __init__(self, models, dense, held_out):
        super().__init__(dense, needs_loss=False)
        self._models = Untracked(models)
        self._held_out = held_out
        self._sums = Untracked(accumulators([(len(models),), (), (), ()], "float64"))

    def add_batch(self, x, y, sample_weight, size):
        """One batch."""
        dense = self._counted(self(x, training=False), size)
        differences = [
            tf.reduce_sum(tf.square(self._counted(model(x, training=False), size) - dense))
            for model in self._models.items
        ]
        added = (differences, tf.size(dense), tf.reduce_sum(dense), tf.reduce_sum(dense**2))
        for total, each in zip(self._sums.items, added, strict=True):
            total.assign_add(tf.cast(each, "float64"))

    def _counted(self, outputs, size):
        """The outputs of the examples that count, in one row."""
        flat = [tf.cast(output, "float64") for output in keras.tree.flatten(outputs)]
        if self._held_out:
            first = self.examples_before
            flat = [tf.boolean_mask(o, is_held_out(tf.shape(o)[0], size, first)) for o in flat]
        return tf.concat([tf.reshape(output, [-1]) for output in flat], 0)

    def errors(self):
        """The relative error of each model."""
        differences, count, total, squares = self.replicas.totals(self._sums.items)
        spread = squares - total**2 / max(float(count), 1.0)
        if not (np.isfinite(spread) and np.isfinite(differences).all()):
            raise ValueError("The outputs of the models are not finite on the data.")
        return [float(d) for d in np.sqrt(differences / (spread if spread > 0 else 1.0))]
