"""Pieces of a model, as a runtime runs them one after the other, and a small model of each.

A piece is a call with the padding before it and the calls that follow it one by one on a tensor of
the same shape, as a norm and an activation do behind a convolution: runtimes fuse these, or run
them while the data is near.
Its latency depends on the sizes of its tensors and weights alone, not on their values.
"""

import hashlib
import json
import math
from dataclasses import dataclass, field, replace

import keras

from tfprune import _keras
from tfprune.coupling.calls import Passed, Tensor
from tfprune.coupling.costs import macs_of_call, sized_calls
from tfprune.coupling.kept_units import keeping
from tfprune.coupling.resizing import resized_config
from tfprune.coupling.rules import has_rule
from tfprune.coupling.sizes import Sizes
from tfprune.rebuild.convert import to_stock

_FREE = (
    keras.layers.Dropout,
    keras.layers.Flatten,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.Identity,
    keras.layers.Reshape,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
    Passed,
)
"""What does nothing at inference, or moves no data."""

_PADDING = (
    keras.layers.ZeroPadding1D,
    keras.layers.ZeroPadding2D,
    keras.layers.ZeroPadding3D,
)

_WITHOUT_EFFECT = ("name", "trainable", "seed", "momentum", "quantization_config")
_ENDINGS = ("_initializer", "_regularizer", "_constraint")


@dataclass(frozen=True, eq=False)
class Piece:
    """Calls that a runtime runs in a row.

    Attributes:
        calls: A tuple of `Call`.
        macs: The multiply-accumulates for one sample, None if they are not known.
    """

    calls: tuple
    macs: int | None

    @property
    def inputs(self):
        """The tensors that it takes, each once."""
        return tuple(dict.fromkeys(self.calls[0].inputs))

    @property
    def tensors(self):
        """All its tensors, each once."""
        outputs = (tensor for call in self.calls for tensor in call.outputs)
        return (*self.inputs, *outputs)

    @property
    def operation(self):
        """The operation that it is named after."""
        return self.calls[0].operation


@dataclass(frozen=True, eq=False)
class SmallModel:
    """A piece with given sizes, from which a model can be built.

    Attributes:
        key: A string that is the same for all pieces that take the same time.
    """

    key: str
    _inputs: tuple = field(repr=False)
    _steps: tuple = field(repr=False)
    _custom_objects: dict = field(repr=False)

    @property
    def digest(self):
        """The key in 16 characters."""
        return hashlib.sha256(self.key.encode()).hexdigest()[:16]

    def build(self, name):
        """The Keras model; it has random weights.

        Args:
            name: String, the name of the model.
        """
        known = {
            tensor: keras.Input(batch_shape=shape, dtype=tensor.dtype, name=f"{name}_{place}")
            for place, (tensor, shape) in enumerate(self._inputs)
        }
        inputs = list(known.values())

        def value(leaf):
            return known[leaf] if isinstance(leaf, Tensor) else leaf

        for config, call in self._steps:
            operation = keras.saving.deserialize_keras_object(
                config, custom_objects=self._custom_objects, safe_mode=False
            )
            args, kwargs = keras.tree.map_structure(value, (list(call.args), dict(call.kwargs)))
            kwargs.pop("training", None)
            made = keras.tree.flatten(operation(*args, **kwargs))
            known.update(zip(call.outputs, made, strict=True))
        outputs = [known[tensor] for tensor in self._steps[-1][1].outputs]
        return keras.Model(inputs, outputs, name=name)


