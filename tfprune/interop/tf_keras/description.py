"""Description of a `tf_keras` model: its layers, their calls, configs and weights."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

WRAPPER = "PruneLowMagnitude"
"""The class of tfmot's pruning wrappers."""

OWN_WEIGHT = "OwnWeight"
"""The `class_name` of a weight that a traced layer held itself; it is described as a layer."""


@dataclass(frozen=True)
class Output:
    """An output tensor of a layer's call."""

    layer: str
    call: int
    index: int


@dataclass(frozen=True)
class Call:
    """A call of a layer; `Output`s stand for tensors in its arguments."""

    index: int
    args: tuple
    kwargs: dict


@dataclass(frozen=True)
class Weight:
    """A weight of a layer: its path, as "dense/kernel", its value, and its mask if it has one."""

    path: str
    value: np.ndarray
    mask: np.ndarray | None = None

    @property
    def name(self):
        """Its name in the layer."""
        return self.path.split("/")[-1]


@dataclass(frozen=True)
class ModelDescription:
    """A Functional or Sequential model.

    Attributes:
        name: Its name.
        layers: Its `LayerDescription`s.
        inputs, outputs: Structures of `Output`; None for a Sequential model.
        input_shape: The shape a Sequential model was built for, if it has no input layer.
        trainable: Its attribute.
        is_sequential: Whether the layers are a sequence, without calls of their own.
        is_one_layer: Whether it stands for a subclassed model, its last layer, and adds nothing.
    """

    name: str
    layers: tuple
    inputs: Any = None
    outputs: Any = None
    input_shape: tuple | None = None
    trainable: bool = True
    is_sequential: bool = False
    is_one_layer: bool = False


@dataclass(frozen=True)
class LayerDescription:
    """A layer, or a model in a model.

    Attributes:
        name: Its name in `tf_keras`, without pruning wrappers.
        serialised: Dict with `class_name`, `config` and perhaps `module` and `registered_name`.
        calls: Its calls in the graph.
        identity: The same for one layer in several places; None if that is not known.
        model: The model that it is, or that stands in its place.
        weights: The weights, trainable ones first; None if those of `model` are known one by one.
        problem: Why a layer that is not Keras's own has no `model`.
        key: The name by which outputs refer to it: that of its wrapper, if it has one.
    """

    name: str
    serialised: dict
    calls: tuple = ()
    identity: Any = None
    model: ModelDescription | None = None
    weights: tuple | None = None
    problem: str | None = None
    key: str = field(default="")

    @property
    def new_name(self):
        """Its name in Keras 3, where a name has no slashes."""
        return self.name.replace("/", "_")

    @property
    def class_name(self):
        """The name of its class."""
        return self.serialised["class_name"]


def mapped(structure, function, is_leaf=lambda value: False):
    """The structure of dicts, lists and tuples with `function` of each leaf."""
    if is_leaf(structure):
        return function(structure)
    if isinstance(structure, dict):
        return {key: mapped(value, function, is_leaf) for key, value in structure.items()}
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        return type(structure)(*(mapped(value, function, is_leaf) for value in structure))
    if isinstance(structure, (list, tuple)):  # or a wrapper that TensorFlow puts around one
        kind = list if isinstance(structure, list) else tuple
        return kind(mapped(value, function, is_leaf) for value in structure)
    return function(structure)


def leaves(structure):
    """The leaves of a structure of dicts, lists and tuples."""
    found = []
    mapped(structure, found.append)
    return found
