"""What is saved with a layer without being its weight, and what is left out of files.

Private here, and why:

* `AutoTrackable` of TensorFlow and `KerasSaveable` of Keras: what both look for when they save;
* `_compile_metrics` and `_loss_tracker` of a model: what `compile` leaves on it, for which there
  is no public way back.
"""

import tensorflow as tf
from keras.src.saving.keras_saveable import KerasSaveable

from tfprune._keras.h5_files import keep_in_h5_files


class SavedState(tf.__internal__.tracking.AutoTrackable, KerasSaveable):
    """State which files and TensorFlow checkpoints keep beside the weights of a layer.

    It is not a layer, so `layer.weights`, `get_weights()` and parameter counts do not see it.
    """

    def __init__(self):
        super().__init__()
        keep_in_h5_files(SavedState)

    def _obj_type(self):
        return "Operation"


def without_compile_state(model):
    """A view of a model that shares all it has, but is not compiled and has no optimizer."""
    view = object.__new__(type(model))
    vars(view).update(vars(model))
    vars(view).update(compiled=False, optimizer=None, _compile_metrics=None, _loss_tracker=None)
    return view
