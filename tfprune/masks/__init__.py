"""The masks of a model: set, counted, frozen, summarised, rewound."""

from tfprune.masks.setting import (
    MaskCounts,
    count_masks,
    find_layer,
    masked_layers,
    move_masks,
    set_masks,
)
