"""Equivalence check: runs two models on the same inputs and compares their outputs.

Differences are measured by how much the outputs vary between examples, not by how large they are:
one as large as all that the inputs change may be a millionth of the largest output. What single
precision cannot tell is compared in double precision, on copies that were seen to compute what the
models do.
"""

import contextlib
from dataclasses import dataclass

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.failures import core
from tfprune.rebuild.copying import copy_model, in_double_precision
from tfprune.stripping.examples import caller, given_batches, random_batches

TOLERANCE = {"float64": 1e-9, "float32": 1e-5, "float16": 2e-2, "bfloat16": 1e-1}
"""The relative difference that is allowed, by the lowest precision in which a model computes."""

IN_DOUBLE_PRECISION = 1e-6
"""The relative difference allowed in float64: folded constants are stored as float32."""

_ROUNDING = {"float64": 1e-13, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""By how much outputs differ at least, over the largest, before it is more than rounding."""


@dataclass(frozen=True)
class Checked:
    """What `check_equal` found.

    Attributes:
        error: The largest difference between the outputs of the two models, over how much they vary
            between examples, or over the largest output where that is less; None if no output was
            compared.
        not_compared: The names of outputs that differ from call to call of the same model.
    """

    error: float | None
    not_compared: tuple = ()


def check_equal(before, after, data=None, *, batches=None, name="stripped"):
    """Checks that two models compute the same; both are left as they were.

    The yardstick is how much an output varies between examples, or its largest value where that is
    less. If the check fails in single precision or less, where large numbers may cancel, both
    models are compared once more in double precision. There the difference may be as large as what
    rounding makes of the outputs of `before`.

    Args:
        before: The model.
        after: The model that should compute the same.
        data: Examples to run them on, see `tfprune.stripping.examples.given_batches`; by default
            random ones.
        batches: Lists of arrays to run them on instead.
        name: What `after` is, for the message.

    Returns:
        A `Checked`.

    Raises:
        ValueError: If there is nothing to run the models on.
        RuntimeError: If they differ by more than the precision of the computation allows.
    """
    ours, theirs = _Runs(before, remembers=data is None and batches is None), _Runs(after)
    if batches is None:
        is_random = data is None
        batches = random_batches(before, run=ours) if is_random else _Given(before, data)
    precision = lowest_precision(before)

    def run_after(batch):
        try:
            return theirs(batch)
        except Exception as failure:  # whatever a user's layer raises; `before` ran
            raise RuntimeError(
                f"The {name} model does not run where the model does. Received: "
                f"model={before.name!r}, {type(failure).__name__}: {core(str(failure))}"
            ) from failure

    differences = _differences(ours, run_after, batches)
    if all(d.is_within(TOLERANCE[precision]) for d in differences):
        return Checked(_largest(differences))
    changing = _changing(before, next(iter(batches)), TOLERANCE[precision])
    if changing:  # with the same seed both may draw the same numbers
        differences = _differences(_Runs(before, seed=1), _Runs(after, seed=1), batches)
        changing = [p for p in changing if not differences[p].is_within(TOLERANCE[precision])]
    places = [place for place in range(len(differences)) if place not in changing]
    not_compared = tuple(_output_name(before, place) for place in changing)
    if all(differences[place].is_within(TOLERANCE[precision]) for place in places):
        return Checked(_largest([differences[place] for place in places]), not_compared)
    allowed, errors = TOLERANCE[precision], None
    if precision != "float64":
        # A model whose own code cannot compute in float64 is judged by its outputs as they are.
        with contextlib.suppress(Exception):
            errors = _in_double_precision(ours, theirs, batches, places, precision)
            allowed = IN_DOUBLE_PRECISION
    if errors is None:
        rounding = _ROUNDING["float64"] if precision == "float64" else allowed
        errors = [each.over(rounding * each.largest, allowed) for each in differences]
    error = max(errors[place] for place in places)
    if not error <= allowed:
        raise RuntimeError(
            f"The {name} model does not compute what the model computes. "
            f"Received: model={before.name!r}, relative difference={error:.3g}, "
            f"allowed={allowed:.3g}. Nothing was changed. Please report it with the model's "
            "`to_json()`."
        )
    return Checked(error, not_compared)


class _Runs:
    """A model in inference, which is left as it was.

    Args:
        model: The model.
        seed: What random numbers are drawn with, None for whatever comes.
        remembers: Whether what it gave for a batch is kept, and given once more.
    """

    def __init__(self, model, seed=None, remembers=False):
        self.model = model
        self.remembers = remembers
        self._run, self._seed, self._given = caller(model), seed, {}

    def __call__(self, batch):
        """The outputs for a batch: a flat list of arrays."""
        if not self.remembers:
            return self._outputs(batch)
        if id(batch) not in self._given:
            self._given[id(batch)] = batch, self._outputs(batch)  # held, so that its id stays
        return self._given[id(batch)][1]

    def _outputs(self, batch):
        seeded = contextlib.nullcontext() if self._seed is None else _keras.fixed_seed(self._seed)
        with _keras.unchanged(self.model), seeded:
            return self._run(batch)


@dataclass(frozen=True)
class _Given:
    """The batches of data, read anew each time that they are gone through."""

    model: object
    data: object

    def __iter__(self):
        return given_batches(self.model, self.data)


def _changing(model, batch, allowed):
    """The places of the outputs that are not the same each time that a model is called."""
    run = caller(model)
    with _keras.unchanged(model):
        differences = _compared([(run(batch), run(batch))])
    return [place for place, each in enumerate(differences) if not each.is_within(allowed)]


def _in_double_precision(before, after, batches, places, precision):
    """For each output the error in double precision, to be at most `IN_DOUBLE_PRECISION`."""
    for run in (before, after):  # copies tell something only if copies compute the same
        if not is_of_stock_layers(run.model):
            same = _differences(run, _Runs(copy_model(run.model).model), batches)
            if not all(same[place].is_within(TOLERANCE[precision]) for place in places):
                raise ValueError("A copy of the model computes something else.")
    doubled = _Runs(in_double_precision(before.model).model, remembers=before.remembers)
    rounding = _differences(before, doubled, batches)
    differences = _differences(doubled, _Runs(in_double_precision(after.model).model), batches)
    most = IN_DOUBLE_PRECISION if precision == "float32" else TOLERANCE[precision]
    return [
        each.over(
            min(max(4 * noise.size, _ROUNDING[precision] * each.largest), most * each.largest),
            IN_DOUBLE_PRECISION,
        )
        for each, noise in zip(differences, rounding, strict=True)
    ]


def is_of_stock_layers(model):
    """Whether no code of a user is in a model, so that a copy is known to compute the same."""
    return all(
        _keras.is_stock(type(layer)) and not isinstance(layer, keras.layers.Lambda)
        for layer in _keras.all_layers(model)
    )


def _differences(before, after, batches):
    """The `Difference` of each output of two models, over batches."""
    return _compared([run(batch) for run in (before, after)] for batch in batches)


def _compared(pairs):
    """The `Difference` of each output, of pairs of the outputs of two models."""
    found = None
    for ours, theirs in pairs:
        found = [Difference() for _ in ours] if found is None else found
        for each, *arrays in zip(found, ours, theirs, strict=True):
            each.add(*arrays)
    return found


class Difference:
    """How far an output of two models differs, and how large it is and how much it varies.

    Attributes:
        size: The largest difference between elements; infinite where shapes differ, or where one
            element is finite and the other is not.
        largest: The largest absolute element of the first, of the finite ones.
    """

    def __init__(self):
        self.size = self.largest = 0.0
        self._ranges = {}

    def add(self, ours, theirs):
        """Takes account of a batch of outputs."""
        if ours.dtype == object:  # strings
            is_same = ours.shape == theirs.shape and bool((ours == theirs).all())
            self.size = self.size if is_same else np.inf
            return
        finite = np.isfinite(ours)
        if ours.shape != theirs.shape or not np.array_equal(
            ours[~finite], theirs[~finite], equal_nan=True
        ):
            self.size = np.inf
            return
        difference = np.subtract(ours, theirs, where=finite, out=np.zeros(ours.shape))
        found = float(np.max(np.abs(difference), initial=0.0))
        self.size = max(self.size, found if np.isfinite(found) else np.inf)
        self.largest = max(self.largest, float(np.max(np.abs(ours), initial=0.0, where=finite)))
        if ours.size:
            examples = ours[None] if ours.ndim == 0 else ours
            self._extend(
                np.min(examples, axis=0, where=finite, initial=np.inf),
                np.max(examples, axis=0, where=finite, initial=-np.inf),
            )

    def _extend(self, low, high):
        before = self._ranges.get(low.shape, (low, high))
        self._ranges[low.shape] = np.minimum(before[0], low), np.maximum(before[1], high)

    @property
    def scale(self):
        """The yardstick: how much it varies between examples, or the largest if that is less."""
        spreads = [np.max(high - low, initial=0.0) for low, high in self._ranges.values()]
        spread = float(max(spreads, default=0.0))
        return min(spread, self.largest) if spread > 0 else self.largest

    @property
    def relative(self):
        """The difference over the yardstick; the difference itself where all is 0."""
        return self.size / (self.scale or 1.0)

    def is_within(self, allowed):
        """Whether the relative difference is allowed."""
        return self.relative <= allowed

    def over(self, rounding, allowed):
        """The relative difference; so that a difference of `rounding` is what is allowed."""
        return self.size / (max(self.scale, rounding / allowed) or 1.0)


def error(ours, theirs):
    """Returns the largest difference between two arrays over the largest element of the first."""
    difference = Difference()
    difference.add(ours, theirs)
    return difference.size / (difference.largest or 1.0)


def _largest(differences):
    return max((each.relative for each in differences), default=None)


def _output_name(model, place):
    graph = _keras.functional(model)
    return str(place) if graph is None else graph.output_names[place]


def lowest_precision(model):
    """Returns the least precise dtype in which layers of a model compute."""
    found = {layer.compute_dtype for layer in _keras.all_layers(model)} & set(TOLERANCE)
    return max(found, key=TOLERANCE.get, default="float32")
