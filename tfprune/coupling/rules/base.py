"""`Rule`, the base class of rules, and the registry of rules by operation class.

A rule is all that coupling, strip and rebuild know of an operation, so supporting a new operation
takes one class. For an operation without a rule see `inferred`: unless running it proves how units
pass through, it pins the units it touches, and they cannot be removed. It is never assumed to work
element by element.
"""

import functools
import inspect
from dataclasses import dataclass, field

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.labels import FIXED

_RULES = {}


class Rule:
    """Base class of rules: how an operation is analysed, simplified and resized.

    The defaults fit an element-wise operation without weights. Override

    - `label` if it has weights, moves data, or joins or mixes units;
    - `constants`, `needs`, `folds`, `drops` for constant propagation and dead-code elimination;
    - `resize`, `rewrite`, `add_bias`, `factors` if its arguments depend on sizes.

    Register it with `rule`.
    """

    def label(self, call, inputs, labels):
        """Returns the labels of the outputs, and records slices of weights, ties and pins.

        Args:
            call: The `Call`.
            inputs: The label array of each input tensor.
            labels: The `Labels` to record in.

        Returns:
            A label array for each output.
        """
        return [inputs[0]]

    def label_arrays(self, call, inputs, outputs, labels):
        """The labels of the outputs of a call in a layer that is resized in place, with arrays.

        Arrays among the arguments that are weights have units, see `WeightArray`; others are
        constants in the code of the layer, which stay as they are. By default, units are pinned
        where a weight is taken, and else arrays taken to be indices.

        Args:
            call: The `Call`, with `arrays`.
            inputs: The label array of each input tensor.
            outputs: The label arrays that `label` returned.
            labels: The `Labels` to record in.

        Returns:
            A label array for each output.
        """
        weights = [array for array in call.arrays if getattr(array, "axes", None)]
        if not weights:
            return outputs
        reason = f"{call.operation.name!r} takes a weight in a way that has no rule"
        vectors = [v for array in weights for v in labels.along_axes(array) if v is not None]
        return pin_inputs(call, [*inputs, *outputs, *vectors], labels, reason)

    def constants(self, call, inputs):
        """Returns the outputs where they are the same for every input of the model, else NaN.

        Args:
            call: The `Call`.
            inputs: An array for each input tensor, constants or NaN, which broadcasts against its
                labels.

        Returns:
            An array for each output.
        """
        return [np.full_like(call_input, np.nan) for call_input in inputs[:1]]

    def needs(self, call, flow):
        """Returns which units the call needs, given which of its outputs are needed (liveness).

        Args:
            call: The `Call`.
            flow: The `Flow` of the model: labels, constants and needed units of its tensors.

        Returns:
            A list of `Need`. Operations that only move data return none, since their inputs and
            outputs have the same labels.
        """
        return []

    def folds(self, call, flow):
        """Returns what is added to biases in place of constant inputs that are removed.

        Returns:
            A list of `Fold`.
        """
        return []

    def drops(self, call, flow):
        """Returns the positions of inputs that can be dropped without effect; never of all."""
        return ()

    def empty_pieces(self, call, sizes):
        """Returns which outputs of a split are empty after the change; nothing of other calls."""
        return []

    def left_out(self, call, flow):
        """Returns the labels of units that the operation already treats as removed."""
        return np.empty(0, int)

    def is_refused(self, call, flow):
        """Whether the smaller operation could not compute the same; `strip` raises then."""
        return False

    def resize(self, config, call, sizes):
        """Edits the layer's config (a dict of constructor arguments) for the new sizes.

        Args:
            config: The arguments, changed in place.
            call: A `Call` of the layer.
            sizes: The `Sizes` after the change.
        """

    def resize_in_place(self, layer, call, sizes):
        """Resizes the copy of a layer that stays the object it is, and goes through no config.

        Args:
            layer: The copy, changed in place. Its weights get the new shapes, with any values.
            call: A `Call` of the layer.
            sizes: The `Sizes` after the change.
        """

    def in_place(self, call):
        """Returns the layers inside that stay the objects they are while the layer is made anew.

        Returns:
            A dict from the id of each to a function of its copy and the `Sizes` after the change,
            which resizes the copy.
        """
        return {}

    def add_bias(self, config, call):
        """Edits the layer's config so that it has the biases that `folds` adds to."""
        config["use_bias"] = True

    def factors(self, call, sizes):
        """Returns factors for weights of an operation that scales by its own size.

        Returns:
            A list of tuples of a variable, the factor for its value and, if anything is added after
            that, the summand.
        """
        return []

    def rewrite(self, node, call, sizes):
        """Edits the arguments of a call that are not tensors, such as the bounds of a slice.

        Args:
            node: The serialised call, a dict of `args` and `kwargs`, changed in place.
            call: The `Call`.
            sizes: The `Sizes` after the change.
        """

    @property
    def has_sizes(self):
        """Whether an operation with this rule must have the same sizes in each of its calls."""
        return type(self).resize is not Rule.resize


