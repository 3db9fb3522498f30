"""Which units of a model are coupled: model -> trace -> labels -> units -> selection."""

from tfprune.coupling.labels import along
from tfprune.coupling.rules import Rule, rule
from tfprune.coupling.selection import Selection, keeping, select
from tfprune.coupling.trace import trace
from tfprune.coupling.units import Coupling, UnitSet, couple

__all__ = [
    "Coupling",
    "Rule",
    "Selection",
    "UnitSet",
    "along",
    "couple",
    "keeping",
    "rule",
    "select",
    "trace",
]
