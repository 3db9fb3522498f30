"""Draws an `Explanation`: the graph of a model, in columns read from the top left."""

import itertools
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import isotonic_regression

from tfprune._tools import plots
from tfprune._tools.tables import count, short

_STRONG = (
    *("#e8743b", "#1f77b4", "#2ca02c", "#c03d8e", "#d4a017", "#17a2b8", "#d62728", "#7b5fc4"),
    *("#7a9a01", "#8c564b", "#e377c2", "#00796b"),
)
_SOFT = ("#cfe3f5", "#fbe3c8", "#d5ecd0", "#eadcf2", "#fbf3c0", "#f6d5d8", "#d3eeea", "#e6e2d3")
_FIXED, _FIXED_EDGE, _MIXED_EDGE = "#e2e4e7", "#b3b9c1", "#5d6670"
_BOX_WIDTH, _BOX_HEIGHT, _LANE_WIDTH = 1.95, 0.34, 0.1  # inches
_GAP, _ROW, _GUTTER = 0.16, 0.56, 0.55
_LETTERS, _MOST_STRIPES, _MOST_IN_LEGEND = 31, 24, 12
_ASPECT = 1.25  # width over height


@dataclass(eq=False)
class _Item:
    """A box in a row, or where an arrow passes the row (`nodes` is empty)."""

    row: int
    nodes: list = field(default_factory=list)
    above: list = field(default_factory=list)
    below: list = field(default_factory=list)
    x: float = 0.0
    y: float = 0.0
    column: int = 0
    gutter: float = 0.0

    @property
    def width(self):
        return _BOX_WIDTH if self.nodes else _LANE_WIDTH


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
    colours = _colours(explanation.sets)
    for lane, arrow in enumerate(arrows):
        _draw_arrow(axes, arrow, explanation.sets, colours, (lane % 5 - 2) * 0.07, height)
    for item in itertools.chain(*rows):
        if item.nodes:
            _draw_box(axes, item, colours)
    drawn.text(0.2 / width, 1 - 0.24 / (height + top + bottom), _title(explanation), fontsize=10)
    if legend:
        _draw_legend(drawn, legend, colours)
    return drawn


# Layout -------------------------------------------------------------------------------------------


def layout(graph):
    """Places the nodes of a graph.

    Args:
        graph: A sequence of `tfprune.reports.explain.Node`.

    Returns:
        Rows of items from the inputs down, arrows as lists of items from box to box, and the
        width and the height of all, in inches.
    """
    rows, arrows = _rows(graph)
    _order(rows)
    _straighten(rows)
    return rows, arrows, *_wrap(rows)


def _rows(graph):
    """Rows of items from the inputs down, and arrows as lists of items from box to box."""
    readers = [0] * len(graph)
    for node in graph:
        for place in node.inputs:
            readers[place] += 1
    item_of, boxes = {}, []
    for place, node in enumerate(graph):
        before = item_of[node.inputs[0]] if len(set(node.inputs)) == 1 else None
        if before and _goes_with(node, before, readers[node.inputs[0]]):
            before.nodes.append(node)
            item_of[place] = before
            continue
        sources = dict.fromkeys(item_of[source] for source in node.inputs)
        item_of[place] = _Item(1 + max((source.row for source in sources), default=-1), [node])
        boxes.append((item_of[place], sources))
    rows = [[] for _ in range(1 + max((box.row for box, _ in boxes), default=0))]
    arrows = []
    for box, sources in boxes:
        rows[box.row].append(box)
        for source in sources:
            passes = [_Item(row) for row in range(source.row + 1, box.row)]
            for item in passes:
                rows[item.row].append(item)
            arrows.append([source, *passes, box])
    for arrow in arrows:
        for upper, lower in itertools.pairwise(arrow):
            upper.below.append(lower)
            lower.above.append(upper)
    return rows, arrows


def _goes_with(node, before, readers):
    """Whether a node is named in the box before it: it alone reads that, and keeps its units."""
    last = before.nodes[-1]
    return readers == 1 and not node.makes and node.sets == last.sets and last.type != "Input"


def _order(rows, sweeps=8):
    """Sorts each row by the positions of its neighbours, so that few arrows cross."""
    for sweep in range(sweeps):
        downwards = sweep % 2 == 0
        for row in rows[1:] if downwards else rows[-2::-1]:
            places = {}
            for item in itertools.chain(*((i.above if downwards else i.below) for i in row)):
                places.setdefault(item, rows[item.row].index(item))

            def mean(item, places=places, downwards=downwards, row=row):
                near = item.above if downwards else item.below
                return np.mean([places[other] for other in near]) if near else row.index(item)

            row[:] = [item for _, _, item in sorted((mean(x), i, x) for i, x in enumerate(row))]


