"""The order of the rooms, and the public face: each room imports only from those before it."""

import ast
import dataclasses
import importlib
import inspect
import subprocess
import sys
import types
from pathlib import Path

import keras
import pytest

import tfprune

PACKAGE = Path(tfprune.__file__).parent
ROOMS = """
_tools _keras layers schedules patterns masks coupling exporting rebuild stripping measuring
criteria weights units blocks experiments interop optimizers recovery reports callbacks surgery
quantizing shrinking cli
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


def room(path):
    """The first part of the path in the package: `coupling` for `coupling/rules/base.py`."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def test_every_file_is_in_a_room():
    assert {room(path) for path in FILES} - {"__init__", "__main__"} == set(ROOMS)


@pytest.mark.parametrize("name", ROOMS)
def test_rooms_import_from_those_before(name):
    later = set(ROOMS[ROOMS.index(name) + 1 :])
    for path in FILES:
        if room(path) == name:
            rooms = {i.split(".")[1] for i in imported(path) if i.startswith("tfprune.")}
            assert not rooms & later, f"{path} imports from a later room"
            assert rooms <= set(ROOMS), f"{path} imports by way of the package: {rooms}"


def test_the_face_shows_public_names_only():
    assert dir(tfprune) == sorted(tfprune.__all__)
    public = {name: getattr(tfprune, name) for name in tfprune.__all__}
    assert {"prune", "prunable", "strip", "callbacks", "budgets", "Selection"} <= set(public)
    for name, value in public.items():
        doc = value if name.startswith("__") else value.__doc__
        assert doc, f"tfprune.{name} says nothing about itself"


@pytest.mark.parametrize("name", sorted(tfprune.__all__))
def test_no_function_hides_a_module(name):
    if not isinstance(getattr(tfprune, name), types.ModuleType):
        assert not (PACKAGE / name).exists()
        assert not (PACKAGE / f"{name}.py").exists()


def test_no_function_of_a_room_hides_a_file_in_it():
    for path in FILES:
        if path.name == "__init__.py":
            package = ".".join(path.parent.relative_to(PACKAGE.parent).parts)
            files = {each.stem for each in path.parent.iterdir()}
            taken = {name for name in imported(path) if name.rpartition(".")[2] in files}
            assert all(name.rpartition(".")[0] == package for name in taken), taken


@pytest.mark.parametrize(
    "name", [n for n in tfprune.__all__ if isinstance(getattr(tfprune, n), types.ModuleType)]
)
def test_public_modules_can_be_imported_by_their_name(name):
    assert importlib.import_module(f"tfprune.{name}") is getattr(tfprune, name)


LONG = {"prune": 12, "fit_and_shrink": 10}
"""Public functions with more than nine parameters, and how many, those for `fit` not counted.

Each of the 12 of `prune` is a choice that users make one by one, none belongs to another, and all
but the first three are keyword-only. `epochs` and `verbose` could hide in `**fit`, as
`validation_data` does, but their defaults are not those of `fit`. `only`, `exclude`,
`return_report` and `verbose` mean what they do in other calls, so no object takes them here alone.
`fit_and_shrink` has the model, `x` and `y` of `fit` before what `PruneUnits` takes.
"""
POSITIONAL = {"freeze": 4, "unfreeze": 4}
"""Public functions with more than three positional parameters: they say where, to the element."""


def public_callables():
    for name in tfprune.__all__:
        value = getattr(tfprune, name)
        inner = {name: value}
        if isinstance(value, types.ModuleType):
            inner = {key: getattr(value, key) for key in getattr(value, "__all__", vars(value))}
        for key, each in inner.items():
            if callable(each) and getattr(each, "__module__", "").startswith("tfprune"):
                yield key, each


def test_signatures_are_short_and_keyword_only():
    for name, each in public_callables():
        if name.startswith("_") or (isinstance(each, type) and issubclass(each, keras.Layer)):
            continue
        kinds = [p.kind for p in inspect.signature(each).parameters.values()]
        named = [kind for kind in kinds if kind is not inspect.Parameter.VAR_KEYWORD]
        assert len(named) <= LONG.get(name, 9), f"{name} has {len(named)} parameters"
        is_schedule = isinstance(each, type) and issubclass(each, tfprune.schedules.Schedule)
        if _is_result(each) or is_schedule:
            continue  # the arguments of schedules are in the order that tfmot's have
        positional = [kind for kind in kinds if kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
        assert len(positional) <= POSITIONAL.get(name, 3), f"{name}: arguments without names"


def _is_result(each):
    """Whether users get it from a function, and do not make it themselves."""
    is_budget = isinstance(each, type) and issubclass(each, tfprune.budgets.Budget)
    return dataclasses.is_dataclass(each) and not is_budget


def test_only_one_package_touches_what_is_private_to_keras():
    users = {
        room(path)
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
