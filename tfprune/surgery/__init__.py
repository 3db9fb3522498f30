"""Network surgery: resize, insert, remove, connect or replace layers of a trained model."""

from tfprune.surgery.functions import (
    connect,
    disconnect,
    insert,
    remove,
    remove_block,
    repeat_block,
    replace,
    resize,
    resize_depth_multiplier,
    resize_kernel,
    shrink,
)
from tfprune.surgery.growth import Split
from tfprune.surgery.plan import Plan, Resized, edit
from tfprune.surgery.sizes import (
    at_least,
    at_most,
    by,
    inputs_of,
    multiple_of,
    new_in,
    to,
    total_of,
)
from tfprune.surgery.tokens import remove_tokens, unused_tokens

__all__ = [
    "Plan",
    "Resized",
    "Split",
    "at_least",
    "at_most",
    "by",
    "connect",
    "disconnect",
    "edit",
    "inputs_of",
    "insert",
    "multiple_of",
    "new_in",
    "remove",
    "remove_block",
    "remove_tokens",
    "repeat_block",
    "replace",
    "resize",
    "resize_depth_multiplier",
    "resize_kernel",
    "shrink",
    "to",
    "total_of",
    "unused_tokens",
]
