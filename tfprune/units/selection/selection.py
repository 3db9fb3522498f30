"""How units are chosen: what the keywords of `prune_units` and `PruneUnits` say of it."""

from dataclasses import dataclass

from tfprune.units.budgets import Latency
from tfprune.units.selection import limits

SCOPES = ("uniform", "global", "greedy", "exact")


@dataclass(frozen=True)
class Selection:
    """How units are chosen.

    Args:
        scope: "uniform", "global", "greedy" or "exact"; see `prune_units`.
        round_to: Integer, of which each layer keeps a multiple, or None.
        max_fraction: Float or dict, the most that may be pruned of a layer.

    Raises:
        ValueError: If an argument is none of these.

    Example:

    >>> Selection("global", round_to=8)
    Selection(scope='global', round_to=8, max_fraction=1.0)
    """

    scope: str = "uniform"
    round_to: int | None = None
    max_fraction: float | dict = 1.0

    def __post_init__(self):
        if self.scope not in SCOPES:
            raise ValueError(
                f"Argument `scope` must be one of {list(SCOPES)}. Received: scope={self.scope!r}."
            )
        limits.check(self.max_fraction, self.round_to)

    @property
    def rounds(self):
        """Whether layers keep multiples of more than 1."""
        return self.round_to not in (None, 1)

    def check_budget(self, budget):
        """Raises a `ValueError` if the scope cannot serve the budget."""
        if isinstance(budget, Latency) and self.scope == "exact":
            raise ValueError(
                "A latency is measured and not worked out, so there is no best choice to be found. "
                f"Received: scope='exact', budget={budget!r}. Take another scope."
            )
