"""Coupled units: dependency analysis of a model, and rules that teach it operations.

    model -> trace -> labels -> coupled units -> kept units

`couple` finds the units that can only be removed together, `select` says which are kept, and `rule`
registers how an operation of your own is analysed and resized.
"""

from tfprune.coupling.analysis import couple
from tfprune.coupling.kept_units import KeptUnits, keeping, select
from tfprune.coupling.labels import along
from tfprune.coupling.model_trace import trace
from tfprune.coupling.rules import Rule, rule
from tfprune.coupling.units import Coupling, UnitSet

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
