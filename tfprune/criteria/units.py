"""Criteria for units: what a neuron or a filter is worth. Higher = keep.

A criterion is a function which asks for what it needs by the names of its arguments, and returns
one score for each unit. Those that look at weights may ask for

* `layer`: a layer that makes the units, passes them on or uses them;
* `role`: which of these it does, "makers", "norms" or "consumers" (see `units_slices`);
* `weights`: its weights by name, each an array of shape (units, elements of a unit): the columns
  of a kernel, the filters of a convolution, the gates of a recurrent unit;
* `gradient`, `squared_gradient`: by name, arrays of the same shapes, measured on data: the mean
  of dL/dw over examples, and that of (dL/dw)^2 over batches;
* `seed`: integers which differ from layer to layer and stay the same from update to update.

They are asked for each layer that makes the units, or for each role in their attribute `roles`,
and may return `None` for a layer that they cannot judge. Those that look at activations may ask for

* `mean`, `variance`, `zero_share`: of a unit's activations over examples and positions;
* `contribution`: the mean over examples of |mean over positions of a dL/da|.

They are asked for each tensor that layers use the units from: see `tfprune.criteria.units_tensors`.
Units that no tensor shows, such as the heads of an attention, are scored by `magnitude` then, which
is to be normalised before it is ranked with the rest.

| | looks at | needs data |
|---|---|---|
| `magnitude` | makers: length of kernels, and biases | |
| `l1`, `l2` | makers, norms, consumers | |
| `taylor`, `second_order` | makers, norms, consumers | x, y, a loss |
| `fpgm` | makers: kernels | |
| `bn_scale` | norms: gamma | |
| `random` | nothing | |
| `taylor_activation` | activations where they are used | x, y, a loss |
| `apoz`, `activation_variance` | activations where they are used | x |
| `activation_contribution` | activations where they are made | is measured in training |

>>> def smallest_weight(weights):
...     return np.abs(weights["kernel"]).min(axis=1)
>>> score(get(smallest_weight), None, {"kernel": np.array([[1.0, -2.0], [3.0, 4.0]])})
array([1., 3.])
"""

import numpy as np

from tfprune.criteria import arguments, units_tensors
from tfprune.criteria.contribution import ActivationContribution
from tfprune.criteria.units_weights import (
    L1,
    L2,
    SecondOrder,
    Taylor,
    bn_scale,
    fpgm,
    magnitude,
    random,
)
from tfprune.layers import Masked

OF_WEIGHTS = ("gradient", "squared_gradient")
"""What is measured of weights."""

_OFFERED = ["layer", "role", "weights", "seed", *OF_WEIGHTS]


def taylor_activation(contribution):
    """How much the loss would change without a unit, to first order, an example at a time.

        u = mean over examples | mean over positions (a dL/da) |

    Here a is what the layers that use the unit read, so norms and activations count, and L the loss
    of the example by way of these layers. `activation_contribution` is measured while the model
    trains, where units are made.

    Args:
        contribution: Array of shape (units,), measured on data.

    Returns:
        The same.

    Example:

    >>> taylor_activation(np.array([0.5, 2.0]))
    array([0.5, 2. ])

    Reference:
        P. Molchanov, S. Tyree, T. Karras, T. Aila, J. Kautz, "Pruning Convolutional Neural
        Networks for Resource Efficient Inference", https://arxiv.org/abs/1611.06440, equation 8.
    """
    return contribution


def apoz(zero_share):
    """How often a unit is not 0: 1 - the average percentage of zeros (APoZ).

    Zeros are counted after the activation, where layers use the unit. Behind activations that give
    no zeros, all units score 1.

    Args:
        zero_share: Array of shape (units,), measured on data.

    Returns:
        An array of shape (units,).

    Example:

    >>> apoz(np.array([0.25, 1.0]))
    array([0.75, 0.  ])

    Reference:
        H. Hu, R. Peng, Y. Tai, C. Tang, "Network Trimming: A Data-Driven Neuron Pruning Approach
        towards Efficient Deep Architectures", https://arxiv.org/abs/1607.03250.
    """
    return 1 - zero_share


def activation_variance(variance):
    """The variance of a unit, which is what is lost where its mean goes into biases.

    Args:
        variance: Array of shape (units,), measured on data.

    Returns:
        The same.

    Example:

    >>> activation_variance(np.array([0.5, 2.0]))
    array([0.5, 2. ])
    """
    return variance


