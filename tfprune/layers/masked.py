"""The mixin which gives a Keras layer its masks (contract M)."""

import functools
from types import MappingProxyType

import keras
import numpy as np

from tfprune import _keras


class Masked:
    """Carries a trainable mask and a frozen mask for every trainable weight of a Keras layer.

    Put it before the stock layer: `class Dense(Masked, keras.layers.Dense)`. Where the trainable
    mask is False the element is *pruned*: it is 0 and stays 0. Where the frozen mask is True the
    element keeps its value bit for bit. Both get a gradient of exactly 0, and nothing but
    `tfprune.set_masks` and loading a file changes them: writes of any optimizer, moving average,
    constraint or `set_weights` pass masked elements by.
    """

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
        """The weights that carry masks, by name: `kernel`, or `query/kernel` of a sub-layer."""
        return MappingProxyType({n: m.weight for n, m in self.masks_by_name.items()})

    def _mask_views(self, kind):
        return MappingProxyType({n: getattr(m, kind) for n, m in self.masks_by_name.items()})

    @property
    def masks_by_name(self):
        """The `WeightMask` of each weight, by the weight's name."""
        state = getattr(self, "_weight_masks", None)
        return {} if state is None else state.by_name

    def load_own_variables(self, store):
        """Loads the weights as they are in the file; its masks follow and are applied then."""
        with _keras.unguarded():
            super().load_own_variables(store)
        if "_weight_masks" in self.__dict__:
            self._weight_masks.open_for_loading()

    def quantize(self, *args, **kwargs):
        """Masked layers cannot be quantized.

        Raises:
            NotImplementedError: Always; strip the model first.
        """
        raise NotImplementedError(
            "Cannot quantize a layer that carries masks. "
            f"Received: layer={self.name!r} ({type(self).__name__}). "
            "Strip the model with `tfprune.strip(model)` and quantize the result."
        )

    def enable_lora(self, *args, **kwargs):
        """Masked layers take no LoRA: its product would fill pruned elements again.

        Raises:
            NotImplementedError: Always; strip the model first.
        """
        raise NotImplementedError(
            "Cannot enable LoRA on a layer that carries masks, because the low-rank product is "
            f"not 0 where an element is pruned. Received: layer={self.name!r} "
            f"({type(self).__name__}). Strip the model with `tfprune.strip(model)` first."
        )


class WeightMask:
    """The masks of one weight, and `live`, the cached `trainable & ~frozen`."""

    def __init__(self, weight, name):
        self.weight = weight
        self.trainable = _boolean(weight, name, "trainable_mask", "ones")
        self.frozen = _boolean(weight, name, "frozen_mask", "zeros")
        self.live = _boolean(weight, name, "live", "ones")
        _keras.guard(weight, self.live)
        if weight.regularizer is not None:
            weight.regularizer = MaskedRegularizer(weight.regularizer, weight, self.live)

    def read(self):
        """The weight as a tensor whose gradient is 0 in masked elements."""
        return _keras.read_through(_keras.raw(self.weight), _keras.raw(self.live))

    def set(self, trainable, frozen):
        """Writes both masks (NumPy arrays of the weight's shape) and zeroes what is pruned."""
        self.trainable.assign(trainable)
        self.frozen.assign(frozen)
        self.live.assign(trainable & ~frozen)
        self.apply()

    def apply(self):
        """Zeroes the pruned elements."""
        trainable = np.asarray(self.trainable)
        if not trainable.all():
            value = np.asarray(_keras.raw(self.weight))
            with _keras.unguarded():
                self.weight.assign(np.where(trainable, value, np.zeros((), value.dtype)))


def _boolean(weight, name, kind, initializer):
    return keras.Variable(
        initializer=initializer,
        shape=tuple(weight.shape),
        dtype="bool",
        trainable=False,
        autocast=False,
        name=f"{name.replace('/', '_')}_{kind}",
    )


class MaskedRegularizer:
    """A regularizer which gives masked elements no gradient."""

    def __init__(self, regularizer, weight, live):
        self.regularizer = regularizer
        self.weight = weight
        self.live = live

    def __call__(self, value):
        if value is self.weight:
            value = _keras.raw(self.weight)
        return self.regularizer(_keras.read_through(value, _keras.raw(self.live)))


class LayerMasks(_keras.SavedState):
    """All masks of one layer, as Keras and TensorFlow save them: bits packed, eight to a byte."""

    def __init__(self):
        super().__init__()
        self.by_name = {}

    def add(self, name, weight):
        """Makes fresh masks for a weight."""
        mask = WeightMask(weight, name)
        self.by_name = {**self.by_name, name: mask}
        for kind in ("trainable", "frozen", "live"):  # attributes: TensorFlow tracks them
            setattr(self, f"{name}/{kind}", getattr(mask, kind))

    def save_own_variables(self, store):
        """Writes the masks that are not fresh, and how many there are."""
        store["masks"] = np.int32(len(self.by_name))
        for index, mask in enumerate(self.by_name.values()):
            trainable, frozen = np.asarray(mask.trainable), np.asarray(mask.frozen)
            if not trainable.all():
                store[f"pruned_{index}"] = np.packbits(~trainable)
            if frozen.any():
                store[f"frozen_{index}"] = np.packbits(frozen)

    def load_own_variables(self, store):
        """Reads masks and applies them; a file of plain Keras weights leaves the masks standing."""
        in_file = "masks" in store.keys()  # noqa: SIM118 (an h5 entry has keys() only)
        for index, mask in enumerate(self.by_name.values()):
            if in_file:
                pruned = _unpack(store, f"pruned_{index}", mask.weight.shape)
                mask.set(~pruned, _unpack(store, f"frozen_{index}", mask.weight.shape))
            else:
                mask.set(np.asarray(mask.trainable), np.asarray(mask.frozen))

    def open_for_loading(self):
        """Lets sub-layers, whose weights are loaded before the masks, be written."""
        for mask in self.by_name.values():
            mask.live.assign(np.ones(mask.live.shape, bool))


def _unpack(store, key, shape):
    if key not in store.keys():  # noqa: SIM118
        return np.zeros(shape, bool)
    size = int(np.prod(shape))
    return np.unpackbits(np.asarray(store[key]), count=size).astype(bool).reshape(shape)


def _with_masks_made(stock_build):
    @functools.wraps(stock_build)
    def build(self, *args, **kwargs):
        stock_build(self, *args, **kwargs)
        _make_masks(self)

    return build


def _make_masks(layer):
    if "_weight_masks" not in layer.__dict__:
        layer._weight_masks = LayerMasks()
    known = {id(weight) for weight in layer.masked_weights.values()}
    variables = _keras.own_trainable_variables(layer)
    for name, weight in zip(_weight_names(layer, variables), variables, strict=True):
        if id(weight) not in known and keras.backend.is_float_dtype(weight.dtype):
            layer._weight_masks.add(name, weight)


def _weight_names(layer, variables):
    """`kernel` where that says which weight is meant, else `query/kernel`."""
    names = [variable.name for variable in variables]
    if len(set(names)) == len(names):
        return names
    return ["/".join(variable.path.split("/")[-2:]) for variable in variables]


def _with_masked_reads(stock_call):
    @functools.wraps(stock_call)
    def call(self, *args, **kwargs):
        # Once a call, and outside the loops of recurrent layers, where it would cost a step each.
        masks = [m for m in self.masks_by_name.values() if not _keras.is_read_through(m.weight)]
        with _keras.reading({id(mask.weight): mask.read() for mask in masks}):
            return stock_call(self, *args, **kwargs)

    return call
