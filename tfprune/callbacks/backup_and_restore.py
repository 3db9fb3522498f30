"""Backups of training that a kill cannot tear, and that hold all of its state."""

import json
import pathlib
import random

import h5py
import keras
import numpy as np

from tfprune import _keras
from tfprune._tools import plain_data
from tfprune._tools.files import reason, written_whole
from tfprune.callbacks.callback_states import CallbackStates
from tfprune.callbacks.needs_built import NeedsBuilt
from tfprune.masks.rewinding import seed_variables
from tfprune.masks.setting import masked_layers

_FILE = "training.weights.h5"
_GROUP = "tfprune"
_FORMAT = "tfprune backup 1"


@keras.saving.register_keras_serializable("tfprune")
class BackupAndRestore(NeedsBuilt, keras.callbacks.BackupAndRestore):
    """Backs up training, so that it goes on after a kill as if there had been none.

    In place of `keras.callbacks.BackupAndRestore`, whose file is torn where the process dies while
    it is written, and does not hold the states of random generators: training with `Dropout` goes
    on differently. This one replaces its file in one step, and keeps

    * the weights, masks and their states, the optimizer, the metrics of the epoch;
    * the epoch and the batch: the data go on where they were, with the seeds of a shuffling drawn
      as often. Where one iterator goes through several epochs (`steps_per_epoch`), all of its past
      batches are read again;
    * the states of the random generators of layers (`keras.random.SeedGenerator`), Keras's, NumPy's
      and Python's own;
    * the states of the other callbacks: of `EarlyStopping`, `ReduceLROnPlateau`, `ModelCheckpoint`,
      the history, those of tfprune and your own. What is neither a number, a string, an array nor
      a container of these needs `get_state()` and `set_state(state)`, or a warning says so.

    So training ends bit for bit as it would have, given the same program, data in the same order,
    and operations that are deterministic (`tf.config.experimental.enable_op_determinism`). What
    TensorFlow draws itself in a step (`tf.random.uniform`) has no state to save; draw with
    `keras.random` and a `SeedGenerator`.

    It restores before other callbacks begin and saves after all of them, wherever it is listed.

    Args:
        backup_dir: The directory for the backup. What another file there is stays.
        save_freq: "epoch": at the end of each epoch; or an integer: also every so many batches.
        delete_checkpoint: Whether the backup is removed when training is complete. If it is kept,
            a further `fit` of the same epochs trains no more.

    Raises:
        ValueError: If an argument is wrong; at the start of training, if the backup is not of this
            model. The model is as it was then.
        OSError: If the backup cannot be written. The one before stays.

    Example:

    >>> import tempfile
    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), keras.layers.Dropout(0.5), keras.layers.Dense(2)])
    >>> model.compile("adam", "mse")
    >>> backup = BackupAndRestore(tempfile.mkdtemp(), delete_checkpoint=False)
    >>> x, y = np.ones((8, 4)), np.ones((8, 2))
    >>> for epochs in (2, 5):  # the second time as after a kill
    ...     history = model.fit(x, y, epochs=epochs, verbose=0, callbacks=[backup])
    ...     print(history.epoch)
    [0, 1]
    [0, 1, 2, 3, 4]
    """

    def __init__(self, backup_dir, save_freq="epoch", delete_checkpoint=True):
        is_count = type(save_freq) is int and save_freq > 0
        if save_freq != "epoch" and not is_count:
            raise ValueError(
                'Argument `save_freq` must be "epoch" or an integer of at least 1. '
                f"Received: save_freq={save_freq!r}."
            )
        super().__init__(str(backup_dir), save_freq=save_freq, delete_checkpoint=delete_checkpoint)
        self._path = pathlib.Path(backup_dir).absolute() / _FILE
        self._first = _First(self)
        self._listed = None
        self._forget()

    def set_params(self, params):
        """Called by `fit` for all callbacks before the first begins: takes its places."""
        super().set_params(params)
        listed = _keras.callback_list()
        if listed is not None and any(each is self for each in listed.callbacks):
            others = [each for each in listed.callbacks if each not in (self, self._first)]
            if any(isinstance(each, keras.callbacks.BackupAndRestore) for each in others):
                raise ValueError("A `fit` can have one backup. Received: two `BackupAndRestore`.")
            listed.callbacks = [self._first, *others, self]
            self._listed = listed

    def on_train_begin(self, logs=None):
        """Restores the state again, now that other callbacks have begun."""
        if self._listed is None:
            raise ValueError(
                "`BackupAndRestore` must be one of the `callbacks` of `fit`, in a list, so that it "
                "knows the others."
            )
        self._states = CallbackStates(self._listed.callbacks[1:-1])
        if self._restored is not None:
            self._restore()

    def on_epoch_begin(self, epoch, logs=None):
        """Restores what has changed at the beginning of an epoch that goes on within."""
        self._epoch, self._batch = epoch, 0
        if self._first_epoch is None:
            self._first_epoch = epoch
        if self._restored is not None and self._restored["batch"]:
            self._batch = self._restored["batch"]
            if len(self.model.metrics_variables) < len(self._metrics):
                _keras.data_of_fit().build(self.model)
            self._restore()
            _assign(self.model.metrics_variables, self._metrics)
            self._last_logs = self._restored["logs"]
        self._restored = self._arrays = self._metrics = None
        _keras.begin_at(self.model, None)

    def on_train_batch_end(self, batch, logs=None):
        """Saves, where it is due."""
        self._last_logs = {}
        self._since += batch + 1 - self._batch
        self._batch = batch + 1
        is_last = self._batch >= (self.params.get("steps") or np.inf)
        if self.save_freq != "epoch" and self._since >= self.save_freq and not is_last:
            self._save(self._epoch, self._batch, logs)

    def on_epoch_end(self, epoch, logs=None):
        """Saves."""
        self._save(epoch + 1, 0)

    def on_train_end(self, logs=None):
        """Removes the backup."""
        _keras.begin_at(self.model, None)
        self._forget()
        if self.delete_checkpoint:
            self._path.unlink(missing_ok=True)
            if self._path.parent.is_dir() and not any(self._path.parent.iterdir()):
                self._path.parent.rmdir()

    def get_config(self):
        """The arguments that make this callback again."""
        names = ("backup_dir", "save_freq", "delete_checkpoint")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_config(cls, config):
        """A callback out of its `get_config()`."""
        return cls(**config)

    def _forget(self):
        self._restored = self._arrays = self._states = self._metrics = self._first_epoch = None
        self._epoch = self._batch = self._since = 0
        self._last_logs = {}

    # Saving --------------------------------------------------------------------------------------

    def _save(self, epoch, batch, logs=None):
        self._since = 0
        arrays = []
        contents = {
            "format": _FORMAT,
            "epoch": epoch,
            "batch": batch,
            "first_epoch": self._first_epoch,
            "logs": {name: float(value) for name, value in (logs or {}).items()},
            "is_stopped": bool(self.model.stop_training),
            "variables": _described(self.model),
            "callbacks": self._states.pack(arrays),
            "generators": plain_data.pack(_generators(self.model), arrays),
            "metrics": plain_data.pack(_values(self.model.metrics_variables), arrays),
        }
        contents["arrays"] = [array.dtype.name for array in arrays]
        content = _keras.weights_in_memory(self.model)
        with h5py.File(content, "a") as file:
            group = file.create_group(_GROUP)
            group["contents"] = np.frombuffer(json.dumps(contents).encode(), "uint8")
            for index, array in enumerate(arrays):
                group[str(index)] = plain_data.stored(array)
        try:
            with written_whole(self._path) as place:
                place.write_bytes(content.getbuffer())
        except OSError as error:
            named = type(OSError(error.errno or 0, ""))(
                f"Cannot write the backup: {reason(error)}. Received: "
                f"backup_dir={str(self.backup_dir)!r}. What was there stays. Make room and run "
                "the program again: training goes on from there."
            )
            raise named from error

    # Restoring -----------------------------------------------------------------------------------

    def _restore_first(self):
        """Before other callbacks begin: what they look at, and the place in the data."""
        self._forget()
        if not self._path.exists():
            self._check_no_other()
            return
        model = self.model
        if model.optimizer is not None and not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        self._read()
        self._check_fits()
        restored = self._restored
        self._first_epoch = restored["first_epoch"]
        data = _keras.data_of_fit()
        epochs, epoch = self.params["epochs"], restored["epoch"]
        is_done = restored["is_stopped"] or epoch >= epochs
        if is_done:
            _keras.begin_at(model, max(epochs, epoch))
        else:
            if data is None:
                raise ValueError("`BackupAndRestore` can restore a training of `fit` alone.")
            data.skip(epoch - self._first_epoch, restored["batch"])
            _keras.begin_at(model, epoch)
        self._load()

    def _load(self):
        self.model.load_weights(self._path)
        _assign(seed_variables(self.model), self._generators["layers"])

    def _restore(self):
        self._load()
        self._states.restore(self._restored["callbacks"], self._arrays)
        generators = self._generators
        if generators["global"] is not None:
            _keras.global_seed().assign(generators["global"])
        random.setstate(generators["python"])
        np.random.set_state(generators["numpy"])

    def _read(self):
        with h5py.File(self._path, "r") as file:
            if _GROUP not in file:
                raise ValueError(f"There is no backup of tfprune in {str(self._path)!r}.")
            group = file[_GROUP]
            contents = json.loads(group["contents"][()].tobytes())
            if contents["format"] != _FORMAT:
                raise ValueError(
                    f"The backup {str(self._path)!r} is of another version of tfprune. Received: "
                    f"format={contents['format']!r}, expected {_FORMAT!r}."
                )
            arrays = [np.asarray(group[str(i)]) for i in range(len(contents["arrays"]))]
        self._restored, self._arrays = contents, arrays
        self._generators = plain_data.unpack(contents["generators"], arrays)
        self._metrics = plain_data.unpack(contents["metrics"], arrays)

    def _check_fits(self):
        ours, theirs = _described(self.model), self._restored["variables"]
        for kind, given in ours.items():
            if given != theirs[kind]:
                pairs = zip(given, theirs[kind], strict=False)
                other = next((pair for pair in pairs if pair[0] != pair[1]), None)
                counts = f"{len(given)} in the model, {len(theirs[kind])} in the backup"
                raise ValueError(
                    f"The backup in {str(self.backup_dir)!r} is not of this model, because its "
                    f"{kind} are others: {other or counts}. Build the model as before, or give "
                    "another `backup_dir` to begin anew."
                )

    def _check_no_other(self):
        others = [pathlib.Path(self._weights_path), pathlib.Path(self._prev_weights_path)]
        found = [path for path in others if path.exists()]
        if found:
            raise ValueError(
                "The directory holds a backup of `keras.callbacks.BackupAndRestore`, which has no "
                f"random states. Received: backup_dir={str(self.backup_dir)!r} with "
                f"{found[0].name!r}. Go on with that callback, or give another `backup_dir`."
            )


