"""The README's Python examples run, in their order, as one program."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(
    r"^```python\n(.*?)^```$", README.read_text("utf-8"), re.DOTALL + re.MULTILINE
)


def test_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "readme"}
    smalls = []
    for number, example in enumerate(EXAMPLES):
        exec(compile(example, f"README.md, example {number}", "exec"), names)
        smalls.append(names["small"])

    images, labels = names["x_test"], names["y_test"]
    assert [len(EXAMPLES), (tmp_path / "digits.tflite").exists()] == [2, True]
    dense = names["model"].evaluate(images, labels, verbose=0)[1]
    for small in smalls:
        assert sum(layer.units for layer in small.layers) == 256 + 10
        assert small.evaluate(images, labels, verbose=0)[1] >= dense - 0.02


def test_it_stays_short():
    assert len(README.read_text("utf-8").split()) < 1400
