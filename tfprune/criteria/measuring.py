"""Measures of weights that criteria request: gradients, and norms of inputs.

Each measure takes the model and weights and returns an array for each weight. The data goes through
Keras's own `evaluate`, so all that Keras takes will do: arrays, `tf.data`, `PyDataset`, generators.
Layers run as in inference, and masks do not hide the gradients of pruned elements.
"""

import keras
import numpy as np
import tensorflow as tf

from tfprune import _keras
from tfprune.coupling.model_inputs import call_arguments
from tfprune.criteria.input_norms import input_norms
from tfprune.measuring.accumulators import accumulators
from tfprune.measuring.data_pass import DataPass, Untracked
from tfprune.measuring.replicas import read_variables
from tfprune.rebuild.copying import in_double_precision

NEED_DATA = (
    "gradient",
    "gradient_variance",
    "squared_gradient",
    "movement",
    "hessian_gradient",
    "input_norm",
)
"""The measures which are taken on data."""

MEASURES = (*NEED_DATA, "flow_gradient")
"""All measures by name."""


_WITHOUT_DATA = (
    " `PruneWeights` sums up 'movement' in training, but before its first step there is none yet: "
    "begin later."
)


def measure(names, model, weights, data=None, *, verbose=0):
    """Measures gradients and inputs of weights for criteria.

    Args:
        names: What to measure, of:

            * `gradient`: dL/dw, the mean over examples;
            * `gradient_variance`: (dL/dw - `gradient`)^2 of each example, the mean over examples:
              the diagonal of the covariance of the gradient noise. Each example goes through the
              model on its own, which takes longer than the others;
            * `squared_gradient`: (dL/dw)^2 of each batch, the mean over batches, so that with
              batches of one example it is the diagonal of the empirical Fisher matrix;
            * `movement`: -w dL/dw summed over batches;
            * `hessian_gradient`: H g, the Hessian of the loss times `gradient`;
            * `flow_gradient`: dR/d|w| of the model with all weights |w|, R the sum of its outputs
              for inputs of ones; no data is needed;
            * `input_norm`: ||x||_2 over examples and positions of the input feature that the
              element is multiplied with.
        model: The model; compiled with a loss, where a gradient is requested.
        weights: `PrunableWeight`s of it.
        data: `(x, y)` or `(x, y, sample_weight)`, arrays that are read in batches of 32; or a
            dataset of such batches, as Keras takes it.
        verbose: 0 is quiet, 1 shows Keras's progress bar.

    Returns:
        A dict from name to a list of arrays, each of its weight's shape or broadcasting to it.

    Raises:
        ValueError: If there is no data or no loss for a measure, or the data is empty.
    """
    names = set(names)
    if names.intersection(NEED_DATA) and data is None:
        raise ValueError(
            f"The criterion asks for {sorted(names.intersection(NEED_DATA))}, which is measured on "
            "data. Received: data=None. Pass `data=(x, y)` or a dataset."
            + (_WITHOUT_DATA if "movement" in names else "")
        )
    found, variables = {}, [weight.variable for weight in weights]
    by_data = names.intersection(("gradient", "squared_gradient", "movement", "hessian_gradient"))
    if "gradient_variance" in names:
        check_compiled(model, {"gradient_variance"})
        moments = _GradientVariances(model, variables).run(data, verbose)
        found = dict(zip(("gradient", "gradient_variance"), moments, strict=True))
        by_data -= {"gradient"}
    if by_data:
        check_compiled(model, by_data)
        found |= _Gradients(model, variables).run(data, verbose)
        if "hessian_gradient" in names:
            hessian_gradients = _HessianGradients(model, variables, found["gradient"])
            found["hessian_gradient"] = hessian_gradients.run(data, verbose)
    if "flow_gradient" in names:
        found["flow_gradient"] = _flow_gradients(model, variables)
    if "input_norm" in names:
        found["input_norm"] = input_norms(model, weights, data, verbose)
    return {name: found[name] for name in names}


def check_compiled(model, names):
    """Raises a `ValueError` if a model has no loss, which some measures need."""
    if not model.compiled or _keras.compile_arguments(model).get("loss") is None:
        raise ValueError(
            f"The criterion asks for {sorted(names)} of the loss, and the model has none. Compile "
            f"it with its loss first. Received: model={model.name!r}."
        )


class _Gradients(DataPass):
    def __init__(self, model, variables):
        super().__init__(model, variables)
        shapes = [v.shape for v in variables]
        # Of each batch: the gradient times its size, the square of the gradient, the gradient.
        self._sums = Untracked([accumulators(shapes) for _ in range(3)])

    def add_batch(self, x, y, sample_weight, size):
        tensors = [  # a weight without masks is read as it is
            [tf.convert_to_tensor(_keras.raw(v))] if _keras.is_guarded(v) else read_variables(v)
            for v in self.variables_read.items
        ]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            loss = self.loss_through([first for first, *_ in tensors], x, y, sample_weight)
        gradients = tape.gradient(loss, tensors, unconnected_gradients="zero")
        gradients = [tf.add_n(_dense(each)) for each in gradients]
        for gradient, total, squares, batch_sum in zip(gradients, *self._sums.items, strict=True):
            total.assign_add(size * gradient)
            squares.assign_add(tf.square(gradient))
            batch_sum.assign_add(gradient)

    def run(self, data, verbose=0):
        """A dict from the name of a measure to an array for each weight."""
        super().run(data, verbose)
        numpy, variables = keras.ops.convert_to_numpy, self.variables_read.items
        totals = iter(self.replicas.totals([each for kind in self._sums.items for each in kind]))
        gradients, squares, sums = ([next(totals) for _ in variables] for _ in range(3))
        pairs = zip(variables, sums, strict=True)
        return {
            "gradient": [total / float(self.examples_read) for total in gradients],
            "squared_gradient": [total / float(self.batches_read) for total in squares],
            "movement": [-numpy(_keras.raw(v)) * total for v, total in pairs],
        }


