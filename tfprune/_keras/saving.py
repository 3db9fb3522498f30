"""What is saved with a layer without being its weight, and what is left out of files.

Private here, and why:

* `AutoTrackable` of TensorFlow and `KerasSaveable` of Keras: what both look for when they save;
* `_save_state` and `H5IOStore` of `saving_lib`: the weights in memory. HDF5 ends the process by a
  segmentation fault where it closes a file on a full disk;
* `_compile_metrics` and `_loss_tracker` of a model: what `compile` leaves on it, for which there
  is no public way back.
"""

import io

import tensorflow as tf
from keras.src.saving import saving_lib
from keras.src.saving.keras_saveable import KerasSaveable

from tfprune._keras.h5_files import keep_in_h5_files
from tfprune._keras.training import BackedUp


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


def weights_in_memory(model):
    """What `model.save_weights` writes to a `.weights.h5` file, as an `io.BytesIO`."""
    if isinstance(model, BackedUp):
        return weights_in_memory(model.to_save())
    content = io.BytesIO()
    store = saving_lib.H5IOStore(content, mode="w")
    arguments = {"assets_store": None, "inner_path": "", "visited_saveables": set()}
    saving_lib._save_state(model, weights_store=store, **arguments)
    store.close()
    return content
