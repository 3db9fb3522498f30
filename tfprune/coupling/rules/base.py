"""What a rule says of an operation, and the registry of rules.

One operation, one rule. The rule is all that coupling, strip and rebuild know of the operation, so
a new operation is one class. An operation without a rule pins the units it touches: they cannot be
removed. It is never assumed to work element by element.
"""

import functools
from dataclasses import dataclass, field

import numpy as np

from tfprune.coupling.labels import FIXED

_RULES = {}


class Rule:
    """What the package must know of an operation. Override what the defaults do not say.

    The defaults fit an operation that works on each element by itself and has no weights.
    """

    def label(self, call, inputs, labels):
        """The labels of the outputs, given those of the inputs; notes weights and pins.

        Args:
            call: The `Call`.
            inputs: The label array of each input tensor.
            labels: The `Labels` to note things in.

        Returns:
            A label array for each output.
        """
        return [inputs[0]]

    def constants(self, call, inputs):
        """What each output position holds whatever the model's input is; NaN = not known.

        Args:
            call: The `Call`.
            inputs: An array for each input tensor which broadcasts against its labels.

        Returns:
            An array for each output.
        """
        return [np.full_like(call_input, np.nan) for call_input in inputs[:1]]

    def needs(self, call, flow):
        """Which units the call needs, given which of its outputs are needed.

        Args:
            call: The `Call`.
            flow: The `Flow` of the model: labels, constants and needed units of its tensors.

        Returns:
            A list of `Need`; an operation which moves data needs none, since the labels of its
            inputs and outputs are the same.
        """
        return []

    def folds(self, call, flow):
        """What biases become so that removed inputs which hold a constant are made up for.

        Returns:
            A list of `Fold`.
        """
        return []

    def drops(self, call, flow):
        """The places of the inputs without which the call gives the same; not all of them."""
        return ()

    def left_out(self, call, flow):
        """The labels of units which the operation already treats as if they were gone."""
        return np.empty(0, int)

    def is_refused(self, call, flow):
        """Whether the smaller operation could not compute the same; `strip` then refuses."""
        return False

    def resize(self, config, call, sizes):
        """Edits the layer's config (a dict of constructor arguments) for the new sizes.

        Args:
            config: The arguments, to be changed in place.
            call: A `Call` of the layer.
            sizes: The `Sizes` after the change.
        """

    def add_bias(self, config, call):
        """Edits the layer's config so that it gets the biases that `folds` asks for."""
        config["use_bias"] = True

    def factors(self, call, sizes):
        """Factors by which weights must grow where an operation scales by its own size.

        Returns:
            A list of pairs of a variable and a number.
        """
        return []

    def rewrite(self, node, call, sizes):
        """Edits what a call is given besides tensors, such as the bounds of a slice.

        Args:
            node: The call as serialised, a dict of `args` and `kwargs`, to be changed in place.
            call: The `Call`.
            sizes: The `Sizes` after the change.
        """

    @property
    def has_sizes(self):
        """Whether an operation with this rule must have the same sizes in each of its calls."""
        return type(self).resize is not Rule.resize


@dataclass(frozen=True, eq=False)
class Need:
    """The units among `labels` where `where` is True are needed; `reason` says by what."""

    labels: np.ndarray
    where: np.ndarray
    reason: str


@dataclass(frozen=True, eq=False)
class Fold:
    """What is added to a bias because inputs that held constants were removed.

    Attributes:
        layer: The layer, or layer inside a layer, with the attribute `bias`; if that is None, one
            is made, see `Rule.add_bias`.
        values: An array of the bias's shape before anything was removed.
        labels: For each axis of the bias, the labels along it.
    """

    layer: object
    values: np.ndarray
    labels: tuple


