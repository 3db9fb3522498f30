"""The report of `reconstruct`: the layers that it fitted, their errors, and those it skipped."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ReconstructedLayer:
    """The error of a layer's pre-activations, relative to their standard deviation.

    Attributes:
        name: The layer's name, after those of the nested models around it.
        before, after: The relative error without and with the new weights; 0.1 is a hundredth of
            the variance. It is measured on the held-out examples; on all where `ridge` was given.
        ridge: The ridge; infinite where the bias alone was fitted.
    """

    name: str
    before: float
    after: float
    ridge: float


@dataclass(frozen=True)
class SkippedLayer:
    """A layer with other inputs than the dense one that keeps its weights, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class ReconstructionReport:
    """The layers that `reconstruct` fitted and skipped.

    Attributes:
        layers: A `ReconstructedLayer` for each layer that was fitted.
        skipped: A `SkippedLayer` for each that was not.
        few: A sentence that names the layers for which there were few examples; or None.
    """

    layers: tuple
    skipped: tuple
    few: str | None = None

    def __str__(self):
        lines = [
            f"{r.name}: error {r.before:.2%} -> {r.after:.2%} (ridge {r.ridge:g})"
            for r in self.layers
        ]
        lines += [f"{r.name}: left as it is, {r.reason}" for r in self.skipped]
        return "\n".join([*lines, *([self.few] if self.few else [])])
