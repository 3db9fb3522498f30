"""Criteria for weights: pure functions that return an importance score for each element.

The first argument of a criterion is the array of the weight's values. It requests more by the names
of further arguments:

* `seed`: a list of integers that differs between weights and stays the same from update to update;
* `gradient`, `gradient_variance`, `squared_gradient`, `movement`, `hessian_gradient`,
  `flow_gradient`, `input_norm`: arrays of the weight's shape, or which broadcast to it, that are
  measured on data; see `tfprune.criteria.measuring.measure`.

It returns an array of the weight's shape, higher = keep.

| name | score | needs data |
|---|---|---|
| "magnitude" | abs(w) | |
| "random" | uniform numbers | |
| "gradient" | abs(w dL/dw) | x, y, a loss |
| "second_order" | w^2 E[(dL/dw)^2] | x, y, a loss |
| "movement" | -sum w dL/dw | x, y, a loss, or training |
| "synflow" | abs(w dR/dw) | |
| "grasp" | w (H g) | x, y, a loss |
| "wanda" | abs(w) times the norm of its input | x |
| "lamp" | w^2 over the sum of larger squares | |

`tfprune.prune_weights` also takes "obc" and "sparsegpt", which score elements and change those that
are kept; see `tfprune.criteria.OBC` and `tfprune.criteria.SparseGPT`.

A function of your own:

>>> def far_from_one(weight):
...     return np.abs(weight - 1)
>>> score(get(far_from_one), np.array([1.0, 3.0]))
array([0., 2.])
"""

import numpy as np

from tfprune.criteria import arguments, obc, sparsegpt
from tfprune.criteria.criterion import Criterion
from tfprune.criteria.measuring import MEASURES
from tfprune.patterns import Unstructured


def magnitude(weight):
    """The magnitude abs(w): elements close to 0 are pruned first.

    Args:
        weight: Array of any shape.

    Returns:
        |weight|, an array of the same shape.

    Example:

    >>> magnitude(np.array([-3.0, 1.0]))
    array([3., 1.])
    """
    return np.abs(weight)


def random(weight, seed=None):
    """Random scores: uniform numbers from 0 to 1.

    With the same seed an element has the same score at every update, so training that was
    interrupted goes on with the masks it would have had.

    Args:
        weight: Array of any shape.
        seed: Integer or sequence of integers; `None` draws other numbers at every call.

    Returns:
        An array of the weight's shape.

    Example:

    >>> bool((random(np.zeros(3), seed=7) == random(np.ones(3), seed=7)).all())
    True
    """
    return np.random.default_rng(seed).random(np.shape(weight), dtype=np.float32)


def gradient(weight, gradient):
    """First-order change of the loss without the element: |w dL/dw|.

    Known as Taylor or saliency criterion, and at initialisation as SNIP.

    Args:
        weight: Array of any shape.
        gradient: dL/dw, the mean over examples, of the same shape.

    Returns:
        An array of the weight's shape.

    Example:

    >>> gradient(np.array([2.0, -1.0]), np.array([-0.5, 3.0]))
    array([1., 3.])

    Reference:
        N. Lee, T. Ajanthan, P. Torr, "SNIP: Single-shot Network Pruning based on Connection
        Sensitivity", https://arxiv.org/abs/1810.02340, equation 4.
    """
    return np.abs(weight * gradient)


def second_order(weight, squared_gradient):
    """Second-order change of the loss without the element, at a gradient of 0: w^2 E[(dL/dw)^2].

    The mean of squared gradients stands for the diagonal of the Hessian; half of it is left out.

    Args:
        weight: Array of any shape.
        squared_gradient: E[(dL/dw)^2], of the same shape.

    Returns:
        An array of the weight's shape.

    Example:

    >>> second_order(np.array([2.0, -1.0]), np.array([0.5, 3.0]))
    array([2., 3.])

    Reference:
        Y. LeCun, J. Denker, S. Solla, "Optimal Brain Damage", 1989; L. Theis et al., "Faster gaze
        prediction with dense networks and Fisher pruning", https://arxiv.org/abs/1801.05787.
    """
    return np.square(weight) * squared_gradient


