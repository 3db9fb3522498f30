"""Setting, counting, freezing and summarizing masks, and rewinding training with masks."""

from tfprune.masks.in_place import mask_in_place, note_masks_inside
from tfprune.masks.setting import (
    MaskCounts,
    assign_masks,
    count_masks,
    find_layer,
    masked_layers,
    set_masks,
)

__all__ = [
    "MaskCounts",
    "assign_masks",
    "count_masks",
    "find_layer",
    "masked_layers",
    "set_masks",
]
