"""Masks for a layer that exists already, whatever its class.

The class of the layer changes: to its drop-in, or to one made of `Masked` and the user's class.
Keras finds classes by name, and a made class is not there when a file is loaded, so `.keras` files
name one class that is registered, `tfprune>InPlace`, with the user's class and the layers inside
that carry masks in its config.
"""

import functools
import inspect

import keras

from tfprune import _keras
from tfprune.layers import DROP_INS
from tfprune.layers.masked import Masked, make_masks, reading_masks
from tfprune.layers.weight_mask import MaskedRegularizer
from tfprune.masks.first_step import UNKNOWN, note_first_step

_KEY = "tfprune_in_place"

_STOCK = {drop_in: stock for stock, drop_in in DROP_INS.items()}

_OF_EVERY_CLASS = {"__module__", "__doc__", "__dict__", "__weakref__", "__annotations__"}
_OF_EVERY_CLASS |= {"__firstlineno__", "__static_attributes__"}


def mask_in_place(layer):
    """Turns a layer into one that carries masks, with the weights it has; it computes the same.

    A layer of a class that has a drop-in class becomes one of that class. Any other becomes one of
    a class made for it, of the same name, which derives from `Masked` and from the class it had:

    * a subclass of a class that has a drop-in class carries masks for all weights in it, as that
      does: a subclass of `MultiHeadAttention` for those of its projections;
    * any other class carries masks for the weights it holds itself, whether `add_weight` made them
      or a `keras.Variable` was assigned. The layers in it are turned by calls of their own, which
      come after that of the layer.

    Weights that carry masks already are left to the layer that carries them. A layer that is not
    built gets its masks when it is built. A train step that was compiled before does not know the
    masks: call `model.make_train_function(force=True)`.

    `.weights.h5` files and checkpoints keep the masks. `.keras` and `.h5` files keep them where
    Keras can save and load the layer's own class, given `custom_objects` if it is not registered.

    Args:
        layer: A Keras layer or model. It is changed.

    Returns:
        The layer.

    Example:

    >>> import tfprune
    >>> class Shift(keras.layers.Layer):
    ...     def build(self, shape):
    ...         self.by = self.add_weight(shape=(shape[-1],), initializer="ones", name="by")
    ...     def call(self, inputs):
    ...         return inputs + self.by
    >>> model = keras.Sequential([keras.Input((3,)), Shift(name="shift")])
    >>> layer = mask_in_place(model.layers[0])
    >>> tfprune.set_masks(model, "shift", "by", trainable=[0])
    >>> keras.ops.convert_to_numpy(layer.by)
    array([1., 0., 0.], dtype=float32)
    """
    cls = type(layer)
    if isinstance(layer, Masked):
        if layer.built:  # `unmask` leaves a class that is masked by itself
            make_masks(layer)
        return layer
    masks_inner = isinstance(layer, tuple(DROP_INS))
    variables = _keras.maskable_variables(layer, masks_inner)
    has_weights = not all(map(_keras.is_guarded, variables))
    if cls in DROP_INS and (has_weights or not layer.built):
        return _exchange(layer, DROP_INS[cls])
    if has_weights or not (layer.built or _keras.is_stock(cls)):
        return _exchange(layer, _masked_class(_own_class(cls), masks_inner))
    return note_masks_inside(layer)


def note_masks_inside(layer):
    """Lets a `.keras` file say which layers inside a layer carry masks made in place.

    That is needed where a class makes its layers itself, since they would have no masks when it is
    loaded. Layers of Keras's own classes and models that are saved as a graph are left as they are:
    their configs hold those of the layers in them.

    Args:
        layer: A Keras layer or model. It is changed.

    Returns:
        The layer.
    """
    cls = type(layer)
    is_known = isinstance(layer, InPlace | Masked) or _keras.is_stock(cls)
    if not (is_known or _keras.is_saved_as_graph(cls)):
        layer.__class__ = _noting_class(cls)
    return layer


def unmask(layer):
    """Takes the masks from a layer and the layers in it, which get their own classes again.

    A user's subclass of a drop-in layer that adds nothing becomes an object of the stock class. One
    that adds something stays what it is, without masks.

    Args:
        layer: A Keras layer or model. It is changed; its weights keep their values.

    Returns:
        The layer.
    """
    for part in _keras.all_layers(layer):
        masks = part.masks_by_name.values() if isinstance(part, Masked) else ()
        take_masks_off(part, [mask.weight for mask in masks])
    return layer


def take_masks_off(layer, weights):
    """Gives a layer, but not the layers in it, and some of its weights their own classes again.

    The objects that are its masks are left as they are: another layer may have them too.
    """
    for weight in weights:
        _keras.unguard(weight)
        if isinstance(weight.regularizer, MaskedRegularizer):
            weight.regularizer = weight.regularizer.regularizer
    if "_weight_masks" in vars(layer):
        del layer._weight_masks
    if isinstance(layer, Masked | InPlace):
        layer.__class__ = _class_without_masks(type(layer))
    for name in ("build", "load_own_variables"):
        vars(layer).pop(name, None)
    for name in ("quantize", "enable_lora"):
        if isinstance(vars(layer).get(name), functools.partial):
            del vars(layer)[name]
    if _keras.is_stock(type(layer)):
        _keras.wrap_methods(layer)


def _class_without_masks(cls):
    if getattr(cls, "own_class", None) is not None:
        return cls.own_class
    if cls in _STOCK:
        return _STOCK[cls]
    bases = [base for base in cls.__bases__ if base is not Masked]
    if not issubclass(cls, Masked) or len(bases) > 1 or _adds_something(cls):
        return cls
    return _class_without_masks(*bases)


