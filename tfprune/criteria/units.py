"""Criteria for units: importance scores of neurons, filters and heads. Higher = keep.

A criterion is a function that requests its inputs by the names of its arguments, and returns one
score for each unit. Weight-based criteria may request

* `layer`: a layer that makes the units, passes them on or uses them;
* `role`: which of these it does: "makers", "norms" or "consumers" (see `unit_slices`);
* `weights`: its weights by name, each an array of shape (units, elements of a unit): the columns
  of a kernel, the filters of a convolution, the gates of a recurrent unit;
* `gradient`, `squared_gradient`: by name, arrays of the same shapes, measured on data: the mean
  of dL/dw over examples, and that of (dL/dw)^2 over batches;
* `seed`: integers that differ between layers and stay the same from update to update.

They are called for each layer that makes the units, or for each role in their attribute `roles`,
and may return `None` for a layer that they cannot score. Activation-based criteria may request

* `mean`, `variance`, `zero_share`: of a unit's activations over examples and positions;
* `contribution`: the mean over examples of |mean over positions of a dL/da|.

They are called for each tensor that layers use the units from, see
`tfprune.criteria.unit_activations`. Units that occur in no tensor, such as the heads of an
attention, are scored by `Magnitude` then; normalise it before you rank it with the rest.

| name | class | scores | needs data |
|---|---|---|---|
| "magnitude" | `Magnitude` | makers: length of kernels, and biases | |
| "l1", "l2" | `L1`, `L2` | makers, norms, consumers | |
| "taylor", "second_order" | `Taylor`, `SecondOrder` | makers, norms, consumers | x, y, a loss |
| "fpgm" | `FPGM` | makers: kernels | |
| "bn_scale" | `BatchNormScale` | norms: gamma | |
| "random" | `Random` | nothing | |
| "taylor_activation" | `TaylorActivation` | activations where used | x, y, a loss |
| "apoz" | `APoZ` | activations where used | x |
| "activation_variance" | `ActivationVariance` | activations where used | x |
| "activation_contribution" | `ActivationContribution` | activations where made | in training |
| "layerwise_obs" | `LayerwiseOBS` | the layers that use units, after a fit | x |

>>> import keras
>>> def smallest_weight(weights):
...     return np.abs(weights["kernel"]).min(axis=1)
>>> kernel = np.array([[1.0, -2.0], [3.0, 4.0]])  # what each of two units has
>>> score(get(smallest_weight), keras.layers.Dense(2), {"kernel": kernel})
array([1., 3.])
"""

import numpy as np

from tfprune.criteria import arguments, unit_activations
from tfprune.criteria.activation_based import ActivationVariance, APoZ, TaylorActivation
from tfprune.criteria.contribution import ActivationContribution
from tfprune.criteria.criterion import Criterion, Function
from tfprune.criteria.layerwise_obs import LayerwiseOBS
from tfprune.criteria.weight_based import (
    FPGM,
    L1,
    L2,
    BatchNormScale,
    Magnitude,
    Random,
    SecondOrder,
    Taylor,
)
from tfprune.layers import Masked
from tfprune.layers.layer_masks import measured_of

OF_WEIGHTS = ("gradient", "squared_gradient")
"""The measures of weights that criteria for units may request."""

_OFFERED = ["layer", "role", "weights", "seed", *OF_WEIGHTS]


_ALL = {
    "magnitude": Magnitude,
    "l1": L1,
    "l2": L2,
    "random": Random,
    "bn_scale": BatchNormScale,
    "fpgm": FPGM,
    "taylor": Taylor,
    "taylor_activation": TaylorActivation,
    "second_order": SecondOrder,
    "apoz": APoZ,
    "activation_variance": ActivationVariance,
    "activation_contribution": ActivationContribution,
    "layerwise_obs": LayerwiseOBS,
}
_REGISTRY = arguments.registry(_ALL, "a `tfprune.criteria.Criterion`, or a callable")
serialize = _REGISTRY.serialize_by_name


