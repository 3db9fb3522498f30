"""Sensitivity of a model's outputs to errors of its layers, by gradients of signed sums.

L is the sum of the outputs, each divided by its standard deviation and given a random sign. Over
the signs, the mean of (dL/dz)^2 is what an error of z does to the squared error of the outputs, to
first order, relative to their variance. No labels are needed. Outputs of a softmax or a sigmoid are
taken before it, where they do not saturate.
"""

import contextlib

import keras
import numpy as np
import tensorflow as tf

from tfprune.criteria.captured_activations import capture_preactivations
from tfprune.criteria.saturating_layers import saturating_layers
from tfprune.criteria.second_moments import ProductPass
from tfprune.measuring.accumulators import Accumulator
from tfprune.measuring.data_pass import Untracked, count_batches

BATCHES = 32
"""Signs are drawn several times for each batch where there are fewer batches than this."""


class EffectPass(ProductPass):
    """Runs the model and gives its outputs with random signs, in sums whose gradients are taken.

    Args:
        model: The model.
        variables: Weights of it that carry masks.
        data: See `tfprune.criteria.measuring.measure`.
    """

    collects = False  # few runs, all in all

    def __init__(self, model, variables, data):
        super().__init__(model, variables)
        self._probes, self._outputs = _probes(data), Untracked(saturating_layers(model))
        self.elements = Accumulator((), "float64")

    def scale(self):
        """By what sums of squared gradients are divided: the signs drawn, times the outputs."""
        return self._probes * max(float(self.replicas.total(self.elements)), 1.0)

    def signed(self, x, values=None):
        """Runs a batch.

        Args:
            x: The inputs of the batch.
            values: As for `substituted`.

        Returns:
            The tensors that stand for the weights, a list of sums of signed outputs, and the tape
            that gives the gradients of each.
        """
        with contextlib.ExitStack() as stack:
            found = {}
            for index, layer in self._outputs.items:
                stack.enter_context(capture_preactivations(layer, _into(found, index)))
            tape = stack.enter_context(tf.GradientTape(persistent=True))
            outputs, tensors = self.substituted(x, tape, values)
            flat = keras.tree.flatten(outputs)
            outputs = [found.get(index, output) for index, output in enumerate(flat)]
            signed = [self._signed(outputs, number) for number in range(self._probes)]
        return tensors, signed, tape

    def _signed(self, outputs, number):
        """The outputs, each with a random sign, in one sum."""
        total = tf.zeros((), "float32")
        for place, output in enumerate(outputs):
            if not keras.backend.is_float_dtype(output.dtype):
                continue
            output = tf.cast(output, "float32")
            spread = tf.stop_gradient(tf.math.reduce_std(output))
            seed = [place * 8 + number, tf.cast(self.batch_number, "int32")]
            drawn = tf.random.stateless_uniform(tf.shape(output), seed, -1, 1)
            scale = tf.math.divide_no_nan(1.0, spread)
            total += tf.reduce_sum(output * tf.sign(drawn)) * scale
            if number == 0:
                self.elements.assign_add(tf.cast(tf.size(output), "float64"))
        return total


def _probes(data):
    """How many times signs are drawn for a batch."""
    return int(np.clip(-(-BATCHES // max(count_batches(data), 1)), 1, 8))


def _into(found, index):
    return lambda output: found.__setitem__(index, output)
