"""What commands print: a report as tables, or as one JSON object."""

import json
import math
import pathlib

import numpy as np
from rich.console import Console

from tfprune._tools.tables import plain


def show(arguments, report=None, written=()):
    """Prints the report of a command, and which files it wrote.

    Args:
        arguments: What the command was given; with `json`, one JSON object is printed.
        report: A report of the package, or None.
        written: The paths that were written.
    """
    if getattr(arguments, "json", False):
        print(as_json(report, written))
        return
    if hasattr(report, "__rich__"):
        Console().print(report)
    elif report is not None:
        print(report)
    for path in written:
        print(f"wrote {path}")


def as_json(report, written=()):
    """A report as one JSON object; what is NaN or infinite is null, as JSON has no word for it.

    Args:
        report: A dataclass, or an object with `to_dict`.
        written: Paths, which become the entry "written".

    Example:

    >>> from tfprune._tools.tables import Change
    >>> as_json(Change(3, float("nan")), [pathlib.Path("small.keras")])
    '{"before": 3, "after": null, "ratio": null, "written": ["small.keras"]}'
    """
    found = report.to_dict() if hasattr(report, "to_dict") else plain(report)
    if written:
        found = {**found, "written": list(written)}
    return json.dumps(_jsonable(found), allow_nan=False)


def _jsonable(value):
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, pathlib.PurePath) else value
