"""Translates the config of a `tf_keras` layer to Keras 3.

Only the serialised form is read, so layers keep their names and what is shared.
"""

import inspect

import keras

from tfprune.interop.tf_keras.files import unwrapped

_INNER_LAYERS = ("layer", "backward_layer", "cell", "cells")
_FUNCTIONS = ("activation", "recurrent_activation")
_WITHOUT_EFFECT = """
batch_input_shape implementation input_length trainable query_shape key_shape value_shape
kernel_initializer kernel_regularizer kernel_constraint softmax_robust_masking
""".split()
"""Arguments whose value changes no output, where Keras 3 does not take them. Those on kernels are
written for separable convolutions, which have no such kernel."""

_NEUTRAL = {"groups": 1}
"""Arguments that may be left out at this value, besides those that are None, False or empty."""


def has_layer(name):
    """Whether Keras 3 has a layer for one of `tf_keras`, or an operation."""
    is_operation = name in ("TFOpLambda", "SlicingOpLambda")
    return is_operation or hasattr(keras.layers, _RENAMED.get(name, name))


class LayerTranslator:
    """Translates layers.

    Args:
        custom_objects: Dict of names to classes and functions, of Keras 3.
        built_model: Function from a serialised `tf_keras` model to the same model in Keras 3, for
            models inside wrappers.
    """

    def __init__(self, custom_objects, built_model):
        self.custom_objects = custom_objects
        self.built_model = built_model

    def layer(self, serialised, name, problem=None):
        """A layer of Keras 3, not built.

        Args:
            serialised: Dict with `class_name` and `config`.
            name: The name of the new layer.
            problem: Why a layer with a class of its own could not be traced.

        Raises:
            ValueError: If Keras 3 has no such layer, or not one of its arguments.
        """
        cls, registered_name = self.find_class(serialised, name, problem)
        if not inspect.isclass(cls):
            made = cls(**{"name": name, **serialised["config"]})
        else:
            config = self.config(serialised, name, cls, registered_name)
            made = self._deserialised(cls, registered_name, config, name)
        made.name = name  # the class may not take one
        return made

    def _deserialised(self, cls, registered_name, config, name):
        new = _serialised(cls, registered_name, config)
        if registered_name is None:
            return keras.saving.deserialize_keras_object(new, custom_objects=self.custom_objects)
        try:
            with keras.saving.custom_object_scope(self.custom_objects):
                return cls.from_config(config)
        except TypeError as error:
            raise ValueError(
                "Cannot make a layer of the class in `custom_objects` with the config of the "
                f"`tf_keras` layer. Received: layer={name!r} ({cls.__name__}), config={config}, "
                f"{error}. Give both classes a `get_config`, or pass a function that takes the "
                "config as keywords and returns the layer."
            ) from error

    def config(self, serialised, name, cls, registered_name):
        """The arguments of the layer's class in Keras 3."""
        arguments = dict(serialised["config"])
        for key, value in arguments.items():
            arguments[key] = self._argument(key, value, name)
        edit = _EDITS.get(serialised["class_name"])
        if registered_name is None and edit is not None:
            arguments = edit(arguments)
        config = _accepted(cls, arguments, name)
        if "name" in config:
            config["name"] = name
        return config

    def inner(self, serialised, outer):
        """A serialised layer or model inside a wrapper, as serialised in Keras 3."""
        serialised = unwrapped(serialised)
        if "layers" in serialised["config"]:
            return keras.saving.serialize_keras_object(self.built_model(serialised))
        name = serialised["config"].get("name", serialised["class_name"]).replace("/", "_")
        problem = f"it is inside the layer {outer!r}"
        cls, registered_name = self.find_class(serialised, name, problem)
        config = self.config(serialised, name, cls, registered_name)
        return _serialised(cls, registered_name, config)

    def find_class(self, serialised, layer, problem=None):
        """The class of Keras 3, and the name it is registered by; None for Keras's own."""
        names = [n for n in (serialised.get("registered_name"), serialised["class_name"]) if n]
        for name in names:
            found = keras.saving.get_registered_object(name, self.custom_objects)
            if found is not None:
                return found, name
        name = _RENAMED.get(serialised["class_name"], serialised["class_name"])
        found = getattr(keras.layers, name, None)
        is_stock = (serialised.get("module") or "keras.layers").startswith("keras.")
        if is_stock and found is not None and name != "Lambda":
            return found, None
        what = (
            "Write it as a Keras 3 layer with the same weights, and pass "
            f"`custom_objects={{{name!r}: ...}}`"
        )
        if problem is None:
            what += (
                "; or load the file with `tf_keras`, and pass the model: what a `call` does is "
                "read from an object only"
            )
        why = "" if problem is None else f", {problem}"
        raise ValueError(
            "Cannot take over a layer that Keras 3 does not have. "
            f"Received: layer={layer!r} ({serialised['class_name']}){why}. {what}."
        )

    def _argument(self, key, value, layer):
        if key in _INNER_LAYERS:
            if isinstance(value, list):
                return [self.inner(item, layer) for item in value]
            return None if value is None else self.inner(value, layer)
        if key in _FUNCTIONS:
            return self._function(value, layer)
        if key == "dtype" and isinstance(value, dict):
            return value["config"]["name"]  # of a policy
        if isinstance(value, dict) and isinstance(value.get("config"), dict):
            config = {inner: v for inner, v in value["config"].items() if inner != "dtype"}
            return {**value, "config": config}  # initializers had a dtype once
        return value

    def _function(self, value, layer):
        if isinstance(value, dict) and value.get("class_name") == "function":
            value = value["config"]
        if value == "hard_sigmoid" and value not in self.custom_objects:
            raise ValueError(
                "Cannot take over the activation 'hard_sigmoid': Keras 3 computes another "
                f"function under this name. Received: layer={layer!r}. Pass the old "
                "one: `custom_objects={'hard_sigmoid': lambda x: "
                "keras.ops.clip(0.2 * x + 0.5, 0, 1)}`, or a registered function."
            )
        is_name = isinstance(value, str)
        is_unknown = is_name and not (
            hasattr(keras.activations, value)
            or keras.saving.get_registered_object(value, self.custom_objects)
        )
        if (
            is_unknown
            or (isinstance(value, dict) and "config" not in value)
            or (isinstance(value, dict) and value.get("class_name") == "__lambda__")
        ):
            shown = repr(value) if is_name else "a lambda"
            raise ValueError(
                "Cannot take over an activation that Keras 3 does not have. Received: "
                f"layer={layer!r}, activation={shown}. Give the function a name, write it with "
                "`keras.ops`, and pass `custom_objects={name: function}`."
            )
        return value


