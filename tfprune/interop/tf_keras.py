"""Translates the config of a `tf_keras` model to Keras 3, without pruning wrappers.

Only the serialised form is read and none of the model's code is run. So layers keep their names,
sharing and nesting, and an `.h5` file needs neither `tf_keras` nor tfmot.
"""

import inspect

import keras

from tfprune import _keras

WRAPPER = "PruneLowMagnitude"

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

_MODELS = ("Sequential", "Functional", "Model")


def translated(serialised, custom_objects=None):
    """A serialised `tf_keras` layer or model in the form that Keras 3 reads.

    Args:
        serialised: Dict with `class_name` and `config`, as `json.loads(model.to_json())`.
        custom_objects: Dict of names to classes and functions, of Keras 3.

    Raises:
        ValueError: If there is a layer or an argument that Keras 3 does not have.
    """
    return _Translator(custom_objects or {}).layer(serialised)


def unwrapped(serialised):
    """A serialised layer without the pruning wrappers around it."""
    while serialised["class_name"] == WRAPPER:
        serialised = serialised["config"]["layer"]
    return serialised


def is_wrapped(serialised):
    """Whether a pruning wrapper is anywhere in a serialised layer or model."""
    if isinstance(serialised, dict):
        if serialised.get("class_name") == WRAPPER:
            return True
        return any(is_wrapped(value) for value in serialised.values())
    return isinstance(serialised, list) and any(is_wrapped(value) for value in serialised)


def new_names(serialised):
    """A dict from the names of the layers of a serialised model to their names in Keras 3."""
    layers = serialised["config"]["layers"]
    return {_name(layer): _name(unwrapped(layer)).replace("/", "_") for layer in layers}


def _name(serialised):
    return serialised["config"].get("name") or serialised["name"]


class _Translator:
    """Translates one model; what it keeps is the custom objects alone."""

    def __init__(self, custom_objects):
        self.custom_objects = custom_objects

    def layer(self, serialised):
        serialised = unwrapped(serialised)
        if serialised["class_name"] in _MODELS:
            is_sequential = serialised["class_name"] == "Sequential"
            return self.sequential(serialised) if is_sequential else self.functional(serialised)
        if _is_arithmetic(serialised):
            return _arithmetic(serialised)
        cls, registered_name = self.find_class(serialised)
        arguments = dict(serialised["config"])
        if "name" in arguments:
            arguments["name"] = arguments["name"].replace("/", "_")
        for name, value in arguments.items():
            arguments[name] = self.argument(name, value, serialised)
        edit = _EDITS.get(serialised["class_name"])
        if registered_name is None and edit is not None:
            arguments = edit(arguments)
        module = "keras.layers" if registered_name is None else cls.__module__
        config = _accepted(cls, arguments, serialised)
        return _serialised(module, cls.__name__, config, registered_name, serialised)

    def find_class(self, serialised):
        """The class of Keras 3, and the name it is registered by; None for Keras's own."""
        names = [n for n in (serialised.get("registered_name"), serialised["class_name"]) if n]
        for name in names:
            found = keras.saving.get_registered_object(name, self.custom_objects)
            if found is not None:
                return found, name
        name = _RENAMED.get(serialised["class_name"], serialised["class_name"])
        found = getattr(keras.layers, name, None)
        is_stock = serialised.get("module", "keras.layers").startswith("keras.")
        if is_stock and found is not None and name not in _REFUSED:
            return found, None
        what = _REFUSED.get(
            name,
            "Write it as a Keras 3 layer with the same weights, and pass "
            f"`custom_objects={{{name!r}: ...}}`.",
        )
        raise ValueError(
            "Cannot take over a layer that Keras 3 does not have. "
            f"Received: layer={_name(serialised)!r} ({serialised['class_name']}). {what}"
        )

    def argument(self, name, value, serialised):
        if name in _INNER_LAYERS:
            if isinstance(value, list):
                return [self.layer(item) for item in value]
            return None if value is None else self.layer(value)
        if name in _FUNCTIONS:
            return self.function(value, serialised)
        if name == "dtype" and isinstance(value, dict):
            return value["config"]["name"]  # of a policy
        if isinstance(value, dict) and isinstance(value.get("config"), dict):
            config = {key: v for key, v in value["config"].items() if key != "dtype"}
            return {**value, "config": config}  # initializers had a dtype once
        return value

    def function(self, value, serialised):
        if isinstance(value, dict) and value.get("class_name") == "function":
            value = value["config"]
        if value == "hard_sigmoid" and value not in self.custom_objects:
            raise ValueError(
                "Cannot take over the activation 'hard_sigmoid': Keras 3 computes another "
                f"function under this name. Received: layer={_name(serialised)!r}. Pass the old "
                "one: `custom_objects={'hard_sigmoid': lambda x: "
                "keras.ops.clip(0.2 * x + 0.5, 0, 1)}`, or a registered function."
            )
        return value

    def sequential(self, serialised):
        config = serialised["config"]
        layers = [self.layer(layer) for layer in config["layers"]]
        if not layers or layers[0]["class_name"] != "InputLayer":
            first = config["layers"][0]["config"] if layers else {}
            shape = first.get("batch_input_shape") or config.get("build_input_shape")
            if shape is None:
                raise ValueError(
                    "The Sequential model is not built, so its shapes are unknown. Received: "
                    f"model={config['name']!r}. Call it on data once, or `model.build(shape)`."
                )
            layers.insert(0, _input_layer(shape, first))
        new = {"name": config["name"], "layers": layers}
        return _serialised("keras", "Sequential", new, old=serialised)

    def functional(self, serialised):
        config = serialised["config"]
        graph = _Graph(config["layers"], new_names(serialised))
        layers = []
        for old in config["layers"]:
            new = self.layer(old)
            calls = [graph.call(data, new["class_name"]) for data in old["inbound_nodes"]]
            if _is_arithmetic(old):
                calls = [
                    {"args": [*call["args"], call["kwargs"]["y"]], "kwargs": {}} for call in calls
                ]
            layers.append({**new, "name": graph.names[_name(old)], "inbound_nodes": calls})
        new = {
            "name": config["name"],
            "trainable": config.get("trainable", True),
            "layers": layers,
            "input_layers": graph.ends(config["input_layers"]),
            "output_layers": graph.ends(config["output_layers"]),
        }
        return _serialised("keras", "Model", new, old=serialised)