def _straighten(rows, sweeps=24):
    """Moves items to the mean of their neighbours as far as the others in the row allow."""
    offsets = []
    for row in rows:
        widths = np.array([item.width for item in row])
        offsets.append(np.cumsum([0, *((widths[1:] + widths[:-1]) / 2 + _GAP)]))
        for item, offset in zip(row, offsets[-1], strict=True):
            item.x = offset - offsets[-1][-1] / 2
    for sweep in range(sweeps):
        for number in range(len(rows)) if sweep % 2 == 0 else reversed(range(len(rows))):
            row = rows[number]
            wanted, weights = np.transpose([_pull(item) for item in row])
            moved = isotonic_regression(wanted - offsets[number], weights=weights).x
            for item, x in zip(row, moved + offsets[number], strict=True):
                item.x = float(x)


def _pull(item):
    """Where an item wants to be, and how much: lanes and chains are easier to follow straight."""
    if not item.above and not item.below:
        return item.x, 1.0
    is_first, is_last = (len(items) == 1 for items in (item.above, item.below))
    weights = [4.0 if is_first and len(other.below) == 1 else 1.0 for other in item.above]
    weights += [4.0 if is_last and len(other.above) == 1 else 1.0 for other in item.below]
    wanted = np.average([other.x for other in (*item.above, *item.below)], weights=weights)
    return wanted, 1.0 if item.nodes else 4.0


def _wrap(rows):
    """Cuts the rows into columns side by side; returns the width and height of all."""
    best = None
    for number in range(1, len(rows) + 1):
        length = -(-len(rows) // number)
        columns = [rows[start : start + length] for start in range(0, len(rows), length)]
        width = sum(right - left + _GUTTER for left, right in map(_extent, columns)) + _GUTTER
        height = length * _ROW + 0.5
        misfit = abs(np.log(width / height / _ASPECT))
        if best is None or misfit < best[0]:
            best = misfit, columns, width, height
    _, columns, width, height = best
    start = _GUTTER
    for number, column in enumerate(columns):
        left, right = _extent(column)
        for place, row in enumerate(column):
            for item in row:
                item.x += start - left
                item.y = 0.25 + (place + 0.5) * _ROW
                item.column, item.gutter = number, start - _GUTTER / 2
        start += right - left + _GUTTER
    return width, height


def _extent(rows):
    items = list(itertools.chain(*rows))
    return min(i.x - i.width / 2 for i in items), max(i.x + i.width / 2 for i in items)


# Drawing ------------------------------------------------------------------------------------------


def _colours(sets):
    """A colour for each set: strong where several layers make it, grey where nothing can go."""
    strong, soft = itertools.cycle(_STRONG), itertools.cycle(_SOFT)
    return [
        _FIXED if not one.removable else next(strong if len(one.layers) > 1 else soft)
        for one in sets
    ]


def _draw_box(axes, item, colours):
    from matplotlib.patches import FancyBboxPatch, Rectangle

    left, top = item.x - _BOX_WIDTH / 2, item.y - _BOX_HEIGHT / 2
    node, last = item.nodes[0], item.nodes[-1]
    fills = [colours[place] for place in last.sets[:_MOST_STRIPES]] or [_FIXED]
    shape = {"boxstyle": "round,pad=0,rounding_size=0.07", "linewidth": 0.8}
    box = FancyBboxPatch(
        (left, top), _BOX_WIDTH, _BOX_HEIGHT, facecolor="none", edgecolor="#3d444d", **shape
    )
    box.set_zorder(4)
    axes.add_patch(box)
    for place, fill in enumerate(fills):
        width = _BOX_WIDTH / len(fills)
        stripe = Rectangle((left + place * width, top), width, _BOX_HEIGHT, color=fill, lw=0)
        stripe.set_zorder(3)
        axes.add_patch(stripe)
        stripe.set_clip_path(box)
    ink = "white" if len(fills) == 1 and fills[0] in _STRONG else "#1b1f24"
    plate = {"facecolor": "#ffffffc0", "edgecolor": "none", "pad": 0.6} if len(fills) > 1 else None
    kinds = [node.type + (f" {node.size}" if node.size else "")]
    kinds += [other.type for other in item.nodes[1:]]
    for text, shift, size in ((node.name, -0.07, 6.5), (" · ".join(kinds), 0.085, 5)):
        fitted = _cut(text, int(_LETTERS * 6.5 / size), in_middle=text is node.name)
        axes.text(
            *(item.x, item.y + shift, fitted),
            **{"ha": "center", "va": "center", "fontsize": size, "color": ink},
            **{"zorder": 5, "bbox": plate},
        )


def _cut(text, letters, *, in_middle=True):
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
    points, codes = [(source.x, source.y + _BOX_HEIGHT / 2)], [Path.MOVETO]
    for upper, lower in itertools.pairwise(arrow):
        end = lower.y - (_BOX_HEIGHT / 2 if lower is target else 0)
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
    strong = colour in _STRONG
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


def _title(explanation):
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
            lines.append((place, f"{_cut(names, 44)}: {count(one.units)} units{carried}"))
    return lines[:_MOST_IN_LEGEND]


def _draw_legend(figure, legend, colours):
    from matplotlib.patches import Patch

    handles = [Patch(color=colours[place], label=line) for place, line in legend]
    figure.legend(handles=handles, loc="lower left", ncols=2, fontsize=6.5, frameon=False)
