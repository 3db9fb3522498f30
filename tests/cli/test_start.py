"""How the command starts: `python -m tfprune`, names in the help, completion of shells."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tfprune
from tfprune.criteria import units as criteria
from tfprune.units import budgets
from tfprune_cli import main, parse, values

ROOT = Path(tfprune.__file__).parents[1]


def run(*arguments):
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run(
        [sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True
    )


def printed(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    return left.value.code, capsys.readouterr()


def test_the_package_is_a_command(tmp_path):
    done = run("-m", "tfprune", "inspect", tmp_path / "none.keras")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("tfprune inspect: there is no file")
    assert done.stderr.count("\n") == 1


def test_the_package_finds_mistakes_before_it_imports_tensorflow():
    done = run("-X", "importtime", "-m", "tfprune", "prune", "--budget", "x")
    assert done.returncode == 2
    assert "tfprune prune: argument --budget" in done.stderr
    assert "tfprune_cli" in done.stderr and "tensorflow" not in done.stderr


def test_the_criteria_are_those_of_the_registry(capsys):
    assert set(values.CRITERIA) == {"auto", *criteria._ALL} - {"activation_contribution"}
    code, found = printed(["prune", "--help"], capsys)
    assert code == 0
    assert all(name in found.out for name in values.CRITERIA)


def test_the_budgets_are_those_of_the_package():
    from tfprune.cli import pruning

    assert tuple(pruning._BUDGETS) == values.BUDGETS
    assert all(hasattr(budgets, each.__name__) for each in pruning._BUDGETS.values())


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--learning-rate", "0"], "above 0"),
        (["--learning-rate", "inf"], "above 0"),
        (["--learning-rate", "0.1"], "--epochs"),
        (["--validation", "1"], "between 0 and 1"),
        (["--validation", "-0.1"], "between 0 and 1"),
        (["--criterion", "magic"], "'layerwise_obs'"),
        (["--quantize", "int4"], "'int8'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_of_pruning_are_one_line(arguments, word, capsys):
    command = ["prune", "m.keras", "--data", "d.npz", "--budget", "macs=0.5", "-o", "s.keras"]
    code, found = printed([*command, *arguments], capsys)
    assert code == 2 and found.out == ""
    assert found.err.count("\n") == 1 and word in found.err and "--help" in found.err


def test_the_commands_of_the_guide_are_understood():
    guide = (ROOT / "docs/guides/command_line.md").read_text("utf-8")
    lines = [line for line in guide.splitlines() if line.startswith("tfprune ")]
    found = [parse(shlex.split(line, comments=True)[1:]).command for line in lines]
    assert {"compare", "export", "pareto", "prune", "strip", "summary"} <= set(found)


def test_a_file_or_a_share_is_validated_on():
    command = ["prune", "m.keras", "--data", "d.npz", "--budget", "macs=0.5", "-o", "s.keras"]
    assert parse([*command, "--validation", "0.2"]).validation == 0.2
    assert parse([*command, "--validation", "v.npz"]).validation == Path("v.npz")


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_scripts_are_printed(shell, capsys, tmp_path):
    pytest.importorskip("shtab", reason="the extra cli is not installed")
    code, found = printed(["--print-completion", shell], capsys)
    assert (code, found.err) == (0, "")
    arguments = ("--learning-rate", "layerwise_obs")
    for word in ("prune", "compare", *(arguments if shell != "tcsh" else ())):
        assert word in found.out
    if shutil.which(shell):
        (tmp_path / "script").write_text(found.out)
        subprocess.run([shell, "-n", tmp_path / "script"], check=True)


def test_bash_completes_commands_and_files(tmp_path):
    pytest.importorskip("shtab", reason="the extra cli is not installed")
    (tmp_path / "model.keras").touch()
    script = run("-m", "tfprune_cli", "--print-completion", "bash").stdout

    def completed(*words):
        line = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}\n"
        ask = f'{script}\n{line}_shtab_tfprune "" "{words[-1]}"\nprintf "%s\\n" "${{COMPREPLY[@]}}"'
        done = subprocess.run(["bash", "-c", ask], cwd=tmp_path, capture_output=True, text=True)
        return [word.strip() for word in done.stdout.split()]

    assert completed("tfprune", "ex") == ["explain", "export"]
    assert "model.keras" in completed("tfprune", "inspect", "mo")
    assert completed("tfprune", "prune", "--criterion", "layer") == ["layerwise_obs"]


def test_completion_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)  # Python's way to make an import fail
    code, found = printed(["--print-completion", "bash"], capsys)
    assert code == 2 and found.out == "" and found.err.count("\n") == 1
    assert "python -m pip install 'tfprune[cli]'" in found.err
