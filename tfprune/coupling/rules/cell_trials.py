"""Trials of a recurrent cell of a user's class with fewer units, against zeros in their places."""

import itertools

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.failures import failure
from tfprune.coupling.labels import Labels
from tfprune.coupling.rules.cell_steps import LabelledStep, NotTracedError
from tfprune.coupling.rules.custom_weights import own_weights
from tfprune.masks.in_place import mask_in_place, unmask

STEPS, TRIALS = 3, 4
"""Over how many steps, and with how many choices of units, a cell is tried."""

TOLERANCES = {"float16": 1e-2, "bfloat16": 5e-2}
"""The difference that is allowed, by the dtype in which a cell computes; by default 1e-4."""

_NORMS = (
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
    keras.layers.GroupNormalization,
)
MOST_CHOICES = 64
"""How many choices of the attributes that are sizes are tried."""


def sizes_among_attributes(layer, step):
    """Which whole numbers among the attributes of a cell are sizes that follow its units.

    Args:
        layer: The layer over the cell.
        step: The `Step` of the cell.

    Returns:
        A dict from a place, see `_keras.whole_numbers`, to the number of a weight in `own_weights`
        and its axis; and the `families` of a `LabelledStep`.

    Raises:
        NotTracedError: If with no choice the cell with fewer units does what it does with zeros.
    """
    trials = _Trials(layer, step)
    for numbers in itertools.islice(trials.choices(), MOST_CHOICES):
        if all(trials.holds(numbers, seed) for seed in range(TRIALS)):
            return numbers, trials.families()
    raise NotTracedError("it does not treat fewer units alike, whichever of its attributes follow")


