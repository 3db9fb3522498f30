"""Regularizers of coupled units: penalties that make units small or close their gates."""

import math

import keras
import numpy as np

from tfprune._tools.checks import is_number
from tfprune._tools.registry import Registry
from tfprune.criteria import units as criteria
from tfprune.masks import layer_filter
from tfprune.stripping.prunable import prunable
from tfprune.units.l0 import L0
from tfprune.units.prunable import PrunableUnits
from tfprune.units.prune_units import prune_units
from tfprune.units.unit_regularizer import UnitRegularizer

__all__ = ["L0", "BatchNormL1", "GroupLasso", "Growing", "UnitRegularizer", "get", "serialize"]


@keras.saving.register_keras_serializable("tfprune")
class GroupLasso(UnitRegularizer):
    """Group lasso over coupled units, which drives whole units to 0.

    The penalty is strength * sum over units of sqrt(n_u) * ||w_u||, where w_u are all n_u trainable
    elements that go with a unit: its column in the layers that make it, its bias, its entries in
    norms, its rows in the layers that use it. An element where two units meet belongs to both.

    Args:
        strength: Float.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((1,)), keras.layers.Dense(2, use_bias=False), keras.layers.Dense(1)])
    >>> model.set_weights([np.array([[3.0, 0.0]]), np.array([[4.0], [1.0]]), np.zeros(1)])
    >>> regularizer = GroupLasso(0.1)
    >>> regularizer.attach(model)
    >>> print(f"{float(model.losses[0]):.4f}")  # 0.1 * sqrt(2) * (5 + 1)
    0.8485

    Reference:
        W. Wen et al., "Learning Structured Sparsity in Deep Neural Networks",
        https://arxiv.org/abs/1608.03665.
    """

    def __init__(self, strength=1e-4):
        super().__init__(strength)

    def penalty_of(self, squares, sizes):
        """The sum over units of sqrt(n_u) * ||w_u||; a unit at 0 has no gradient."""
        ops = keras.ops
        is_zero = squares == 0
        norms = ops.where(is_zero, 0.0, ops.sqrt(ops.where(is_zero, 1.0, squares)))
        return ops.sum(norms * np.sqrt(sizes).astype("float32"))


@keras.saving.register_keras_serializable("tfprune")
class BatchNormL1(UnitRegularizer):
    """L1 on the scales of batch norms ("network slimming").

    The penalty is strength * sum over units of |gamma|, over the batch norms of all units that can
    go. Prune by the criterion of the same name or by magnitude afterwards.

    Args:
        strength: Float.

    Reference:
        Z. Liu et al., "Learning Efficient Convolutional Networks through Network Slimming",
        https://arxiv.org/abs/1708.06519.
    """

    def __init__(self, strength=1e-4):
        super().__init__(strength)

    def prepare(self, model, pieces, only, exclude):
        """Keeps the scales of batch norms alone."""
        pieces.keep(
            lambda piece: (
                isinstance(piece.layer, keras.layers.BatchNormalization)
                and piece.variable is piece.layer.gamma
            ),
            "a scale of a batch norm",
        )

    def penalty(self):
        """The penalty, the strength included."""
        total = self._pieces.total(keras.ops.abs)
        return keras.ops.convert_to_tensor(self._variable) * keras.ops.sum(total)


