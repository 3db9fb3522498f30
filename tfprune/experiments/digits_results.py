"""Results of the digits experiment: accuracies by sweep, fraction and repeat."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from tfprune._tools.files import written_whole
from tfprune.experiments.digits_protocol import Protocol


@dataclass(frozen=True)
class Results:
    """Accuracies by sweep.

    Args:
        protocol: `Protocol`.
        fractions: Dict from the name of a sweep, as "prune magnitude", to its fractions p.
        test, train: Dicts from the name to an array of shape (fractions, repeats).
        seconds: Float, how long it took.
    """

    protocol: Protocol
    fractions: dict = field(repr=False)
    test: dict = field(repr=False)
    train: dict = field(repr=False)
    seconds: float = 0.0

    @property
    def trainings(self):
        """How many trainings there were."""
        return sum(np.size(values) for values in self.test.values())

    def mean(self, name, fraction=None):
        """The mean test accuracy over repeats: for each fraction, or for the one given."""
        return self._at(name, fraction, np.mean(self.test[name], axis=1))

    def deviation(self, name, fraction=None):
        """The standard deviation over repeats, from the sample (n - 1)."""
        values = np.asarray(self.test[name])
        found = values.std(axis=1, ddof=1) if values.shape[1] > 1 else np.zeros(len(values))
        return self._at(name, fraction, found)

    def _at(self, name, fraction, values):
        return values if fraction is None else float(values[self._place(name, fraction)])

    def lead(self, name, other, low, high):
        """The difference in test accuracy between two sweeps, for each repeat.

        Args:
            name, other: Names of sweeps.
            low, high: Floats; the mean is over the fractions of both in [low, high].

        Returns:
            An array of shape (repeats,).
        """
        shared = set(np.round(self.fractions[name], 6)) & set(np.round(self.fractions[other], 6))
        inside = [p for p in shared if low - 1e-6 <= p <= high + 1e-6]
        first, second = (
            np.mean([self.test[n][self._place(n, p)] for p in inside], axis=0)
            for n in (name, other)
        )
        return first - second

    def _place(self, name, fraction):
        place = int(np.argmin(np.abs(np.asarray(self.fractions[name]) - fraction)))
        if not np.isclose(self.fractions[name][place], fraction):
            raise ValueError(
                f"Argument `fraction` must be one of the sweep {name!r}. "
                f"Received: fraction={fraction}."
            )
        return place

    def save(self, path):
        """Writes a JSON file atomically."""
        content = {
            "protocol": asdict(self.protocol),
            "seconds": round(self.seconds, 1),
            "sweeps": {
                name: {
                    "fractions": [round(float(p), 4) for p in self.fractions[name]],
                    "test": np.round(self.test[name], 5).tolist(),
                    "train": np.round(self.train[name], 5).tolist(),
                }
                for name in self.fractions
            },
        }
        with written_whole(Path(path)) as place:
            Path(place).write_text(json.dumps(content) + "\n")

    @classmethod
    def load(cls, path):
        """Reads what `save` wrote."""
        content = json.loads(Path(path).read_text())
        sweeps = content["sweeps"].items()
        return cls(
            Protocol(**content["protocol"]),
            {name: np.array(sweep["fractions"]) for name, sweep in sweeps},
            {name: np.array(sweep["test"]) for name, sweep in sweeps},
            {name: np.array(sweep["train"]) for name, sweep in sweeps},
            content["seconds"],
        )
