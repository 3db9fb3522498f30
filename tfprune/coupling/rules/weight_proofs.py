"""Proofs of how units pass through a layer of a user's class that has weights.

The weights, also those of layers inside, count as inputs of the layer, beside its tensors: a copy
of the layer is run with other values in them, and with fewer and more indices along their axes.
Whole numbers among its attributes that equal a size may have to follow; which ones is tried. Three
kinds of units are found, beside those that hand-written norms count (`written_norms`):

1. Units pass through, as in `unit_propagation`, and indices of weights go with them: a bias, a
   factor, a position embedding, a norm over other axes.
2. Units are joined by weights, and weights make others, as in `activation(x @ kernel + bias)`.
   Indices of some weights go with the units of the input: removing both does the same as setting
   the weights to 0, or the units. Indices of others are the units of the output.
3. Hidden units, between weights that make them and weights that use them.
"""

import dataclasses
import itertools

import numpy as np

from tfprune import _keras
from tfprune.coupling.labels import FIXED, placed
from tfprune.coupling.rules import unit_propagation
from tfprune.coupling.rules.block_labels import unit_axis
from tfprune.coupling.rules.custom_weights import OwnWeights
from tfprune.coupling.rules.joined_units import Group, Joins
from tfprune.coupling.rules.resized_trials import MOST_RUNS, ResizedTrials
from tfprune.coupling.rules.unit_propagation import NotInferredError, Passage
from tfprune.coupling.rules.written_norms import infer_written_norm
from tfprune.masks.in_place import unmask

MOST_CHOICES = 16
"""How many choices of axes are tried."""

MOST_SIZES = 6
"""How many choices of the attributes that are sizes are tried."""


def infer_own_weights(call, arrays):
    """How units pass through a call of a layer with weights of its own.

    Args:
        call: The `Call`.
        arrays: The label array of each input tensor, with the batch axis.

    Returns:
        An `OwnWeights`.

    Raises:
        NotInferredError: If that could not be proven.
    """
    labelled = [place for place, array in enumerate(arrays) if (array != FIXED).any()]
    if any(unit_axis(arrays[place]) is None for place in labelled):
        raise NotInferredError("takes a tensor with one unit, which it may spread over others")

    def prove():
        why_no_norm = None
        try:
            found = infer_written_norm(call, arrays)
            if found is not None:
                return found
        except NotInferredError as why:
            why_no_norm = str(why)
        prover = _Prover(call, arrays, labelled)
        try:
            found = prover.passing()
        except NotInferredError as why:
            found = prover.joining(why_no_norm or str(why))
        prover.check_zeros(found)
        return found

    return unit_propagation.remembered(call, arrays, labelled, prove, _kind(call.operation))


def _kind(layer):
    """What layers that compute alike have in common, such as blocks of a model; None if unknown.

    They are of one class, made from the same config, with weights of the same shapes and the same
    numbers as attributes.
    """
    layer = unmask(_keras.copied_objects(layer)[0][1])
    try:
        config = {**layer.get_config(), "name": None}
    except Exception:  # it has none
        return None
    shapes = [tuple(weight.shape) for weight in layer.weights]
    numbers = {**_keras.whole_numbers(layer), **_keras.float_numbers(layer)}
    return repr((type(layer), config, shapes, list(numbers.items())))