def get(identifier, **options):
    """Returns the criterion for units that an identifier means.

    Args:
        identifier: A name out of the table above; a `tfprune.criteria.Criterion`; a callable as
            the module describes it; or the configuration of one of these.
        **options: Arguments of the criterion, where the identifier is a name or a callable.

    Returns:
        A `tfprune.criteria.Criterion`; a plain callable becomes a `tfprune.criteria.Function`.

    Raises:
        ValueError: If there is no such criterion, or it requests something unknown.

    Example:

    >>> get("l1", normalize="mean")
    L1(roles=('makers', 'norms', 'consumers'), aggregate='sum', normalize='mean')
    """
    criterion = _REGISTRY.get(identifier, **options)
    if not isinstance(criterion, Criterion):
        criterion = Function(criterion, **options)
    of_activations = activations_of(criterion)
    if of_activations:
        rule = (
            f"A criterion for units that asks for {of_activations} looks at activations, and may "
            f"ask for {list(unit_activations.MEASURES)} alone."
        )
        arguments.check(criterion, unit_activations.MEASURES, rule)
    else:
        rule = (
            "A criterion for units may ask for `layer`, `weights` and `seed`, for `role`, "
            "`gradient` and `squared_gradient`, or else for measures of activations: "
            f"{list(unit_activations.MEASURES)}."
        )
        arguments.check(criterion, _OFFERED, rule)
    return criterion


def gradients_of(criterion):
    """The gradients of weights that a criterion requests.

    Example:

    >>> gradients_of(Taylor()), gradients_of(Magnitude())
    (['gradient'], [])
    """
    return arguments.requested(criterion, OF_WEIGHTS)


def activations_of(criterion):
    """The measures of activations that a criterion requests.

    Example:

    >>> activations_of(APoZ()), activations_of(Magnitude())
    (['zero_share'], [])
    """
    return arguments.requested(criterion, unit_activations.MEASURES)


def score(
    criterion, layer, weights, seed=None, family=None, *, role="makers", measured=None, finite=True
):
    """The scores of the units of one layer.

    `ActivationContribution` is measured at the outputs of masked layers. Units inside a layer, such
    as the heads of an attention or the cell of a wrapper, are scored by `Magnitude` instead.

    Args:
        criterion: A weight-based criterion, as `get` returns it.
        layer: The layer.
        weights: Its weights by name, as the module describes them.
        seed: What a criterion that draws starts from.
        family: The layer's name for these units if they are inside of it, else None.
        role: The role of the layer: "makers", "norms" or "consumers".
        measured: Dict of what `gradients_of(criterion)` lists.
        finite: Whether scores that are not finite are refused.

    Returns:
        A float array of shape (units,), or None where the criterion has no score.

    Raises:
        ValueError: If the scores are not one finite number for each unit.
    """
    is_shown = isinstance(layer, Masked) or measured_of(layer) is not None
    is_shown = is_shown and family is None
    if isinstance(criterion, ActivationContribution) and not is_shown:
        criterion = Magnitude()
    offered = {"layer": layer, "role": role, "weights": weights, "seed": seed, **(measured or {})}
    units = len(next(iter(weights.values())))
    return checked(
        arguments.call(criterion, offered), units, getattr(layer, "name", layer), finite=finite
    )


def checked(scores, units, name, *, finite=True):
    """Scores as a float array with one finite number for each unit; None stays None.

    Raises:
        ValueError: If they are not; the error has the name of the layer.

    Example:

    >>> checked([1, 2], 2, "dense")
    array([1., 2.])
    """
    if scores is None:
        return None
    scores = np.asarray(scores, "float64")
    if scores.shape != (units,) or (finite and not np.isfinite(scores).all()):
        raise ValueError(
            f"A criterion must return one {'finite ' * finite}score for each of the {units} units. "
            f"Received: shape={scores.shape}, "
            f"{np.count_nonzero(~np.isfinite(scores))} of them not finite, "
            f"layer={name!r}."
        )
    return scores