@dataclass(frozen=True, eq=False)
class Flow:
    """Labels, constants and needed units of every tensor while strip looks for dead units.

    `calls` are those that an output of the model needs at all.
    """

    tensor_labels: dict
    tensor_constants: dict
    roots: np.ndarray
    needed: np.ndarray = field(repr=False)
    called_once: frozenset = frozenset()
    calls: tuple = ()

    @functools.cached_property
    def operations(self):
        """The ids of the operations that `calls` call."""
        return frozenset(id(call.operation) for call in self.calls)

    def labels(self, tensor):
        """The label array of a tensor."""
        return self.tensor_labels[tensor]

    def constants(self, tensor):
        """The constants of a tensor, of its labels' shape; NaN where a unit holds several."""
        labels, array = self.tensor_labels[tensor], self.tensor_constants[tensor]
        pairs = zip(labels.shape, array.shape, strict=True)
        merged = tuple(axis for axis, (ours, theirs) in enumerate(pairs) if ours == 1 < theirs)
        first = array.min(axis=merged, keepdims=True)  # NaN if any is
        array = np.where(first == array.max(axis=merged, keepdims=True), first, np.nan)
        return np.broadcast_to(array, labels.shape)

    def is_needed(self, labels):
        """For each label, whether its unit is needed."""
        return self.needed[self.roots[labels]]

    def can_fold(self, call):
        """Whether the weights serve this call alone, so that its constants may go into them."""
        return id(call.operation) in self.called_once


def rule(*classes):
    """Registers a rule class for operations: `@rule(keras.layers.Dense)`.

    The rule of a class serves its subclasses, unless they have a rule or a `call` of their own. A
    custom layer without a rule, which cannot be opened either, pins what it touches; a rule
    teaches it.

    Args:
        *classes: Layer or operation classes.

    Returns:
        A decorator for a subclass of `Rule`.

    Example:

    A layer with a factor for each channel, which goes when the channel goes:

    >>> import keras
    >>> import tfprune
    >>> class Scale(keras.layers.Layer):
    ...     def build(self, shape):
    ...         self.factor = self.add_weight(shape=(shape[-1],), name="factor")
    ...     def call(self, inputs):
    ...         return inputs * self.factor
    >>> @tfprune.coupling.rule(Scale)
    ... class ScaleRule(tfprune.coupling.Rule):
    ...     def label(self, call, inputs, labels):
    ...         channels = tfprune.coupling.along(inputs[0], -1)
    ...         labels.slice(call.operation, call.operation.factor, 0, channels)
    ...         return [inputs[0]]
    >>> model = keras.Sequential([
    ...     keras.Input((3,)), tfprune.layers.Dense(4), Scale(), tfprune.layers.Dense(1)])
    >>> counts = tfprune.prune_units(model, 0.5)
    >>> tfprune.strip(model).layers[1].factor.shape
    TensorShape([2])
    """

    def register(rule_class):
        for operation_class in classes:
            _RULES[operation_class] = rule_class()
        return rule_class

    return register


def rule_of(operation):
    """The rule for an operation: that of its class or the nearest base class, else pinning.

    A subclass of somebody else's with a `call` of its own may do anything, so it has the rule of no
    base class.
    """
    for cls in type(operation).__mro__:
        if cls in _RULES:
            return _RULES[cls]
        if "call" in vars(cls) and cls.__module__.split(".")[0] not in ("keras", "tfprune"):
            break
    return _UNKNOWN


def has_rule(operation):
    """Whether there is a rule for an operation."""
    return rule_of(operation) is not _UNKNOWN


class _Unknown(Rule):
    def label(self, call, inputs, labels):
        name, type_name = call.operation.name, type(call.operation).__name__
        return pin_inputs(call, inputs, labels, f"{name!r} ({type_name}) has no rule")

    def constants(self, call, inputs):
        return unknown_outputs(call)


_UNKNOWN = _Unknown()


def fixed(tensor):
    """The labels of a tensor without units."""
    return np.full((1,) * (len(tensor.shape) - 1), FIXED)


def unknown(tensor):
    """The constants of a tensor of which nothing is known."""
    return np.full((1,) * (len(tensor.shape) - 1), np.nan)


def pin_inputs(call, arrays, labels, reason):
    """Pins the label arrays of the inputs of a call; returns labels of outputs without units."""
    for array in arrays:
        labels.pin(array, reason)
    return [fixed(tensor) for tensor in call.outputs]


def unknown_outputs(call):
    """The constants of the outputs of a call of which nothing is known."""
    return [unknown(tensor) for tensor in call.outputs]