def _serialised(cls, registered_name, config):
    module = "keras.layers" if registered_name is None else cls.__module__
    name = cls.__name__
    return {
        "module": module,
        "class_name": name,
        "config": config,
        "registered_name": registered_name,
    }


# Arguments that changed ---------------------------------------------------------------------------


def _one_axis(arguments):
    axis = arguments["axis"]
    if isinstance(axis, (list, tuple)) and len(axis) == 1:
        axis = axis[0]
    return {**arguments, "axis": axis}


def _slope(arguments):
    arguments["negative_slope"] = arguments.pop("alpha", arguments.get("negative_slope"))
    return arguments


def _threshold(arguments):
    arguments["threshold"] = arguments.pop("theta")
    return arguments


def _batch_shape(arguments):
    arguments["batch_shape"] = arguments.pop("batch_input_shape", arguments.get("batch_shape"))
    return arguments


_EDITS = {
    "BatchNormalization": _one_axis,
    "InputLayer": _batch_shape,
    "LeakyReLU": _slope,
    "ThresholdedReLU": _threshold,
}
_RENAMED = {"ThresholdedReLU": "ReLU"}


def _accepted(cls, arguments, layer):
    """The arguments that the class takes; another must be one that changes nothing."""
    names = _argument_names(cls)
    if names is None:
        return arguments
    for name, value in arguments.items():
        is_neutral = not value or name in _WITHOUT_EFFECT or _NEUTRAL.get(name) == value
        if name not in names and not is_neutral:
            raise ValueError(
                "Cannot take over an argument that the layer does not have in Keras 3. Received: "
                f"layer={layer!r} ({cls.__name__}), {name}={value!r}. Make the layer "
                f"without it, or pass `custom_objects={{{cls.__name__!r}: ...}}`."
            )
    return {name: value for name, value in arguments.items() if name in names}


def _argument_names(cls):
    """The names of what a layer can be made with; None if it takes any."""
    names = set()
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters.values()
        names |= {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
        if base is keras.layers.Layer or all(p.kind is not p.VAR_KEYWORD for p in parameters):
            return names
    return None