_ALL = {
    "magnitude": magnitude,
    "l1": L1,
    "l2": L2,
    "random": random,
    "bn_scale": bn_scale,
    "fpgm": fpgm,
    "taylor": Taylor,
    "taylor_activation": taylor_activation,
    "second_order": SecondOrder,
    "apoz": apoz,
    "activation_variance": activation_variance,
    "activation_contribution": ActivationContribution,
}


def get(identifier):
    """The criterion meant by a name, a callable, or the configuration of one.

    Args:
        identifier: A name out of the table above, a callable as the module describes it, or a
            serialised one.

    Raises:
        ValueError: If there is no such criterion, or it asks for something unknown.

    Example:

    >>> get("magnitude") is magnitude
    True
    """
    criterion = arguments.find(identifier, _ALL, "a callable which scores the units of a layer")
    of_activations = activations_of(criterion)
    if of_activations:
        rule = (
            f"A criterion for units that asks for {of_activations} looks at activations, and may "
            f"ask for {list(units_tensors.MEASURES)} alone."
        )
        arguments.check(criterion, units_tensors.MEASURES, rule)
    else:
        rule = (
            "A criterion for units may ask for `layer`, `weights` and `seed`, for `role`, "
            "`gradient` and `squared_gradient`, or else for measures of activations: "
            f"{list(units_tensors.MEASURES)}."
        )
        arguments.check(criterion, _OFFERED, rule)
    return criterion


def serialize(criterion):
    """The name of a criterion of this module, or the configuration of another callable.

    Example:

    >>> serialize(magnitude), serialize(L1())
    ('magnitude', 'l1')
    """
    return arguments.serialize(criterion, _ALL)


def gradients_of(criterion):
    """The gradients of weights that a criterion asks for.

    Example:

    >>> gradients_of(Taylor()), gradients_of(magnitude)
    (['gradient'], [])
    """
    return arguments.asked(criterion, OF_WEIGHTS)


def activations_of(criterion):
    """The measures of activations that a criterion asks for.

    Example:

    >>> activations_of(apoz), activations_of(magnitude)
    (['zero_share'], [])
    """
    return arguments.asked(criterion, units_tensors.MEASURES)


def roles_of(criterion):
    """The roles of layers that a criterion looks at.

    Example:

    >>> roles_of(magnitude), roles_of(bn_scale)
    (('makers',), ('norms',))
    """
    return tuple(getattr(criterion, "roles", ("makers",)))


def score(criterion, layer, weights, seed=None, family=None, *, role="makers", measured=None):
    """The scores of the units of one layer.

    A criterion that is measured in training knows what the output of a masked layer shows. Units
    inside a layer, such as the heads of an attention or the cell of a wrapper, are scored by
    `magnitude`.

    Args:
        criterion: A callable that looks at weights, as `get` returns it.
        layer: The layer.
        weights: Its weights by name, as the module describes them.
        seed: What a criterion that draws starts from.
        family: What the layer calls these units if its output does not show them, else None.
        role: What it does with them.
        measured: Dict of what `gradients_of(criterion)` lists.

    Returns:
        A float array of shape (units,), or None where the criterion says nothing.

    Raises:
        ValueError: If the scores are not one finite number for each unit.
    """
    is_shown = family is None and isinstance(layer, Masked)
    if isinstance(criterion, ActivationContribution) and not is_shown:
        criterion = magnitude
    offered = {"layer": layer, "role": role, "weights": weights, "seed": seed, **(measured or {})}
    units = len(next(iter(weights.values())))
    return checked(arguments.call(criterion, offered), units, getattr(layer, "name", layer))


def checked(scores, units, name):
    """Scores as a float array, if they are one finite number for each unit; None stays None.

    Raises:
        ValueError: If they are not; the error tells the name of the layer.

    Example:

    >>> checked([1, 2], 2, "dense")
    array([1., 2.])
    """
    if scores is None:
        return None
    scores = np.asarray(scores, "float64")
    if scores.shape != (units,) or not np.isfinite(scores).all():
        raise ValueError(
            f"A criterion must return one finite score for each of the {units} units. "
            f"Received: shape={scores.shape}, "
            f"{np.count_nonzero(~np.isfinite(scores))} of them not finite, "
            f"layer={name!r}."
        )
    return scores
