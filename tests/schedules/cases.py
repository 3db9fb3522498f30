"""Every schedule there is, with times that are easy to scale."""

import keras

from tfprune.schedules import (
    Chain,
    Constant,
    Cosine,
    Exponential,
    Function,
    InSteps,
    Linear,
    OneShot,
    Periodic,
    PolynomialDecay,
)


@keras.saving.register_keras_serializable("test_schedules")
def tenth_per_step(step):
    return min(1.0, step / 10)


def every_schedule(frequency=4, unit="step", scale=1):
    """One schedule of each class with what it ends with; all times are multiplied by `scale`."""
    t = [time * scale for time in range(30)]
    every = {"frequency": frequency * scale, "unit": unit}
    rise = Linear(0.1, 0.8, t[1], t[5], **every)
    again = Linear(0.5, 0.9, t[2], t[7], **every)
    cases = [
        (Constant(0.3, t[2], t[9], **every), 0.3),
        (PolynomialDecay(0.1, 0.8, t[3], t[10], power=2, **every), 0.8),
        (Linear(0.1, 0.8, t[3], t[10], **every), 0.8),
        (Exponential(0.1, 0.8, t[3], t[10], **every), 0.8),
        (Cosine(0.1, 0.8, t[3], t[10], **every), 0.8),
        (OneShot(0.5, t[7], unit=unit), 0.5),
        (Function(tenth_per_step, t[1], t[20], **every), 1.0),
        (Periodic(rise, t[7], cycles=3), 0.8),
        (Chain([Linear(0.0, 0.5, t[1], t[6], **every), again], [t[6]]), 0.9),
    ]
    if unit == "step":
        in_epochs = Linear(0.1, 0.7, 0.5, 2.3, frequency=frequency / 5, unit="epoch")
        cases.append((InSteps(in_epochs, 5), 0.7))
    return cases
