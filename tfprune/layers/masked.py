"""The mixin that gives the weights of a Keras layer their masks.

A pruned element is stored as 0, its gradient is masked, and every write leaves it out. Multiplying
by the mask in the forward pass would cost more, an optimizer could move the stored value, and
`get_weights()` and files would hold dense weights.
"""

import functools
import math
from types import MappingProxyType

import keras
import numpy as np

from tfprune import _keras

_MEASURED = "_measured_of_units"


class Masked:
    """Mixin that adds a trainable mask and a frozen mask to every trainable weight of a layer.

    Put it before the stock layer: `class Dense(Masked, keras.layers.Dense)`. Where the trainable
    mask is False the element is *pruned*: it is 0 and stays 0. Where the frozen mask is True the
    element keeps its value bit for bit. The gradient of both is exactly 0, also where other layers,
    a loss or a `train_step` use the weight. (Outside of the layers that hold it, `weight.value` is
    the plain variable, since gradients are taken with respect to it; what is computed from that has
    an unmasked gradient.) Optimizers, moving averages, constraints and `set_weights` leave masked
    elements as they are; only `tfprune.set_masks` and loading a file change masks.
    """

    not_in_copies = ("observer",)

    masks_inner_weights = True
    """Whether the masks are those of all weights in the layer, or of those it holds itself."""

    observer = None
    """A function that the outputs of each call pass through while a criterion measures them."""

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        # Wrapped, not overridden, because Keras reads the signatures of `build` and `call`.
        if "build" in cls.__dict__ or Masked in cls.__bases__:
            cls.build = _with_masks_made(cls.build)
        if "call" in cls.__dict__ or Masked in cls.__bases__:
            cls.call = _with_masked_reads(cls.call)

    @property
    def trainable_masks(self):
        """Boolean variables by weight name: False = pruned. Change with `tfprune.set_masks`."""
        return self._mask_views("trainable")

    @property
    def frozen_masks(self):
        """Boolean variables by weight name: True = keeps its value."""
        return self._mask_views("frozen")

    @property
    def masked_weights(self):
        """The weights with masks by name: `kernel`, or `query/kernel` of a sub-layer."""
        return MappingProxyType({n: m.weight for n, m in self.masks_by_name.items()})

    def _mask_views(self, kind):
        return MappingProxyType({n: getattr(m, kind) for n, m in self.masks_by_name.items()})

    @property
    def carries_masks(self):
        """Whether it has masks, or gets them when it is built; not in what `strip` returns."""
        return "_weight_masks" in vars(self) or not self.built

    @property
    def masks_by_name(self):
        """The `WeightMask` of each weight, by the weight's name."""
        state = getattr(self, "_weight_masks", None)
        return {} if state is None else state.by_name

    def load_own_variables(self, store):
        """Loads the weights from a file, frozen ones too; the masks are loaded after them."""
        with _keras.unguarded():
            super().load_own_variables(store)

    def quantize(self, *args, **kwargs):
        """Raises a `ValueError`: masked layers cannot be quantized. Strip the model first.

        `model.quantize` raises it too, where it would skip a layer that does not implement it.
        """
        if self.carries_masks:
            _refuse_quantization(self)
        return super().quantize(*args, **kwargs)

    def enable_lora(self, *args, **kwargs):
        """Raises a `ValueError`: the product of LoRA would fill pruned elements again."""
        if self.carries_masks:
            _refuse_lora(self)
        return super().enable_lora(*args, **kwargs)


def _refuse_quantization(layer, *args, **kwargs):
    raise ValueError(
        "Cannot quantize a layer that carries masks. "
        f"Received: layer={layer.name!r} ({type(layer).__name__}). "
        "Strip the model with `tfprune.strip(model)` and quantize the result."
    )


def _refuse_lora(layer, *args, **kwargs):
    raise ValueError(
        "Cannot enable LoRA on a layer that carries masks, because the low-rank product is "
        f"not 0 where an element is pruned. Received: layer={layer.name!r} "
        f"({type(layer).__name__}). Strip the model with `tfprune.strip(model)` first."
    )