@dataclass(frozen=True, eq=False)
class Need:
    """Units that a call needs: those of `labels` where `where` is True, with the reason."""

    labels: np.ndarray
    where: np.ndarray
    reason: str


@dataclass(frozen=True, eq=False)
class Fold:
    """A constant that is folded into a bias because constant inputs were removed.

    Attributes:
        layer: The layer, or layer inside a layer, with the attribute `bias`. If that is None, a
            bias is created, see `Rule.add_bias`.
        values: An array of the bias's shape before anything was removed.
        labels: For each axis of the bias, the labels along it.
    """

    layer: object
    values: np.ndarray
    labels: tuple


@dataclass(frozen=True, eq=False)
class Flow:
    """State of the liveness analysis: labels, constants and needed units of every tensor.

    `calls` are the live calls: those that an output of the model needs.
    """

    tensor_labels: dict
    tensor_constants: dict
    roots: np.ndarray
    needed: np.ndarray = field(repr=False)
    called_once: frozenset = frozenset()
    calls: tuple = ()

    @functools.cached_property
    def operations(self):
        """The ids of the operations that `calls` call, and of the layers and models around them."""
        called = frozenset(id(call.operation) for call in self.calls)
        return called.union(id(parent) for call in self.calls for parent in call.parents)

    def labels(self, tensor):
        """The label array of a tensor."""
        return self.tensor_labels[tensor]

    def constants(self, tensor):
        """The constants of a tensor in the shape of its labels; NaN where a unit has several."""
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
        """Whether the operation has no other call, so constants can be folded into its biases."""
        return id(call.operation) in self.called_once


def rule(*classes):
    """Returns a decorator that registers a rule for operation classes: `@rule(keras.layers.Dense)`.

    Use it where `explain` says that none can be inferred. Such a layer, if it cannot be inlined,
    pins the units it touches: they are never removed. A rule also applies to subclasses
    that have neither a rule nor a `call` of their own.

    Args:
        *classes: Layer or operation classes.

    Returns:
        A decorator for a subclass of `Rule`.

    Example:

    A layer with a factor for each channel, which is removed with the channel:

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
    """Returns the rule of an operation: that of its class or nearest base, else the inferred one.

    A custom subclass that overrides `call` may do anything, so it gets the rule of no base class.
    """
    classes = type(operation).__mro__
    for place, cls in enumerate(classes):
        if cls in _RULES:
            return _RULES[cls]
        is_own = cls.__module__.split(".")[0] not in ("keras", "tfprune")
        if is_own and _has_own_call(cls, classes[place + 1 :]):
            break
    return _RULES[keras.Operation]


def _has_own_call(cls, bases):
    """Whether a class has another `call` than its bases; to be wrapped for masks is not that."""
    inherited = next((vars(base)["call"] for base in bases if "call" in vars(base)), None)
    call = vars(cls).get("call", inherited)
    return inspect.unwrap(call) is not inspect.unwrap(inherited)


def label(calls, known, labels, instead=None):
    """Labels the tensors that calls make, in their order, by the rules of their operations.

    Args:
        calls: The calls.
        known: Dict from a tensor to its label array, which is added to.
        labels: The `Labels` to record in.
        instead: Dict from the id of an operation to a function of a call of it and the labels. It
            returns the label array of its output in place of that of the rule.
    """
    for call in calls:
        inputs = [known[tensor] for tensor in call.inputs]
        outputs = rule_of(call.operation).label(call, inputs, labels)
        if call.in_place and call.arrays:
            outputs = rule_of(call.operation).label_arrays(call, inputs, outputs, labels)
        if instead and id(call.operation) in instead:
            outputs = [instead[id(call.operation)](call, labels)]
        known.update(zip(call.outputs, outputs, strict=True))


def has_rule(operation):
    """Whether a rule is registered for an operation, so that none is inferred."""
    return rule_of(operation) is not _RULES[keras.Operation]


def values_of(weight):
    """Returns the values of a weight, as an array that may share its memory and stays as it is."""
    return _keras.values(weight) if isinstance(weight, keras.Variable) else np.asarray(weight)


def fixed(tensor):
    """Returns the labels of a tensor without units."""
    return np.full((1,) * (len(tensor.shape) - 1), FIXED)


def unknown(tensor):
    """Returns the constants of a tensor of which none is known."""
    return np.full((1,) * (len(tensor.shape) - 1), np.nan)


def pin_inputs(call, arrays, labels, reason):
    """Pins the label arrays of the inputs of a call; returns labels of outputs without units."""
    for array in arrays:
        labels.pin(array, reason)
    return [fixed(tensor) for tensor in call.outputs]


def unknown_outputs(call):
    """Returns the constants of the outputs of a call of which none is known."""
    return [unknown(tensor) for tensor in call.outputs]
