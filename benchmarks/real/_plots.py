"""Pictures of the benchmarks of this folder."""

import numpy as np
from matplotlib.figure import Figure


def _deviations(values):
    return values.std(axis=1, ddof=1) if values.shape[1] > 1 else None


def bars(path, title, groups, ways, *, unit="accuracy in %", goals=None, limits=None):
    """A bar for each way in each group, with the deviation over seeds.

    Args:
        path: The file.
        title: The title.
        groups: The names of the groups, below the bars.
        ways: A dict from the name of a way to its values, for each group those of all seeds.
        unit: What the bars show.
        goals: For each group a value to draw as a black line, or None.
        limits: Lower and upper end of the axis.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(ways)
    for place, (way, values) in enumerate(ways.items()):
        for at, of_group in enumerate(values):
            options = {"color": f"C{place}", "label": way if at == 0 else None}
            deviation = np.std(of_group, ddof=1) if len(of_group) > 1 else None
            middle = at - 0.4 + (place + 0.5) * width
            axes.bar(middle, np.mean(of_group), width, yerr=deviation, **options)
    for place, goal in enumerate(goals or ()):
        if goal is not None:
            axes.plot([place - 0.4, place + 0.4], [goal, goal], color="black", linewidth=1)
    axes.set_xticks(range(len(groups)), groups)
    axes.set(ylabel=f"{unit} (black: goal)" if goals else unit, title=title)
    if limits:
        axes.set_ylim(*limits)
    figure.legend(fontsize="small", loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=80)


def lines(axes, shares, ways, *, label, dense=None):
    """Lines over the share that remains, with the deviation over seeds; random choice is dashed.

    Args:
        axes: Of matplotlib.
        shares: The shares that remain.
        ways: A dict from the name of a way to its values, for each share those of all seeds.
        label: What the shares are of.
        dense: The mean of the dense network, a dotted line.
    """
    if dense is not None:
        axes.axhline(dense, color="gray", linestyle=":", label="dense")
    for way, values in ways.items():
        values = np.array(values)
        style = {"color": "black", "linestyle": "--"} if way == "random" else {}
        means = values.mean(axis=1)
        axes.errorbar(shares, means, _deviations(values), marker="o", label=way, **style)
    axes.set(xlabel=label, ylabel="accuracy in %", xscale="log")
    axes.set_xticks(shares, [f"{share:.0%}" for share in shares])
    axes.minorticks_off()
