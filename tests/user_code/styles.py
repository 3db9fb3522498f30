"""Layers of users with and without a config, and with names that change."""

import inspect

import keras
import numpy as np

from tests.user_code.composites import (
    ConvBlock,
    Cross,
    DropBlock,
    GraphInside,
    KeepsMask,
    MaskedMean,
    Mlp,
    OneStep,
    SplitHeads,
    Squeeze,
    Transformer,
    TwoOutputs,
)
from tests.user_code.custom_weights import (
    Affine,
    Cell,
    ClassToken,
    Context,
    Filters,
    FirstPositions,
    Fused,
    Gated,
    Heads,
    Norm,
    Normalised,
    Picked,
    Position,
    Queries,
    Scale,
    Table,
    TakenPositions,
    Tied,
)

layers, ops = keras.layers, keras.ops


def _with_config(cls):
    """The class with a config of its arguments."""
    names = [
        name
        for name, parameter in inspect.signature(cls.__init__).parameters.items()
        if name != "self" and parameter.kind is not parameter.VAR_KEYWORD
    ]

    def get_config(self):
        return {**super(made, self).get_config(), **{name: getattr(self, name) for name in names}}

    made = _made(cls, "Config", {"get_config": get_config})
    return made


def _without_config(cls):
    """The class with an argument of which Keras cannot make a config."""

    def init(self, *args, hook=np.tanh, **kwargs):
        super(made, self).__init__(*args, **kwargs)
        self.hook = hook

    def get_config(self):
        raise NotImplementedError("no config")

    made = _made(cls, "NoConfig", {"__init__": init, "get_config": get_config})
    return made


def _renaming(cls):
    """The class with a name that `__init__` changes, and with a config."""

    def init(self, *args, name=None, **kwargs):
        super(made, self).__init__(*args, name=name, **kwargs)
        self.name = f"{self.name}_of_user"

    made = _made(_with_config(cls), "Renaming", {"__init__": init})
    return made


def _made(cls, suffix, attributes):
    name = f"{cls.__name__}{suffix}"
    made = type(cls)(name, (cls,), {"__module__": __name__, **attributes})
    return globals().setdefault(name, made)


OF_NUMBERS = [
    Position,
    FirstPositions,
    TakenPositions,
    Scale,
    Affine,
    Normalised,
    Gated,
    Heads,
    Norm,
    ClassToken,
    Queries,
    Tied,
    Fused,
    Context,
    Picked,
    Cell,
    Table,
    Filters,
    Mlp,
    TwoOutputs,
    Cross,
    SplitHeads,
    Transformer,
    ConvBlock,
    Squeeze,
    GraphInside,
    DropBlock,
    MaskedMean,
    KeepsMask,
    OneStep,
]
"""Those whose arguments are numbers and strings."""

STYLES = {cls: [cls, _with_config(cls), _without_config(cls), _renaming(cls)] for cls in OF_NUMBERS}
"""By class: as it is, with a config, without one, and with a name that changes."""
