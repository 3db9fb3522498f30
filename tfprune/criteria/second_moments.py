"""Second moments of the inputs of weights, sum x x', over data: the Hessians of least squares.

For outputs x W, the error of other weights W + D is tr(D' H D) with H = sum x x' over all rows x
that the matrix W is multiplied with, examples and positions alike.
"""

import itertools
import math
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from tfprune import _keras
from tfprune._tools.finite import NotFiniteError
from tfprune._tools.memory import release_memory
from tfprune.criteria.matrix_products import NoProductError
from tfprune.criteria.weight_uses import matrices_of, products_of
from tfprune.measuring.accumulators import Accumulator
from tfprune.measuring.data_pass import DataPass, Untracked

ELEMENTS_AT_ONCE = 2**21
"""How many elements of the rows are held at once."""

ROWS_AT_ONCE = 512
"""To how many rows of the sums is added at once."""

IN_DOUBLE_PRECISION = 1024
"""Up to how many inputs the sums are in double precision, which takes twice the memory."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """A matrix of which a weight consists, all of it or a piece.

    Attributes:
        steps: How to get it out of the weight, as (groups, rows, columns); see `moved`.
        groups, rows: Integers.
        inputs: What it is multiplied with, as a set of numbers; two matrices with equal ones have
            the same sums.
    """

    steps: tuple
    groups: int
    rows: int
    inputs: frozenset


@dataclass(eq=False)
class Use:
    """How a model uses a weight.

    Attributes:
        place: Integer, where in the order of the model it is used first.
        matrices: A tuple of `Matrix`.
        problem: Why it is not used in products with inputs alone, or None.
    """

    place: int = 0
    matrices: tuple = ()
    problem: str | None = None


class ProductPass(DataPass):
    """Runs the model with tensors of the graph in place of some weights."""

    collects = True
    """Whether memory is freed after each run; it takes a second where much was imported."""

    keeps = False
    """Whether what was traced is kept for further runs, until `forget` is called."""

    def __init__(self, model, variables):
        super().__init__(model, variables, needs_loss=False)
        self.graphs = Untracked([])

    def run(self, data, verbose=0):
        """Runs the model over the data once."""
        logger = tf.get_logger()
        level = logger.level
        logger.setLevel("ERROR")  # it would advise against tracing so often
        try:
            super().run(data, verbose)
        finally:
            logger.setLevel(level)
            if not self.keeps:
                self.forget()

    def forget(self):
        """Frees what was traced."""
        self.test_function = None
        while self.graphs.items:
            _keras.free_graph(self.graphs.items.pop())
        if self.collects:
            release_memory()

    def make_test_function(self, force=False):
        """One function; TensorFlow would keep the graph of the one that Keras puts inside."""
        if self.test_function is not None and not force:
            return self.test_function
        if self.replicas.count > 1:
            return super().make_test_function(force)

        @tf.function(reduce_retracing=True, autograph=False)
        def step(iterator):
            return self.test_step(next(iterator))

        self.test_function = step
        return step

    def substituted(self, x, tape=None, values=None):
        """The outputs, and the tensor that stood for each weight, which a tape watches.

        Args:
            x: The inputs of a batch.
            tape: `tf.GradientTape`.
            values: Variables with other values of the weights. Default: the values they have.
        """
        variables = self.variables_read.items
        tensors = [tf.identity(_keras.raw(variable)) for variable in values or variables]
        if tape is not None:
            tape.watch(tensors)
        self.graphs.items.append(tensors[0].graph)
        reads = dict(zip(map(id, variables), tensors, strict=True))
        with _keras.reading(reads), _keras.kernels_read_outside():
            return self(x, training=False), tensors


class _Uses(ProductPass):
    collects = False  # it runs once

    def __init__(self, model, variables):
        super().__init__(model, variables)
        self.found = Untracked([])
        self.bad_outputs = Accumulator(())

    def begin(self, batch):
        """Finds the uses in a process that has no batch of its own too."""
        x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
        trace = tf.function(lambda x: self._find(self.substituted(x)[1]), autograph=False)
        trace.get_concrete_function(x)

    def add_batch(self, x, y, sample_weight, size):
        outputs, tensors = self.substituted(x)
        floats = [t for t in keras.tree.flatten(outputs) if _is_float(t)]
        are_bad = [tf.reduce_any(~tf.math.is_finite(tf.convert_to_tensor(t))) for t in floats]
        if are_bad:
            self.bad_outputs.assign_add(tf.cast(tf.reduce_any(are_bad), "float32"))
        self._find(tensors)

    def _find(self, tensors):
        order = {op.name: place for place, op in enumerate(tensors[0].graph.get_operations())}
        numbers = {}
        self.found.items = [
            _use(tensor, tuple(variable.shape), order, numbers)
            for tensor, variable in zip(tensors, self.variables_read.items, strict=True)
        ]


def _is_float(tensor):
    return hasattr(tensor, "dtype") and keras.backend.is_float_dtype(tensor.dtype)


def _use(tensor, shape, order, numbers):
    use = Use(place=min((order[op.name] for op in tensor.consumers()), default=0))
    try:
        matrices = matrices_of(products_of(tensor), shape)
    except NoProductError as error:
        use.problem = str(error)
        return use
    use.matrices = tuple(
        Matrix(
            steps=steps,
            groups=products[0].groups,
            rows=products[0].row_size,
            inputs=frozenset(numbers.setdefault(each.key, len(numbers)) for each in products),
        )
        for steps, products in matrices.items()
    )
    return use


def weight_uses(model, variables, data, verbose=0):
    """How a model uses weights, seen while it runs over data once.

    Args:
        model: The model.
        variables: Weights of it that carry masks.
        data, verbose: See `tfprune.criteria.measuring.measure`.

    Returns:
        A list of `Use`s.

    Raises:
        NotFiniteError: If data, weights or outputs are not finite.
    """
    run = _Uses(model, variables)
    run.run(data, verbose)
    bad_outputs = int(run.replicas.total(run.bad_outputs))
    if bad_outputs:
        raise NotFiniteError(
            f"The outputs of the model are NaN or infinite on the data. Received: "
            f"model={model.name!r}, {bad_outputs} batches with such outputs."
        )
    return run.found.items


class _Moments(ProductPass):
    def __init__(self, model, variables, wanted):
        super().__init__(model, variables)
        every = {matrix.inputs: matrix for matrices in wanted for matrix in matrices}
        self.wanted = Untracked(wanted)
        self.totals = Untracked([{inputs: Total(matrix) for inputs, matrix in every.items()}])

    def free(self):
        """Frees the sums. TensorFlow may keep the variables for longer, but no values then."""
        for total in self.totals.items[0].values():
            total.free()

    def take(self):
        """The sums by inputs, whose memory is freed."""
        (totals,) = self.totals.items
        return {inputs: total.take(self.replicas) for inputs, total in totals.items()}

    def add_batch(self, x, y, sample_weight, size):
        _, tensors = self.substituted(x)
        (totals,) = self.totals.items
        missing = dict(totals)
        for tensor, matrices in zip(tensors, self.wanted.items, strict=True):
            products = products_of(tensor)
            for matrix in matrices:
                total = missing.pop(matrix.inputs, None)
                for product in products if total is not None else ():
                    if product.steps == matrix.steps:
                        total.add(product)


class Total:
    """The sums of x x', x and 1 for the rows x that are multiplied with a matrix.

    With `paired`, those of x z' and z too, for rows z that stand for the same in another run.
    They are variables of some rows each, so that little is added at once.
    """

    def __init__(self, matrix, paired=False):
        self.shape = (matrix.groups, matrix.rows, matrix.rows)
        self.dtype = "float64" if math.prod(self.shape) <= IN_DOUBLE_PRECISION**2 else "float32"
        runs = 1 + paired
        self.products = [self._pieces() for _ in range(runs)]
        self.sums = Accumulator((runs, *self.shape[:2]), "float64")
        self.count = Accumulator((), "float64")

    def _pieces(self):
        pieces = []
        for start in range(0, self.shape[1], ROWS_AT_ONCE):
            rows = slice(start, min(start + ROWS_AT_ONCE, self.shape[1]))
            shape = self.shape[0], rows.stop - rows.start, self.shape[2]
            pieces.append((rows, Accumulator(shape, self.dtype)))
        return pieces

    def reset(self):
        """Begins anew, after sums were taken."""
        pieces = [piece for _, piece in itertools.chain(*self.products)]
        for each in (self.sums, self.count, *pieces):
            each.reset()

    def add(self, *products):
        """Adds a batch, by as many examples at a time as memory should hold.

        Args:
            products: The product of each run.
        """
        examples, sizes = zip(*(product.examples() for product in products), strict=True)
        count = tf.shape(examples[0])[0]
        step = tf.clip_by_value(ELEMENTS_AT_ONCE // tf.maximum(sizes[0], 1), 1, ELEMENTS_AT_ONCE)

        def body(start):
            part = slice(start, start + step)
            pairs = zip(products, examples, strict=True)
            rows = [tf.cast(product.rows(each, part), self.dtype) for product, each in pairs]
            self.sums.assign_add(tf.stack([tf.reduce_sum(tf.cast(x, "float64"), 1) for x in rows]))
            self.count.assign_add(tf.cast(products[0].count(rows[0], part), "float64"))
            for of_run, other in zip(self.products, rows, strict=True):
                for some, piece in of_run:
                    piece.assign_add(tf.matmul(rows[0][..., some], other, transpose_a=True))
            return (start + step,)

        tf.while_loop(lambda start: start < count, body, (tf.constant(0),), parallel_iterations=1)

    def free(self):
        """Frees the memory of the sums of products."""
        for _, piece in itertools.chain(*self.products):
            piece.free()

    def take_sums(self, replicas):
        """The sums of x, and of z, as an array, and how many x there were."""
        sums, count = replicas.totals([self.sums, self.count])
        return sums, float(count)

    def take(self, replicas, run=0):
        """The sums of x x', or in run 1 of x z', as an array; their memory is freed."""
        found = np.empty(self.shape, self.dtype)
        for rows, piece in self.products[run]:
            found[:, rows] = replicas.total(piece)
            piece.free()
        return found


def second_moments(model, variables, uses, data):
    """Sum x x' for the matrices of some weights, over examples and positions of the data.

    The model runs as far as these weights are used.

    Args:
        model: The model.
        variables: Weights of it that carry masks.
        uses: The `Use` of each.
        data: See `tfprune.criteria.measuring.measure`.

    Returns:
        A dict from `Matrix.inputs` to an array (groups, rows, rows).
    """
    run = _Moments(model, variables, [use.matrices for use in uses])
    try:
        run.run(data)
    except BaseException:
        run.free()
        raise
    return run.take()
