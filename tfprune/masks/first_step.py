"""The step of the optimizer at which the masks of a model were made, from which schedules count.

Each layer notes it when it gets its masks, and it is saved with them, so a schedule means the same
in a model that is trained on, loaded or restored from a backup.
"""

import keras
import numpy as np

from tfprune import _keras
from tfprune.layers import Masked

UNKNOWN = -1
"""The first step of masks made outside of a model, as `mask_in_place` does: the next one."""


def note_first_step(layers, step):
    """Notes the step at which some layers got their masks.

    Args:
        layers: Keras layers; those without masks are left out.
        step: Integer, `optimizer.iterations`, or `UNKNOWN`.
    """
    for variable in _variables(layers):
        variable.assign(step)


def first_step(model, step):
    """Returns the step of the optimizer at which the masks of a model were made.

    Where layers got theirs at different times, it is the last of these. A model whose masks are
    older than its optimizer, which was compiled anew, counts from the optimizer's first step.

    Args:
        model: Any Keras model.
        step: Integer, `optimizer.iterations` now.

    Example:

    >>> import tfprune
    >>> dense = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> dense.compile("sgd", "mse")
    >>> loss = dense.train_on_batch(np.ones((1, 3)), np.ones((1, 2)))
    >>> first_step(tfprune.prunable(dense), step=5)
    1
    """
    variables = _variables(_keras.all_layers(model))
    noted = [int(np.asarray(variable)) for variable in variables]
    first = max((step if known == UNKNOWN else known for known in noted), default=0)
    if first > step:
        first = 0
    for variable, known in zip(variables, noted, strict=True):
        if known == UNKNOWN or known > step:
            variable.assign(first)
    return first


def current_step(model, optimizer=None):
    """`optimizer.iterations` as an integer; by default of `model.optimizer`."""
    optimizer = model.optimizer if optimizer is None else optimizer
    return int(keras.ops.convert_to_numpy(optimizer.iterations))


def _variables(layers):
    states = (vars(each).get("_weight_masks") for each in layers if isinstance(each, Masked))
    return [state.first_step for state in states if state is not None]
