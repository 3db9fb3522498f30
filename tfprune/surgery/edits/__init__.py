"""The kinds of edits, one a file: their constraints on sizes, and their changes to a model."""

from tfprune.surgery.edits.base import Draft, Edit, from_dict
from tfprune.surgery.edits.blocks import RemoveBlock, RepeatBlock
from tfprune.surgery.edits.connect import Connect, Disconnect
from tfprune.surgery.edits.insert import Insert
from tfprune.surgery.edits.kernel import ResizeKernel
from tfprune.surgery.edits.multiplier import ResizeDepthMultiplier
from tfprune.surgery.edits.remove import Remove
from tfprune.surgery.edits.replace import Replace
from tfprune.surgery.edits.resize import Resize, Shrink
