"""The Python examples of each page of the guide run, in their order, as one program."""

import inspect
import re
from pathlib import Path

import keras
import pytest

import tfprune

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {
    str(path.relative_to(DOCS.parent)): re.findall(
        r"^```python\n(.*?)^```$", path.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    for path in [DOCS.parent / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
}


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page, examples in PAGES.items() if examples])
def test_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # of tables of latencies
    keras.utils.set_random_seed(0)
    names = {"__name__": "page"}
    for number, example in enumerate(PAGES[page]):
        exec(compile(example, f"{page}, example {number}", "exec"), names)


def test_the_table_of_calls_agrees_with_their_docstrings():
    text = (DOCS / "guides/choosing.md").read_text("utf-8")
    table = text.split("| changes the model given, in place |")[1]
    rows = [row.split("|")[1:3] for row in table.split("\n\n")[0].splitlines()[2:]]
    columns = zip(*rows, strict=True)
    in_place, new = (re.findall(r"`(\w[\w.]*)`", " ".join(column)) for column in columns)
    assert len(in_place) == 7 and len(new) == 24
    for name in in_place:
        assert "in place" in _first_line(name)
    for name in new:
        assert _first_line(name).startswith("Returns ")


def _first_line(name):
    """Of the docstring of what the page calls `name`; `insert` is `surgery.insert`."""
    room = tfprune if hasattr(tfprune, name) else tfprune.surgery
    return inspect.getdoc(getattr(room, name.removeprefix("surgery."))).splitlines()[0]


@pytest.mark.parametrize(
    "path",
    [*sorted(DOCS.parent.glob("*.md")), *sorted(DOCS.rglob("*.md"))],
    ids=lambda path: path.name,
)
def test_links_lead_to_files(path):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text("utf-8"))
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert not missing
