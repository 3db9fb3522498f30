"""Timing side by side: contenders take turns, so what disturbs one disturbs its pair too."""

import time
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ratio:
    """How many times as long one contender takes as another, over paired rounds."""

    median: float
    lower_quartile: float
    upper_quartile: float
    pairs: int

    @property
    def noise(self):
        """Half the width of the median's 95% interval, 1.57 IQR / sqrt(pairs).

        Reference: R. McGill, J. W. Tukey, W. A. Larsen, "Variations of box plots", 1978.
        """
        return 1.57 * (self.upper_quartile - self.lower_quartile) / self.pairs**0.5

    def exceeds(self, limit):
        """Whether the median is above a number, or another ratio's median, beyond the noise."""
        if isinstance(limit, Ratio):
            return self.median - limit.median > (self.noise**2 + limit.noise**2) ** 0.5
        return self.median - limit > self.noise

    def __str__(self):
        return f"{self.median:.2f} ({self.lower_quartile:.2f}-{self.upper_quartile:.2f})"


def interleaved(contenders, *, rounds, repeats, warm_up=1, prepare=None, clock=time.perf_counter):
    """Times functions in turn: in each round every contender runs `repeats` times in a row.

    Args:
        contenders: Dict from name to a function without arguments, which returns when the work is
            done.
        rounds: How often each has its turn. Every other round goes backwards, so that none always
            follows the same one.
        repeats: Calls of a function in one turn.
        warm_up: Turns that are not counted.
        prepare: Called before each turn, off the clock.
        clock: What tells the time in seconds. `time.process_time` counts the work of all threads
            of this process, whatever else the machine does.

    Returns:
        Dict from name to an array of `rounds` times, in seconds a call.
    """
    names = list(contenders)
    times = {name: np.empty(rounds) for name in names}
    for index in range(-warm_up, rounds):
        for name in names if index % 2 else reversed(names):
            run = contenders[name]
            if prepare is not None:
                prepare()
            start = clock()
            for _ in range(repeats):
                run()
            elapsed = clock() - start
            if index >= 0:
                times[name][index] = elapsed / repeats
    return times


def ratio(times, other_times, *, turns=1):
    """Median and quartiles of the ratios of paired times, which is not a ratio of medians.

    Args:
        times: Array, from `interleaved`.
        other_times: Array of the same length, of what is compared with.
        turns: How many turns in a row make one time; more than 1 where work comes in periods.
    """
    complete = len(times) // turns * turns
    times, other_times = (t[:complete].reshape(-1, turns).mean(1) for t in (times, other_times))
    lower, median, upper = np.quantile(times / other_times, [0.25, 0.5, 0.75])
    return Ratio(float(median), float(lower), float(upper), len(times))
