"""Logs the sparsity of each weight, also to event files for TensorBoard."""

import keras
import numpy as np
import tensorflow as tf

from tfprune._tools.checks import is_integer
from tfprune.callbacks.needs_built import NeedsBuilt
from tfprune.masks import layer_filter
from tfprune.masks.first_step import current_step
from tfprune.masks.rewinding import by_name
from tfprune.weights.prunable import PREDICATE, select_weights

_BINS = 30
_SCALAR, _TENSOR = 1, 2  # the classes of data that TensorBoard tells apart


@keras.saving.register_keras_serializable("tfprune")
class LogMasks(NeedsBuilt):
    """Logs the sparsity of each weight, and histograms of its kept elements.

    The logs of each epoch get `sparsity/<layer>/<weight>`, the pruned share of the weight, so that
    `History`, `CSVLogger` and Keras's `TensorBoard` show it. The names are the same in each epoch;
    a second layer of the same name gets `_1`. List the callback after those that change masks and
    before those that write logs.

    With `log_dir` the callback itself writes event files for TensorBoard, at the step that
    `optimizer.iterations` says: the same scalars, and histograms `weights/<layer>/<weight>` of the
    elements that are not pruned. TensorBoard need not be installed to write them.

    Args:
        log_dir: The directory for event files. Default: none are written.
        frequency: When event files are written: "epoch", at the end of each; or an integer, the
            number of steps between two writes.
        histograms: Whether histograms are written too.
        only, exclude: Layers whose weights are logged, and whose are not; see
            `tfprune.prune_weights`.

    Raises:
        ValueError: If an argument is wrong; at the start of training, if no weight is selected.

    Example:

    >>> import tfprune
    >>> model = keras.Sequential([keras.Input((4,)), tfprune.layers.Dense(5, name="d")])
    >>> model.compile("sgd", "mse")
    >>> callbacks = [tfprune.callbacks.PruneWeights(0.4), LogMasks()]
    >>> x, y = np.ones((8, 4)), np.ones((8, 5))
    >>> model.fit(x, y, callbacks=callbacks, verbose=0).history["sparsity/d/kernel"]
    [0.4]
    """

    def __init__(
        self, log_dir=None, *, frequency="epoch", histograms=True, only=None, exclude=None
    ):
        super().__init__()
        if frequency != "epoch" and not (is_integer(frequency) and frequency >= 1):
            raise ValueError(
                'Argument `frequency` must be "epoch" or an integer of at least 1, in steps. '
                f"Received: frequency={frequency!r}."
            )
        layer_filter.check(only, exclude, PREDICATE)
        self.log_dir = None if log_dir is None else str(log_dir)
        self.frequency = frequency
        self.histograms = histograms
        self.only = only
        self.exclude = exclude
        self._weights = {}
        self._writer = None
        self._written_at = None

    def on_train_begin(self, logs=None):
        """Names the weights and opens the event file."""
        weights = select_weights(self.model, self.only, self.exclude)
        self._weights = by_name((f"{each.layer.name}/{each.name}", each) for each in weights)
        self._written_at = current_step(self.model)
        if self.log_dir is not None:
            self._writer = tf.summary.create_file_writer(self.log_dir)

    def on_train_batch_end(self, batch, logs=None):
        """Writes event files, where they are due."""
        if self._writer is None or self.frequency == "epoch":
            return
        step = current_step(self.model)
        if step // self.frequency > self._written_at // self.frequency:
            self._write(step)

    def on_epoch_end(self, epoch, logs=None):
        """Adds to the logs of the epoch, and writes event files."""
        if logs is not None:
            logs.update({f"sparsity/{name}": _sparsity(w) for name, w in self._weights.items()})
        if self._writer is not None and self.frequency == "epoch":
            self._write(current_step(self.model))

    def on_train_end(self, logs=None):
        """Closes the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write(self, step):
        self._written_at = step
        # `tf.summary.scalar` and `histogram` need TensorBoard; what they write does not.
        with self._writer.as_default(step=step):
            for name, weight in self._weights.items():
                sparsity = np.float32(_sparsity(weight))
                tf.summary.write(f"sparsity/{name}", sparsity, metadata=_kind("scalars", _SCALAR))
                if self.histograms:
                    kind = _kind("histograms", _TENSOR)
                    tf.summary.write(f"weights/{name}", _histogram(weight), metadata=kind)
        self._writer.flush()

    def get_config(self):
        """The arguments that make this callback again, layers by their names."""
        return {
            "log_dir": self.log_dir,
            "frequency": self.frequency,
            "histograms": self.histograms,
            **layer_filter.serialize(self.only, self.exclude),
        }

    @classmethod
    def from_config(cls, config):
        """A callback out of its `get_config()`."""
        return cls(**layer_filter.deserialize(config))


def _sparsity(weight):
    mask = weight.trainable_mask
    return 1 - int(np.count_nonzero(mask)) / mask.size


def _histogram(weight):
    """Rows of left edge, right edge and count over the kept elements, as TensorBoard reads them."""
    value = keras.ops.convert_to_numpy(weight.variable).astype("float64")
    kept = value[weight.trainable_mask]
    kept = kept[np.isfinite(kept)]
    counts, edges = np.histogram(kept, _BINS)
    return np.stack([edges[:-1], edges[1:], counts], axis=1)


def _kind(plugin, data_class):
    """The metadata by which TensorBoard shows a tensor."""
    kind = tf.compat.v1.SummaryMetadata(data_class=data_class)
    kind.plugin_data.plugin_name = plugin
    return kind
