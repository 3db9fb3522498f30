"""The guide site, built strictly: any warning is an error."""

import subprocess
import sys
import types
from pathlib import Path

import pytest

import tfprune

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    trees = tmp_path_factory.mktemp("trees")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going"]
    command += ["-c", ROOT / "docs", "-d", trees, ROOT, out]
    result = subprocess.run(map(str, command), capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-3000:]
    return out


@pytest.mark.slow
@pytest.mark.xdist_group("site")
def test_the_reference_has_every_public_name(site):
    pages = (site / "docs/reference").glob("*.html")
    text = "".join(page.read_text("utf-8") for page in pages)
    for name in tfprune.__all__:
        value = getattr(tfprune, name)
        if not isinstance(value, types.ModuleType) and name != "__version__":
            assert f'id="tfprune.{name}"' in text, name
    for room in ("budgets", "callbacks", "schedules", "surgery", "unit_regularizers"):
        for name in getattr(tfprune, room).__all__:
            if not isinstance(getattr(getattr(tfprune, room), name), types.ModuleType):
                assert f'id="tfprune.{room}.{name}"' in text, f"{room}.{name}"


@pytest.mark.slow
@pytest.mark.xdist_group("site")
def test_every_page_is_in_the_menu(site):
    menu = (site / "docs/index.html").read_text("utf-8")
    for path in [*(ROOT / "docs").rglob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]:
        page = path.relative_to(ROOT).with_suffix(".html")
        if page.name not in ("index.html",) and "reference" not in page.parts:
            link = page.relative_to("docs") if page.parts[0] == "docs" else f"../{page}"
            assert f'href="{link}"' in menu, page
