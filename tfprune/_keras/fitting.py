"""The `fit` that is running: its callbacks, and the position in its data.

Private here, and why:

* the local variables `self` of `CallbackList` and `epoch_iterator` of `fit`: a callback is not told
  which others there are, nor which data, and a backup must hold the state of the first and go on
  at the same place in the second;
* `_enumerate_iterator` and `_get_iterator` of the epoch iterator: the steps of an epoch, and data;
* `_symbolic_build` of a model: makes the variables of its metrics before the first step;
* `_initial_epoch` of a model: the epoch at which `fit` begins;
* the global attribute `global_seed_generator`: what layers draw from that have no generator.
"""

import sys

import keras
from keras.src.backend.common import global_state

from tfprune._keras.subclassed import check_parts_built, has_own_call


def callback_list():
    """The `keras.callbacks.CallbackList` that calls a callback now; None if none does."""
    return _local("self", keras.callbacks.CallbackList)


def data_of_fit():
    """The `DataOfFit` of the `fit` that calls a callback now; None if none does."""
    iterator = _local("epoch_iterator", object)
    return None if iterator is None else DataOfFit(iterator)


def _local(name, kind):
    frame = sys._getframe(2)
    while frame is not None:
        found = frame.f_locals.get(name)
        if found is not None and isinstance(found, kind):
            return found
        frame = frame.f_back
    return None


def build_in_fit(model):
    """Builds a model for the data of the `fit` that calls a callback now, if it is not built.

    One whose class has no `call` cannot be: its parts must be built.
    """
    data = _local("epoch_iterator", object)
    if isinstance(model, keras.Model) and not has_own_call(model):
        check_parts_built(model)
    elif data is not None and not model.built:
        DataOfFit(data).build(model)


class DataOfFit:
    """The data that a `fit` goes through."""

    def __init__(self, iterator):
        self._iterator = iterator

    def skip(self, epochs, batches):
        """Goes on after so many epochs and batches, as if they had been trained on.

        What is drawn once for an epoch, as the seed of a shuffling, is drawn for each. The batches
        of past epochs are read only where one iterator goes through several epochs
        (`steps_per_epoch`), or where nobody knows how many there are.
        """
        iterator = self._iterator
        for _ in range(epochs):
            with iterator.catch_stop_iteration():
                reads = bool(iterator.steps_per_epoch) or iterator.num_batches is None
                for _, _, data in iterator:
                    for _ in range(self._steps_at_once if reads else 0):
                        next(data)  # ends the epoch by a `StopIteration`
        if batches:
            self._skip_in_next_epoch(batches)

    def _skip_in_next_epoch(self, batches):
        iterator = self._iterator
        whole = iterator._enumerate_iterator

        def rest():
            del iterator._enumerate_iterator  # this epoch alone
            for begin, end, data in whole():
                if begin >= batches:
                    yield begin, end, data
                    continue
                for _ in range(self._steps_at_once):
                    next(data, None)

        iterator._enumerate_iterator = rest

    def build(self, model):
        """Makes the variables of a model and its metrics, where the first step would make them."""
        specs = self._iterator._get_iterator().element_spec
        with model.distribute_strategy.scope():
            model._symbolic_build(data_batch=specs)

    @property
    def _steps_at_once(self):
        return int(self._iterator.steps_per_execution)


def begin_at(model, epoch):
    """Makes the running `fit` begin at an epoch; None for the one that it was told."""
    model._initial_epoch = epoch


def global_seed():
    """The variable of the generator that unseeded operations draw from; made if there is none."""
    generator = global_state.get_global_attribute("global_seed_generator")
    if generator is None:
        generator = keras.random.SeedGenerator(0)
        global_state.set_global_attribute("global_seed_generator", generator)
    return generator.state
