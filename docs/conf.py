"""Settings of the guide site: `sphinx-build -W -c docs . build/site` makes it.

The source is the whole repository, so that links work as they do beside the files.
"""

import importlib.metadata
import itertools

project = "tfprune"
author = copyright = "The tfprune developers"  # noqa: A001
version = release = importlib.metadata.version("tfprune")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
root_doc = "docs/index"
include_patterns = ["docs/**", "notebooks/*.ipynb", "ARCHITECTURE.md", "C*.md"]

html_theme = "furo"
html_title = "tfprune"
html_show_sourcelink = False
copybutton_prompt_text = "$ "

nb_execution_mode = "off"  # the test suite runs the notebooks
myst_heading_anchors = 3
default_role = "code"
smartquotes = False
napoleon_numpy_docstring = False
napoleon_use_rtype = False


def docstring_as_rst(app, what, name, obj, options, lines):
    """Turns Markdown tables of a docstring into RST's, and its indented lines into literal ones.

    Sections such as `Args:`, which Napoleon reads, and items of lists stay as they are.
    """
    result, before = [], ""
    for is_table, group in itertools.groupby(lines, lambda line: line.lstrip().startswith("|")):
        group = list(group)
        if is_table and len(group) > 2:
            result += _table(group)
            continue
        for line in group:
            is_indented = line.startswith("    ") and not before.startswith((" ", "*", ">", "1"))
            if is_indented and result and not result[-1] and not before.endswith("::"):
                result += ["::", ""]
            result.append(line if is_indented or line.startswith(">") else _without_bars(line))
            before = line or before
    lines[:] = result


def _without_bars(line):
    """A line whose bars, as of |w|, stand for themselves; those in code do already."""
    parts = line.split("`")
    parts[::2] = [part.replace("|", "\\|") for part in parts[::2]]
    return "`".join(parts)


def _table(rows):
    """The lines of a list table."""
    margin = rows[0][: rows[0].index("|")]
    head, _, *rows = ([cell.strip() for cell in row.strip().strip("|").split("|")] for row in rows)
    table = ["", f"{margin}.. list-table::"]
    if any(head):
        rows = [head, *rows]
        table.append(f"{margin}   :header-rows: 1")
    for row in rows:
        marks = ["* -", *["  -"] * (len(row) - 1)]
        table += ["", *(f"{margin}   {m} {c}" for m, c in zip(marks, row, strict=True))]
    return [*table, ""]


def setup(app):
    """Docstrings are turned before Napoleon reads them."""
    app.connect("autodoc-process-docstring", docstring_as_rst, priority=100)
