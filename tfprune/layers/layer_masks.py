"""The masks of one layer as they are saved, and what is kept with them."""

import math

import keras
import numpy as np

from tfprune import _keras
from tfprune.layers.fake_quantize import WeightQuantizer
from tfprune.layers.weight_mask import WeightMask, step_variable

_MEASURED = "_measured_of_units"


class LayerMasks(_keras.SavedState):
    """All masks of one layer, as they are in files and checkpoints: bits packed, eight a byte.

    `first_step` is the step of the optimizer at which they were made; it is saved with them.
    """

    measured = None
    """What was measured of the layer's units in training: an object with their running `average`
    and the number of `calls`, or a pair of the two."""

    def __init__(self):
        super().__init__()
        self.by_name = {}
        self.first_step = step_variable("first_step", 0)

    def add(self, name, weight):
        """Makes fresh masks for a weight."""
        mask = WeightMask(weight, name)
        mask.first_step = self.first_step
        self.by_name = {**self.by_name, name: mask}
        for kind in ("trainable", "frozen", "live", "rewired"):  # TensorFlow tracks attributes
            setattr(self, f"{name}/{kind}", getattr(mask, kind))

    def _load_measured(self, pair):
        """Takes measures of units from a file, also while they are taken."""
        if self.measured is None or isinstance(self.measured, tuple):
            self.measured = pair
        elif tuple(self.measured.average.shape) == pair[0].shape:
            self.measured.average.assign(pair[0])
            self.measured.calls.assign(pair[1])

    def save_own_variables(self, store):
        """Writes the masks that prune or freeze anything, and the state kept with them."""
        store["masks"] = np.int32(len(self.by_name))
        if int(np.asarray(self.first_step)):
            store["first_step"] = np.asarray(self.first_step)
        if self.measured is not None:
            store["unit_average"], store["unit_calls"] = map(np.asarray, _as_pair(self.measured))
        for index, mask in enumerate(self.by_name.values()):
            trainable, frozen = np.asarray(mask.trainable), np.asarray(mask.frozen)
            if not trainable.all() or frozen.any():
                store[f"shape_{index}"] = np.array(trainable.shape, "int32")
                store[f"pruned_{index}"] = np.packbits(~trainable)
                store[f"frozen_{index}"] = np.packbits(frozen)
            if int(np.asarray(mask.rewired)) >= 0:
                store[f"rewired_{index}"] = np.asarray(mask.rewired)
            if mask.quantizer is not None:
                store[f"quantized_{index}"] = np.array(mask.quantizer.axes, "int32")
            summed = _summed(mask)
            if summed is not None:
                store[f"observed_{index}"] = np.asarray(summed)

    def load_own_variables(self, store):
        """Reads and applies masks; a file of plain Keras weights leaves them as they are."""
        masks = list(self.by_name.values())
        states = [(np.asarray(mask.trainable), np.asarray(mask.frozen)) for mask in masks]
        try:
            if "masks" in store.keys():  # noqa: SIM118 (an h5 entry has keys() only)
                states = [_read_mask(store, index, mask) for index, mask in enumerate(masks)]
        finally:  # The weights have been loaded already, as they are in the file.
            for mask, state in zip(masks, states, strict=True):
                mask.set(*state)
        if "masks" in store.keys():  # noqa: SIM118
            is_noted = "first_step" in store.keys()  # noqa: SIM118
            self.first_step.assign(np.asarray(store["first_step"]) if is_noted else 0)
        if "unit_average" in store.keys():  # noqa: SIM118
            pair = np.asarray(store["unit_average"]), int(np.asarray(store["unit_calls"]))
            self._load_measured(pair)
        for index, mask in enumerate(masks if "masks" in store.keys() else []):  # noqa: SIM118
            stored = {k: f"{k}_{index}" for k in ("rewired", "observed", "quantized")}
            found = {k: np.asarray(store[n]) for k, n in stored.items() if n in store.keys()}  # noqa: SIM118
            mask.rewired.assign(found.get("rewired", -1))
            mask.quantizer = WeightQuantizer(found["quantized"]) if "quantized" in found else None
            summed = _summed(mask)
            if not isinstance(summed, keras.Variable):
                mask.sums = found.get("observed")
            elif "observed" in found:
                summed.assign(found["observed"])


def _as_pair(measured):
    if isinstance(measured, tuple):
        return measured
    numpy = keras.ops.convert_to_numpy
    return np.array(numpy(measured.average)), int(numpy(measured.calls))


def masks_of(layer):
    """The `LayerMasks` of a layer; a layer that has none gets one without masks."""
    if "_weight_masks" not in vars(layer):
        layer._weight_masks = LayerMasks()
        measured = vars(layer).pop(_MEASURED, None)
        layer._weight_masks.measured = None if measured is None else _as_pair(measured)
    return layer._weight_masks


def measured_of(layer):
    """The running average of each unit's measure, and how often it was taken; or None."""
    masks = getattr(layer, "_weight_masks", None)
    measured = vars(layer).get(_MEASURED) if masks is None else masks.measured
    return None if measured is None else _as_pair(measured)


def keep_measured(layer, measured):
    """Keeps measures of units with a layer: in its files, and where it gets masks again.

    Args:
        layer: Any layer. Those that carry no masks keep them in memory alone.
        measured: A pair, as `measured_of` returns it, or an object with these two.
    """
    masks = getattr(layer, "_weight_masks", None)
    if masks is not None:
        masks.measured = measured
    else:
        vars(layer)[_MEASURED] = measured


def _summed(mask):
    """What has been summed of a weight: a variable while training runs, else an array or `None`."""
    saved = None if mask.observer is None else mask.observer.saved
    return mask.sums if saved is None else saved


def _read_mask(store, index, mask):
    """The trainable and the frozen mask of a weight as they are in a file."""
    shape = tuple(mask.weight.shape)
    if f"shape_{index}" not in store.keys():  # noqa: SIM118
        return np.ones(shape, bool), np.zeros(shape, bool)
    stored_shape = tuple(int(size) for size in np.asarray(store[f"shape_{index}"]))
    if stored_shape != shape:
        raise ValueError(
            f"The masks in the file must have the weight's shape {shape}. "
            f"Received: shape={stored_shape}, weight={mask.weight.path!r}."
        )
    pruned, frozen = (
        np.unpackbits(np.asarray(store[f"{kind}_{index}"]), count=math.prod(shape))
        for kind in ("pruned", "frozen")
    )
    return ~pruned.astype(bool).reshape(shape), frozen.astype(bool).reshape(shape)
