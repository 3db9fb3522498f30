"""Base class of regularizers of coupled units.

A penalty is added to the loss through the regularizer of one weight of the model, which Keras calls
at every step; so `fit`, jit and strategies work unchanged. It is in no config and in no saved
model. The strength is a variable: changing it retraces nothing.
"""

import math

import keras

from tfprune._tools.checks import is_number
from tfprune._tools.registry import Configurable
from tfprune.masks import layer_filter
from tfprune.units.prunable import PREDICATE
from tfprune.units.slice_sums import SliceSums


class UnitRegularizer(Configurable):
    """Base class of penalties on coupled units, in the loss of a model while attached.

    A subclass implements `penalty_of(squares, sizes)`, or `penalty`.

    Args:
        strength: Float, the factor of the penalty.
    """

    prunes = False
    """Whether units are pruned when it is detached, which is at the end of training."""

    def __init__(self, strength):
        if not is_number(strength) or not 0 <= strength < math.inf:
            raise ValueError(
                "Argument `strength` must be a non-negative number. "
                f"Received: strength={strength!r}."
            )
        self._value = float(strength)
        self._variable = None
        self._carrier = None
        self.model = None
        """The model whose loss has the penalty, or None."""

    @property
    def strength(self):
        """The factor of the penalty; it can be set while a model trains."""
        return self._value

    @strength.setter
    def strength(self, value):
        self._value = float(value)
        if self._variable is not None:
            self._variable.assign(self._value)

    def attach(self, model, *, only=None, exclude=None):
        """Adds the penalty to the loss of a model, from the next trace of its steps on.

        Args:
            model: Any Keras model that is built, with masks or without.
            only, exclude: Whose units are penalised; see `tfprune.prune_units`.

        Raises:
            ValueError: If no unit of the model can go, or there is nothing to penalise.
        """
        layer_filter.check(only, exclude, PREDICATE)
        self.detach()
        pieces = SliceSums(model, only, exclude)
        self.prepare(model, pieces, only, exclude)
        self._pieces = pieces
        self._add_penalty(model, pieces.variables[0])

    def _add_penalty(self, model, carrier):
        """Adds the penalty to the regularizer of a weight of the model."""
        with model.distribute_strategy.scope():
            self._variable = keras.Variable(
                self._value, trainable=False, dtype="float32", name="unit_penalty_strength"
            )
        self.model = model
        carrier.regularizer = _Added(carrier.regularizer, self)
        self._carrier = carrier

    def detach(self):
        """Removes the penalty from the loss, from the next trace of its steps on."""
        if self._carrier is not None:
            self._carrier.regularizer = _without(self._carrier.regularizer, self)
        self._carrier = self._variable = self._pieces = self.model = None

    def prepare(self, model, pieces, only, exclude):
        """Called when the penalty is attached to a model."""

    def update(self, step):
        """Called after each step of the optimizer."""

    def measure(self):
        """What the logs of epochs get besides the penalty: a dict of floats."""
        return {}

    def get_state(self):
        """What it has found out while attached: a dict of numbers and arrays."""
        return {}

    def set_state(self, state):
        """Gives the state back; whoever does it traces the model anew."""

    def restart(self, step):
        """Called where another model replaces the one that is trained."""

    def penalty(self):
        """The penalty, the strength included: a scalar tensor."""
        if self.model is None:
            raise ValueError("The regularizer is not attached to a model: call `attach(model)`.")
        return keras.ops.convert_to_tensor(self._variable) * self.penalty_of(
            self._pieces.squares(), self._pieces.sizes
        )

    def penalty_of(self, squares, sizes):
        """The penalty without the strength.

        Args:
            squares: Tensor `(units,)`, the sum of the squares of each unit's elements.
            sizes: Array `(units,)`, how many elements that are.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `penalty_of`.")

    def get_config(self):
        """The arguments that make this regularizer again."""
        return {"strength": self.strength}


class _Added:
    """The regularizer of a weight, and the penalty on units besides."""

    def __init__(self, before, regularizer):
        self.before = before
        self.regularizer = regularizer

    def __call__(self, value):
        penalty = self.regularizer.penalty()
        return penalty if self.before is None else self.before(value) + penalty


def _without(added, regularizer):
    """The regularizer of a weight without one of those that were added."""
    if added.regularizer is regularizer:
        return added.before
    return _Added(_without(added.before, regularizer), added.regularizer)
