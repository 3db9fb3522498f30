"""Writes `supported.md` out of the registry of rules: `python docs/make_supported.py`."""

from pathlib import Path

import keras

from tfprune.coupling.rules import base

PAGE = Path(__file__).with_name("supported.md")
INTRODUCTION = """\
# Supported layers and operations

Units are followed through these by a rule that says which outputs depend on which inputs and
weights. The table is made from the registry of rules.

What has no rule is still followed where running it, with fewer and more units, proves how they
pass: layers of your own are opened and read as the operations of their `call`. Where nothing is
proved, units stay, and `tfprune.explain` gives the reason: see [what stays](pinned.md).
`tfprune.coupling.rule` adds a rule.

"""


def page():
    """The text of the page."""
    families = {}
    for cls, rule in base._RULES.items():
        if cls.__module__.startswith("keras") and cls is not keras.Operation:
            name = type(rule).__module__.rsplit(".", 1)[1].replace("_", " ")
            is_layer = issubclass(cls, keras.layers.Layer)
            families.setdefault(name, ([], []))[not is_layer].append(_name(cls, is_layer))
    rows = [
        f"| {name} | {', '.join(sorted(set(layers)))} | {', '.join(sorted(set(operations)))} |"
        for name, (layers, operations) in sorted(families.items())
    ]
    head = "| family | layers | operations |\n| --- | --- | --- |\n"
    return INTRODUCTION + head + "\n".join(rows) + "\n"


def _name(cls, is_layer):
    """The public name: of a layer its class, of an operation the function of `keras.ops`."""
    if is_layer:
        return f"`{cls.__name__}`"
    lowered = "".join(f"_{c.lower()}" if c.isupper() else c for c in cls.__name__).strip("_")
    for prefix, room in (("ops", keras.ops), ("ops.image", keras.ops.image)):
        for name in (lowered, cls.__name__.lower()):
            if hasattr(room, name):
                return f"`{prefix}.{name}`"
    return f"`{cls.__name__}`"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
