"""Gates on coupled units: factors on the weights that use them, trained by their gradients."""

import keras
import numpy as np
import tensorflow as tf

from tfprune import _keras
from tfprune.coupling.labels import FIXED, placed
from tfprune.masks.gradient_accumulation import check_no_loops, unscaled
from tfprune.masks.skipping import NO_MASKS, NOT_TRAINABLE, listed
from tfprune.masks.straight_through import set_transforms
from tfprune.units import hard_concrete
from tfprune.units.cost_model import savings_of_removals
from tfprune.units.prunable import PrunableUnits
from tfprune.weights.prunable import PrunableWeight

COSTS = ("units", "parameters", "macs")

_NORMS = (
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
    keras.layers.GroupNormalization,
    keras.layers.UnitNormalization,
)

_PRUNED = "it is pruned"


class UnitGates:
    """Gates on the coupled units of a model, one for each of the smallest removals.

    A unit times its gate is the same as its gate times all elements that multiply it: its rows in
    the layers that use it. So these are read through the gates, whatever comes in between, and are
    multiplied by them when training is over.

    Args:
        model: A masked model.
        only, exclude: See `tfprune.prune_units`.
        cost: "units", "parameters" or "macs": what a unit costs, in the dense model.
        dropout: Float between 0 and 1, which the gates begin with: `log_alpha` is the logarithm of
            (1 - dropout) / dropout.
        seed: Integer; a sample depends on it and the step of the optimizer alone.

    Attributes:
        costs: Array (gates,), the share of each gate in the cost of all.
        log_alpha: Variable (gates,), the parameters.
        skipped: The names of sets of units that have no gates, by the reason.

    Raises:
        ValueError: If no unit can have a gate.
    """

    def __init__(self, model, *, only=None, exclude=None, cost="units", dropout=0.1, seed=0):
        self.units = units = PrunableUnits(model, only=only, exclude=exclude)
        self.model = model
        self.seed = seed
        self._using = _using(units)
        removals, self.skipped = self._removals(cost)
        self.removals = [found for found, _ in removals]
        costs = np.array([each for _, each in removals], "float64")
        self.costs = (costs / costs.sum()).astype("float32")
        of_unit = np.full(units.coupling.size, len(self.removals))
        for gate, found in enumerate(self.removals):
            of_unit[found] = gate
        self._weights = {}
        for weight, piece in self._using:
            gates = of_unit[units.coupling.roots[piece.labels]]
            if (gates < len(self.removals)).any():
                self._weights.setdefault(weight, []).append(_placed(piece, gates))
        check_no_loops(model, [weight.mask for weight in self._weights])
        start = np.full(len(self.removals), np.log((1 - dropout) / dropout), "float32")
        with model.distribute_strategy.scope():
            self.log_alpha = keras.Variable(
                start, trainable=False, autocast=False, aggregation="mean", name="log_alpha"
            )
            self._total = keras.Variable(
                np.zeros_like(start),
                trainable=False,
                autocast=False,
                aggregation="sum",
                synchronization="on_read",
                name="log_alpha_gradient",
            )
            self._steps = keras.Variable(
                0, dtype="int64", trainable=False, autocast=False, name="gate_steps"
            )

    @property
    def variables(self):
        """The weights that are read through gates."""
        return [weight.variable for weight in self._weights]

    def attach(self):
        """Lets the layers read the weights through the gates, from the next trace on."""
        transforms = [self._read(indices) for indices in self._weights.values()]
        set_transforms(self._weights, transforms, "L0")

    def detach(self):
        """Restores the plain reads."""
        for weight in self._weights:
            weight.mask.transform = None

    def total_gradient(self):
        """The sum of the gradients of the loss, as (gates,), since this was asked last."""
        total = keras.ops.convert_to_numpy(self._total)
        self._total.assign(np.zeros_like(total))
        return total

    def count_step(self):
        """Counts a step where no optimizer does, so that the next sample is another."""
        self._steps.assign(self._steps + 1)

    def values(self):
        """The gates in inference, an array (gates,)."""
        return keras.ops.convert_to_numpy(hard_concrete.settled(self.log_alpha))

    def fold(self):
        """Multiplies the weights by the gates in inference, and prunes the units at 0.

        What the model computes in inference stays as it is. Of each set of units one stays
        unmasked, with rows of zeros, since no layer can be without.
        """
        gates = np.append(self.values(), np.float32(1))
        optimizer = getattr(self.model, "optimizer", None)
        for weight, places in self._weights.items():
            factor = np.float32(1)
            for place in places:
                factor = factor * gates[place]
            before = weight.value
            after = before * factor.astype(before.dtype)
            weight.variable.assign(after)
            if optimizer is not None:
                _keras.reset_slots(optimizer, weight.variable, after != before)
        self.units.mask(self._dead(gates[:-1]), optimizer)

    def _dead(self, gates):
        dead = np.zeros(self.units.coupling.size, bool)
        alive = ~self.units.pruned()
        log_alpha = keras.ops.convert_to_numpy(self.log_alpha)
        for gate in np.argsort(log_alpha):  # the last to go are those that nearly stayed
            trial = dead.copy()
            trial[self.removals[gate]] = True
            is_possible = all((alive & ~trial)[s.units].any() for s in self.units.coupling.sets)
            if gates[gate] == 0 and is_possible:
                dead = trial
        return dead

    # Which units ---------------------------------------------------------------------------------

    def _removals(self, cost):
        """The removals with a gate and what each saves; and the names of the sets without."""
        units = self.units
        reasons = self._reasons()
        skipped = {reason: list(names) for reason, names in units.skipped.items()}
        selected = {id(s) for s in units.sets}
        found, taken = [], np.zeros(units.coupling.size, bool)
        pairs = savings_of_removals(units.model, units.coupling)
        for unit_set, removals in zip(units.coupling.sets, pairs, strict=True):
            if id(unit_set) not in selected:
                continue
            whys = []
            for members, saving in removals:
                if saving is None or taken[members].any():
                    continue
                why = next((reasons[unit] for unit in members.tolist() if unit in reasons), None)
                if why is None and cost == "macs" and not saving.macs:
                    why = "it is not known how many MACs its units take"
                if why is None:
                    found.append((members, 1 if cost == "units" else getattr(saving, cost)))
                    taken[members] = True
                elif why is not _PRUNED:
                    whys.append(why)
            for why in dict.fromkeys(whys):
                skipped.setdefault(why, []).append(unit_set.name)
        if not found:
            raise ValueError(
                "No unit of the model can have a gate. "
                f"Received: model={units.model.name!r}. Why: {listed(skipped) or 'none is left'}."
            )
        return found, skipped

    def _reasons(self):
        """Why units have no gate, by unit."""
        units, coupling = self.units, self.units.coupling
        reasons = dict.fromkeys(np.flatnonzero(units.pruned()).tolist(), _PRUNED)
        guarded = {id(weight.variable) for weight, _ in self._using}

        def note(labels, reason):
            for unit in np.unique(coupling.roots[labels]).tolist():
                reasons.setdefault(unit, reason)

        used = [piece for _, piece in self._using]
        for piece in coupling.slices:
            if piece.uses and id(piece.variable) not in guarded:
                note(piece.labels, f"{piece.layer.name!r} uses its units: {NO_MASKS}")
            elif piece.uses and not piece.variable.trainable:
                note(piece.labels, f"{piece.layer.name!r} uses its units: {NOT_TRAINABLE}")
            elif not (piece.uses or piece.makes or _keras.is_stock(type(piece.layer))):
                note(piece.labels, f"the weights of {piece.layer.name!r} may mix its units")
        for call in coupling.trace.calls:
            if isinstance(call.operation, _NORMS):
                why = f"{call.operation.name!r} takes statistics over its units"
                note(coupling.tensor_labels[call.inputs[0]], why)
        for unit in np.flatnonzero(units.frozen()).tolist():
            reasons.setdefault(unit, "it has frozen elements")
        is_used = np.zeros(coupling.size, bool)
        for piece in used:
            is_used[coupling.roots[piece.labels]] = True
        for unit in np.flatnonzero(~is_used).tolist():
            reasons.setdefault(unit, "no weight multiplies its units in a sum")
        reasons.setdefault(FIXED, "it cannot be removed")
        return reasons

    # Reading -------------------------------------------------------------------------------------

    def _read(self, places):
        """A function from a weight's tensor to its product with the gates."""

        def factor(log_alpha, uniform):
            if uniform is None:
                gates = hard_concrete.settled(log_alpha)
            else:
                gates = hard_concrete.sampled(log_alpha, uniform)
            gates = tf.concat([gates, tf.ones(1)], axis=0)
            product = 1.0
            for place in places:
                product = product * tf.gather(gates, place)
            return product

        def read(value):
            uniform = self._uniform() if _keras.is_training() else None
            log_alpha = tf.convert_to_tensor(_keras.uncast(self.log_alpha))

            @tf.custom_gradient
            def gated(value):
                def gradient(upstream):
                    upstream = tf.convert_to_tensor(upstream)  # of an embedding: slices
                    product = tf.cast(upstream, "float32") * tf.cast(value, "float32")
                    with tf.GradientTape() as tape:
                        tape.watch(log_alpha)
                        again = factor(log_alpha, uniform)
                        total = tf.reduce_sum(again * product)
                    self._record(tape.gradient(total, log_alpha))
                    return upstream * tf.cast(again, value.dtype)

                return value * tf.cast(factor(log_alpha, uniform), value.dtype), gradient

            with _keras.gradients_kept_by_graphs():
                return gated(value)

        return read

    def _uniform(self):
        """A number above 0 and below 1 for each gate, that depends on the seed and the step."""
        optimizer = getattr(self.model, "optimizer", None)
        step = tf.convert_to_tensor(self._steps if optimizer is None else optimizer.iterations)
        seed = tf.stack([tf.constant(self.seed, "int64"), tf.cast(step, "int64")])
        # Of floats XLA draws others than TensorFlow; bits are the same.
        bits = tf.random.stateless_uniform([len(self.removals)], seed, None, None, "uint32")
        return (tf.cast(tf.bitwise.right_shift(bits, 8), "float32") + 0.5) / 2**24

    def _record(self, gradient):
        gradient, _ = unscaled(gradient, getattr(self.model, "optimizer", None))
        self._total.assign(self._total + gradient)


def _using(units):
    """Pairs of a `PrunableWeight` and a slice of it that uses units."""
    found = {}
    for piece, layer, name in units.masked:
        if piece.uses:
            roots = units.coupling.roots[piece.labels]
            key = id(piece.variable), piece.axis, roots.shape, roots.tobytes()
            found.setdefault(key, (PrunableWeight(layer, name), piece))
    return list(found.values())


def _placed(piece, gates):
    """The gates of a slice, so that they broadcast to the shape of the weight."""
    rank = len(piece.variable.shape)
    return gates if gates.ndim == rank else placed(gates, piece.axis, rank)
