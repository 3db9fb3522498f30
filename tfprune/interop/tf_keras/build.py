"""Builds the Keras 3 model of a description."""

import math

import keras
import numpy as np

from tfprune import _keras
from tfprune.interop.tf_keras import operations, sizes
from tfprune.interop.tf_keras.description import OWN_WEIGHT, Output, leaves, mapped
from tfprune.interop.tf_keras.files import described_config
from tfprune.interop.tf_keras.layers import LayerTranslator

OPERATIONS = ("TFOpLambda", "SlicingOpLambda")
"""Classes of layers that are a TensorFlow function."""


class Build:
    """Builds models; a layer that is in several places is made once.

    Args:
        custom_objects: Dict of names to classes and functions, of Keras 3.

    Attributes:
        tensors: For the outermost model, a dict from the key and place of each call to the
            flat list of its outputs, in the order in which the calls were made.
        in_inference: The names of the layers that are called with `training=False`.
    """

    def __init__(self, custom_objects=None):
        self.custom_objects = custom_objects or {}
        self.translator = LayerTranslator(self.custom_objects, self._built_model)
        self.made = {}
        self.in_inference = []
        self.rows = {}  # for vectors among the weights, by their id, each as a row
        self.tensors = {}

    def model(self, description):
        """The Keras 3 model, with weights of its own.

        Raises:
            ValueError: If a layer, one of its arguments or an operation has no equivalent.
        """
        if description.is_sequential:
            return self._sequential(description)
        model, self.tensors = self._functional(description)
        return model

    def _built_model(self, serialised):
        return Build(self.custom_objects).model(described_config(serialised, {}))

    def _layer(self, description):
        key = description.identity
        if key is None or key not in self.made:
            if description.model is not None:
                layer = Build.model(self._with_same_layers(), description.model)
                layer.name = description.new_name
            else:
                layer = self.translator.layer(
                    description.serialised, description.new_name, description.problem
                )
            if key is None:
                return layer
            self.made[key] = layer
        return self.made[key]

    def _with_same_layers(self):
        inner = Build(self.custom_objects)
        inner.made, inner.rows = self.made, self.rows
        inner.in_inference = self.in_inference
        return inner

    def _sequential(self, description):
        layers = [self._layer(each) for each in description.layers]
        if not layers or not isinstance(layers[0], keras.layers.InputLayer):
            shape = description.input_shape
            if shape is None:
                raise ValueError(
                    "The Sequential model is not built, so its shapes are unknown. Received: "
                    f"model={description.name!r}. Call it on data once, or `model.build(shape)`."
                )
            is_lookup = bool(layers) and isinstance(layers[0], keras.layers.Embedding)
            dtype = "int32" if is_lookup else "float32"
            layers.insert(0, keras.layers.InputLayer(batch_shape=tuple(shape), dtype=dtype))
        return keras.Sequential(layers, name=description.name.replace("/", "_"))

    def _functional(self, description):
        tensors, waiting, held = {}, [], []
        for each in description.layers:
            if each.class_name == "InputLayer":
                tensors[each.key, 0] = [self._layer(each).output]
            elif each.class_name == OWN_WEIGHT:
                held.append(each)
            else:
                is_function = each.class_name in OPERATIONS
                waiting.append((each, None if is_function else self._layer(each), list(each.calls)))
        anchor = next(iter(tensors.values()))[0]
        taken = {each.new_name for each in description.layers}
        for each in held:
            tensors[each.key, 0] = [self._own_weight(each, anchor, taken)]
        while waiting:
            is_stuck = True
            for each, layer, calls in waiting:
                while calls and _is_ready(calls[0], tensors):
                    call, is_stuck = calls.pop(0), False
                    args, kwargs = mapped((call.args, call.kwargs), _looked_up(tensors))
                    if layer is None:
                        found = self._operation(each, args, kwargs, taken)
                    else:
                        found = self._called(each, layer, args, kwargs, anchor, taken)
                    tensors[each.key, call.index] = keras.tree.flatten(found)
            waiting = [entry for entry in waiting if entry[2]]
            if waiting and is_stuck:
                raise ValueError(
                    "The graph is not whole: calls take tensors that none gives. Received: "
                    f"model={description.name!r}, layers={[each.name for each, *_ in waiting]}."
                )
        inputs, outputs = mapped((description.inputs, description.outputs), _looked_up(tensors))
        for output, reference in zip(leaves(outputs), leaves(description.outputs), strict=True):
            if not _keras.is_symbolic(output):
                raise ValueError(
                    "Cannot take over a model with an output that no input decides. "
                    f"Received: model={description.name!r}, layer={reference.layer!r}."
                )
        model = keras.Model(inputs, outputs, name=description.name.replace("/", "_"))
        if not description.trainable:
            model.trainable = False
        return model, tensors

    def _operation(self, description, args, kwargs, taken):
        """The outputs of a TensorFlow function; the new operations are named after it."""
        name = description.serialised["config"].get("function")
        if operations.is_elementwise(name) and _highest_rank((args, kwargs)) > 1:
            args, kwargs = mapped((args, kwargs), lambda leaf: self.rows.get(id(leaf), leaf))
        try:
            found = operations.applied(name, args, kwargs, self.custom_objects)
        except Exception as error:  # of Keras too, for arguments that it does not take
            why = str(error).rstrip(".")
            raise ValueError(
                "Cannot take over an operation of TensorFlow. Received: "
                f"layer={description.name!r} (`tf.{name}`): {why}. Write it with `keras.ops` as "
                "a function of the same arguments, and pass "
                f"`custom_objects={{{name!r}: function}}`."
            ) from error
        given = [leaf for leaf in leaves((args, kwargs)) if _keras.is_symbolic(leaf)]
        _name_operations(description, given, found, taken)
        return found

    def _called(self, description, layer, args, kwargs, anchor, taken):
        """The outputs of a layer. One that is called on constants gets them as symbolic tensors."""
        kwargs = {name: value for name, value in kwargs.items() if value is not None}
        if kwargs.get("training"):
            raise ValueError(
                "Cannot take over a layer that is called with `training=True`: Keras 3 runs it as "
                f"the model is run, in inference too. Received: layer={description.name!r} "
                f"({description.class_name})."
            )
        if "training" in kwargs:
            self.in_inference.append(description.new_name)
        if not any(_keras.is_symbolic(leaf) for leaf in leaves((args, kwargs))):
            args = mapped(args, lambda leaf: _symbolic(leaf, anchor))
            _name_operations(description, [anchor], args, taken, suffix="input")
        is_recurrent = isinstance(layer, (keras.layers.RNN, keras.layers.Bidirectional))
        if is_recurrent and isinstance(args[0], (list, tuple)):
            (first, *states), *rest = args
            return layer(first, *rest, **kwargs, initial_state=states)
        return layer(*args, **kwargs)

    def _own_weight(self, description, anchor, taken):
        """A weight as a tensor: the rows of the table of an `Embedding`, in the weight's shape."""
        config = description.serialised["config"]
        *rows, size = config["shape"] or (1,)
        rows = math.prod(rows)
        key = description.identity
        if key not in self.made:
            self.made[key] = keras.layers.Embedding(
                rows,
                size,
                trainable=config["trainable"],
                dtype=config["dtype"],
                name=description.new_name,
            )
        # Axis 0 is that of examples, so it holds no units: a vector is a table of one row here.
        shape = config["shape"][:-1] or (1,)
        places = _symbolic(np.arange(rows, dtype="int32").reshape(shape), anchor)
        tensor = table = self.made[key](places)
        _name_operations(description, [anchor], places, taken, suffix="rows")
        if table.shape != config["shape"]:
            tensor = keras.ops.reshape(table, config["shape"])
            _name_operations(description, [table], tensor, taken, suffix="vector")
            self.rows[id(tensor)] = table
        return tensor


