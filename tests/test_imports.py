"""The order of the layout: each module imports only from those above it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tfprune

PACKAGE = Path(tfprune.__file__).parent
LAYOUT = """
_keras files parallel plots schedules patterns layers masks choices cut convert coupling
criteria distributions prunable_weights watching weight_scores pruning_method prune_weights
freeze freezing_method freeze_weights prunable_units unit_scores rebuild savings timing budgets
choosing unit_choice prune_units opening prunable check strip recovery interop straight_through
rewinding unit_pieces unit_regularizers optimizers callbacks tables stages shrinking
fit_and_shrink surgery summary explain_plot explain export measure exported report sensitivity
prune experiments demo_plot demo cli
""".split()
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(path):
    """The dotted names a file imports, `from a import b` as `a.b`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def dotted(path):
    """The dotted names a file uses, as `tf.keras.layers`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            yield ast.unparse(node)


def row(path):
    """The first part of the path in the package: `coupling` for `coupling/rules/base.py`."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def test_the_layout_names_every_module():
    assert {row(path) for path in FILES} - {"__init__"} == set(LAYOUT)


@pytest.mark.parametrize("name", LAYOUT)
def test_imports_come_from_above(name):
    below = set(LAYOUT[LAYOUT.index(name) + 1 :])
    for path in FILES:
        if row(path) == name:
            rows = {i.split(".")[1] for i in imported(path) if i.startswith("tfprune.")}
            assert not rows & below, f"{path} imports from below"
            assert rows <= set(LAYOUT), f"{path} imports by way of the package: {rows}"


def test_only_one_package_touches_what_is_private_to_keras():
    users = {
        row(path)
        for path in FILES
        if any(name.startswith("keras.src") for name in [*imported(path), *dotted(path)])
    }
    assert users == {"_keras"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_keras_by_way_of_tensorflow(path):
    names = [*imported(path), *dotted(path)]
    assert not [n for n in names if n.startswith(("tf.keras", "tensorflow.keras"))]


def test_importing_the_package_leaves_extras_alone():
    # Keras itself imports some of them where they are installed.
    code = (
        "import sys, keras; before = {*sys.modules}; import tfprune; print({*sys.modules} - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    added = {name.split(".")[0] for name in ast.literal_eval(done.stdout)}
    assert "tfprune" in added
    assert not added & {"tensorflow_model_optimization", "tf_keras", "matplotlib", "sklearn"}
    assert not added & {"onnx", "onnxruntime", "tf2onnx"}
