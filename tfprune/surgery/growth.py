"""Weights of new units such that the model computes the same as before.

Either new units begin without effect: their incoming weights are random, as the initializers draw
them, and their outgoing weights are 0. Or they are split off old ones, as in Net2Net: incoming
weights are copied, and outgoing weights are divided among the copies. The rules mark outgoing
weights (`Slice.uses`). Where a call needs units without such weights, as a mean over them,
`effects` says so.

Reference:
    T. Chen, I. Goodfellow, J. Shlens, "Net2Net: Accelerating Learning via Knowledge Transfer",
    https://arxiv.org/abs/1511.05641.
"""

from dataclasses import dataclass

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.index_maps import gathered, new_positions
from tfprune.coupling.kept_units import NEW, KeptUnits
from tfprune.coupling.labels import placed
from tfprune.coupling.rules import Flow, rule_of

_NORMS = (
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
    keras.layers.GroupNormalization,
    keras.layers.RMSNormalization,
)
_MAX_EXAMINED = 64  # units of one call: those that occur in the same slices are equivalent
_START = {"gamma": 1, "scale": 1, "moving_variance": 1, "beta": 0, "moving_mean": 0}


@dataclass(frozen=True)
class Split:
    """Makes new units copies of old ones that share their outgoing weights (Net2WiderNet).

    Args:
        noise: Float. Normal noise of this times the standard deviation of a weight is added to the
            incoming weights of copies. With 0, copies stay equal while they are trained alike.
        seed: Integer, for the noise.

    Example:

    >>> Split(noise=0.01)
    Split(noise=0.01, seed=None)

    Reference:
        T. Chen, I. Goodfellow, J. Shlens, "Net2Net: Accelerating Learning via Knowledge Transfer",
        https://arxiv.org/abs/1511.05641.
    """

    noise: float = 0.0
    seed: int | None = None


def kept_units_of(coupling, solution, split=False):
    """The `KeptUnits` of a `Solution` of the size solver.

    New units come after the last of their equivalence class. With `split` they come after the unit
    that they are a copy of; the units of the highest utility are copied first.
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
    for unit in np.flatnonzero(np.isin(solution.same, list(grown))).tolist():
        first = int(solution.same[unit])  # what is tied to a unit gets what it gets
        if unit != first:
            grown[unit] = tuple(NEW if each == NEW else unit for each in grown[first])
    for unit, in_place in grown.items():
        counts[unit] = len(in_place)
    return KeptUnits(coupling, counts, grown)


class Growth:
    """Computes the weights of new units, for `tfprune.rebuild.engine.rebuild`.

    Args:
        model: The model.
        kept_units: The `KeptUnits`; an old unit in place of `NEW` is a copy of it.
        noise: Float. Normal noise with this times the standard deviation of the weight is added to
            the incoming weights of copies.
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

    def new_value(self, variable, value, indices, counterpart):
        """The new value of a variable, given the old one and the old indices along its axes."""
        if not indices:
            return value
        pieces = [p for p in self.pieces.get(id(variable), []) if p.axis in indices]
        units = {id(p): self.kept_units.coupling.roots[p.labels] for p in pieces}
        for piece in pieces:
            shares, chosen = self.shares[units[id(piece)]], indices[piece.axis]
            if shares.ndim == chosen.ndim == 1:  # a slice may take some of the copies
                often = np.bincount(chosen[chosen != NEW], minlength=len(shares))
                shares = np.where(shares == 1, 1, 1 / np.maximum(often, 1))
            if piece.uses and (shares != 1).any():
                value = value * piece.broadcast(shares).astype(value.dtype)
        value = gathered(value, indices, self._start(variable, counterpart))
        used, made = (self._new(pieces, indices, value.ndim, uses) for uses in (True, False))
        value = np.where(used & ~made, 0, value)
        return value + self._noise(pieces, indices, value) if self.noise else value

    def _new(self, pieces, indices, rank, uses):
        """The elements of new units for which a weight is outgoing (`uses`), or only incoming."""
        found = np.zeros((1,) * rank, bool)
        for piece in pieces:
            if piece.uses == uses and (uses or piece.makes):
                found = found | new_positions(indices[piece.axis], piece.axis, rank)
        return found

    def _start(self, variable, counterpart):
        """Initial values of new incoming weights: from the initializers, biases 0, norms 1."""
        fresh = keras.ops.convert_to_numpy(_keras.raw(counterpart))
        owner = self.owners.get(id(variable))
        if isinstance(owner, _NORMS) and variable.name in _START:
            return np.full_like(fresh, _START[variable.name])
        if variable.name.endswith("bias") and not getattr(owner, "unit_forget_bias", False):
            return np.zeros_like(fresh)
        return fresh

    def _noise(self, pieces, indices, value):
        """Noise for the incoming weights of copies."""
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


def grows_single_units(kept_units):
    """Whether units are added to a tensor, or to a group of a layer, with a single unit.

    The labels of that tensor do not tell along which axis the new units will stand, and in that
    group there is no other unit yet that needs them.
    """
    coupling = kept_units.coupling
    alone = [labels for labels in coupling.tensor_labels.values() if labels.size == 1]
    sides = [side for grouping in coupling.groupings for side in grouping.sides]
    alone += [group for side in sides for group in side if np.size(group) == 1]
    units = coupling.roots[np.array([int(np.ravel(labels)[0]) for labels in alone], int)]
    return bool(np.isin(units, list(kept_units.grown)).any())


def effects(kept_units, new=None, pairs=()):
    """The reasons why the model computes something else when units are removed or added.

    A new unit has no effect where every call that uses it has outgoing weights for it, or passes it
    on.

    Args:
        kept_units: The `KeptUnits`.
        new: The units of the new model, where the old one is not enough: see `grows_single_units`.
        pairs: Pairs of an old variable and its counterpart, with `new`.

    Returns:
        A tuple of sentences, empty where the model computes the same.
    """
    coupling = kept_units.coupling
    reasons = ["units are removed"] if (kept_units.counts == 0).any() else []
    grown = np.zeros(coupling.size, bool)
    grown[list(kept_units.grown)] = True
    if new is not None:
        coupling, grown = new, _grown_in_new(coupling, grown, new, pairs)
    if grown.any():
        reasons += uses_without_weights(coupling, grown)
    return tuple(dict.fromkeys(reasons))


def _grown_in_new(old, grown, new, pairs):
    """For each unit of the new model, whether a layer makes it to which units are added."""
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
    """The reasons why calls depend on units other than by outgoing weights of these units.

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
        for unit in sorted(open_units)[:_MAX_EXAMINED]:
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