class _First(keras.callbacks.Callback):
    """What a backup does before all other callbacks."""

    def __init__(self, backup):
        super().__init__()
        self._backup = backup

    def on_train_begin(self, logs=None):
        """Restores."""
        self._backup._restore_first()

    def on_epoch_end(self, epoch, logs=None):
        """Adds the metrics to the logs, where no batch was left of the epoch that went on."""
        for name, value in self._backup._last_logs.items():
            logs.setdefault(name, value)


def _described(model):
    """Shapes and dtypes of all variables and masks, to tell another model."""
    optimizer = model.optimizer
    kinds = {
        "weights": model.weights,
        "random generators": seed_variables(model),
        "variables of the optimizer": [] if optimizer is None else optimizer.variables,
    }
    described = {
        kind: [[*v.shape, keras.backend.standardize_dtype(v.dtype)] for v in variables]
        for kind, variables in kinds.items()
    }
    described["masks"] = [
        [name, *mask.weight.shape]
        for layer in masked_layers(model)
        for name, mask in layer.masks_by_name.items()
    ]
    return described


def _generators(model):
    seed = _keras.global_seed()
    return {
        "layers": _values(seed_variables(model)),
        "global": None if seed is None else _values([seed])[0],
        "python": random.getstate(),
        "numpy": np.random.get_state(),
    }


def _values(variables):
    return [np.array(keras.ops.convert_to_numpy(_keras.uncast(v))) for v in variables]


def _assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
