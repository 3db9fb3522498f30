"""What the weights of new units are, so that the function of the model stays.

Either new units begin without effect: what makes them is random, as the initializers draw it, and
what uses them is 0. Or they are split off old ones, as in Net2Net: a copy of what makes the unit,
while what uses it is shared out among the copies.

`Slice.uses` marks the weights with which units enter sums. Where a call needs units without such
weights, as a mean over them does, the plan says that the function changes.

Reference:
    T. Chen, I. Goodfellow, J. Shlens, "Net2Net: Accelerating Learning via Knowledge Transfer",
    https://arxiv.org/abs/1511.05641.
"""

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.kept_units import NEW, KeptUnits
from tfprune.coupling.labels import placed
from tfprune.coupling.rules import Flow, rule_of
from tfprune.rebuild.engine import gathered, new_positions

_NORMS = (
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
    keras.layers.GroupNormalization,
    keras.layers.RMSNormalization,
)
_LOOKED_AT = 64  # of units that enter one call: those that stand in the same places are alike
_START = {"gamma": 1, "scale": 1, "moving_variance": 1, "beta": 0, "moving_mean": 0}


def selection_of(coupling, solution, split=False):
    """The kept_units that a solution stands for.

    New units stand behind the last of their kind; those that are split off behind the unit they
    are a copy of, those of the highest utility first.
    """
    counts, grown = solution.kept.astype(int), {}
    for units, count in solution.new:
        stay = units[solution.kept[units]]
        if split and len(stay):
            best = stay[np.argsort(-solution.utilities[stay], kind="stable")]
            copies = np.bincount(np.arange(count) % len(best), minlength=len(best))
            for unit, more in zip(best.tolist(), copies.tolist(), strict=True):
                if more:
                    grown[unit] = (unit,) * (1 + more)
        else:
            last = int(units[-1])
            grown[last] = ((last,) if solution.kept[last] else ()) + (NEW,) * count
    for unit, in_place in grown.items():
        counts[unit] = len(in_place)
    return KeptUnits(coupling, counts, grown)


class Growth:
    """The weights of new units; given to `tfprune.rebuild.engine.rebuild`.

    Args:
        model: The model.
        kept_units: The `KeptUnits`; an old unit in place of `NEW` is a copy of it.
        noise: What is added to the weights that make copies: normal, with the deviation of the
            weight times this.
        seed: Integer, for the noise.
    """

    def __init__(self, model, kept_units, noise=0.0, seed=None):
        self.kept_units, self.noise = kept_units, noise
        self.draw = np.random.default_rng(seed)
        self.pieces = {}
        for piece in kept_units.coupling.slices:
            self.pieces.setdefault(id(piece.variable), []).append(piece)
        self.owners = {
            id(variable): layer
            for layer in _keras.all_layers(model)
            for variable in layer.weights  # layers inside come later, and have the last word
        }
        self.shares = np.ones(kept_units.coupling.size)
        for unit, in_place in kept_units.grown.items():
            self.shares[unit] = 1 / max(1, in_place.count(unit))

    def taken(self, variable, value, indices, counterpart):
        """The new value of a variable, given the old one and the old indices along its axes."""
        if not indices:
            return value
        pieces = [p for p in self.pieces.get(id(variable), []) if p.axis in indices]
        units = {id(p): self.kept_units.coupling.roots[p.labels] for p in pieces}
        for piece in pieces:
            shares = self.shares[units[id(piece)]]
            if piece.uses and (shares != 1).any():
                value = value * piece.broadcast(shares).astype(value.dtype)
        value = gathered(value, indices, self._start(variable, counterpart))
        used, made = (self._new(pieces, indices, value.ndim, uses) for uses in (True, False))
        value = np.where(used & ~made, 0, value)
        return value + self._noise(pieces, indices, value) if self.noise else value

    def _new(self, pieces, indices, rank, uses):
        """Where units are new that the weight uses, or makes without using them."""
        found = np.zeros((1,) * rank, bool)
        for piece in pieces:
            if piece.uses == uses and (uses or piece.makes):
                found = found | new_positions(indices[piece.axis], piece.axis, rank)
        return found

    def _start(self, variable, counterpart):
        """What stands in new places that are not used: as the initializers made it, norms as 1."""
        fresh = keras.ops.convert_to_numpy(_keras.raw(counterpart))
        owner = self.owners.get(id(variable))
        if isinstance(owner, _NORMS) and variable.name in _START:
            return np.full_like(fresh, _START[variable.name])
        if variable.name.endswith("bias") and not getattr(owner, "unit_forget_bias", False):
            return np.zeros_like(fresh)
        return fresh

    def _noise(self, pieces, indices, value):
        """Noise where a weight makes copies of units."""
        copied = np.zeros((1,) * value.ndim, bool)
        for piece in pieces:
            chosen = indices[piece.axis]
            if piece.makes and not piece.uses and value.ndim > 1 and chosen.ndim == 1:
                first = np.unique(chosen, return_index=True)[1]
                again = ~np.isin(np.arange(len(chosen)), first) & (chosen != NEW)
                copied = copied | placed(again, piece.axis, value.ndim)
        if not copied.any():
            return 0
        drawn = self.draw.normal(size=value.shape) * self.noise * value.std()
        return np.where(copied, drawn, 0).astype(value.dtype)


