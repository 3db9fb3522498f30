"""Which units of a model are coupled: model -> trace -> labels -> units -> kept_units."""

from tfprune.coupling.kept_units import KeptUnits, keeping, select
from tfprune.coupling.labels import along
from tfprune.coupling.rules import Rule, rule
from tfprune.coupling.trace import trace
from tfprune.coupling.units import Coupling, UnitSet, couple

__all__ = [
    "Coupling",
    "Rule",
    "KeptUnits",
    "UnitSet",
    "along",
    "couple",
    "keeping",
    "rule",
    "select",
    "trace",
]
