"""The graph of an `Explanation` as an SVG image, with what each box holds as its tip."""

import html
import itertools

from tfprune._tools.tables import count
from tfprune.reports.explain_plot import STRONG, colours_of, cut
from tfprune.reports.graph_layout import BOX_HEIGHT, BOX_WIDTH, layout

_PIXELS = 96  # an inch
_LETTERS, _MOST_STRIPES = 30, 24


def drawing(explanation):
    """The graph as SVG, in one column from the inputs down.

    Args:
        explanation: A `tfprune.reports.explain.Explanation`.

    Returns:
        A string.
    """
    rows, arrows, width, height = layout(explanation.graph, columns=1)
    colours = colours_of(explanation.sets)
    shapes = [_edge(arrow, explanation.sets, colours) for arrow in arrows]
    boxes = [item for item in itertools.chain(*rows) if item.nodes]
    shapes += [_box(item, explanation.sets, colours) for item in boxes]
    size = f"{width * _PIXELS:.0f} {height * _PIXELS:.0f}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" '
        f'font-family="system-ui, sans-serif" text-anchor="middle">{"".join(shapes)}</svg>'
    )


def _box(item, sets, colours):
    left, top, wide, high = (
        _PIXELS * value
        for value in (item.x - BOX_WIDTH / 2, item.y - BOX_HEIGHT / 2, BOX_WIDTH, BOX_HEIGHT)
    )
    first, last = item.nodes[0], item.nodes[-1]
    fills = [colours[place] for place in last.sets[:_MOST_STRIPES]] or ["#e2e4e7"]
    stripe = wide / len(fills)
    stripes = "".join(
        f'<rect x="{left + place * stripe:.1f}" y="{top:.1f}" width="{stripe:.1f}" '
        f'height="{high:.1f}" fill="{fill}"/>'
        for place, fill in enumerate(fills)
    )
    ink = "#fff" if len(fills) == 1 and fills[0] in STRONG else "#1b1f24"
    kinds = [first.type + (f" {first.size}" if first.size else "")]
    kinds += [node.type for node in item.nodes[1:]]
    lines = [(first.name, 10, _LETTERS, -2), (" · ".join(kinds), 8, _LETTERS * 5 // 4, 11)]
    texts = "".join(
        f'<text x="{left + wide / 2:.1f}" y="{top + high / 2 + shift:.1f}" font-size="{size}" '
        f'fill="{ink}">{html.escape(cut(text, letters, in_middle=shift < 0))}</text>'
        for text, size, letters, shift in lines
    )
    return (
        f'<g class="node" data-sets="{" ".join(map(str, last.sets))}" '
        f'data-tip="{html.escape(_tip(item, sets))}">{stripes}'
        f'<rect class="edge-of-box" x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" '
        f'height="{high:.1f}" fill="none" stroke="#3d444d" stroke-width="0.8"/>{texts}</g>'
    )


def _tip(item, sets):
    """What is said of a box: its calls, its units, and what goes along with them."""
    lines = [f"{node.name} ({node.type})" for node in item.nodes]
    for place in item.nodes[-1].sets[:4]:
        one = sets[place]
        lines.append(f"units of {one.name}: {count(one.removable)} of {count(one.units)} can go")
        if one.parameters is not None:
            macs = "" if one.macs is None else f", {one.macs} MACs"
            lines.append(f"each takes {one.parameters} parameters{macs}")
        if one.followers:
            lines.append(f"along in {cut(', '.join(one.followers), 160, in_middle=False)}")
        lines += [f"{count(units)} stay: {reason}" for reason, units in one.pinned.items()]
    more = len(item.nodes[-1].sets) - 4
    return "\n".join(lines + ([f"and {more} more sets of units"] if more > 0 else []))


def _edge(arrow, sets, colours):
    source, target = arrow[0], arrow[-1]
    units = source.nodes[-1].sets
    colour = colours[units[0]] if len(units) == 1 and sets[units[0]].removable else "#8b949e"
    if colour not in STRONG:
        colour = "#8b949e"
    last = source.y + BOX_HEIGHT / 2
    path = [f"M{source.x * _PIXELS:.1f} {last * _PIXELS:.1f}"]
    for upper, lower in itertools.pairwise(arrow):
        end = lower.y - (BOX_HEIGHT / 2 if lower is target else 0)
        middle = (last + end) / 2
        points = ((upper.x, middle), (lower.x, middle), (lower.x, end))
        path.append("C" + " ".join(f"{x * _PIXELS:.1f} {y * _PIXELS:.1f}" for x, y in points))
        last = end
    wide = 2.2 if colour in STRONG else 1
    return (
        f'<path class="edge" data-sets="{" ".join(map(str, units))}" d="{"".join(path)}" '
        f'fill="none" stroke="{colour}" stroke-width="{wide}"/>'
    )
