"""Network surgery: resize, insert, remove, connect or replace layers of a trained model."""

from tfprune.surgery.functions import (
    connect,
    disconnect,
    insert,
    remove,
    replace,
    resize,
    resize_depth_multiplier,
    resize_kernel,
    shrink,
)
from tfprune.surgery.plan import Plan, Resized, Split, edit
from tfprune.surgery.sizes import by, inputs_of
from tfprune.surgery.tokens import remove_tokens, unused_tokens

__all__ = [
    "Plan",
    "Resized",
    "Split",
    "by",
    "connect",
    "disconnect",
    "edit",
    "inputs_of",
    "insert",
    "remove",
    "remove_tokens",
    "replace",
    "resize",
    "resize_depth_multiplier",
    "resize_kernel",
    "shrink",
    "unused_tokens",
]
