"""The kinds of budgets, and each as a share of what the dense model has."""

import dataclasses
import math
from dataclasses import KW_ONLY, dataclass

import keras

from tfprune._tools.checks import check_integer, is_integer, is_number
from tfprune.measuring import runtimes
from tfprune.measuring.piece_timing import RUNTIMES as TABLE_RUNTIMES


class UnmetError(ValueError):
    """Raised where a budget cannot be met; the message says which one can.

    Args:
        message: String.
        lowest: The part of it that says what can be met, a string.
    """

    def __init__(self, message, lowest):
        super().__init__(message, lowest)
        self.lowest = lowest

    def __str__(self):
        return self.args[0]


class Budget:
    """Base class of budgets; a subclass is a frozen dataclass."""

    def get_config(self):
        """The arguments that make this budget again."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def from_config(cls, config):
        """A budget out of its `get_config()`."""
        return cls(**config)


@dataclass(frozen=True)
class _Counted(Budget):
    """A budget of what can be counted."""

    remaining: float | int

    def __post_init__(self):
        object.__setattr__(self, "remaining", _checked(self.remaining, type(self).__name__))

    def allowed(self, dense, progress=1.0):
        """The number that may remain.

        Args:
            dense: Integer, how many the model has with all its units.
            progress: Float from 0 (the dense model) to 1 (the budget).
        """
        is_share = isinstance(self.remaining, float)
        final = self.remaining * dense if is_share else min(self.remaining, dense)
        # A millionth, so that 0.1 of 30 is 3 though 0.1 is not quite a tenth.
        return math.floor(final + (1 - progress) * (dense - final) + 1e-6)

    def __str__(self):
        if isinstance(self.remaining, float):
            return f"at most {100 * self.remaining:.4g} % of the {self.what}"
        return f"at most {self.remaining:,} {self.what}"


@keras.saving.register_keras_serializable("tfprune")
@dataclass(frozen=True)
class Units(_Counted):
    """Budget of units, among those that may be pruned (see `only`, `exclude`).

    Args:
        remaining: A float in (0, 1], the fraction of the dense model's; or an integer, how many.

    Raises:
        ValueError: If it is neither.

    Example:

    >>> print(Units(0.25))
    at most 25 % of the units
    """

    what = "units"


@keras.saving.register_keras_serializable("tfprune")
@dataclass(frozen=True)
class Parameters(_Counted):
    """Budget of parameters, as `count_params()` of the stripped model counts them.

    The count is exact where only the masks of units make units dead. Units that are dead because of
    zeros or masks of single weights are counted here, although `strip` removes them too.

    Args:
        remaining: A float in (0, 1], the fraction of the dense model's; or an integer, how many.

    Raises:
        ValueError: If it is neither.

    Example:

    >>> Parameters(0.5).allowed(dense=1001)
    500
    """

    what = "parameters"


@keras.saving.register_keras_serializable("tfprune")
@dataclass(frozen=True)
class MACs(_Counted):
    """Budget of multiply-accumulates for one sample, as `tfprune.coupling.costs` counts them.

    Args:
        remaining: A float in (0, 1], the fraction of the dense model's; or an integer, how many.
        input_shapes: The sizes to take for dynamic dimensions: the shape of the input without the
            batch axis, as `(224, 224, 3)`; for several inputs a list, or a dict by input name.

    Raises:
        ValueError: If `remaining` is neither.

    Example:

    >>> print(MACs(2_000_000))
    at most 2,000,000 multiply-accumulates
    """

    input_shapes: tuple | list | dict | None = None
    what = "multiply-accumulates"


@keras.saving.register_keras_serializable("tfprune")
@dataclass(frozen=True)
class Bytes(_Counted):
    """Budget of the bytes of the weights: their elements times the size of their dtype.

    Files are larger by what their format adds (names, the graph).

    Args:
        remaining: A float in (0, 1], the fraction of the dense model's; or an integer, how many.

    Raises:
        ValueError: If it is neither.

    Example:

    >>> Bytes(0.5).allowed(dense=4000)
    2000
    """

    what = "bytes of weights"


@keras.saving.register_keras_serializable("tfprune")
@dataclass(frozen=True)
class Latency(Budget):
    """Budget of the latency of one call at inference, measured on this machine.

    Candidates are rebuilt without their pruned units and timed. The one chosen is measured once
    more, beside the dense model, and must then be within the tolerance.

    Args:
        milliseconds: Positive number; or, in its place,
        fraction: a float in (0, 1], of the time that the dense model takes.
        batch_size: How many samples one call takes.
        input_shapes: The sizes to take for dynamic dimensions, as in `MACs`.
        tolerance: Float, the share by which a measurement may exceed the budget, for noise.
        runtime: What the model is shipped to and timed in: "litert" (TensorFlow Lite), "onnx" (ONNX
            Runtime, of `pip install 'tfprune[onnx]'`), "saved_model", or "keras", a `tf.function`.
        threads: Integer, how many threads LiteRT or ONNX Runtime take, one by default. Those of
            TensorFlow are set once in a process, by `tf.config.threading`.
        quantize: "float16", "dynamic" or "int8" for LiteRT, as `tfprune.export` takes it.
        table: The path of a table that was measured on another device, by
            `tfprune latency-table`: the budget is met there by the sum of the pieces, and nothing
            is timed here.

    With "litert" or "onnx", the selections "greedy" and "exact" work on a table of the latency of
    each piece of the model at several widths, which is measured once and kept in
    `~/.cache/tfprune`; so does `round_to="auto"`.

    Raises:
        ValueError: If not just one of `milliseconds` and `fraction` is given, or out of its range,
            or the runtime has no such `threads`, `quantize` or `table`.

    Example:

    >>> print(Latency(5.0, batch_size=32)), print(Latency(fraction=0.5, runtime="litert"))
    at most 5 ms for a batch of 32
    at most 50 % of the time for a batch of 1 in LiteRT
    (None, None)
    """

    milliseconds: float | None = None
    fraction: float | None = None
    _: KW_ONLY
    batch_size: int = 1
    input_shapes: tuple | list | dict | None = None
    tolerance: float = 0.05
    runtime: str = "keras"
    threads: int | None = None
    quantize: str | None = None
    table: str | None = None

    def __post_init__(self):
        if (self.milliseconds is None) == (self.fraction is None):
            raise ValueError(
                "Exactly one of `milliseconds` and `fraction` must be given. "
                f"Received: milliseconds={self.milliseconds}, fraction={self.fraction}."
            )
        ranges = {"milliseconds": math.inf, "fraction": 1, "tolerance": 1}
        for name, most in ranges.items():
            value = getattr(self, name)
            if value is not None and not (
                is_number(value) and 0 < value <= most and value != math.inf
            ):
                raise ValueError(
                    f"Argument `{name}` must be a number above 0"
                    f"{'' if most == math.inf else ' and at most 1'}. Received: {name}={value!r}."
                )
        check_integer("batch_size", self.batch_size)
        runtimes.check(self.runtime, self.threads, self.quantize)
        if self.table is not None:
            object.__setattr__(self, "table", str(self.table))
            if not self.has_table:
                raise ValueError(
                    "Argument `table` must be None but for runtime='litert' or 'onnx'. "
                    f"Received: table={self.table!r}, runtime={self.runtime!r}."
                )

    @property
    def has_table(self):
        """Whether the latency of pieces of a model can be measured in the runtime."""
        return self.runtime in TABLE_RUNTIMES

    @property
    def conditions(self):
        """What a model is measured on and in: arguments of `tfprune.measuring.latency.latency`."""
        names = ("batch_size", "input_shapes", "runtime", "threads", "quantize")
        return {name: getattr(self, name) for name in names}

    def allowed(self, dense, progress=1.0):
        """The seconds that a call may take, given the `dense` ones with all units."""
        final = self.fraction * dense if self.fraction else min(self.milliseconds / 1000, dense)
        return final + (1 - progress) * (dense - final)

    def __str__(self):
        share = f"{100 * self.fraction:.4g} % of the time" if self.fraction else ""
        where = "" if self.runtime == "keras" else f" in {runtimes.NAMES[self.runtime]}"
        most = share or f"{self.milliseconds:g} ms"
        return f"at most {most} for a batch of {self.batch_size}{where}"


KINDS = (Units, Parameters, MACs, Bytes, Latency)
COSTS = {cls.__name__.lower(): cls for cls in KINDS}
"""The kinds of budgets by the names of what they are budgets of."""


def with_share(cost, share):
    """The budget of a share of a cost.

    Args:
        cost: One of `COSTS`, or a budget of all of it, whose other arguments are kept.
        share: Float in (0, 1].

    Raises:
        ValueError: If `cost` is neither.

    Example:

    >>> with_share("macs", 0.5), with_share(Latency(fraction=1.0, batch_size=8), 0.5).fraction
    (MACs(remaining=0.5, input_shapes=None), 0.5)
    """
    if isinstance(cost, str) and cost in COSTS:
        cost = COSTS[cost](**{_share_argument(COSTS[cost]): 1.0})
    whole = share_of(cost) if isinstance(cost, Budget) else None
    if not isinstance(whole, float) or whole != 1:
        raise ValueError(
            f"Argument `cost` must be one of {list(COSTS)}, or a budget of all of it, as "
            f"`tfprune.budgets.MACs(1.0, input_shapes=...)`. Received: cost={cost!r}."
        )
    return dataclasses.replace(cost, **{_share_argument(type(cost)): share})


def share_of(budget):
    """The share of the dense model's cost that may remain under a budget, if it is one."""
    return getattr(budget, _share_argument(type(budget)), None)


def in_short(budget):
    """A budget in a few characters.

    >>> print(in_short(MACs(0.25)), in_short(Parameters(1000)), in_short(Latency(2.5)), sep=", ")
    MACs 25 %, parameters 1,000, latency 2.5 ms
    """
    share, name = share_of(budget), cost_name(budget)
    if isinstance(share, float):
        return f"{name} {100 * share:.4g} %"
    return f"{name} {budget.milliseconds:g} ms" if share is None else f"{name} {share:,}"


def cost_name(cost):
    """What a cost is called in tables: "MACs", "parameters", "latency"."""
    name = cost if isinstance(cost, str) else type(cost).__name__.lower()
    return "MACs" if name == "macs" else name


def _share_argument(kind):
    """The name of the argument of a kind of budget that says which share may remain."""
    return "fraction" if kind is Latency else "remaining"


def _checked(remaining, name):
    if is_integer(remaining) and remaining >= 1:
        return int(remaining)
    if is_number(remaining) and not is_integer(remaining) and 0 < remaining <= 1:
        return float(remaining)
    raise ValueError(
        "Argument `remaining` must be a float in (0, 1], the fraction of the dense model's that "
        f"may remain, or a positive integer, how many may remain. Received: {name}({remaining!r})."
    )