def grows_alone(kept_units):
    """Whether a unit gets neighbours that stands alone along the axes of some tensor.

    The labels of that tensor do not tell then along which axis the new ones will stand.
    """
    coupling = kept_units.coupling
    alone = [labels for labels in coupling.tensor_labels.values() if labels.size == 1]
    units = coupling.roots[np.array([int(labels.reshape(-1)[0]) for labels in alone], int)]
    return bool(np.isin(units, list(kept_units.grown)).any())


def effects(kept_units, new=None, pairs=()):
    """Why the function of the model changes when units go or come; empty where it stays.

    A new unit is without effect where all that takes part of it in sums has weights for that, or
    passes it on.

    Args:
        kept_units: The `KeptUnits`.
        new: The units of the new model, where those of the old one do not tell: see `grows_alone`.
        pairs: Pairs of an old variable and its counterpart then.

    Returns:
        A tuple of sentences.
    """
    coupling = kept_units.coupling
    reasons = ["units are removed"] if (kept_units.counts == 0).any() else []
    grown = np.zeros(coupling.size, bool)
    grown[list(kept_units.grown)] = True
    if new is not None:
        coupling, grown = new, _grown_then(coupling, grown, new, pairs)
    if grown.any():
        reasons += uses_without_weights(coupling, grown)
    return tuple(dict.fromkeys(reasons))


def _grown_then(old, grown, new, pairs):
    """For each unit of the new model, whether a layer makes it that makes grown ones."""
    counterparts = {id(ours): id(theirs) for ours, theirs in pairs}
    makers = {
        (counterparts.get(id(piece.variable)), piece.axis)
        for piece in old.slices
        if piece.makes and grown[old.roots[piece.labels]].any()
    }
    found = np.zeros(new.size, bool)
    for piece in new.slices:
        if (id(piece.variable), piece.axis) in makers:
            found[new.roots[piece.labels]] = True
    found[0] = False
    return found


def uses_without_weights(coupling, grown):
    """Why others need units, by other means than weights which new units have of their own.

    Args:
        coupling: The units.
        grown: Boolean array over them.

    Returns:
        A list of sentences.
    """
    reasons, used = [], {}
    for piece in coupling.slices:
        if piece.uses:
            units = coupling.roots[piece.labels]
            used.setdefault(id(piece.layer), set()).update(np.unique(units[grown[units]]).tolist())
    constants = {t: np.full(a.shape, np.nan) for t, a in coupling.tensor_labels.items()}
    for call in coupling.trace.calls:
        taken = [np.unique(coupling.roots[coupling.tensor_labels[t]]) for t in call.inputs]
        taken = np.unique(np.concatenate([np.empty(0, int), *taken]))
        open_units = set(taken[grown[taken]].tolist()) - used.get(id(call.operation), set())
        if not open_units:
            continue
        rule = rule_of(call.operation)
        rule.constants(call, [constants[tensor] for tensor in call.inputs])  # some note parts
        for unit in sorted(open_units)[:_LOOKED_AT]:
            needed = np.ones(coupling.size, bool)
            needed[unit] = False  # it is what others need that counts
            flow = Flow(
                tensor_labels=coupling.tensor_labels,
                tensor_constants=constants,
                roots=coupling.roots,
                needed=needed,
                calls=coupling.trace.calls,
            )
            for need in rule.needs(call, flow):
                units = coupling.roots[np.broadcast_to(need.labels, need.where.shape)[need.where]]
                if (units == unit).any():
                    reasons.append(need.reason)
    return reasons
