"""Results as self-contained HTML pages: tables that sort, bars, and a drawing to move about in."""

import html
import pathlib

from rich.table import Table

from tfprune._tools.files import written_whole

STYLE = """
:root { color-scheme: light dark; --line: #8884; --mark: #e8743b; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 1.5rem auto; max-width: 1200px;
  padding: 0 1rem; }
h1 { font-size: 1.4rem; margin: 0 0 1rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
input { font: inherit; padding: .3rem .6rem; width: min(22rem, 100%); box-sizing: border-box; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top;
  overflow-wrap: anywhere; }
th { border-bottom: 1px solid; cursor: pointer; white-space: nowrap; user-select: none; }
th[aria-sort=ascending]::after { content: " \\25b2"; }
th[aria-sort=descending]::after { content: " \\25bc"; }
td { border-bottom: 1px solid var(--line); } .number { text-align: right; white-space: nowrap; }
.faint { opacity: .55; } .note { font-size: .85rem; opacity: .8; white-space: pre-line; }
.bars { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr max-content;
  gap: .15rem .8rem; font-size: .85rem; align-items: center; }
.bar { position: relative; height: .9rem; background: var(--soft); }
.bar i { position: absolute; inset: 0 auto 0 0; background: #1f77b455; }
.bar b { position: absolute; inset: 0 auto 0 0; background: #1f77b4; }
.view { overflow: auto; max-height: 80vh; border: 1px solid var(--line); background: #fff;
  cursor: grab; } .view svg { display: block; margin: 0 auto; }
.tools { display: flex; gap: .5rem; flex-wrap: wrap; align-items: center; margin: .5rem 0; }
.tools button { font: inherit; padding: .2rem .7rem; }
.hidden, .node.dim, .edge.dim { opacity: .12; } tr.hidden { display: none; }
.node.found rect.edge-of-box { stroke: #d62728; stroke-width: 3; }
#tip { position: fixed; pointer-events: none; background: #1b1f24; color: #fff; font-size: .8rem;
  padding: .4rem .6rem; border-radius: .3rem; max-width: 26rem; white-space: pre-line;
  display: none; z-index: 9; }
"""

SCRIPT = """
const scale = {K: 1e3, M: 1e6, G: 1e9, T: 1e12};
function value(text) {
  const last = text.split('\\u2192').pop().replaceAll(',', '').trim();
  const found = last.match(/^(-?[\\d.]+(?:e[-+]?\\d+)?)\\s*([KMGT%])?/);
  return found ? Number(found[1]) * (scale[found[2]] || 1) : null;
}
function sort(head) {
  const down = head.getAttribute('aria-sort') === 'ascending';
  for (const each of head.parentNode.children) each.removeAttribute('aria-sort');
  head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
  const body = head.closest('table').tBodies[0], at = head.cellIndex;
  const keys = new Map([...body.rows].map(row => [row, row.cells[at].textContent]));
  const compare = (a, b) => {
    const [x, y] = [value(keys.get(a)), value(keys.get(b))];
    if (x !== null && y !== null) return x - y;
    if (x !== null || y !== null) return x === null ? 1 : -1;
    return keys.get(a).localeCompare(keys.get(b));
  };
  const rows = [...body.rows].sort(compare);
  body.append(...(down ? rows.reverse() : rows));
}
for (const head of document.querySelectorAll('th')) head.onclick = () => sort(head);
const find = document.querySelector('#find');
find.oninput = () => {
  const wanted = find.value.trim().toLowerCase();
  const has = element => element.textContent.toLowerCase().includes(wanted);
  for (const row of document.querySelectorAll('tbody tr'))
    row.classList.toggle('hidden', wanted !== '' && !has(row));
  let first = null;
  for (const node of document.querySelectorAll('.node')) {
    const is = wanted !== '' && (node.dataset.tip.toLowerCase().includes(wanted));
    node.classList.toggle('found', is);
    if (is && !first) first = node;
  }
  if (first) first.scrollIntoView({block: 'center', inline: 'center'});
};
const tip = document.querySelector('#tip');
for (const node of document.querySelectorAll('.node')) {
  const sets = node.dataset.sets ? node.dataset.sets.split(' ') : [];
  const shares = other => (other.dataset.sets || '').split(' ').some(s => s && sets.includes(s));
  node.onmouseenter = () => {
    tip.textContent = node.dataset.tip;
    tip.style.display = 'block';
    if (sets.length)
      for (const other of document.querySelectorAll('.node, .edge'))
        other.classList.toggle('dim', !shares(other));
  };
  node.onmousemove = event => {
    tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8) + 'px';
    tip.style.top = Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8) + 'px';
  };
  node.onmouseleave = () => {
    tip.style.display = 'none';
    for (const other of document.querySelectorAll('.dim')) other.classList.remove('dim');
  };
}
const view = document.querySelector('.view');
if (view) {
  const drawing = view.querySelector('svg'), [, , width, height] =
    drawing.getAttribute('viewBox').split(' ').map(Number);
  let factor = Math.min(1, view.clientWidth / width);
  const show = wanted => {
    const [x, y] = [view.scrollLeft / factor, view.scrollTop / factor];
    factor = Math.max(0.05, Math.min(4, wanted));
    drawing.setAttribute('width', width * factor);
    drawing.setAttribute('height', height * factor);
    view.scrollTo(x * factor, y * factor);
  };
  show(factor);
  document.querySelector('#in').onclick = () => show(factor * 1.25);
  document.querySelector('#out').onclick = () => show(factor / 1.25);
  document.querySelector('#fit').onclick =
    () => show(Math.min(view.clientWidth / width, innerHeight * 0.8 / height));
  view.onwheel = event => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    show(factor * (event.deltaY < 0 ? 1.1 : 1 / 1.1));
  };
  view.onpointerdown = event => {
    let [x, y] = [event.clientX, event.clientY];
    view.onpointermove = moved => {
      view.scrollBy(x - moved.clientX, y - moved.clientY);
      [x, y] = [moved.clientX, moved.clientY];
    };
    document.onpointerup = () => { view.onpointermove = null; };
  };
}
"""

