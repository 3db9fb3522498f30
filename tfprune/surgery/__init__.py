"""Network surgery: resize, insert, remove, connect or replace layers of a trained model."""

from tfprune.surgery.functions import (
    connect,
    disconnect,
    insert,
    remove,
    replace,
    resize,
    resize_kernel,
    shrink,
)
from tfprune.surgery.plan import Plan, Resized, Split, edit
from tfprune.surgery.sizes import by, inputs_of

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
    "replace",
    "resize",
    "resize_kernel",
    "shrink",
]
