"""L0 regularization of coupled units: hard concrete gates that are trained with the model."""

import keras

from tfprune._tools.checks import check_integer, is_number, one_of
from tfprune.masks import layer_filter
from tfprune.masks.skipping import warn_of_skipped
from tfprune.units import hard_concrete
from tfprune.units.gates import COSTS, UnitGates
from tfprune.units.prunable import PREDICATE
from tfprune.units.unit_regularizer import UnitRegularizer


@keras.saving.register_keras_serializable("tfprune")
class L0(UnitRegularizer):
    """Hard concrete gates on coupled units, and their expected cost as penalty (L0).

    Each unit is multiplied by a gate between 0 and 1, both of which have probability (hard concrete
    distribution), drawn anew in each training step and the same for all examples. The penalty is

        strength * sum_u cost_u * P(gate_u != 0) / sum_u cost_u,

    the expected share of the cost that the units have in the dense model, times the strength: from
    0 to `strength`, whatever the size of the model. The parameters of the gates are trained with
    the model, by its loss and the penalty. In inference the gates are not random.

    When it is detached, at the end of `fit`, the weights that use the units are multiplied by the
    gates, and units whose gate is 0 are pruned; so the model computes what it did with gates, and
    `tfprune.strip` removes the units. It needs no criterion and no target: the strength says how
    many units stay. Try some; a strength of about the loss of the trained model is a beginning.

    It is to be used with `tfprune.callbacks.RegularizeUnits`, on a model that carries masks. Units
    with frozen elements, those that a layer uses that carries no masks or is not trained, and those
    that a normalization takes statistics over, have no gates; a warning names them. Files written
    while it trains hold the weights without gates; `tfprune.callbacks.BackupAndRestore` keeps them.
    In `steps_per_execution` steps all gates change at the end of these.

    Gates rather than learned thresholds, because a threshold would need a magnitude of each unit,
    which means something else in each kind of layer; a gate works on any unit alike.

    Args:
        strength: Float.
        cost: What a unit costs: "units": 1; or its "parameters" or "macs" in the dense model.
        optimizer: A Keras optimizer for the gates, its name or configuration. By default that of
            the model: another of its kind with the same hyperparameters, which follows its learning
            rate, without decay of weights and clipping.
        dropout: Float between 0 and 1: what the gates begin with. In a trained model let it be
            small.
        seed: Integer. A sample depends on it and the step alone.

    Raises:
        ValueError: If an argument is wrong; when it is attached, if no unit can have a gate.

    Example:

    >>> import numpy as np
    >>> import tfprune
    >>> model = tfprune.prunable(keras.Sequential([
    ...     keras.Input((4,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(1)]))
    >>> model.compile("adam", "mse")
    >>> history = model.fit(
    ...     np.ones((8, 4)), np.ones((8, 1)), verbose=0,
    ...     callbacks=[tfprune.callbacks.RegularizeUnits(L0(0.1, seed=0))])
    >>> history.history["open_units"]
    [1.0]

    Reference:
        C. Louizos, M. Welling, D. P. Kingma, "Learning Sparse Neural Networks through L0
        Regularization", https://arxiv.org/abs/1712.01312.
    """

    prunes = True

    def __init__(self, strength=0.1, *, cost="units", optimizer=None, dropout=0.1, seed=None):
        super().__init__(strength)
        self.cost = one_of("cost", cost, COSTS)
        if not is_number(dropout) or not 0 < dropout < 1:
            raise ValueError(
                f"Argument `dropout` must be a number between 0 and 1. Received: {dropout!r}."
            )
        self.dropout = dropout
        self.optimizer = None if optimizer is None else keras.optimizers.get(optimizer)
        if seed is not None:
            check_integer("seed", seed, least=0)
        self.seed = seed
        state = keras.random.SeedGenerator(seed).state  # the seed, drawn where none is given
        self._drawn = int(keras.ops.convert_to_numpy(state)[0])
        self._gates = None

    @property
    def gates(self):
        """The `tfprune.units.gates.UnitGates` of the model, or None."""
        return self._gates

    def attach(self, model, *, only=None, exclude=None):
        """Puts gates on the units of a masked model, from the next trace of its steps on.

        Args:
            model: A model that carries masks.
            only, exclude: Whose units get gates; see `tfprune.prune_units`.

        Raises:
            ValueError: If no unit can have a gate.
        """
        layer_filter.check(only, exclude, PREDICATE)
        self.detach()
        gates = UnitGates(
            model,
            only=only,
            exclude=exclude,
            cost=self.cost,
            dropout=self.dropout,
            seed=self._drawn,
        )
        trainer = self._make_trainer(model)
        # Optimizers step on replicas alone, so what is trained is a variable of no strategy.
        trained = keras.Variable(gates.log_alpha, trainable=True, autocast=False)
        trainer.build([trained])
        gates.attach()
        warn_of_skipped(gates.skipped)
        self._gates, self._trainer, self._trained, self._step = gates, trainer, trained, None
        self._add_penalty(model, gates.variables[0])

    def detach(self):
        """Folds the gates into the weights, prunes the units at 0, and removes the penalty."""
        gates, self._gates = self._gates, None
        if gates is not None:
            gates.detach()
            gates.fold()
        super().detach()

    def update(self, step):
        """Trains the gates by what was summed since they were trained last.

        Args:
            step: Integer, the steps of the optimizer. After several at once, as many steps are made
                with the mean of their gradients.
        """
        if self._step is None or step < self._step:
            self._step = step
            return
        count, self._step = step - self._step, step
        if not count:
            return
        optimizer = getattr(self.model, "optimizer", None)
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        batches = count * (getattr(inner, "gradient_accumulation_steps", None) or 1)
        gates = self._gates
        gradient = gates.total_gradient() / batches
        if self.optimizer is None:
            self._trainer.learning_rate = float(keras.ops.convert_to_numpy(inner.learning_rate))
        for _ in range(count):
            slope = keras.ops.convert_to_numpy(hard_concrete.slope_open(self._trained))
            total = keras.ops.convert_to_tensor(gradient + self.strength * gates.costs * slope)
            self._trainer.apply([total], [self._trained])
            self._trained.assign(hard_concrete.limited(self._trained))
        gates.log_alpha.assign(keras.ops.convert_to_numpy(self._trained))

    def penalty(self):
        """The expected share of the cost, times the strength: a scalar tensor."""
        if self._gates is None:
            raise ValueError("The regularizer is not attached to a model: call `attach(model)`.")
        log_alpha = keras.ops.convert_to_tensor(self._gates.log_alpha)
        expected = keras.ops.sum(hard_concrete.probability_open(log_alpha) * self._gates.costs)
        return keras.ops.convert_to_tensor(self._variable) * expected

    def measure(self):
        """The share of the gates that are not 0 in inference."""
        return {"open_units": float((self._gates.values() > 0).mean())}

    def get_state(self):
        """The parameters of the gates, what was summed, and the state of their optimizer."""
        numpy = keras.ops.convert_to_numpy
        return {
            "log_alpha": numpy(self._gates.log_alpha),
            "optimizer": [numpy(variable) for variable in self._trainer.variables],
            "step": self._step,
        }

    def set_state(self, state):
        """Gives the state back."""
        self._gates.total_gradient()
        self._gates.log_alpha.assign(state["log_alpha"])
        self._trained.assign(state["log_alpha"])
        for variable, value in zip(self._trainer.variables, state["optimizer"], strict=True):
            variable.assign(value)
        self._step = state["step"]

    def get_config(self):
        """The arguments that make this regularizer again."""
        optimizer = self.optimizer and keras.optimizers.serialize(self.optimizer)
        own = {name: getattr(self, name) for name in ("cost", "dropout", "seed")}
        return {**super().get_config(), **own, "optimizer": optimizer}

    def _make_trainer(self, model):
        """The optimizer of the gates of a model."""
        if self.optimizer is not None:
            return type(self.optimizer).from_config(self.optimizer.get_config())
        optimizer = getattr(model, "optimizer", None)
        if optimizer is None:
            raise ValueError(
                "The gates are trained as the model is, and it has no optimizer. Compile it, or "
                f"give `L0` an `optimizer`. Received: model={model.name!r}."
            )
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        config = optimizer.get_config()
        config["learning_rate"] = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
        for name in _LEFT_OUT:
            if name in config:
                config[name] = _LEFT_OUT[name]
        return type(optimizer).from_config(config)


_LEFT_OUT = {
    "weight_decay": None,
    "clipnorm": None,
    "clipvalue": None,
    "global_clipnorm": None,
    "use_ema": False,
    "loss_scale_factor": None,
    "gradient_accumulation_steps": None,
}
"""What the optimizer of the gates does not take over from that of the model."""
