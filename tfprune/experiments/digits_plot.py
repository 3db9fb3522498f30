"""The curves of the digits experiment: accuracy over the fraction, with bands."""

_COLOURS = {
    "prune magnitude": "#d1495b",
    "prune random": "#edae49",
    "freeze preconditioned_gradient": "#00798c",
    "freeze gradient": "#1f6feb",
    "freeze random": "#8d96a0",
}
_TITLES = {"prune": "Pruned: set to 0 and not trained", "freeze": "Frozen: kept and not trained"}


def figure(results, lowest=None):
    """Two panels, one for pruning and one for freezing: mean test accuracy over the fraction p.

    The band is one standard deviation over the repeats on either side.

    Args:
        results: `tfprune.experiments.digits.Results`.
        lowest: Float, where the axis of accuracies begins. Default: both panels show all of it.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    from matplotlib.figure import Figure

    made = Figure(figsize=(10, 4), layout="constrained", dpi=64)
    panels = made.subplots(1, 2, sharey=True)
    for axes, (action, title) in zip(panels, _TITLES.items(), strict=True):
        for name in results.test:
            if name.startswith(action):
                _draw(axes, results, name)
        axes.set_title(title, loc="left", fontweight="bold")
        axes.set_xlabel("fraction p of each tensor")
        axes.set_xlim(0, 1)
        axes.set_ylim(lowest, 1)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, loc="lower left")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    panels[0].set_ylabel("test accuracy")
    return made


def _draw(axes, results, name):
    fractions, mean, deviation = (
        results.fractions[name],
        results.mean(name),
        results.deviation(name),
    )
    label = name.split(" ", 1)[1].replace("_", " ")
    axes.plot(fractions, mean, color=_COLOURS.get(name), label=label, linewidth=1.5)
    axes.fill_between(
        fractions, mean - deviation, mean + deviation, color=_COLOURS.get(name), alpha=0.18
    )
