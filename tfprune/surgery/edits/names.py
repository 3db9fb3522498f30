"""The names of the layers that edits are of, and that they insert."""

from tfprune.surgery.edits.blocks import RepeatBlock
from tfprune.surgery.edits.insert import Insert
from tfprune.surgery.edits.resize import Resize


def named_layers(edit):
    """The names of the layers that an edit is of."""
    fields = ("layer", "after", "source", "target", "block")
    names = {getattr(edit, each, None) for each in fields}
    names.update(edit.layers if isinstance(edit, Resize) else ())
    return {*names, *(getattr(edit, "before", None) or ())} - {None}


def inserted_names(edits):
    """The names of the layers that edits insert; raises a `ValueError` if one comes twice."""
    making = (Insert, RepeatBlock)
    names = [name for edit in edits if isinstance(edit, making) for name in edit.names]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(
            "The names of layers that come into a model must be new, and a block is repeated "
            f"several times by one `repeat_block(block, times)`. Received: {twice!r}, twice."
        )
    return set(names)
