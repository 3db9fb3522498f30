"""Draws an `Explanation`: the graph of a model, in columns read from the top left."""

import itertools

from tfprune._tools import plots
from tfprune._tools.tables import count, short
from tfprune.reports.graph_layout import BOX_HEIGHT, BOX_WIDTH, layout

STRONG = (
    *("#e8743b", "#1f77b4", "#2ca02c", "#c03d8e", "#d4a017", "#17a2b8", "#d62728", "#7b5fc4"),
    *("#7a9a01", "#8c564b", "#e377c2", "#00796b"),
)
_SOFT = ("#cfe3f5", "#fbe3c8", "#d5ecd0", "#eadcf2", "#fbf3c0", "#f6d5d8", "#d3eeea", "#e6e2d3")
_FIXED, _FIXED_EDGE, _MIXED_EDGE = "#e2e4e7", "#b3b9c1", "#5d6670"
_LETTERS, _MOST_STRIPES, _MOST_IN_LEGEND = 31, 24, 12


def figure(explanation):
    """The matplotlib figure of a `tfprune.reports.explain.Explanation`.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    rows, arrows, width, height = layout(explanation.graph)
    legend = _legend(explanation.sets)
    width, legend_height = max(width, 5.0), 0.2 * -(-len(legend) // 2)
    top, bottom = 0.4, 0.2 + legend_height
    drawn = plots.figure("Explanation.plot", figsize=(width, height + top + bottom), dpi=130)
    axes = drawn.add_axes(
        (0, bottom / (height + top + bottom), 1, height / (height + top + bottom))
    )
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    colours = colours_of(explanation.sets)
    for lane, arrow in enumerate(arrows):
        _draw_arrow(axes, arrow, explanation.sets, colours, (lane % 5 - 2) * 0.07, height)
    for item in itertools.chain(*rows):
        if item.nodes:
            _draw_box(axes, item, colours)
    drawn.text(0.2 / width, 1 - 0.24 / (height + top + bottom), title_of(explanation), fontsize=10)
    if legend:
        _draw_legend(drawn, legend, colours)
    return drawn


def colours_of(sets):
    """A colour for each set: strong where several layers make it, grey where nothing can go."""
    strong, soft = itertools.cycle(STRONG), itertools.cycle(_SOFT)
    return [
        _FIXED if not one.removable else next(strong if len(one.layers) > 1 else soft)
        for one in sets
    ]


def _draw_box(axes, item, colours):
    from matplotlib.patches import FancyBboxPatch, Rectangle

    left, top = item.x - BOX_WIDTH / 2, item.y - BOX_HEIGHT / 2
    node, last = item.nodes[0], item.nodes[-1]
    fills = [colours[place] for place in last.sets[:_MOST_STRIPES]] or [_FIXED]
    shape = {"boxstyle": "round,pad=0,rounding_size=0.07", "linewidth": 0.8}
    box = FancyBboxPatch(
        (left, top), BOX_WIDTH, BOX_HEIGHT, facecolor="none", edgecolor="#3d444d", **shape
    )
    box.set_zorder(4)
    axes.add_patch(box)
    for place, fill in enumerate(fills):
        width = BOX_WIDTH / len(fills)
        stripe = Rectangle((left + place * width, top), width, BOX_HEIGHT, color=fill, lw=0)
        stripe.set_zorder(3)
        axes.add_patch(stripe)
        stripe.set_clip_path(box)
    ink = "white" if len(fills) == 1 and fills[0] in STRONG else "#1b1f24"
    plate = {"facecolor": "#ffffffc0", "edgecolor": "none", "pad": 0.6} if len(fills) > 1 else None
    kinds = [node.type + (f" {node.size}" if node.size else "")]
    kinds += [other.type for other in item.nodes[1:]]
    for text, shift, size in ((node.name, -0.07, 6.5), (" · ".join(kinds), 0.085, 5)):
        fitted = cut(text, int(_LETTERS * 6.5 / size), in_middle=text is node.name)
        axes.text(
            *(item.x, item.y + shift, fitted),
            **{"ha": "center", "va": "center", "fontsize": size, "color": ink},
            **{"zorder": 5, "bbox": plate},
        )


def cut(text, letters, *, in_middle=True):
    """A text that is too long, with an ellipsis in its middle or at its end."""
    if len(text) <= letters:
        return text
    tail = letters // 2 if in_middle else 0
    return f"{text[: letters - tail - 1]}…{text[len(text) - tail :]}"


def _draw_arrow(axes, arrow, sets, colours, shift, height):
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    source, target = arrow[0], arrow[-1]
    units = source.nodes[-1].sets
    colour = _MIXED_EDGE if len(units) > 1 else colours[units[0]] if units else _FIXED_EDGE
    if units and colour in (_FIXED, *_SOFT):
        colour = _FIXED_EDGE if colour == _FIXED else _MIXED_EDGE
    points, codes = [(source.x, source.y + BOX_HEIGHT / 2)], [Path.MOVETO]
    for upper, lower in itertools.pairwise(arrow):
        end = lower.y - (BOX_HEIGHT / 2 if lower is target else 0)
        if upper.column == lower.column:
            middle = (points[-1][1] + end) / 2
            points += [(points[-1][0], middle), (lower.x, middle), (lower.x, end)]
            codes += [Path.CURVE4] * 3
        else:
            gutter = lower.gutter + shift
            low, high = height - 0.12 + shift / 3, 0.12 + shift / 3
            turns = [(points[-1][0], low), (gutter, low), (gutter, high), (lower.x, high)]
            points += [*turns, (lower.x, end)]
            codes += [Path.LINETO] * 5
    strong = colour in STRONG
    line = FancyArrowPatch(
        path=Path(points, codes),
        arrowstyle="-|>,head_length=2.4,head_width=1.4",
        color=colour,
        linewidth=1.7 if strong else 0.8,
        zorder=2 if strong else 1,
        fill=False,
        joinstyle="round",
    )
    axes.add_patch(line)


def title_of(explanation):
    """How many units can go, in one line."""
    units = sum(one.units for one in explanation.sets)
    removable = sum(one.removable for one in explanation.sets)
    joined = sum(len(one.layers) > 1 for one in explanation.sets)
    return (
        f"{explanation.name}: {count(removable)} of {count(units)} units can go; "
        f"{len(explanation.sets)} sets, {joined} of them made by several layers"
    )


def _legend(sets):
    """The places of the sets that several layers make, and a line for each."""
    lines = []
    for place, one in enumerate(sets):
        if one.removable and len(one.layers) > 1:
            names = (
                one.name if len(one.layers) < 3 else f"{one.layers[0]} + {len(one.layers) - 1} more"
            )
            carried = (
                "" if one.parameters is None else f", each {short(one.parameters.least)} parameters"
            )
            if one.macs is not None:
                carried += f", {short(one.macs.least)} MACs"
            lines.append((place, f"{cut(names, 44)}: {count(one.units)} units{carried}"))
    return lines[:_MOST_IN_LEGEND]


def _draw_legend(figure, legend, colours):
    from matplotlib.patches import Patch

    handles = [Patch(color=colours[place], label=line) for place, line in legend]
    figure.legend(handles=handles, loc="lower left", ncols=2, fontsize=6.5, frameon=False)
