"""Selections: the argument `selection` of `prune_units`, `PruneUnits` and `prune`."""

import keras

from tfprune._tools.checks import one_of
from tfprune._tools.registry import Configurable, Registry
from tfprune.masks import layer_filter
from tfprune.units.budgets import Latency
from tfprune.units.selection import limits

SCOPES = ("uniform", "global", "greedy", "exact", "same_class")


@keras.saving.register_keras_serializable("tfprune")
class Selection(Configurable):
    """Decides which units go, given their scores and a target.

    Scopes:

    - "uniform": the same fraction of each layer; under a budget, to within one unit of each layer,
      and then as many more units as there is room for.
    - "global": one ranking of the units of all layers by their scores.
    - "greedy": least importance per cost saved, evaluated again as units go.
    - "exact": the kept units have the greatest sum of scores that the budget allows (an integer
      program, for small models). Under "greedy" and "exact" scores below 0 count from the lowest
      up, and a fraction is taken as a budget of units.
    - "same_class": equal counts in all blocks, so that the config of the model's own class can say
      them, for `tfprune.strip(model, same_class=True)`. Each number in the config loses the same
      fraction.

    Args:
        scope: "uniform", "global", "greedy", "exact" or "same_class".
        round_to: Integer. Each layer that loses units keeps a multiple of it: the nearest, of two
            as near the larger, and all units where the nearest is more than it has. Under a budget
            multiples go by the same ranking until it is met, never above it. 8 or 16 suits most
            hardware; "auto" measures, under a `Latency` in LiteRT or ONNX Runtime, which multiple
            makes each layer fast.
        min_units: Integer, how many units each layer keeps at least.
        max_fraction: Float from 0 to 1, the most that may be pruned of a layer; or a dict from a
            layer, its name, a nested model or a predicate `layer -> bool` to such a float, in
            which later keys win and layers that none names may lose all.
        blocks: Whether whole residual blocks may go too, in `tfprune.prune` under a budget.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> Selection("greedy", round_to=8, max_fraction={"stem": 0.5})
    Selection(scope='greedy', round_to=8, min_units=1, max_fraction={'stem': 0.5}, blocks=False)
    """

    def __init__(
        self, scope="uniform", *, round_to=None, min_units=1, max_fraction=1.0, blocks=False
    ):
        limits.check(max_fraction, round_to, min_units)
        self.scope = one_of("scope", scope, SCOPES)
        self.round_to = round_to
        self.min_units = min_units
        self.max_fraction = max_fraction
        self.blocks = one_of("blocks", blocks, (False, True))

    @property
    def rounds(self):
        """Whether layers keep multiples of more than 1."""
        return self.round_to not in (None, 1)

    def check_budget(self, budget):
        """Raises a `ValueError` if the scope or `round_to` cannot serve a target."""
        if isinstance(budget, Latency) and budget.has_table:
            return
        if isinstance(budget, Latency) and self.scope == "exact":
            raise ValueError(
                "A latency is measured and not worked out, so there is no best choice to be found. "
                f"Received: selection='exact', target={budget!r}. Take another scope, or "
                "`runtime='litert'` or 'onnx', of which the pieces of a model can be measured."
            )
        if self.round_to == "auto":
            raise ValueError(
                "The widths that pay are measured under a budget of latency in LiteRT or ONNX "
                f"Runtime alone. Received: round_to='auto', target={budget!r}. Take "
                "`tfprune.budgets.Latency(..., runtime='litert')`, or a number as 8."
            )

    def for_copy(self, counterparts):
        """The same selection for a copy of the model, given `layer_filter.Counterparts`."""
        return self.with_changes(max_fraction=counterparts.by_layer(self.max_fraction))

    def with_changes(self, **arguments):
        """The same selection with some other arguments."""
        return Selection(**{**self._arguments(), **arguments})

    def _arguments(self):
        names = ("scope", "round_to", "min_units", "max_fraction", "blocks")
        return {name: getattr(self, name) for name in names}

    def get_config(self):
        """The arguments that make this selection again, layers by their names."""
        config = self._arguments()
        if isinstance(self.max_fraction, dict):
            config["max_fraction"] = layer_filter.serialize_keys("max_fraction", self.max_fraction)
        return config


_REGISTRY = Registry(
    Selection,
    argument="selection",
    expected=f"one of {list(SCOPES)}, or a `tfprune.Selection` with its arguments",
    names={scope: Selection(scope) for scope in SCOPES},
)


def get(identifier, with_blocks=False):
    """Returns the selection that an identifier means.

    Args:
        identifier: A scope by its name, a `Selection`, or the configuration of one.
        with_blocks: Whether it may be one by which blocks go too.

    Raises:
        ValueError: If it is none of these.

    Example:

    >>> get("global").scope
    'global'
    """
    selection = _REGISTRY.get(identifier)
    if selection.blocks and not with_blocks:
        raise ValueError(
            "Blocks are removed by `tfprune.prune` and `tfprune.prune_blocks` alone; masks of "
            f"units cannot say it. Received: selection={selection!r}. Leave `blocks` out."
        )
    return selection


def serialize(selection):
    """The scope of a selection with no other arguments, or its configuration.

    Example:

    >>> serialize(Selection("global"))
    'global'
    """
    is_plain = selection.get_config() == Selection(selection.scope).get_config()
    return selection.scope if is_plain else _REGISTRY.serialize(selection)
