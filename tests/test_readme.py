"""The README's Python examples run, in their order, as one program."""

import inspect
import re
from pathlib import Path

import keras

import tfprune

README = Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(
    r"^```python\n(.*?)^```$", README.read_text("utf-8"), re.DOTALL + re.MULTILINE
)


def test_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "readme"}
    for number, example in enumerate(EXAMPLES):
        exec(compile(example, f"README.md, example {number}", "exec"), names)

    small, images, labels = names["small"], names["x_test"], names["y_test"]
    assert [layer.units for layer in small.layers] == [128, 128, 10]
    assert abs(names["history"].history["sparsity"][-1] - 0.8) < 1e-3
    assert keras.ops.convert_to_numpy(names["cnn"].get_layer("conv").kernel)[..., 5].any() == 0
    dense, pruned = (names[n].evaluate(images, labels, verbose=0)[1] for n in ("model", "small"))
    assert pruned >= dense - 0.02
    assert names["outputs"]["digit"].shape == (5, 10)


def test_the_example_of_the_notebook_is_the_readme_s():
    import nbformat

    path = README.parent / "notebooks/01_quickstart.ipynb"
    cells = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    in_notebook = "\n".join(cells).splitlines()
    adapted = [line for line in EXAMPLES[0].splitlines() if line not in in_notebook]
    assert all("epochs=" in line or "export(" in line or not line for line in adapted)


def test_the_table_of_calls_agrees_with_their_docstrings():
    table = README.read_text("utf-8").split("| changes the model given, in place |")[1]
    rows = [row.split("|")[1:3] for row in table.split("\n\n")[0].splitlines()[2:]]
    columns = zip(*rows, strict=True)
    in_place, new = (re.findall(r"`(\w[\w.]*)`", " ".join(column)) for column in columns)
    assert len(in_place) == 7 and len(new) == 24
    for name in in_place:
        assert "in place" in _first_line(name)
    for name in new:
        assert _first_line(name).startswith("Returns ")


def _first_line(name):
    """Of the docstring of what the README calls `name`; `insert` is `surgery.insert`."""
    room = tfprune if hasattr(tfprune, name) else tfprune.surgery
    return inspect.getdoc(getattr(room, name.removeprefix("surgery."))).splitlines()[0]