class _Prover:
    """Tries what the weights and attributes of a layer are to its units."""

    def __init__(self, call, arrays, labelled):
        self.call, self.labelled = call, labelled
        self.trials = ResizedTrials(call, NotInferredError)
        self.arrays = dict(enumerate(arrays))
        for place, shape in self.trials.shapes.items():
            self.arrays[place] = np.empty(shape, int)  # labels, once the axis is known
        self.input_axes = {place: unit_axis(arrays[place]) for place in labelled}
        self.example = self.trials.draw(1.0, 99)
        self.whole_numbers = _keras.whole_numbers(self.trials.operation)
        self.followed = self._followed()

    def _followed(self):
        """By weight and axis, for each output the axes along which it follows, with the indices."""
        found = {}
        for place, shape in self.trials.shapes.items():
            for axis, size in enumerate(shape):
                if size > 1:
                    try:
                        runs = self._runs({place: axis})
                    except NotInferredError as why:
                        if "deterministic" in str(why) or "fails when tried" in str(why):
                            raise
                        continue
                    codes = [[run[0][o] for run in runs] for o in range(len(self.call.outputs))]
                    found[place, axis] = [
                        unit_propagation.followed(c) if any((run >= 0).any() for run in c) else None
                        for c in codes
                    ]
        return found

    def _runs(self, axes):
        return [
            unit_propagation.passage(self.trials, axes, scale, seed)
            for seed, scale in enumerate(unit_propagation.SCALES)
        ]

    def _sized(self, number_choices, holds):
        """The first choice of attributes that are sizes for which a check holds."""
        for numbers in itertools.islice(number_choices, MOST_SIZES):
            self.trials.numbers = numbers
            if holds():
                return numbers
            self._restore()
        raise NotInferredError("does not treat fewer or more units alike")

    def _restore(self):
        for place, number in self.whole_numbers.items():
            _keras.set_number(self.trials.operation, place, number)

    def _choices(self, *groups):
        """Which attributes may be the sizes of which groups of axes."""
        sizes = [
            next(((p, a, self.example[p].shape[a]) for p, a in g.items()), None) for g in groups
        ]
        sizes = [size for size in sizes if size is not None]
        options = {
            place: [(p, a) for p, a, size in sizes if size == number] + [None]
            for place, number in self.whole_numbers.items()
            if any(size == number for _, _, size in sizes)
        }
        selected = list(itertools.islice(itertools.product(*options.values()), 4096))
        # Often all are, or none of them is read.
        for choice in [selected[0], *sorted(selected[1:], key=lambda c: -c.count(None))]:
            yield {p: c for p, c in zip(options, choice, strict=True) if c is not None}

    def check_zeros(self, found):
        """Raises an error if weights of 0, which masks make, give what is not finite."""
        axes = [*self.input_axes.items(), *found.axes.items(), *found.used.items()]
        axes += [pair for hidden, _ in found.hidden for pair in hidden.items()]
        self._restore()
        self.trials.numbers, self.trials.runs_left = {}, MOST_RUNS
        before = self.trials.run(self.example)
        for first in (0, 1):
            values = dict(self.example)
            for place, axis in axes:
                weight = self.trials.weights.get(place)
                if weight is None or weight.trainable:
                    zeros = np.arange(values[place].shape[axis]) % 2 == first
                    kept = placed(~zeros, axis, values[place].ndim)
                    values[place] = values[place] * kept.astype(values[place].dtype)
            after = self.trials.run(values)
            if any(
                (np.isfinite(a) & ~np.isfinite(b)).any() for a, b in zip(before, after, strict=True)
            ):
                raise NotInferredError("gives what is not finite where its weights are 0")

    # Units that pass through ---------------------------------------------------------------------

    def passing(self):
        """Units pass through, and indices of weights with them."""
        if not self.labelled:
            raise NotInferredError("has weights and is called on no units")
        runs = self._runs(self.input_axes)
        out_axes, sources = unit_propagation.merged(runs, self.labelled)
        axes, sources = dict(self.input_axes), [dict(each) for each in sources]
        for (place, axis), by_output in self.followed.items():
            fits = [
                out is not None and found is not None and out in found
                for out, found in zip(out_axes, by_output, strict=True)
            ]
            if all(f or found is None for f, found in zip(fits, by_output, strict=True)):
                for output in np.flatnonzero(fits):
                    sources[output][place] = by_output[output][out_axes[output]]
                axes[place] = axis
        used = list(axes)
        arrays, first_free = dict(self.arrays), 1 + max(self.arrays[p].max() for p in self.labelled)
        for place in used[len(self.labelled) :]:
            size = self.trials.shapes[place][axes[place]]
            arrays[place] = np.arange(first_free, first_free + size)
            first_free += size
        count, classes = unit_propagation.classes(arrays, used, sources)
        known = np.concatenate([classes[place] for place in self.labelled])
        if any(not np.isin(classes[place], known).all() for place in used):
            raise NotInferredError("makes units beside those that pass through it")
        if count < 2:
            raise NotInferredError("joins all of its units")

        def holds():
            try:
                alike = unit_propagation.Alike(self.trials, axes, out_axes, sources, classes)
            except NotInferredError:
                return False
            if not alike.in_combinations(np.ones(count, bool)):
                return False
            return count > unit_propagation.MOST_ALONE or not alike.stuck(count).any()

        numbers = self._sized(self._choices(self.input_axes), holds)
        pinned = {place: np.empty(0, int) for place in self.labelled}
        return OwnWeights(
            numbers,
            {place: axis for place, axis in axes.items() if place not in self.labelled},
            passage=Passage(out_axes, tuple(sources), pinned),
        )

    # Units that are joined -----------------------------------------------------------------------

    def joining(self, why):
        """Weights join the units of the input, make those of the output, and hidden ones.

        Args:
            why: The reason why units do not pass through, if they are not joined either.
        """
        outer = self._outer(why)
        if outer is None:
            outer = OwnWeights({}, {}, reason=why)
            groups = []
        else:
            groups = self._outer_groups(outer)
        taken = {(p, a) for group in groups for p, a in group.axes.items()}
        hidden, numbers = [], dict(outer.numbers)
        sizes = {size for shape in self.trials.shapes.values() for size in shape if size > 1}
        for size in sorted(sizes, reverse=True):
            found = self._hidden(size, taken, numbers)
            if found is not None:
                group, more = found
                hidden.append(group)
                taken |= set(group.axes.items())
                numbers = more
        self.trials.numbers, self.trials.runs_left = numbers, MOST_RUNS
        if hidden and not Joins(self, [*groups, *hidden], outer).hold():
            hidden, numbers = [], outer.numbers
        if outer.reason and not (hidden or outer.axes):
            raise NotInferredError(outer.reason)
        return dataclasses.replace(
            outer, numbers=numbers, hidden=tuple((g.axes, g.used) for g in hidden)
        )

    def _outer(self, why):
        """How the units of the input are joined and those of the output made; None if they stay."""
        if len(self.call.outputs) > 1 or len(self.labelled) > 1:
            return None
        making = [each for each in self._making() if not each[1] or self._makes(*each)]
        using = [each for each in self._using()[:MOST_CHOICES] if not each or self._uses(each)]
        using += [{}] if self.labelled else []
        for (out_axis, axes), used in itertools.product(making, using):
            if any(used.get(place) == axis for place, axis in axes.items()):
                continue
            found = self._checked(out_axis, axes, used) if axes or used else None
            if found is not None:
                stays = self.labelled and not used
                return dataclasses.replace(found, reason=why if stays else None)
        return None

    def _makes(self, out_axis, axes):
        return self._checked(out_axis, axes, {}, briefly=True) is not None

    def _uses(self, used):
        return self._checked(None, {}, used, briefly=True) is not None

    def _checked(self, out_axis, axes, used, briefly=False):
        """What weights make and use, if that holds; None if not."""
        sources = {p: self.followed[p, a][0][out_axis] for p, a in axes.items()}
        found = OwnWeights({}, axes, used, out_axis=out_axis, sources=sources)
        groups = self._outer_groups(found)
        if any(group.count == 1 for group in groups):  # it may be told by its place
            return None
        joins = Joins(self, groups, found)
        try:
            numbers = self._sized(self._choices(axes, used), lambda: joins.hold(briefly))
        except NotInferredError:
            return None
        return dataclasses.replace(found, numbers=numbers)

    def _outer_groups(self, found):
        """What comes and goes together: with units of the input, and with those of the output."""
        groups = []
        if found.axes:
            fresh, start = {}, 1
            for place, axis in found.axes.items():
                size = self.trials.shapes[place][axis]
                fresh[place] = np.arange(start, start + size)
                start += size
            count, classes = unit_propagation.classes(fresh, list(fresh), [found.sources])
            groups.append(Group(found.axes, frozenset(), classes, count, makes=True))
        if found.used:
            (place,) = self.labelled
            names, numbers = np.unique(
                np.append(FIXED, self.arrays[place].reshape(-1)), return_inverse=True
            )
            axes = {**self.input_axes, **found.used}
            classes = dict.fromkeys(axes, numbers[1:] - 1)
            groups.append(Group(axes, frozenset(found.used), classes, len(names) - 1))
        return groups

    def _making(self):
        """Choices of an axis of the output and axes of weights whose indices follow it."""
        by_output = [tuple(found) for found in self.followed.values()]
        out_axes = sorted({a for (found,) in by_output for a in found or ()} - {0})
        for out_axis in reversed(out_axes):
            axes = {p: a for (p, a), (found,) in self.followed.items() if out_axis in (found or ())}
            if axes:
                yield out_axis, axes
        if self.labelled:
            yield None, {}

    def _using(self):
        """Choices of axes of weights whose indices go with the units of the input."""
        if not self.labelled:
            return [{}]
        (place,) = self.labelled
        size = self.example[place].shape[self.input_axes[place]]
        return self._of_size(size, set(), least=1)

    def _of_size(self, size, taken, least):
        """Choices of an axis of a size from some of the weights, from as many as can be first."""
        options = [
            [(p, a) for a, length in enumerate(shape) if length == size and (p, a) not in taken]
            + [None]
            for p, shape in self.trials.shapes.items()
        ]
        options = [choice for choice in options if len(choice) > 1]
        selected = itertools.islice(itertools.product(*options), 4096)
        selected = sorted(selected, key=lambda choice: choice.count(None))
        selected = [dict(filter(None, choice)) for choice in selected]
        return [choice for choice in selected if len(choice) >= least]

    def _hidden(self, size, taken, numbers):
        """Hidden units of a size: indices of weights that make and use them, and the attributes."""
        choices = (
            (axes, used)
            for axes in self._of_size(size, taken, least=2)
            for count in (1, 2)
            for used in itertools.combinations(
                [place for place in axes if len(self.trials.shapes[place]) > 1], count
            )
        )
        for axes, used in itertools.islice(choices, MOST_CHOICES):
            group = Group(axes, frozenset(used), dict.fromkeys(axes, np.arange(size)), size)
            joins = Joins(self, [group], OwnWeights({}, {}))
            free = (
                {**numbers, **more}
                for more in self._choices(axes)
                if more.keys().isdisjoint(numbers)
            )
            try:
                return group, self._sized(free, joins.hold)
            except NotInferredError:
                continue
        return None
