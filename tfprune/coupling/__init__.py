"""Which units of a model are coupled: model -> trace -> labels -> units."""

from tfprune.coupling.labels import along
from tfprune.coupling.rules import Rule, rule
from tfprune.coupling.trace import trace
from tfprune.coupling.units import Coupling, UnitSet, couple

__all__ = ["Coupling", "Rule", "UnitSet", "along", "couple", "rule", "trace"]