def movement(weight, movement):
    """Movement pruning: -sum w dL/dw over batches, high for elements that move away from 0.

    In `tfprune.callbacks.PruneWeights` the sum runs over the steps of training, each with the
    weights of that step; elsewhere over the batches of the data, with the weights as they are.

    Args:
        weight: Array of any shape.
        movement: The sum, of the same shape.

    Returns:
        The sum.

    Example:

    >>> movement(np.array([2.0, -1.0]), np.array([0.5, -3.0]))
    array([ 0.5, -3. ])

    Reference:
        V. Sanh, T. Wolf, A. Rush, "Movement Pruning: Adaptive Sparsity by Fine-Tuning",
        https://arxiv.org/abs/2005.07683, equation 3.
    """
    return np.broadcast_to(movement, np.shape(weight))


def synflow(weight, flow_gradient):
    """Synaptic flow |w dR/dw|, R the output of the model with weights |w| for inputs of ones.

    It needs no data. Prune in many steps, each with new scores: in a single one it may empty a
    layer.

    Args:
        weight: Array of any shape.
        flow_gradient: dR/d|w|, of the same shape.

    Returns:
        An array of the weight's shape.

    Example:

    >>> synflow(np.array([2.0, -1.0]), np.array([0.5, 3.0]))
    array([1., 3.])

    Reference:
        H. Tanaka, D. Kunin, D. Yamins, S. Ganguli, "Pruning neural networks without any data by
        iteratively conserving synaptic flow", https://arxiv.org/abs/2006.05467, equation 2.
    """
    return np.abs(weight) * flow_gradient


def grasp(weight, hessian_gradient):
    """Gradient signal preservation: w * (H g), H the Hessian and g the gradient of the loss.

    Pruning an element changes |g|^2 by about -2 w (H g), so a high score keeps the gradient up.

    Args:
        weight: Array of any shape.
        hessian_gradient: H g, of the same shape.

    Returns:
        An array of the weight's shape; the negative of the paper's score, of which the highest go.

    Example:

    >>> grasp(np.array([2.0, -1.0]), np.array([0.5, 3.0]))
    array([ 1., -3.])

    Reference:
        C. Wang, G. Zhang, R. Grosse, "Picking Winning Tickets Before Training by Preserving
        Gradient Flow", https://arxiv.org/abs/2002.07376, equation 8.
    """
    return weight * hessian_gradient


def wanda(weight, input_norm):
    """|w| times the norm ||x||_2 of the input feature that it is multiplied with.

    As in the paper, the elements of each output are compared with one another, unless `pattern`
    says otherwise: `pattern="unstructured"` compares those of the whole weight, as other criteria
    do, and `distribution="global"` those of all weights. Which is better differs from model to
    model: try both.

    Args:
        weight: Array of any shape.
        input_norm: Array which broadcasts to that shape.

    Returns:
        An array of the weight's shape.

    Example:

    >>> wanda(np.array([[2.0, -1.0], [1.0, 1.0]]), np.array([[1.0], [3.0]]))
    array([[2., 1.],
           [3., 3.]])

    Reference:
        M. Sun, Z. Liu, A. Bair, J. Kolter, "A Simple and Effective Pruning Approach for Large
        Language Models", https://arxiv.org/abs/2306.11695, equation 1 and section 3.
    """
    return np.abs(weight) * input_norm


def lamp(weight):
    """Layer-adaptive magnitude: a squared weight over the sum of those that are not smaller.

        score(u) = w_u^2 / sum of w_v^2 over v with w_v^2 >= w_u^2

    Of equal values those that come later in C order count as the smaller ones. Scores of different
    weights can be compared: use it with `distribution="global"`.

    Args:
        weight: Array of any shape.

    Returns:
        An array of the weight's shape, float64.

    Example:

    >>> lamp(np.array([1.0, -2.0, 0.0])).tolist()
    [0.2, 1.0, 0.0]

    Reference:
        J. Lee et al., "Layer-adaptive sparsity for the Magnitude-based Pruning",
        https://arxiv.org/abs/2010.07611, equation 4.
    """
    squares = np.square(np.asarray(weight, "float64")).ravel()
    falling = np.argsort(-squares, kind="stable")
    sums = np.cumsum(squares[falling])
    scores = np.empty_like(squares)
    scores[falling] = np.divide(squares[falling], sums, out=np.zeros_like(sums), where=sums > 0)
    return scores.reshape(np.shape(weight))


