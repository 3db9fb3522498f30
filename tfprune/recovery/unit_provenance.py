"""Unit provenance: which units of a dense model a masked or stripped model made of it still has.

In a model of the same shapes, a unit was removed if its slices of weights are 0 and were not
before. In a smaller model, as `tfprune.strip` makes it, kept units are identified by their weights:
those of a layer are a subsequence of the dense layer's, element by element equal. Layers are
matched by name.
A model of stock layers has no other record of where it came from. An ambiguous match is refused.
"""

import functools

import numpy as np

from tfprune import _keras
from tfprune.coupling.analysis import couple
from tfprune.coupling.labels import FIXED
from tfprune.stripping.inlining import inlined

UNKNOWN, REMOVED, KEPT = -1, 0, 1


class UnitProvenance:
    """Maps the units and calls of a dense model to a masked or smaller model made of it.

    Args:
        model: A masked model, or a smaller one.
        dense: The model before. Composite layers are inlined, as they are in `model`.

    Attributes:
        dense: The dense model, inlined.
        calls: The calls of its operations, in lists by path.

    Raises:
        ValueError: If the two have no layers in common, or do not have the same inputs and outputs.
    """

    def __init__(self, model, dense):
        self.model = model
        self.dense = inlined(dense)
        self.coupling = couple(self.dense)
        self.calls = by_path(self.coupling.trace.calls)
        shapes = [[t.shape for t in (*m.inputs, *m.outputs)] for m in (model, self.dense)]
        try:
            pairs = list(_keras.variable_pairs(self.dense, model))
        except ValueError:  # layers of one name that hold different things
            pairs = []
        if shapes[0] != shapes[1] or not pairs:
            raise ValueError(
                "Argument `dense` must be the model from which `model` was made: with the same "
                "inputs and outputs, and layers of the same names. Received: "
                f"model={model.name!r} with {shapes[0]}, dense={dense.name!r} with {shapes[1]}."
            )
        self._counterparts = {id(ours): theirs for ours, theirs in pairs}

    def counterpart(self, variable):
        """The variable of the model for one of the dense model's; None if its layer was removed."""
        return self._counterparts.get(id(variable))

    @property
    def is_smaller(self):
        """Whether any weight of the dense model is smaller in the model, or removed."""
        pairs = [(v, self.counterpart(v)) for v in self.dense.weights]
        return any(new is None or tuple(new.shape) != tuple(old.shape) for old, new in pairs)

    @functools.cached_property
    def kept(self):
        """For each unit of the coupling whether the model still has it."""
        return _Matching(self).kept() if self.is_smaller else ~self._removed()

    def is_kept(self, labels):
        """For labels of the dense model, whether the model has the unit."""
        return self.kept[self.coupling.roots[labels]]

    def _removed(self):
        """Units which emit 0 or that no consumer uses, unless that was so before pruning."""
        size = self.coupling.size
        loud = {key: np.zeros(size, bool) for key in ("emitted", "taken", "before")}
        known = {key: np.zeros(size, bool) for key in ("emitted", "taken")}
        for piece in self.coupling.slices:
            if not _is_learned(piece):
                continue
            units = self.coupling.roots[piece.broadcast(piece.labels)]
            is_taken = not piece.makes and len(piece.variable.shape) > 1
            key = "taken" if is_taken else "emitted"
            known[key][units] = True
            loud[key][units[np.asarray(self.counterpart(piece.variable)) != 0]] = True
            if not is_taken:
                loud["before"][units[np.asarray(piece.variable) != 0]] = True
        removed = np.zeros(size, bool)
        for key, seen in known.items():
            removed |= seen & ~loud[key]
        removed[FIXED] = False
        return removed & loud["before"]


def by_path(calls):
    """Calls in lists, by the names of the nested models around their operation, and its own."""
    found = {}
    for call in calls:
        found.setdefault(call.path, []).append(call)
    return found


