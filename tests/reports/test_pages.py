"""Results as HTML pages: what is in them, and that they work in a browser."""

import html.parser
import re
import shutil
import subprocess

import keras
import pytest

import tfprune
from tfprune._tools import pages

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def explanation():
    x = inputs = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Conv2D(4, 3, padding="same", name="first")(x)
    y = keras.layers.Conv2D(4, 3, padding="same", name="second<b>")(x)
    x = keras.layers.Add(name="sum")([x, y])
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return tfprune.explain(keras.Model(inputs, keras.layers.Dense(10, name="logits")(x)))


def dense(units):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(units, name="hidden"), keras.layers.Dense(2, name="logits")]
    return keras.Sequential([keras.Input((3,)), *layers], name=f"of_{units}")


class _Balance(html.parser.HTMLParser):
    """Collects tags that are closed in another order than they were opened."""

    def __init__(self, text):
        super().__init__()
        self.open, self.wrong = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if self.open.pop() != tag:
            self.wrong.append(tag)


def test_the_page_of_an_explanation_has_every_call_and_set(explanation, tmp_path):
    path = explanation.save(tmp_path / "coupled.html")
    text = path.read_text("utf-8")
    parsed = _Balance(text)
    assert not parsed.open and not parsed.wrong
    assert not re.findall(r"(?:src|href)=|https?://(?!www\.w3\.org/2000/svg)", text)
    for node in explanation.graph:
        assert html.escape(node.name) in text
    assert "second<b>" not in text  # names are text, not tags
    assert "4 of 4 can go" in text and "logits kernel[0]" in text
    assert text.count('class="node"') == 5 and text.count('class="edge"') == 5


def test_pages_of_other_results(tmp_path):
    before, after = dense(6), dense(3)
    text = tfprune.compare(before, after, batch_sizes=()).save(tmp_path / "a.html").read_text()
    assert "of_6 → of_3" in text and "width:50.00%" in text and "6 → 3" in text
    _, report = tfprune.prune(before, 0.5, return_report=True)
    text = report.save(tmp_path / "b.html").read_text("utf-8")
    assert "parameters" in text and "6 → 3" in text and "50% of the units" in text
    assert "hidden" in tfprune.inspect(before).save(tmp_path / "c.html").read_text("utf-8")


def test_another_ending_is_refused_and_nothing_is_written(explanation, tmp_path):
    with pytest.raises(ValueError, match=r"must end with `\.html`"):
        explanation.save(tmp_path / "coupled.png")
    assert not list(tmp_path.iterdir())


def in_browser(path, script):
    """What a script, run in the page after its own, leaves as the title."""
    text = path.read_text("utf-8")
    assert "</body>" in text
    code = f"<script>document.title = String((() => {{ {script} }})());</script></body>"
    changed = path.with_name("run.html")
    changed.write_text(text.replace("</body>", code), "utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={path.parent / 'profile'}", "--window-size=1280,900"]
    dumped = subprocess.run([*command, changed.as_uri()], capture_output=True, timeout=120)
    return re.search(r"<title>(.*?)</title>", dumped.stdout.decode(), re.DOTALL)[1]


@needs_browser
def test_tables_sort_by_numbers_and_back(tmp_path):
    table = tfprune.inspect(dense(1200)).tables()[0]
    values = ["12.3 K", "999", "–", "1.5 M", "7 → 2,000"]
    made = type(table)()
    for name in ("name", "number"):
        made.add_column(name)
    for index, each in enumerate(values):
        made.add_row(f"row {index}", each)
    path = pages.write(tmp_path / "t.html", "t", [made])
    read = (
        "const head = document.querySelectorAll('th')[1]; head.click(); %s"
        "return [...document.querySelectorAll('tbody tr')].map(r => r.cells[0].textContent[4])"
        ".join('');"
    )
    assert in_browser(path, read % "") == "14032"
    assert in_browser(path, read % "head.click();") == "23041"


@needs_browser
def test_finding_and_pointing_and_zooming(explanation, tmp_path):
    path = explanation.save(tmp_path / "coupled.html")
    find = (
        "const find = document.querySelector('#find'); find.value = 'FIRST'; find.oninput();"
        "return document.querySelectorAll('.node.found').length + ' ' + "
        "document.querySelectorAll('tbody tr.hidden').length + ' ' + "
        "document.querySelectorAll('tbody tr').length;"
    )
    found, hidden, rows = map(int, in_browser(path, find).split())
    assert found >= 1 and 0 < hidden < rows
    point = (
        "const nodes = [...document.querySelectorAll('.node')];"
        "const first = nodes.find(n => n.dataset.tip.startsWith('first'));"
        "first.onmouseenter(); const tip = document.querySelector('#tip');"
        "const lit = nodes.filter(n => !n.classList.contains('dim')).length;"
        "const said = tip.style.display + ' ' + tip.textContent.includes('4 of 4 can go');"
        "first.onmouseleave();"
        "return lit + ' ' + said + ' ' + document.querySelectorAll('.dim').length;"
    )
    assert in_browser(path, point) == "3 block true 0"
    zoom = (
        "const svg = document.querySelector('svg'), before = Number(svg.getAttribute('width'));"
        "document.querySelector('#in').click();"
        "return (Number(svg.getAttribute('width')) / before).toFixed(3);"
    )
    assert in_browser(path, zoom) == "1.250"
