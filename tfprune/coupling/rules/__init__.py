"""Rules: how each operation is analysed and resized, one rule for each operation class."""

from tfprune.coupling.rules import (  # noqa: F401 (each registers its rules)
    arithmetic,
    attention,
    channelwise,
    einsum,
    embedding,
    indexing,
    joins,
    linear,
    movement,
    normalization,
    products,
    recurrent,
    reductions,
    scaling,
    shape,
    wrappers,
)
from tfprune.coupling.rules.base import Flow, Rule, has_rule, rule, rule_of

__all__ = ["Flow", "Rule", "has_rule", "rule", "rule_of"]
