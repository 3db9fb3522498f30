"""Where the boxes and arrows of a model's graph are drawn: rows from the inputs down."""

import itertools
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import isotonic_regression

BOX_WIDTH, BOX_HEIGHT, LANE_WIDTH = 1.95, 0.34, 0.1  # inches
GAP, ROW, GUTTER = 0.16, 0.56, 0.55
_ASPECT = 1.25  # width over height


@dataclass(eq=False)
class Item:
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
        """Of a box, or of the room that an arrow needs; in inches."""
        return BOX_WIDTH if self.nodes else LANE_WIDTH


def layout(graph, columns=None):
    """Places the nodes of a graph.

    Args:
        graph: A sequence of `tfprune.reports.explain.Node`.
        columns: Into how many columns side by side the rows are cut; by default as many as make a
            picture a little wider than high.

    Returns:
        Rows of items from the inputs down, arrows as lists of items from box to box, and the
        width and the height of all, in inches.
    """
    rows, arrows = _rows(graph)
    _order(rows)
    _straighten(rows)
    return rows, arrows, *_wrap(rows, columns)


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
        item_of[place] = Item(1 + max((source.row for source in sources), default=-1), [node])
        boxes.append((item_of[place], sources))
    rows = [[] for _ in range(1 + max((box.row for box, _ in boxes), default=0))]
    arrows = []
    for box, sources in boxes:
        rows[box.row].append(box)
        for source in sources:
            passes = [Item(row) for row in range(source.row + 1, box.row)]
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
        offsets.append(np.cumsum([0, *((widths[1:] + widths[:-1]) / 2 + GAP)]))
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


def _wrap(rows, wanted):
    """Cuts the rows into columns side by side; returns the width and height of all."""
    best = None
    for number in range(1, len(rows) + 1) if wanted is None else [wanted]:
        length = -(-len(rows) // number)
        columns = [rows[start : start + length] for start in range(0, len(rows), length)]
        width = sum(right - left + GUTTER for left, right in map(_extent, columns)) + GUTTER
        height = length * ROW + 0.5
        misfit = abs(np.log(width / height / _ASPECT))
        if best is None or misfit < best[0]:
            best = misfit, columns, width, height
    _, columns, width, height = best
    start = GUTTER
    for number, column in enumerate(columns):
        left, right = _extent(column)
        for place, row in enumerate(column):
            for item in row:
                item.x += start - left
                item.y = 0.25 + (place + 0.5) * ROW
                item.column, item.gutter = number, start - GUTTER / 2
        start += right - left + GUTTER
    return width, height


def _extent(rows):
    items = list(itertools.chain(*rows))
    return min(i.x - i.width / 2 for i in items), max(i.x + i.width / 2 for i in items)