def _name_operations(description, given, found, taken, suffix=None):
    """Names the operations between tensors after the layer that they stand for."""
    made = [leaf for leaf in keras.tree.flatten(found) if _keras.is_symbolic(leaf)]
    new = [node.operation for node in _keras.nodes_between(given, made)[0]]
    for place, operation in enumerate(reversed(new)):
        name = description.new_name if suffix is None else f"{description.new_name}_{suffix}"
        operation.name = name if place == 0 and suffix is None else _unused(name, taken)
        taken.add(operation.name)


def _unused(name, taken):
    names = (name, *(f"{name}_{number}" for number in range(1, len(taken) + 2)))
    return next(each for each in names if each not in taken)


def _highest_rank(structure):
    return max(
        (len(leaf.shape) for leaf in leaves(structure) if _keras.is_symbolic(leaf)), default=0
    )


def _is_ready(call, tensors):
    found = leaves((call.args, call.kwargs))
    return all((leaf.layer, leaf.call) in tensors for leaf in found if isinstance(leaf, Output))


def _looked_up(tensors):
    def value(leaf):
        is_output = isinstance(leaf, Output)
        return tensors[leaf.layer, leaf.call][leaf.index] if is_output else leaf

    return value


def _symbolic(value, anchor):
    """A constant that formally depends on a tensor, so that layers on it are in the graph."""
    if not isinstance(value, np.ndarray):
        return value
    zero = sizes.zero_of(anchor)
    return keras.ops.add(keras.ops.cast(zero, value.dtype.name), value)
