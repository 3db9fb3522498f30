"""Values of arguments: converters of text, and the names that may be chosen."""

import argparse
import math
from pathlib import Path

CRITERIA = (
    "auto",
    "activation_variance",
    "apoz",
    "bn_scale",
    "fpgm",
    "l1",
    "l2",
    "layerwise_obs",
    "magnitude",
    "random",
    "second_order",
    "taylor",
    "taylor_activation",
)
"""The criteria for units but "activation_contribution", which is measured in a training before.

They stand here too, since to import the others takes TensorFlow.
"""

BUDGETS = ("units", "parameters", "macs", "bytes", "latency", "drop")


def fraction(text):
    """A float from 0 to below 1."""
    value = _number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to below 1, not {text!r}")
    return value


def positive(text):
    """A finite float above 0."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return value


def shares(text):
    """A tuple of floats above 0 and up to 1, from text such as `0.5,0.25`."""
    found = tuple(map(_number, text.split(",")))
    if not all(0 < each <= 1 for each in found):
        raise argparse.ArgumentTypeError(f"must be numbers from 0 to 1, as 0.5,0.25, not {text!r}")
    return found


def file_or_share(text):
    """A float between 0 and 1, or the `pathlib.Path` of a file."""
    value = _number(text)
    if math.isnan(value):
        return Path(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(
            f"must be a file or a share between 0 and 1, as 0.2, not {text!r}"
        )
    return value


def budget(text):
    """A pair of a name in `BUDGETS` and a number, from text such as `macs=0.5`."""
    kind, _, value = text.partition("=")
    if kind not in BUDGETS:
        raise argparse.ArgumentTypeError(
            f"must be KIND=VALUE with a kind among {', '.join(BUDGETS)}, not {text!r}"
        )
    try:
        number = int(value.replace("_", "")) if kind not in ("latency", "drop") else float(value)
    except ValueError:
        number = _number(value)
    is_fraction = isinstance(number, float) and kind != "latency"
    is_null = number == 0 and kind != "drop"
    if not 0 <= number < math.inf or is_null or (is_fraction and number > 1):
        expected = "milliseconds" if kind == "latency" else "a fraction up to 1.0 or a whole number"
        expected = "a number from 0 to 1" if kind == "drop" else expected
        raise argparse.ArgumentTypeError(f"{kind} must be {expected}, not {value!r}")
    return kind, number


def _number(text):
    """A float, NaN for what is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _integer(least, most, expected):
    """A converter for integers from `least` to `most`; `expected` is said where it fails."""

    def convert(text):
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"must be {expected}, not {text!r}")
        return int(text)

    return convert


count = _integer(1, math.inf, "an integer of at least 1")


def count_or_auto(text):
    """An integer of at least 1, or "auto"."""
    return text if text == "auto" else count(text)


whole = _integer(0, math.inf, "a whole number from 0")
seed = _integer(0, 2**32 - 1, "an integer from 0 to 2**32 - 1")