def _adds_something(cls):
    """Whether a class has attributes of its own, but for the methods wrapped to make masks."""
    return any(
        name not in _OF_EVERY_CLASS
        and inspect.unwrap(value) is not inspect.unwrap(getattr(super(cls, cls), name, None))
        for name, value in vars(cls).items()
    )


@keras.saving.register_keras_serializable("tfprune")
class InPlace:
    """A layer of a class of the user's own which was given masks, or has layers that were.

    A `.keras` file has this class in place of the user's, and names that in the config. The layer
    is loaded as one of the user's class, and gets its masks then.
    """

    own_class = None
    """The class of the layer before."""

    def get_config(self):
        """The config of the user's class, the names of that class and of the layers with masks."""
        return {**super().get_config(), _KEY: _noted(self)}

    @classmethod
    def from_config(cls, config, *args, **kwargs):
        """The layer with its masks to be; `cls` is `InPlace` itself where a file is loaded."""
        config = dict(config)
        noted = config.pop(_KEY, None)
        if cls is not InPlace:
            layer = super().from_config(config, *args, **kwargs)
        else:
            layer = keras.saving.deserialize_keras_object({**noted["class"], "config": config})
        return layer if noted is None else _mask_as_noted(layer, noted)


def own_config(config):
    """A serialised layer with masks in place as one of the class that it had before."""
    arguments = dict(config["config"])
    return {**config, **arguments.pop(_KEY)["class"], "config": arguments}


# Classes made for those of the user -------------------------------------------------------------


@functools.cache
def _masked_class(cls, masks_inner):
    masked = _drop_in_with_call(cls) or Masked
    call = cls.call if masked is Masked else masked.call
    return _made_class(cls, (InPlace, masked, cls), call, {"masks_inner_weights": masks_inner})


def _drop_in_with_call(cls):
    """The drop-in of the stock class whose `call` a class inherits, if that has one of its own.

    So a subclass of `LayerNormalization` takes its statistics over the kept units too.
    """
    for stock, drop_in in DROP_INS.items():
        if issubclass(cls, stock) and cls.call is stock.call and "call" in vars(drop_in):
            return drop_in
    return None


@functools.cache
def _noting_class(cls):
    return _made_class(cls, (InPlace, cls), cls.call, {})


def _made_class(cls, bases, call, attributes):
    get_config = functools.wraps(cls.get_config)(lambda self: InPlace.get_config(self))
    attributes = {
        **attributes,
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "own_class": cls,
        "call": _reading_masks(call),
        "get_config": get_config,  # says as the class does whether Keras makes the config
    }
    made = type(cls)(cls.__name__, bases, attributes)
    # Keras writes the name that was registered for a class, and reads the class that was last
    # registered under a name.
    for each in (made, InPlace):
        keras.saving.register_keras_serializable("tfprune", "InPlace")(each)
    return made


def _reading_masks(stock_call):
    @functools.wraps(stock_call)
    def call(self, *args, **kwargs):
        if isinstance(self, keras.Model) and _keras.functional(self) is None:
            _keras.note_call(self, args, kwargs)
        with reading_masks(self):
            return stock_call(self, *args, **kwargs)

    return call


def _own_class(cls):
    return getattr(cls, "own_class", None) or cls


def _exchange(layer, cls):
    layer.__class__ = cls
    # Keras wraps it on each object.
    vars(layer)["quantize"] = functools.partial(Masked.quantize, layer)
    make_masks(layer)
    if layer.built:
        note_first_step([layer], UNKNOWN)
    else:
        _after_build(layer, lambda: make_masks(layer))
    return layer


def _after_build(layer, do):
    stock_build = layer.build

    @functools.wraps(stock_build)
    def build(*args, **kwargs):
        stock_build(*args, **kwargs)
        do()

    vars(layer)["build"] = build


# What a file says -------------------------------------------------------------------------------


def _noted(layer, seen=None):
    """Which class a layer had, whether it carries masks, and the same of the layers inside."""
    seen = {id(layer)} if seen is None else seen
    cls, inside = _own_class(type(layer)), {}
    is_masked = isinstance(layer, Masked)
    parts = [] if is_masked and layer.masks_inner_weights else _keras.sub_layers(layer)
    for place, part in enumerate(parts):
        if id(part) not in seen:
            seen.add(id(part))
            noted = _noted(part, seen)
            if noted["is_masked"] or noted["inside"]:
                inside[str(place)] = noted
    names = {
        "module": cls.__module__,
        "class_name": cls.__name__,
        "registered_name": keras.saving.get_registered_name(cls),
    }
    return {"class": names, "is_masked": is_masked, "inside": inside}


def _mask_as_noted(layer, noted):
    if noted["is_masked"]:
        mask_in_place(layer)
    else:
        note_masks_inside(layer)
    _mask_inside(layer, noted["inside"])
    return layer


def _mask_inside(layer, inside, is_last=False):
    """Masks the layers inside a layer that are there; the others when it is built."""
    parts, missing = _keras.sub_layers(layer), {}
    for place, noted in inside.items():
        part = parts[int(place)] if int(place) < len(parts) else None
        if part is None and not is_last:
            missing[place] = noted
        elif part is None or type(part).__name__ != noted["class"]["class_name"]:
            raise ValueError(
                "The masks in the file do not fit the layer, because it does not hold the layers "
                f"it held when it was saved. Received: layer={layer.name!r} "
                f"({type(layer).__name__}), which has {getattr(part, 'name', 'no layer')!r} where "
                f"it had a {noted['class']['class_name']}."
            )
        else:
            _mask_as_noted(part, noted)
    if missing:
        _after_build(layer, lambda: _mask_inside(layer, missing, is_last=True))