def _serialised(module, class_name, config, registered_name=None, old=()):
    """A serialised object of Keras 3, with the shared id of the old one if that has one."""
    new = {"module": module, "class_name": class_name, "config": config}
    shared = {"shared_object_id": old["shared_object_id"]} if "shared_object_id" in old else {}
    return {**new, "registered_name": registered_name, **shared}


def _input_layer(shape, first):
    config = {"batch_shape": shape, "dtype": "float32", "name": "input_layer"}
    if "input_dim" in first and "output_dim" in first:
        config["dtype"] = "int32"  # of an embedding
    return _serialised("keras.layers", "InputLayer", config)


class _Graph:
    """The references of a functional config, from its old names and places to the new ones."""

    def __init__(self, layers, names):
        self.names = names
        # Nested models had a call of their own when they were made, unless without an input.
        self.first = {_name(layer): int(_has_call_of_its_own(layer)) for layer in layers}
        self.functional = {
            _name(layer) for layer in layers if layer["class_name"] in ("Functional", "Model")
        }

    def call(self, data, class_name):
        """One call of a layer, out of the nested lists of old, as arguments and keywords."""
        leaves = []
        first = _mapped(data, lambda leaf: leaves.append(leaf) or self.tensor(leaf))
        if isinstance(first, list) and len(first) == 1:
            first = first[0]
        old = next((leaf[3] for leaf in leaves if len(leaf) == 4), {})
        keywords = {
            name: _mapped(value, self.tensor)
            for name, value in old.items()
            if value is not None and name != "name"
        }
        cls = getattr(keras.layers, class_name, object)
        is_recurrent = issubclass(cls, (keras.layers.RNN, keras.layers.Bidirectional))
        if is_recurrent and isinstance(first, list):
            first, *keywords["initial_state"] = first
        return {"args": [first], "kwargs": keywords}

    def tensor(self, leaf):
        name, place, index = leaf[:3]
        if name == "_CONSTANT_VALUE":
            return index
        history = [self.names[name], place - self.first[name], index]
        config = {"shape": [], "dtype": "float32", "keras_history": history}
        return {"class_name": "__keras_tensor__", "config": config}

    def ends(self, structure):
        """Inputs or outputs of the model; a single one is not in a list."""

        def renamed(leaf):
            name, place, index = leaf
            # Keras 3 counts the calls of nested functional models from 1, here alone.
            place = place - self.first[name] + (name in self.functional)
            return [self.names[name], place, index]

        ends = _mapped(structure, renamed)
        is_alone = isinstance(structure, list) and len(structure) == 1
        return ends[0] if is_alone else ends


def _has_call_of_its_own(layer):
    if layer["class_name"] == "Sequential":
        return layer["config"]["layers"][0]["class_name"] == "InputLayer"
    return layer["class_name"] in _MODELS


def _mapped(structure, function):
    """The structure with `function` of each `[layer, call, tensor]`, with or without keywords."""
    if isinstance(structure, dict):
        return {key: _mapped(value, function) for key, value in structure.items()}
    if isinstance(structure, list):
        is_leaf = len(structure) in (3, 4) and isinstance(structure[0], str)
        if is_leaf and isinstance(structure[1], int):
            return function(structure)
        return [_mapped(value, function) for value in structure]
    return structure


# Operations on tensors ----------------------------------------------------------------------------

_ARITHMETIC = {
    "__operators__.add": "Add",
    "math.add": "Add",
    "math.subtract": "Subtract",
    "math.multiply": "Multiply",
    "math.truediv": "TrueDivide",
    "math.divide": "Divide",
}


def _is_arithmetic(serialised):
    is_operation = serialised["class_name"] == "TFOpLambda"
    return is_operation and serialised["config"]["function"] in _ARITHMETIC


def _arithmetic(serialised):
    cls = _keras.raw_operation(_ARITHMETIC[serialised["config"]["function"]])
    config = {"name": _name(serialised).replace("/", "_")}
    return _serialised(cls.__module__, cls.__name__, config, cls.__name__)


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
_REFUSED = {
    "Lambda": "It holds Python bytecode: write it as a layer of your own.",
    "TFOpLambda": "It is an operation on tensors: write it as a layer, as `Add` or `Activation`.",
}


def _accepted(cls, arguments, serialised):
    """The arguments that the class takes; another must be one that changes nothing."""
    names = _argument_names(cls)
    if names is None:
        return arguments
    for name, value in arguments.items():
        is_neutral = not value or name in _WITHOUT_EFFECT or _NEUTRAL.get(name) == value
        if name not in names and not is_neutral:
            raise ValueError(
                "Cannot take over an argument that the layer does not have in Keras 3. Received: "
                f"layer={_name(serialised)!r} ({cls.__name__}), {name}={value!r}. Make the layer "
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
