"""Results as rich tables, and numbers formatted for reading."""

import dataclasses
import io
from dataclasses import dataclass

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from tfprune._tools import pages

NOTHING = "–"
"""Shown where there is no number."""


class Printable:
    """A dataclass that prints itself as its `tables()`, as a string or on a rich console."""

    def __rich__(self):
        return Group(*_with_notes(self.tables()))

    def __str__(self):
        console = Console(file=io.StringIO(), force_terminal=False, force_jupyter=False)
        console.print(self)
        lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
        return "\n".join(lines).strip("\n")

    def save(self, path):
        """Writes the result as an HTML page that needs no other file and no network.

        Its tables sort by a click on a column, and a field finds layers.

        Args:
            path: A file that ends with `.html`. What stands there is replaced.

        Returns:
            The path as `pathlib.Path`.

        Raises:
            ValueError: If the path ends with anything else.
            OSError: If it cannot be written.
        """
        return pages.write(path, self._title(), self._page())

    def _title(self):
        return type(self).__name__

    def _page(self):
        """What the page shows: rich tables, strings, and what `pages` has."""
        return self.tables()

    def to_dict(self):
        """The result as dicts, lists, strings and numbers, which `json.dumps` accepts."""
        return plain(self)


def _with_notes(parts):
    """Tables and text; the captions of tables as text below, as wide as the page."""
    for part in parts:
        caption, is_table = getattr(part, "caption", None), isinstance(part, Table)
        if is_table:
            part.caption = None
        yield part
        if is_table and caption:
            yield Text(caption)


@dataclass(frozen=True)
class Change:
    """A number before and after; None where it is not known or there is nothing to count."""

    before: float | None
    after: float | None

    @property
    def ratio(self):
        """After over before, None where that is not known."""
        if not self.before or self.after is None:
            return None
        return self.after / self.before

    def to_dict(self):
        """Both numbers and their ratio."""
        return {"before": self.before, "after": self.after, "ratio": self.ratio}


def table(text_columns, number_columns, title=None, notes=()):
    """An empty table; text is folded rather than cut off, and numbers stand to the right."""
    made = Table(
        title=title,
        title_justify="left",
        caption="\n".join(notes),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    for column in text_columns:
        made.add_column(column, overflow="fold")
    for column in number_columns:
        made.add_column(column, justify="right", overflow="fold")
    return made


def plain(value):
    """Results as dicts, lists, strings and numbers, which JSON can write."""
    if isinstance(value, Change):
        return value.to_dict()
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return {field.name: plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def changed(change, show):
    """A `Change` as `before → after`, each shown by `show`; once if nothing changed."""
    if change.before == change.after:
        return "" if change.before is None else show(change.before)
    return f"{show(change.before)} → {show(change.after)}"


def count(value):
    """An integer with its thousands apart: `1,234,567`."""
    return NOTHING if value is None else f"{value:,}"


def short(value):
    """A count to three digits: `1.23 M`.

    >>> short(999), short(12_345), short(3_857_973_248), short(None)
    ('999', '12.3 K', '3.86 G', '–')
    """
    if value is None:
        return NOTHING
    for factor, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "K")):
        if value >= factor:
            return f"{value / factor:.3g} {letter}"
    return str(value)


def share(value):
    """A share of one in percent: `87.5 %`."""
    return NOTHING if value is None else f"{100 * value:.1f} %"


def milliseconds(value):
    """Seconds as milliseconds: `0.123 ms`."""
    return NOTHING if value is None else f"{1000 * value:.3g} ms"


def shape(value):
    """A shape without its batch axis: `(26, 26, 16)`.

    >>> shape((None, 26, 26, 16)), shape((None, None, 3))
    ('(26, 26, 16)', '(None, 3)')
    """
    return str(tuple(value[1:]))


def number(value):
    """A number to four digits."""
    return NOTHING if value is None else f"{value:.4g}"
