"""Statistics of the activations of units, measured on data at the tensors that layers read."""

from dataclasses import dataclass, field

import numpy as np

from tfprune.criteria.unit_activations import STATISTICS, measure_activations


@dataclass(frozen=True, eq=False)
class ActivationStatistics:
    """Statistics of the activations of units.

    Attributes:
        mean, variance, zero_share: For each unit of the coupling, over examples and positions, and
            over the tensors it is read from; NaN for units that are not read or not measured.
        tensors: A `TensorStatistics` for each tensor.
    """

    mean: np.ndarray = field(repr=False)
    variance: np.ndarray = field(repr=False)
    zero_share: np.ndarray = field(repr=False)
    tensors: tuple


def activation_statistics(units, data, *, sets=None, verbose=0):
    """Measures the mean, variance and share of zeros of the activations of units.

    Layers run as in inference; nothing is changed.

    Args:
        units: `PrunableUnits`.
        data: `(x, y)` or a dataset, as Keras takes it; y is not used and may be `None`. Arrays
            are read in batches of 32.
        sets: The sets of units that are measured, by default all.
        verbose: 0 is quiet, 1 shows the progress through the data.

    Returns:
        `ActivationStatistics`, with arrays over all units of the coupling.

    Raises:
        ValueError: If there is no data.

    Example:

    >>> import keras
    >>> import tfprune
    >>> from tfprune.units.prunable import PrunableUnits
    >>> hidden = tfprune.layers.Dense(2, activation="relu", kernel_initializer="identity")
    >>> model = keras.Sequential([keras.Input((2,)), hidden, tfprune.layers.Dense(1)])
    >>> units = PrunableUnits(model)
    >>> found = activation_statistics(units, (np.array([[1.0, -1.0], [3.0, 5.0]]), None))
    >>> found.mean[units.sets[0].units], found.zero_share[units.sets[0].units]
    (array([2. , 2.5]), array([0. , 0.5]))
    """
    captures = measure_activations(STATISTICS, units, data, sets, verbose)
    tensors = tuple(capture.statistics() for capture in captures)
    sums = {name: np.zeros(units.coupling.size) for name in ("count", *STATISTICS, "square")}
    for capture, found in zip(captures, tensors, strict=True):
        members, mean = found.by_unit("mean")
        positions = np.bincount(found.units.reshape(-1))[members]
        count = float(capture.count) * positions
        sums["count"][members] += count
        sums["mean"][members] += count * mean
        sums["square"][members] += count * np.square(mean)
        for name in ("variance", "zero_share"):
            sums[name][members] += count * found.by_unit(name)[1]
    with np.errstate(invalid="ignore"):  # 0 / 0 = NaN where nothing was seen
        mean, variance, zero_share, square = (
            sums[n] / sums["count"] for n in (*STATISTICS, "square")
        )
    between = np.maximum(square - np.square(mean), 0)
    return ActivationStatistics(mean, variance + between, zero_share, tensors)


def measured_units(names, units, sets, data, *, verbose=0):
    """Measures that criteria request, at each tensor that layers read units from.

    Args:
        names: What to measure, of `mean`, `variance`, `zero_share`, and `contribution`: the mean
            over examples of |mean over positions of a dL/da|, L the loss of the example, through
            the layers that read the tensor.
        units, sets, data, verbose: See `activation_statistics`.

    Returns:
        A list of pairs of units, and a dict from name to an array with a number for each.

    Raises:
        ValueError: If there is no data, or no loss for a measure.
    """
    return [
        (capture.members, {name: capture.of_units(name) for name in names})
        for capture in measure_activations(names, units, data, sets, verbose)
    ]
