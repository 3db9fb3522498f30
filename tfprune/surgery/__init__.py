"""Network surgery: resize, insert, remove, connect or replace layers of a trained model."""

from tfprune.surgery.functions.blocks import remove_block, repeat_block
from tfprune.surgery.functions.connections import connect, disconnect
from tfprune.surgery.functions.layers import insert, remove, replace
from tfprune.surgery.functions.sizes import resize, resize_depth_multiplier, resize_kernel, shrink
from tfprune.surgery.growth import Split
from tfprune.surgery.plan import Plan, edit
from tfprune.surgery.plan_steps import Resized
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
