"""The wheel and the sdist: what is in them, their metadata, and the demo run from the wheel."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("packages")]


def run(*command, **options):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    options = {"env": environment, "capture_output": True, "text": True, **options}
    result = subprocess.run(list(map(str, command)), **options)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return result.stdout


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """The paths of the wheel and of the sdist, built from a copy of the files in git."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    archive = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in archive.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source)
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


def test_both_have_all_modules_and_nothing_of_the_tests(packages):
    wheel, sdist = packages
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    modules = {
        path.relative_to(ROOT).as_posix()
        for folder in ("tfprune", "tfprune_cli")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert modules <= names
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "docs"))]
    with tarfile.open(sdist) as file:
        inside = {name.partition("/")[2] for name in file.getnames()}
    assert {"README.md", "LICENSE", "setup.cfg"} | modules <= inside


def test_the_metadata_is_what_an_index_takes(packages):
    output = run(sys.executable, "-m", "twine", "check", "--strict", *packages)
    assert output.count("PASSED") == 2


def test_the_demo_runs_from_the_wheel(packages, tmp_path):
    """In a fresh environment that has tfprune from the wheel, and the rest from this one."""
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False)
    python = environment / "bin/python"
    site = Path(run(python, "-c", "import site; print(site.getsitepackages()[0])").strip())
    with zipfile.ZipFile(packages[0]) as file:
        file.extractall(site)
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    code = "import tfprune, tfprune_cli; print(tfprune.__file__); print(tfprune_cli.__file__)"
    for line in run(python, "-c", code, cwd=tmp_path).splitlines():
        assert line.startswith(str(site))
    output = run(python, "-m", "tfprune_cli", "demo", "--out", tmp_path / "out", cwd=tmp_path)
    assert output.count("✓") == 4 and (tmp_path / "out").is_dir()