class Pieces:
    """The pieces of a model.

    Args:
        model: A Functional or built Sequential model.
        coupling: Its units, from `tfprune.coupling.couple(model)`.
        batch_size: How many samples one call takes.
        input_shapes: Sizes for dynamic dimensions, as in `tfprune.coupling.costs`.

    Attributes:
        all: A tuple of each `Piece`, in the order in which they run.

    Example:

    >>> from tfprune.coupling import couple
    >>> model = keras.Sequential([
    ...     keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, use_bias=False),
    ...     keras.layers.BatchNormalization(), keras.layers.ReLU(), keras.layers.Conv2D(2, 3)])
    >>> [len(piece.calls) for piece in Pieces(model, couple(model)).all]
    [3, 1]
    """

    def __init__(self, model, coupling, batch_size=1, input_shapes=None):
        self._coupling, self._shapes = coupling, {}
        self._by_layer = {}
        for piece in coupling.slices:
            self._by_layer.setdefault(id(piece.layer), []).append(piece)
        uses, macs, batch = {}, {}, 1
        for call, shapes, batch in sized_calls(coupling.trace, model, input_shapes):
            macs[call] = macs_of_call(call.operation, shapes, batch)[0]
            self._shapes.update(zip(call.inputs, shapes.inputs, strict=False))
            self._shapes.update(zip(call.outputs, shapes.outputs, strict=True))
            for tensor in dict.fromkeys(call.inputs):
                uses[tensor] = uses.get(tensor, 0) + 1
        self._samples = batch_size // batch
        for tensor in keras.tree.flatten(coupling.trace.outputs):
            uses[tensor] = uses.get(tensor, 0) + 1
        rows, place = [], {}
        for call in coupling.trace.calls:
            if isinstance(call.operation, _FREE):
                continue
            row = place.get(call.inputs[0]) if len(call.inputs) == 1 else None
            if row and uses[call.inputs[0]] == 1 and (_follows(call) or _is_padding(row[-1])):
                row.append(call)
            else:
                row = [call]
                rows.append(row)
            if len(call.outputs) == 1:
                place[call.outputs[0]] = row
        self.all = tuple(Piece(tuple(row), _sum([macs[call] for call in row])) for row in rows)

    def slices(self, piece):
        """The slices of the weights of a piece."""
        return [each for call in piece.calls for each in self._by_layer.get(id(call.operation), ())]

    def small_model(self, piece, kept):
        """The model of a piece with some units alone.

        Args:
            piece: A `Piece`.
            kept: Boolean array over units.

        Returns:
            A `SmallModel`, or None if none can be made.
        """
        if not all(map(_can_be_made, piece.calls)):
            return None
        sizes = Sizes(keeping(replace(self._coupling, slices=tuple(self.slices(piece))), kept))
        custom_objects = _keras.custom_objects_of([call.operation for call in piece.calls])
        inputs = tuple((tensor, self._shape(tensor, sizes)) for tensor in piece.inputs)
        if any(None in shape for _, shape in inputs):
            return None
        steps, said = [], []
        for call in piece.calls:
            config = _serialised(call.operation, custom_objects)
            if config is None:
                return None
            config = resized_config(config, call.operation, sizes)
            steps.append((config, call))
            said.append([config["class_name"], _essential(config["config"]), _values(call)])
        shapes = [[list(shape), tensor.dtype] for tensor, shape in inputs]
        key = json.dumps([shapes, said], sort_keys=True, default=str)
        return SmallModel(key, inputs, tuple(steps), custom_objects)

    def _shape(self, tensor, sizes):
        now = self._shapes[tensor]
        labels = self._coupling.tensor_labels[tensor].shape
        after = sizes.of_tensor(tensor)[1:]
        changed = (
            b if along != 1 else a for along, a, b in zip(labels, now[1:], after, strict=True)
        )
        return (now[0] and now[0] * self._samples, *changed)


def _follows(call):
    """Whether a call works on each element of one tensor, as a norm and an activation do."""
    if len(call.inputs) != 1 or len(call.outputs) != 1 or not _can_be_made(call):
        return False
    is_norm = isinstance(call.operation, keras.layers.BatchNormalization)
    has_weights = bool(getattr(call.operation, "weights", ()))
    return (is_norm or not has_weights) and call.inputs[0].shape == call.outputs[0].shape


def _is_padding(call):
    return isinstance(call.operation, _PADDING)


def _can_be_made(call):
    """Whether the operation of a call can be made again from its config."""
    return has_rule(call.operation) and not (call.in_place or call.masks or call.arrays)


def _serialised(operation, custom_objects):
    try:
        config = keras.saving.serialize_keras_object(operation)
    except Exception:  # of a user's class, which can fail in any way
        return None
    config = _keras.without_shapes(to_stock(config))
    return _keras.with_functions(config, operation, custom_objects)


def _essential(config):
    """What of the arguments of an operation says how long it takes."""
    return {
        name: value
        for name, value in config.items()
        if name not in _WITHOUT_EFFECT and not name.endswith(_ENDINGS)
    }


def _values(call):
    """The arguments of a call that are no tensors."""
    leaves = keras.tree.flatten([list(call.args), dict(call.kwargs)])
    return [repr(leaf) for leaf in leaves if not isinstance(leaf, Tensor)]


def _sum(macs):
    return None if None in macs else math.fsum(macs)
