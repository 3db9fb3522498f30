"""The mixin that gives the weights of a Keras layer their masks.

A pruned element is stored as 0, its gradient is masked, and every write leaves it out. Multiplying
by the mask in the forward pass would cost more, an optimizer could move the stored value, and
`get_weights()` and files would hold dense weights.
"""

import functools
from types import MappingProxyType

from tfprune import _keras
from tfprune.layers.layer_masks import masks_of


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


def _with_masks_made(stock_build):
    @functools.wraps(stock_build)
    def build(self, *args, **kwargs):
        stock_build(self, *args, **kwargs)
        make_masks(self)

    return build


def make_masks(layer):
    """Makes masks for the weights which have none yet: see `Masked.masks_inner_weights`."""
    masks = masks_of(layer)
    variables = _keras.maskable_variables(layer, layer.masks_inner_weights)
    for weight in variables:
        if not _keras.is_guarded(weight):
            masks.add(_weight_name(layer, weight, variables), weight)
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
