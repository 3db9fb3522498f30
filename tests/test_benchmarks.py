"""The table of benchmarks names each program, and says what was measured last."""

import importlib.util
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "benchmarks"


def table():
    spec = importlib.util.spec_from_file_location("table", FOLDER / "table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_says_what_the_results_say():
    message = "run `python benchmarks/table.py`"
    assert (FOLDER / "README.md").read_text() == table().page(), message


def test_the_table_has_each_program_once():
    programs = [*FOLDER.glob("[!_]*.py"), *FOLDER.glob("real/[!_]*.py")]
    names = {str(path.relative_to(FOLDER)) for path in programs} - set(table().NOT_PROGRAMS)
    assert sorted(names) == sorted(each.program for each in table().BENCHMARKS)
