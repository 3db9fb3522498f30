"""The report of `prune`."""

from dataclasses import dataclass, replace

from tfprune._tools import pages
from tfprune._tools.tables import (
    Change,
    Printable,
    changed,
    count,
    number,
    plain,
    share,
    short,
    table,
)
from tfprune.shrinking.one_shot import EFFORTS
from tfprune.stripping.strip_report import StripReport
from tfprune.units.budget_kinds import Budget, cost_name, share_of


@dataclass(frozen=True)
class Try:
    """A budget that was tried for a target in accuracy.

    Attributes:
        budget: The budget.
        ratio: The cost of the small model, as a share of that of the model given; None where the
            budget cannot be met.
        value: The metric of the small model; None where the budget cannot be met.
        holds: Whether that is within the drop.
        seconds: How long it took.
    """

    budget: Budget
    ratio: float | None
    value: float | None
    holds: bool
    seconds: float


@dataclass(frozen=True)
class PruneReport(Printable):
    """The report of `prune`; prints as tables, and `save(path)` writes them as an HTML page.

    Attributes:
        target: The target, in words.
        strip: The `StripReport` of what was removed, layer by layer.
        units, parameters, macs: Before and after, each a `Change`; MACs are None where they are
            not known. Units are those of the model without `blocks`. Quantization changes none.
        bytes: The bytes of the weights, a `Change`: with `quantize`, those of the result.
        stages: A dict from a stage ("dense", "dense, recalibrated", "pruned", "reconstruct",
            "recalibrate", "fine-tuned", "int8") to the metrics of the model that was kept after it,
            a dict from name to float. Without labels, or of a model that is not compiled with a
            loss, that is "error", how far the outputs are from the dense model's, relative. Empty
            where there is no data.
        decisions: For each stage that could be dropped a `Decision`: whether its result was kept,
            and why.
        blocks: The names of the residual blocks that were removed. Their layers are not in `strip`.
        effort: The argument.
        seconds: How long all took.
        budget: Of a target in accuracy, the budget that was found; else None.
        tries: Of a target in accuracy, a `Try` for each budget that was tried, in that order.
    """

    target: str
    strip: StripReport
    units: Change
    parameters: Change
    macs: Change
    stages: dict
    decisions: tuple = ()
    blocks: tuple = ()
    effort: str = EFFORTS[0]
    seconds: float = 0.0
    budget: Budget | None = None
    tries: tuple = ()
    bytes: Change | None = None

    def _title(self):
        return f"{self.target}, in {self.seconds:.3g} s with effort={self.effort!r}"

    def _page(self):
        bars = [(layer.name, layer.before, layer.after) for layer in self.strip.layers]
        _, _, layers, *tables = self.tables()
        return [*tables, pages.Bars("units", bars), layers.caption]

    def tables(self):
        """The rich tables that are printed: the layers, the model, the stages."""
        removed = [f"without the blocks {', '.join(self.blocks)}"] if self.blocks else ()
        layers = table(("layer",), ("units",), notes=removed)
        for layer in self.strip.layers:
            layers.add_row(layer.name, changed(Change(layer.before, layer.after), short))
        total = table(("total",), ("before", "after", "ratio"))
        changes = {"units": self.units, "parameters": self.parameters, "MACs": self.macs}
        if self.bytes is not None:
            changes["bytes"] = self.bytes
        for name, change in changes.items():
            ratio = "" if change.ratio is None else f"{change.ratio:.3g}"
            total.add_row(name, count(change.before), count(change.after), ratio)
        found = [self._title(), "", layers, "", total, *self._tries()]
        if not self.stages:
            return found
        names = list(self.stages["dense"])
        stages = table(("stage",), names, notes=[str(each) for each in self.decisions])
        for stage, metrics in self.stages.items():
            stages.add_row(stage, *(number(metrics.get(name)) for name in names))
        return [*found, "", stages]

    def to_dict(self):
        """The report as dicts, lists, strings and numbers; budgets are in words."""
        tries = tuple(replace(each, budget=str(each.budget)) for each in self.tries)
        return plain(replace(self, budget=self.budget and str(self.budget), tries=tries))

    def _tries(self):
        """The table of what was tried for a target in accuracy."""
        if not self.tries:
            return []
        columns = ("remains", "metric", "within the drop", "s")
        rows = table((f"allowed {cost_name(self.budget)}",), columns)
        for each in self.tries:
            holds = "cannot be met" if each.value is None else "yes" if each.holds else "no"
            remains, seconds = share(each.ratio), f"{each.seconds:.3g}"
            allowed = share(share_of(each.budget))
            rows.add_row(allowed, remains, number(each.value), holds, seconds)
        return ["", rows]
