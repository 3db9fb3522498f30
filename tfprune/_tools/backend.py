"""The check that Keras runs on TensorFlow. It comes before all else is imported."""

import os
import sys


def check():
    """Raises an `ImportError` if the backend of Keras is another than TensorFlow."""
    name = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if name == "tensorflow" or "keras" in sys.modules:
        import keras

        name = keras.backend.backend()
    if name != "tensorflow":
        raise ImportError(
            f"tfprune needs the TensorFlow backend of Keras. Received: the backend {name!r}. Set "
            "the environment variable KERAS_BACKEND=tensorflow before Keras is imported, or "
            '"backend" in ~/.keras/keras.json.'
        )


check()