_ALL = {
    "magnitude": magnitude,
    "random": random,
    "gradient": gradient,
    "second_order": second_order,
    "movement": movement,
    "synflow": synflow,
    "grasp": grasp,
    "wanda": wanda,
    "lamp": lamp,
}
_REGISTRY = arguments.registry(_ALL, "a `tfprune.criteria.Criterion`, or a callable")
serialize = _REGISTRY.serialize_by_name


def get(identifier):
    """Returns the criterion for weights that an identifier means.

    Args:
        identifier: The name of a function of this module, as "magnitude"; a
            `tfprune.criteria.Criterion` such as `Random(seed=0)`; a callable, as the module
            describes it; or the configuration of one of these.

    Raises:
        ValueError: If there is no such criterion, or it requests something unknown.

    Example:

    >>> get("magnitude") is magnitude
    True
    """
    for updating in (sparsegpt, obc):
        found = updating.find(identifier)
        if found is not None:
            raise ValueError(
                f"{type(found).__name__} does not only score elements, it changes those that are "
                "kept, so nothing takes it but `tfprune.prune_weights(model, target, "
                f'"{updating.NAME}", data=...)`. Received: criterion={identifier!r}. Call that '
                'before training, or take another criterion, such as "wanda".'
            )
    criterion = _REGISTRY.get(identifier)
    if isinstance(criterion, Criterion) and criterion.of_weight is None:
        raise ValueError(
            "The criterion scores units, not the elements of a weight. "
            f"Received: criterion={criterion!r}. Use `tfprune.prune_units`, or one of "
            f"{sorted(_ALL)}."
        )
    rule = (
        "A criterion must take the weight's values, and may have arguments named "
        f"{['seed', *MEASURES]}."
    )
    arguments.check(function_of(criterion), ["seed", *MEASURES], rule, values=1)
    return criterion


def function_of(criterion):
    """The function that scores the elements of a weight: a criterion itself, unless an object."""
    return criterion.of_weight if isinstance(criterion, Criterion) else criterion


def pattern_of(criterion):
    """The pattern that a criterion is used with where none is named.

    Example:

    >>> pattern_of(wanda), pattern_of(magnitude)
    (Unstructured(compare='output'), Unstructured(compare='weight'))
    """
    return Unstructured(compare="output" if function_of(criterion) is wanda else "weight")


def is_known(criterion):
    """Whether the elements are scored by a function of this module."""
    return function_of(criterion) in _ALL.values()


def measures_of(criterion):
    """The measures that a criterion requests.

    Example:

    >>> measures_of(gradient), measures_of(magnitude)
    (['gradient'], [])
    """
    return arguments.requested(function_of(criterion), MEASURES, values=1)


def score(criterion, weight, seed=None, measured=None):
    """The scores of the elements of one weight.

    Args:
        criterion: A callable, as `get` returns it.
        weight: Array of the weight's values.
        seed: Passed on to a criterion that requests `seed`.
        measured: Dict from name to array, of the measures that `measures_of(criterion)` lists.

    Returns:
        An array of the weight's shape.

    Raises:
        ValueError: If the scores are not of the weight's shape.
    """
    offered = {"seed": seed, **(measured or {})}
    scores = np.asarray(arguments.call(function_of(criterion), offered, weight))
    if scores.shape != weight.shape:
        raise ValueError(
            f"A criterion must return scores of the weight's shape {weight.shape}. "
            f"Received: shape={scores.shape}, criterion={criterion!r}."
        )
    return scores
