"""The messages that the page on refusals quotes are those of the code."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def messages():
    """The text of every string in the package; what is formatted into one is left out."""
    for path in (ROOT / "tfprune").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.JoinedStr):
                parts = (
                    part.value if isinstance(part, ast.Constant) else "data" for part in node.values
                )
                yield "".join(parts)


def test_every_message_of_the_page_is_one_of_the_code():
    page = (ROOT / "docs/refused.md").read_text("utf-8")
    quoted = re.findall(r"^\| (`+)(.+?)\1 \|", page, re.MULTILINE)
    assert len(quoted) > 20
    found = set(messages())
    unknown = [text for _, text in quoted if not any(message.startswith(text) for message in found)]
    assert not unknown
