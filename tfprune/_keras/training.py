"""One `fit` over models that follow one another.

A `fit` for each model would start the data anew, overwrite weights with their moving averages, and
call `on_train_begin` again. So `fit` is called on a relay, which hands each step to the model that
is trained at the time.

Private here, and why:

* `_initial_epoch` of a model, in which `BackupAndRestore` says where `fit` goes on;
* `_symbolic_build` of a model, which makes the variables of its metrics: where they are made in the
  first step, TensorFlow traces that twice, and under a distribution strategy it fails;
* `_distribute_strategy` of a model, by which `evaluate` splits batches.
"""

import keras
import tensorflow as tf


def leave_strategy(model):
    """Lets a model that was made in the scope of a strategy evaluate as outside of it."""
    model._distribute_strategy = None


class Relay(keras.Model):
    """What `fit` is called on while the model that is trained may change between epochs.

    The data go through one iterator, so nothing of them starts anew with a new model. Steps,
    metrics and evaluation are those of the current model; whoever changes it gives it to callbacks.

    Args:
        model: The first model, compiled. Make the relay in the scope of its strategy.
    """

    def __init__(self, model):
        super().__init__(name="relay")
        self._current = _Current(model)
        self._batch = None
        self.built = True
        self.compile(None, steps_per_execution=model.steps_per_execution)

    @property
    def current(self):
        """The model that is trained now."""
        return self._current.model

    def switch(self, model):
        """Goes on with another model, compiled alike."""
        model.unrolled_steps_per_execution = self.current.unrolled_steps_per_execution
        self._current.model = model
        model.make_train_function()
        self._build_metrics()

    def begin_as(self, restored):
        """Lets `fit` begin at the epoch to which a `BackedUp` was restored, if it was."""
        self._initial_epoch = restored._initial_epoch

    @property
    def metrics(self):
        """Those of the current model."""
        return self.current.metrics

    def make_train_function(self, force=False):
        """A step of the current model, whichever it is then."""
        self.current.make_train_function(force)
        self.train_function = self._train

    def _train(self, iterator):
        if self._batch is None and isinstance(iterator, tf.data.Iterator):
            specs = keras.tree.flatten(iterator.element_spec)
            if all(isinstance(s, tf.TensorSpec) and s.shape.rank is not None for s in specs):
                self._batch = iterator.element_spec
                self._build_metrics()
        return self.current.train_function(iterator)

    def _build_metrics(self):
        if self._batch is not None:
            with self.current.distribute_strategy.scope():
                self.current._symbolic_build(data_batch=self._batch)

    def make_test_function(self, force=False):
        """A step of evaluation of the current model."""
        self.current.make_test_function(force)
        self.test_function = lambda iterator: self.current.test_function(iterator)

    def _symbolic_build(self, iterator=None, data_batch=None):
        self._batch = data_batch
        self.current._symbolic_build(iterator=iterator, data_batch=data_batch)


class _Current:
    """Holds a model where Keras does not take it for a part of the relay."""

    def __init__(self, model):
        self.model = model


class BackedUp:
    """What a `BackupAndRestore` has for a model, where the model that is trained changes.

    Args:
        model: The model whose weights are saved and loaded.
        relay: The `Relay` that trains. What concerns a step, as its metrics, is of its current one.
        before_saving, after_loading: Functions without arguments.
    """

    _initial_epoch = None
    _of_training = ("stop_training", "metrics", "metrics_variables", "metrics_names")

    def __init__(self, model, relay, before_saving, after_loading):
        self._model, self._relay = model, relay
        self._before_saving, self._after_loading = before_saving, after_loading

    def to_save(self):
        """The model, with the weights as they are now."""
        self._before_saving()
        return self._model

    def save_weights(self, *args, **kwargs):
        """Saves the weights of the model, as they are now."""
        self.to_save().save_weights(*args, **kwargs)

    def load_weights(self, *args, **kwargs):
        """Loads the weights of the model, and lets training go on with them."""
        self._model.load_weights(*args, **kwargs)
        self._after_loading()

    def __getattr__(self, name):
        return getattr(self._relay.current if name in self._of_training else self._model, name)