class _Trials:
    def __init__(self, layer, step):
        self.cell = layer.cell
        labels = Labels()
        features = step.inputs[0].shape[-1]
        incoming = labels.fresh(features)
        labelled = LabelledStep(layer, step, incoming, labels)
        roots = labels.roots()
        self.features, self.output = roots[incoming], roots[labelled.output]
        self.states = [roots[units] for units in labelled.states]
        places = {id(weight): place for place, weight in enumerate(own_weights(self.cell))}
        self.axes = {
            (places[id(piece.variable)], piece.axis): roots[piece.labels] for piece in labels.slices
        }
        self.makers = [(id(p.variable), roots[p.labels]) for p in labels.slices if p.makes]
        self.used = {(places[id(p.variable)], p.axis) for p in labels.slices if p.uses}
        pinned = {0, *(root for pins, _ in labels.pins for root in roots[pins].tolist())}
        self.units = np.setdiff1d(np.unique(np.concatenate(self._vectors())), list(pinned))

    def _vectors(self):
        return [self.features, self.output, *self.states, *self.axes.values()]

    def families(self):
        """Names, as "hidden", of units that are no states, by the ids of weights that make them."""
        groups, found = [np.concatenate([self.output, *self.states])], {}
        for weight, roots in self.makers:
            meeting = [place for place, group in enumerate(groups) if np.isin(roots, group).any()]
            place = meeting[0] if meeting else len(groups)
            groups[place : place + 1] = [np.append(groups[place], roots) if meeting else roots]
            if place:
                found[weight] = "hidden" if place == 1 else f"hidden_{place - 1}"
        return found

    def choices(self):
        """Choices of attributes that are sizes: all of them first, then as few as possible."""
        options, shapes = {}, [tuple(weight.shape) for weight in own_weights(self.cell)]
        for place, number in _keras.whole_numbers(self.cell).items():
            found = {
                tuple(roots.tolist()): (weight, axis)
                for (weight, axis), roots in reversed(self.axes.items())
                if shapes[weight][axis] == number and np.isin(roots, self.units).any()
            }
            if found:
                options[place] = [*found.values(), None]
        selected = list(itertools.islice(itertools.product(*options.values()), 4096))
        for choice in [selected[0], *sorted(selected[1:], key=lambda c: -c.count(None))]:
            yield {p: c for p, c in zip(options, choice, strict=True) if c is not None}

    def holds(self, numbers, seed):
        """Whether the cell with some units does what it does with zeros for the others."""
        kept = self._kept(seed)
        draw = np.random.default_rng(seed)
        before, after = [], []
        for place, weight in enumerate(own_weights(self.cell)):
            value = (draw.normal(size=weight.shape) * 0.5).astype("float32")
            smaller = value
            for axis in range(value.ndim):
                if (place, axis) not in self.axes:
                    continue
                stays = kept[self.axes[place, axis]]
                smaller = np.compress(stays, smaller, axis)
                if (place, axis) in self.used or seed % 2:
                    shape = [len(stays) if a == axis else 1 for a in range(value.ndim)]
                    value = value * stays.reshape(shape)
            before.append(value)
            after.append(smaller)
        sequence = draw.normal(size=(2, STEPS, len(self.features))).astype("float32")
        larger = self._resized(before, {})
        self._mask_norms(larger, kept)
        try:
            expected, _ = _run(larger, sequence)
        except Exception as error:  # the cell's own code may fail in any way
            why, _ = failure(larger.call, error)
            raise NotTracedError(f"it fails when tried: {why}") from error
        smaller = self._resized(after, numbers)
        try:
            found, announced = _run(smaller, sequence[..., kept[self.features]])
        except Exception:  # as above
            return False
        allowed = TOLERANCES.get(self.cell.compute_dtype, 1e-4)
        stays = [kept[units] for units in (self.output, *self.states)]
        return all(
            ours[..., where].shape == theirs.shape == shape
            and np.allclose(ours[..., where], theirs, rtol=allowed, atol=allowed / 10)
            for ours, theirs, where, shape in zip(expected, found, stays, announced, strict=True)
        )

    def _mask_norms(self, cell, kept):
        """Lets norms inside a copy of the cell take their statistics over the units that stay."""
        places = {id(weight): place for place, weight in enumerate(own_weights(cell))}
        for part in _keras.all_layers(cell)[1:]:
            if not isinstance(part, _NORMS):
                continue
            mask_in_place(part)
            for mask in part.masks_by_name.values():
                stays, place = np.array(mask.trainable), places[id(mask.weight)]
                for axis in range(stays.ndim):
                    if (place, axis) in self.axes:
                        shape = [-1 if a == axis else 1 for a in range(stays.ndim)]
                        stays &= kept[self.axes[place, axis]].reshape(shape)
                mask.set(stays, np.asarray(mask.frozen))

    def _kept(self, seed):
        """For each unit whether it is kept; of each weight and tensor one is."""
        draw = np.random.default_rng([seed, 1])
        kept = np.ones(1 + max(vector.max() for vector in self._vectors()), bool)
        kept[self.units] = draw.random(len(self.units)) < 0.5
        for vector in self._vectors():
            if not kept[vector].any():
                kept[vector[0]] = True
        return kept

    def _resized(self, values, numbers):
        """A copy of the cell with these weights."""
        cell = unmask(_keras.copied_objects(self.cell)[0][1])
        for weight, value in zip(own_weights(cell), values, strict=True):
            _keras.resize_variable(weight, value)
        for place, (weight, axis) in numbers.items():
            _keras.set_number(cell, place, values[weight].shape[axis])
        _keras.forget_input_shape(cell)
        return cell


def _run(cell, sequence):
    """The outputs of a layer over a cell, and the shapes it announces."""
    layer = keras.layers.RNN(cell, return_sequences=True, return_state=True, unroll=True)
    outputs = keras.tree.flatten(layer(keras.ops.convert_to_tensor(sequence)))
    spec = layer.compute_output_spec(keras.KerasTensor(sequence.shape))
    shapes = [tuple(each.shape) for each in keras.tree.flatten(spec)]
    return [np.asarray(keras.ops.cast(each, "float32")) for each in outputs], shapes