TOOLS = (
    '<div class="tools"><button id="out" aria-label="smaller">−</button>'
    '<button id="in" aria-label="larger">+</button><button id="fit">whole</button>'
    "<span class=note>Drag to move; Ctrl and the wheel zoom; point at a box for its units and "
    "what goes along with them.</span></div>"
)


def write(path, title, parts):
    """Writes a page that needs no other file and no network.

    Args:
        path: A file that ends with `.html`. What stands there is replaced.
        title: String.
        parts: Rich tables, strings, `Bars` and `Drawing`s.

    Returns:
        The path as `pathlib.Path`.

    Raises:
        ValueError: If the path ends with anything else.
        OSError: If it cannot be written.
    """
    path = pathlib.Path(path)
    if path.suffix not in (".html", ".htm"):
        raise ValueError(f"Argument `path` must end with `.html`. Received: path={str(path)!r}.")
    body = "\n".join(map(_part, filter(None, parts)))
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>"
        f'<h1>{html.escape(title)}</h1><input id="find" type="search" '
        f'placeholder="find a layer" aria-label="find a layer">\n{body}\n'
        f'<div id="tip"></div><script>{SCRIPT}</script></body></html>\n'
    )
    with written_whole(path) as place:
        place.write_text(page, "utf-8")
    return path


class Drawing:
    """An SVG image, with groups of the classes `node` and `edge`; see `SCRIPT` for their data."""

    def __init__(self, svg):
        self.svg = svg


class Bars:
    """Numbers before and after as bars, one row a name.

    Args:
        title: String.
        rows: Tuples of a name, the number before and the number after; None counts as 0.
    """

    def __init__(self, title, rows):
        self.title, self.rows = title, list(rows)


def _part(part):
    if isinstance(part, Drawing):
        return f'{TOOLS}<div class="view">{part.svg}</div>'
    if isinstance(part, Bars):
        return _bars(part)
    if isinstance(part, Table):
        return _table(part)
    return f'<p class="note">{html.escape(_plain(part))}</p>'


def _bars(bars):
    most = max((max(before or 0, after or 0) for _, before, after in bars.rows), default=0)
    rows = []
    for name, before, after in bars.rows:
        shares = [100 * (number or 0) / most if most else 0 for number in (before, after)]
        both = [f"{number:,}" if number is not None else "–" for number in (before, after)]
        text = both[0] if before == after else " → ".join(both)
        rows.append(
            f"<span>{html.escape(name)}</span>"
            f'<span class="bar"><i style="width:{shares[0]:.2f}%"></i>'
            f'<b style="width:{shares[1]:.2f}%"></b></span><span class="number">{text}</span>'
        )
    return f'<h2>{html.escape(bars.title)}</h2><div class="bars">{"".join(rows)}</div>'


def _table(table):
    kinds = ["number" if column.justify == "right" else "text" for column in table.columns]
    head = "".join(
        f'<th class="{kind}">{html.escape(_plain(column.header))}</th>'
        for kind, column in zip(kinds, table.columns, strict=True)
    )
    cells = zip(*(list(column.cells) for column in table.columns), strict=True)
    rows = []
    for row, texts in zip(table.rows, cells, strict=True):
        faint = ' class="faint"' if row.style else ""
        columns = "".join(
            f'<td class="{kind}">{html.escape(_plain(text))}</td>'
            for kind, text in zip(kinds, texts, strict=True)
        )
        rows.append(f"<tr{faint}>{columns}</tr>")
    title = f"<h2>{html.escape(_plain(table.title))}</h2>" if table.title else ""
    note = f'<p class="note">{html.escape(_plain(table.caption))}</p>' if table.caption else ""
    return (
        f'{title}<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{note}"
    )


def _plain(text):
    """The text of what a rich table holds."""
    return text if isinstance(text, str) else getattr(text, "plain", str(text))