class _HessianGradients(DataPass):
    def __init__(self, model, variables, gradients):
        super().__init__(model, variables)
        self._given = Untracked(tf.constant(gradient, "float32") for gradient in gradients)
        self._sums = Untracked(accumulators([v.shape for v in variables]))

    def add_batch(self, x, y, sample_weight, size):
        tensors = [tf.convert_to_tensor(_keras.raw(v)) for v in self.variables_read.items]
        with tf.GradientTape() as outer:
            outer.watch(tensors)
            with tf.GradientTape() as inner:
                inner.watch(tensors)
                loss = self.loss_through(tensors, x, y, sample_weight)
            gradients = _dense(inner.gradient(loss, tensors, unconnected_gradients="zero"))
            along = sum(
                tf.reduce_sum(gradient * given)
                for gradient, given in zip(gradients, self._given.items, strict=True)
            )
        products = _dense(outer.gradient(along, tensors, unconnected_gradients="zero"))
        for product, total in zip(products, self._sums.items, strict=True):
            total.assign_add(size * product)

    def run(self, data, verbose=0):
        """H g for each weight."""
        super().run(data, verbose)
        examples = float(self.examples_read)
        return [total / examples for total in self.replicas.totals(self._sums.items)]


class _GradientVariances(DataPass):
    """Welford's sums: stable also where the variance is small beside the mean."""

    def __init__(self, model, variables):
        super().__init__(model, variables)
        shapes = [v.shape for v in variables]
        self._counts, self._means, self._sums = (
            Untracked(accumulators(each)) for each in ([()], shapes, shapes)
        )

    def add_batch(self, x, y, sample_weight, size):
        tensors = [tf.convert_to_tensor(_keras.raw(v)) for v in self.variables_read.items]
        (counted,) = self._counts.items
        counted_before = counted.value

        def take_one(index, means, sums):
            one = keras.tree.map_structure(
                lambda array: None if array is None else array[index : index + 1],
                (x, y, sample_weight),
            )
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                loss = self.loss_through(tensors, *one)
            gradients = _dense(tape.gradient(loss, tensors, unconnected_gradients="zero"))
            count = counted_before + tf.cast(index + 1, "float32")
            new_means = [m + (g - m) / count for m, g in zip(means, gradients, strict=True)]
            parts = zip(sums, gradients, means, new_means, strict=True)
            sums = [s + (g - before) * (g - after) for s, g, before, after in parts]
            return index + 1, new_means, sums

        variables = (self._means.items, self._sums.items)
        state = [[each.value for each in group] for group in variables]
        _, *state = tf.while_loop(
            lambda index, *_: index < tf.cast(size, "int32"),
            take_one,
            [tf.constant(0), *state],
            parallel_iterations=1,
        )
        for group, values in zip(variables, state, strict=True):
            for variable, value in zip(group, values, strict=True):
                variable.assign(value)
        counted.assign_add(size)

    def run(self, data, verbose=0):
        """The mean and the variance of the gradient of one example, each for all weights."""
        super().run(data, verbose)
        examples, (count,) = float(self.examples_read), self._counts.items
        pairs = zip(self._means.items, self._sums.items, strict=True)
        moments = self.replicas.moments([(count, *pair) for pair in pairs])
        return [mean for _, mean, _ in moments], [squares / examples for _, _, squares in moments]


def _dense(gradients):
    """Gradients as dense float32 tensors; those of embeddings come as slices."""
    return [tf.cast(tf.convert_to_tensor(gradient), "float32") for gradient in gradients]


def _flow_gradients(model, variables):
    """In double precision, because the products of all layers' weights grow large."""
    args, kwargs = call_arguments(model)
    copy = in_double_precision(model)
    counterparts = {id(ours): theirs for ours, theirs in copy.variables}
    copy = copy.model
    with _keras.unguarded():
        for weight in copy.weights:
            if keras.backend.is_float_dtype(weight.dtype):
                weight.assign(abs(weight))
    watched = [counterparts[id(variable)] for variable in variables]
    tensors = [tf.convert_to_tensor(_keras.raw(variable)) for variable in watched]
    args, kwargs = keras.tree.map_structure(_ones, (args, kwargs))
    reads = {id(v): tensor for v, tensor in zip(watched, tensors, strict=True)}
    with tf.GradientTape() as tape, _keras.reading(reads):
        tape.watch(tensors)
        outputs = keras.tree.flatten(copy(*args, **kwargs, training=False))
        flow = sum(tf.reduce_sum(tf.cast(output, "float64")) for output in outputs)
    gradients = tape.gradient(flow, tensors, unconnected_gradients="zero")
    return [np.asarray(tf.convert_to_tensor(gradient)) for gradient in gradients]


def _ones(tensor):
    return keras.ops.ones([1 if size is None else size for size in tensor.shape], tensor.dtype)