@keras.saving.register_keras_serializable("tfprune")
class Growing(UnitRegularizer):
    """A rising penalty on the units that are going to be pruned (GReg-1).

    When it is attached, it selects once the units that `tfprune.prune_units(model, target,
    criterion)` would prune. The penalty is lambda / 2 * sum over these units of ||w_u||^2, w_u as
    in `GroupLasso`. Lambda rises by `increment` every `every` steps, up to `ceiling`, so that the
    other units take over before these are pruned. Prune by magnitude when lambda is large. Where
    `tfprune.fit_and_shrink` rebuilds the model, units are selected again, as a share of what is
    left, and lambda starts again.

    Args:
        target: The target of `tfprune.prune_units`. None: in `PruneUnits(regularizer=...)`, the
            target of that callback.
        increment: Float, the rise of lambda.
        every: Integer, the steps of the optimizer between two rises.
        ceiling: Float, the largest lambda.
        begin_step: Integer, the step at which lambda is `increment`: steps of the optimizer, in a
            model with masks since these were made.
        criterion: "magnitude" or another that needs no training; see `tfprune.criteria.units`.

    Reference:
        H. Wang et al., "Neural Pruning via Growing Regularization",
        https://arxiv.org/abs/2012.09243.
    """

    def __init__(
        self,
        target=None,
        *,
        increment=1e-4,
        every=10,
        ceiling=1.0,
        begin_step=0,
        criterion="magnitude",
    ):
        for name, value in (("increment", increment), ("every", every), ("ceiling", ceiling)):
            if not is_number(value) or value <= 0:
                raise ValueError(f"Argument `{name}` must be positive. Received: {value!r}.")
        super().__init__(0.0)
        self.target = target
        self.increment = increment
        self.every = every
        self.ceiling = ceiling
        self.begin_step = begin_step
        self.criterion = criteria.get(criterion)
        self.default_target = None
        self._begin = begin_step

    def prepare(self, model, pieces, only, exclude):
        """Chooses the units, on a copy of the model that is thrown away."""
        target = self.default_target if self.target is None else self.target
        if target is None:
            raise ValueError(
                "Argument `target` of `Growing` must say how much is to be pruned, unless "
                "`PruneUnits` does. Received: target=None."
            )
        self._begin = self.begin_step
        trial = prunable(model)
        of_trial = layer_filter.Counterparts(model, trial).filter
        filters = {"only": of_trial(only), "exclude": of_trial(exclude)}
        prune_units(trial, target, self.criterion, **filters)
        units = PrunableUnits(trial)
        if units.coupling.size != pieces.coupling.size:
            raise ValueError(
                "The model has composite layers, whose units are not known from outside. "
                f"Received: model={model.name!r}. Train `tfprune.prunable(model)`."
            )
        self._selected = units.pruned()[pieces.units].astype("float32")

    def update(self, step):
        """Sets lambda to its value at a step."""
        risen = 0 if step < self._begin else 1 + (step - self._begin) // self.every
        strength = min(self.ceiling, self.increment * risen)
        if not math.isclose(strength, self.strength, rel_tol=1e-9):
            self.strength = strength

    def restart(self, step):
        """Lets lambda rise from this step on."""
        self._begin = max(step, self.begin_step)
        self.update(step)

    def get_state(self):
        """The units that were chosen, and the step at which lambda began to rise."""
        return {"chosen": self._selected, "begin": self._begin}

    def set_state(self, state):
        """Gives the state back."""
        self._selected, self._begin = state["chosen"], state["begin"]

    def penalty_of(self, squares, sizes):
        """Half the sum of the squares over the chosen units."""
        return 0.5 * keras.ops.sum(squares * self._selected)

    def get_config(self):
        """The arguments that make this regularizer again."""
        names = ("increment", "every", "ceiling", "begin_step")
        return {
            "target": keras.saving.serialize_keras_object(self.target),
            **{name: getattr(self, name) for name in names},
            "criterion": criteria.serialize(self.criterion),
        }


_NAMES = {
    "group_lasso": GroupLasso,
    "batch_norm_l1": BatchNormL1,
    "growing": Growing,
    "l0": L0,
}
_REGISTRY = Registry(
    UnitRegularizer,
    argument="regularizer",
    expected=f"a `UnitRegularizer`, its configuration, or one of {sorted(_NAMES)}",
    classes=_NAMES.values(),
    names=_NAMES,
)
serialize = _REGISTRY.serialize


def get(identifier, argument="regularizer"):
    """Returns the `UnitRegularizer` that a name or a configuration means; `None` for `None`.

    Args:
        identifier: "group_lasso", "batch_norm_l1", "growing" or "l0"; a `UnitRegularizer`; its
            configuration; or `None`.
        argument: String, how the caller calls the argument, for errors.

    Raises:
        ValueError: If it is none of these.

    >>> get("group_lasso").strength
    0.0001
    """
    return None if identifier is None else _REGISTRY.get(identifier, argument)