def _is_learned(piece):
    learned = _keras.own_trainable_variables(piece.layer)
    return any(piece.variable is variable for variable in learned)


class _Matching:
    """Finds the kept units of a smaller model, set by set, from the inputs on."""

    def __init__(self, provenance):
        self._provenance = provenance
        self._coupling = provenance.coupling
        self._pieces = {}
        for piece in self._coupling.slices:
            self._pieces.setdefault(id(piece.variable), []).append(piece)
        self._state = np.full(self._coupling.size, UNKNOWN)
        self._state[FIXED] = KEPT

    def kept(self):
        """For each unit whether the model has it."""
        waiting, before = list(self._coupling.sets), None
        while waiting and waiting != before:
            before = waiting
            waiting = [unit_set for unit_set in waiting if not self._settle(unit_set)]
        if waiting:
            _refuse(waiting[0], "their weights cannot be compared")
        return self._state != REMOVED

    def _settle(self, unit_set):
        """Matches the units of a set; returns whether that was possible yet."""
        pieces = [
            p for p in self._coupling.slices if np.ndim(p.labels) == 1 and self._is_of(p, unit_set)
        ]
        made = [p for p in pieces if p.makes]
        if not made:
            return False
        new = [self._provenance.counterpart(piece.variable) for piece in made]
        if all(variable is None for variable in new):
            self._state[unit_set.units] = REMOVED
            return True
        order = self._coupling.roots[made[0].labels]
        same = [p for p in pieces if np.array_equal(self._coupling.roots[p.labels], order)]
        sizes = [v.shape[p.axis] for p, v in zip(made, new, strict=True) if v is not None]
        if sizes[0] == len(made[0].labels):
            self._state[unit_set.units] = KEPT
            return True
        evidence = [found for found in map(self._evidence, same) if found is not None]
        if not evidence or len(order) != len(set(order.tolist())):
            return False
        rows = [
            [row.tobytes() for row in np.concatenate(side, 1)]
            for side in zip(*evidence, strict=True)
        ]
        self._state[order] = _subsequence(*rows, unit_set)
        return True

    def _is_of(self, piece, unit_set):
        return np.isin(self._coupling.roots[piece.labels], unit_set.units).all()

    def _evidence(self, piece):
        """The slices of a weight before and after, a row each; None where they do not compare."""
        new = self._provenance.counterpart(piece.variable)
        is_bias = piece.variable is getattr(piece.layer, "bias", None)  # constants go into it
        if new is None or is_bias or not _is_learned(piece):
            return None
        old = np.asarray(piece.variable)
        for other in self._pieces[id(piece.variable)]:
            if other.axis != piece.axis:
                states = self._state[self._coupling.roots[other.labels]]
                if np.ndim(states) > 1 or (states == UNKNOWN).any():
                    return None
                old = np.compress(states == KEPT, old, other.axis)
        pair = [np.moveaxis(np.asarray(a), piece.axis, 0) for a in (old, new)]
        pair = [np.ascontiguousarray(a.reshape(len(a), -1)) for a in pair]
        return pair if pair[0].shape[1] == pair[1].shape[1] else None


def _subsequence(before, after, unit_set):
    """For each row before whether it is among those after, which follow in the same order."""
    found = []
    for ours, theirs in ((before, after), (before[::-1], after[::-1])):
        selected, place = np.full(len(ours), REMOVED), 0
        for index, row in enumerate(ours):
            if place < len(theirs) and row == theirs[place]:
                selected[index], place = KEPT, place + 1
        if place < len(theirs):
            _refuse(unit_set, "their weights are not those of the dense model any more")
        found.append(selected)
    if (found[0] != found[1][::-1]).any():
        _refuse(unit_set, "some have equal weights")
    return found[0]


def _refuse(unit_set, reason):
    raise ValueError(
        "It cannot be told which units of the dense model a smaller one has kept. "
        f"Received: layers={unit_set.name!r}, where {reason}. Give the masked model instead of the "
        "stripped one, and strip what comes out."
    )
