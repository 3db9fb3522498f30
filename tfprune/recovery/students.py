"""Models that are trained by another model: what callbacks see, and what stops the training."""

import keras


class StopsWithStudent:
    """Base class of models that train their `student`: callbacks of the student stop them."""

    @property
    def stop_training(self):
        """Whether a callback stopped the training of the student."""
        return getattr(self.student, "stop_training", False)

    @stop_training.setter
    def stop_training(self, value):
        if hasattr(self, "student"):
            self.student.stop_training = value


class ForStudent(keras.callbacks.Callback):
    """Shows a callback the student in place of the distiller.

    A `CallbackList` would not do: what callbacks add to the logs stays in it.
    """

    def __init__(self, callback, student):
        super().__init__()
        self._callback = callback
        self._student = student

    def set_params(self, params):
        """Passed on."""
        super().set_params(params)
        self._callback.set_params(params)

    def set_model(self, model):
        """Passes the student on."""
        super().set_model(model)
        self._callback.set_model(self._student)


def _passed_on(name):
    def hook(self, *args, **kwargs):
        return getattr(self._callback, name)(*args, **kwargs)

    hook.__name__ = name
    hook.__doc__ = "Passed on."
    return hook


for _name in dir(keras.callbacks.Callback):
    if _name.startswith("on_"):
        setattr(ForStudent, _name, _passed_on(_name))
