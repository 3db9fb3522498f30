"""Tables of the latency of pieces of models, kept on disk for each machine and runtime."""

import contextlib
import hashlib
import json
import math
import os
import pathlib
import platform

from tfprune._tools.checks import is_number
from tfprune._tools.files import written_whole
from tfprune.measuring import runtimes
from tfprune.measuring.piece_timing import seconds_of


class LatencyTable:
    """The latency of pieces of models under one set of conditions.

    Args:
        environment: Dict that says on what machine and in what runtime was measured.
        seconds: Dict from the `digest` of a `SmallModel` to its seconds, None if it cannot run.
        path: Where the table is kept, a `pathlib.Path`, or None.
        measure: Function from a list of `SmallModel` to a list of seconds, for what is not in the
            table, None where a model cannot be measured; or None for a table of another device.

    Example:

    >>> table = LatencyTable({"machine": "phone"}, {"a": 0.002})
    >>> table.seconds["a"]
    0.002
    """

    def __init__(self, environment, seconds=None, path=None, measure=None):
        self.environment, self.path, self._measure = environment, path, measure
        self.seconds = dict(seconds or {})

    def of(self, models):
        """The seconds of small models, measured where the table does not have them.

        Args:
            models: A list of `SmallModel`, None where there is none.

        Returns:
            A list of seconds, None where a model cannot be measured.

        Raises:
            ValueError: If the table is of another device and does not have them all.
        """
        missing = {m.digest: m for m in models if m is not None and m.digest not in self.seconds}
        if missing and self._measure is None:
            raise ValueError(
                f"The table of latencies lacks {len(missing)} of the pieces that the budget needs. "
                f"Received: table={str(self.path)!r} ({self.environment}). Write them with "
                "`tfprune latency-table write`, measure them on the device, and read its output "
                "into the same table."
            )
        if missing:
            found = self._measure(list(missing.values()))
            self.seconds.update(
                (digest, seconds)
                for digest, seconds in zip(missing, found, strict=True)
                if seconds is not None
            )
            self.save()
        return [None if model is None else self.seconds.get(model.digest) for model in models]

    def save(self):
        """Writes the table, with what others have put into the file; leaves it out if it cannot."""
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.write(self.path)

    def write(self, path):
        """Writes the table as JSON, with what the file has under the same conditions.

        Raises:
            OSError: If it cannot be written.
        """
        with contextlib.suppress(OSError, ValueError):
            self.seconds = {**read(path, self.environment).seconds, **self.seconds}
        with written_whole(pathlib.Path(path)) as place:
            content = {"environment": self.environment, "seconds": self.seconds}
            place.write_text(json.dumps(content, indent=0, sort_keys=True))


def of_this_machine(runtime, threads=None, quantize=None, *, folder=None, verbose=0):
    """The table of this machine, which grows as pieces are measured.

    Args:
        runtime: "litert" or "onnx".
        threads, quantize: As in `tfprune.budgets.Latency`.
        folder: Where it is kept, by default `latency` in `cache_folder()`.
        verbose: 1 shows progress.

    Returns:
        A `LatencyTable`, empty if there is none yet or it cannot be read.
    """
    environment = {
        "machine": _processor(),
        "cores": os.cpu_count(),
        "runtime": runtime,
        "version": runtimes.version(runtime),
        "threads": threads or 1,
        "quantize": quantize,
    }
    path = (folder or cache_folder() / "latency") / f"{runtime}-{digest_of(environment)}.json"
    seconds = {}
    with contextlib.suppress(OSError, ValueError):
        seconds = read(path, environment).seconds
    how = {"runtime": runtime, "threads": threads or 1, "quantize": quantize, "verbose": verbose}
    return LatencyTable(environment, seconds, path, lambda models: seconds_of(models, **how))


def read(path, environment=None):
    """A table from its file, as one of another device.

    Args:
        path: A path.
        environment: Dict: what must be the conditions.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no table, or one under other conditions.
    """
    path = pathlib.Path(path)
    try:
        content = json.loads(path.read_text())
        found, seconds = content["environment"], content["seconds"]
        is_table = isinstance(found, dict) and all(map(_is_time, seconds.values()))
    except (AttributeError, KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError):
        is_table = False
    if not is_table:
        raise ValueError(
            "A table of latencies must be a file that tfprune wrote. "
            f"Received: table={str(path)!r}. Make one with `tfprune latency-table`."
        )
    if environment is not None and found != environment:
        raise ValueError(
            "The table of latencies is one under other conditions. "
            f"Received: table={str(path)!r} ({found}), expected {environment}."
        )
    return LatencyTable(found, seconds, path)


def cache_folder():
    """The folder of what can be made again: `$XDG_CACHE_HOME/tfprune`, or `~/.cache/tfprune`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (pathlib.Path(base) if base else pathlib.Path("~/.cache").expanduser()) / "tfprune"


def digest_of(value):
    """Sixteen characters that stand for a value which JSON can say.

    >>> len(digest_of({"cores": 2}))
    16
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _processor():
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _is_time(value):
    return value is None or is_number(value) and 0 < value < math.inf
