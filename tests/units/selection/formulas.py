"""Tables of latencies by a formula, in place of measurements."""

import json
import math

import numpy as np

from tfprune.measuring.latency_table import LatencyTable


def sizes(model):
    """The shape of the first input of a `SmallModel`, and how many channels come out of it."""
    shapes, said = json.loads(model.key)
    arguments = [config for _, config, _ in said]
    names = ("units", "filters")
    made = [config[name] for config in arguments for name in names if name in config]
    return shapes[0][0], (made or [shapes[0][0][-1]])[-1]


def product(model):
    """Seconds that grow with both widths, and with their product, as a matrix product does."""
    shape, made = sizes(model)
    positions = math.prod(shape[1:-1])
    return 1e-6 * (3 + positions * (2 * shape[-1] + 5 * made + 1.5 * shape[-1] * made))


def staircase(step):
    """A function: the seconds of kernels that work on so many channels at once."""

    def seconds(model):
        shape, made = sizes(model)
        rounds = np.ceil(shape[-1] / step) * np.ceil(made / step)
        return 1e-6 * math.prod(shape[1:-1]) * step * step * float(rounds)

    return seconds


def table(formula=product):
    """A `LatencyTable` that "measures" by a formula."""
    return LatencyTable({}, measure=lambda models: [formula(model) for model in models])