class WeightMask:
    """The trainable and the frozen mask of one weight.

    `live` caches `trainable & ~frozen`, the elements that training changes. `rewired` is the step
    at which the weight was last rewired, -1 for never; it is saved with the masks.
    """

    not_in_copies = ("observer", "transform")

    observer = None
    """A callable that the weight's tensor passes through while its gradient is accumulated; its
    `saved` is a variable to save with the masks, or `None`."""

    transform = None
    """A function that the weight's tensor passes through at each read, set by a callback."""

    sums = None
    """What was summed of the weight in training that is to go on, an array; see
    `tfprune.masks.gradient_accumulation`. It is saved with the masks."""

    def __init__(self, weight, name):
        self.weight = weight
        self.trainable = _boolean(weight, name, "trainable_mask", "ones")
        self.frozen = _boolean(weight, name, "frozen_mask", "zeros")
        self.live = _boolean(weight, name, "live", "ones")
        self.rewired = _step(f"{name.replace('/', '_')}_rewired", -1)
        _keras.guard(weight, self.trainable, self.live)
        weight.masks = self
        if weight.regularizer is not None:
            weight.regularizer = MaskedRegularizer(weight.regularizer, weight, self.live)

    def read(self):
        """The weight as a tensor whose gradient is 0 in masked elements."""
        value = _keras.uncast(self.weight)
        if self.transform is not None:
            value = self.transform(value)
        value = _keras.mask_gradient(value, _keras.uncast(self.live))
        return value if self.observer is None else self.observer(value)

    def set(self, trainable=None, frozen=None):
        """Writes masks (arrays of the weight's shape, or `None`) and zeroes what is pruned."""
        with _keras.unguarded():
            if trainable is None:
                trainable = _keras.values(self.trainable)
            else:
                self.trainable.assign(trainable)
            if frozen is None:
                frozen = _keras.values(self.frozen)
            else:
                self.frozen.assign(frozen)
            # Without frozen elements both variables share their memory.
            live = trainable & ~frozen if frozen.any() else _keras.raw(self.trainable)
            self.live.assign(live)
            self.weight.as_in_checkpoint = None
            if not trainable.all():
                self.weight.zero_pruned(_keras.raw(self.weight))


def _step(name, value):
    return keras.Variable(
        initializer=keras.initializers.Constant(value),
        shape=(),
        dtype="int64",
        trainable=False,
        autocast=False,
        aggregation="only_first_replica",
        name=name,
    )


def _boolean(weight, name, kind, initializer):
    return _keras.MaskVariable(
        initializer=initializer,
        shape=tuple(weight.shape),
        dtype="bool",
        trainable=False,
        autocast=False,
        name=f"{name.replace('/', '_')}_{kind}",
    )


class MaskedRegularizer:
    """A regularizer whose gradient is 0 in masked elements."""

    def __init__(self, regularizer, weight, live):
        self.regularizer = regularizer
        self.weight = weight
        self.live = live

    def __call__(self, value):
        """The penalty of `value`, the weight or a tensor of its shape."""
        if value is self.weight:
            value = _keras.uncast(self.weight)
        return self.regularizer(_keras.mask_gradient(value, _keras.uncast(self.live)))


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
        self.first_step = _step("first_step", 0)

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
            stored = {kind: f"{kind}_{index}" for kind in ("rewired", "observed")}
            found = {k: np.asarray(store[n]) for k, n in stored.items() if n in store.keys()}  # noqa: SIM118
            mask.rewired.assign(found.get("rewired", -1))
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
        vars(layer)[_MEASURED] = _as_pair(measured)


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


def _with_masks_made(stock_build):
    @functools.wraps(stock_build)
    def build(self, *args, **kwargs):
        stock_build(self, *args, **kwargs)
        make_masks(self)

    return build


def make_masks(layer):
    """Makes masks for the weights which have none yet: see `Masked.masks_inner_weights`."""
    if "_weight_masks" not in layer.__dict__:
        layer._weight_masks = LayerMasks()
        layer._weight_masks.measured = vars(layer).pop(_MEASURED, None)
    variables = _keras.own_trainable_variables(layer, layer.masks_inner_weights)
    for weight in variables:
        if not _keras.is_guarded(weight) and keras.backend.is_float_dtype(weight.dtype):
            layer._weight_masks.add(_weight_name(layer, weight, variables), weight)
    for part in _keras.all_layers(layer) if layer.masks_inner_weights else []:
        if not isinstance(part, Masked):
            part.load_own_variables = _loading_as_in_file(part.load_own_variables)
            part.quantize = functools.partial(_refuse_quantization, part)
            part.enable_lora = functools.partial(_refuse_lora, part)


def _weight_name(layer, weight, weights):
    """The weight's own name, or `query/kernel` for one of a sub-layer that shares its name."""
    path = weight.path.split("/")
    others = [other.path.split("/") for other in weights if other is not weight]
    is_own = path[-2:-1] == [layer.name]
    for length in range(1, len(path) + 1):
        name = "/".join(path[-length:])
        is_clear = is_own or all(other[-length:] != path[-length:] for other in others)
        if is_clear and name not in layer.masks_by_name:
            return name
    return f"{weight.path}_{len(layer.masks_by_name)}"


def _loading_as_in_file(stock_load):
    """Sub-layers load before the masks do; what is frozen now must not stand in their way."""

    @functools.wraps(stock_load)
    def load_own_variables(store):
        with _keras.unguarded():
            stock_load(store)

    return load_own_variables


def reading_masks(layer):
    """While open, all weights with masks that a layer holds are read through them.

    Those count that it shares with another layer, which made their masks, and those of the layers
    inside, which it may read without calling them. Each is read once, outside the loops of
    recurrent layers, where it would cost a step each.
    """
    weights = [w for w in _keras.guarded_variables(layer) if not _keras.is_being_read(w)]
    return _keras.reading({id(weight): weight.masks.read() for weight in weights})


def _with_masked_reads(stock_call):
    @functools.wraps(stock_call)
    def call(self, *args, **kwargs):
        with reading_masks(self):
            outputs = stock_call(self, *args, **kwargs)
        return outputs if self.observer is None else self.observer(outputs)

    return call
