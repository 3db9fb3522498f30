"""Converts pruned models and schedules of the TensorFlow Model Optimization Toolkit (tfmot).

tfmot works on legacy Keras (`tf_keras`). Both are imported only where an object or a file of
theirs needs them.
"""

from tfprune.interop.tfmot.model import from_tfmot
from tfprune.interop.tfmot.schedules import CountedFromOne, TfmotSchedule, from_tfmot_schedule
