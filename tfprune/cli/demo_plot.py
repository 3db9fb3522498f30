"""The picture of the demonstration: accuracy and sparsity over the steps, widths of the layers."""

_BEFORE, _AFTER, _PRUNED = "#b8c4d0", "#1f6feb", "#d1495b"


def save(path, dense, pruned, widths):
    """Draws and writes the picture.

    Args:
        path: A `pathlib.Path` that ends with .png.
        dense, pruned: The two trainings: `steps`, `accuracy` as pairs of a step and a value, and
            `sparsity` for each step.
        widths: For each layer its name and its units before and after.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained", dpi=130)
    left, right = figure.subfigures(1, 2, width_ratios=(3, 2))
    top, bottom = left.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    _draw_accuracy(top, dense, pruned)
    _draw_sparsity(bottom, dense, pruned)
    _draw_widths(right.subplots(), widths)
    figure.savefig(path)


def _draw_accuracy(axes, dense, pruned):
    steps, values = zip(*dense.accuracy, strict=True)
    axes.plot(steps, values, "o-", color="#57606a", markersize=3, label="dense model")
    after = [(dense.steps + step, value) for step, value in pruned.accuracy]
    steps, values = zip(dense.accuracy[-1], *after, strict=True)
    axes.plot(steps, values, "o-", color=_AFTER, markersize=3, label="pruned and fine-tuned")
    axes.axhline(dense.accuracy[-1][1], color="#57606a", linewidth=0.8, linestyle=":")
    axes.set_title("Accuracy while units go", loc="left", fontweight="bold")
    axes.set_ylabel("test accuracy")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.legend(loc="lower right", frameon=False)
    _clean(axes)


def _draw_sparsity(axes, dense, pruned):
    values = [0.0] * dense.steps + pruned.sparsity
    axes.fill_between(range(len(values)), values, step="post", color=_PRUNED, alpha=0.25)
    axes.step(range(len(values)), values, where="post", color=_PRUNED, linewidth=1.5)
    axes.set_ylim(0, 1)
    axes.set_ylabel("units pruned")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel("training step")
    _clean(axes)


def _draw_widths(axes, widths):
    names, before, after = zip(*widths, strict=True)
    places = range(len(names))
    axes.barh(places, before, height=0.72, color=_BEFORE, label="before")
    axes.barh(places, after, height=0.42, color=_AFTER, label="after")
    for place in places:
        text = f" {before[place]} → {after[place]}"
        axes.text(before[place], place, text, va="center", fontsize=9)
    axes.set_yticks(places, names)
    axes.set_title("What strip leaves of each layer", loc="left", fontweight="bold")
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25 * max(before))
    axes.set_xlabel("units of the layer")
    axes.legend(loc="upper right", frameon=False)
    _clean(axes)


def _clean(axes):
    axes.spines[["top", "right"]].set_visible(False)
