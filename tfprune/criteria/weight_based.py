"""Weight-based criteria for units: norms, gradients and distances of their weights."""

import keras
import numpy as np

from tfprune.criteria import weights as of_weights
from tfprune.criteria.criterion import ROLES, Criterion, checked_seed


def _absolute_sum(arrays):
    return sum(np.abs(array, dtype="float64").sum(axis=1) for array in arrays)


@keras.saving.register_keras_serializable("tfprune")
class Magnitude(Criterion):
    """Magnitude of a unit: ||w||_2 over its kernels, plus |b|, in the layer that makes it.

    Elements of a weight are scored by |w|.

    Args:
        aggregate, normalize: See `tfprune.criteria.Criterion`.

    Example:

    >>> kernel, bias = np.array([[3.0, 4.0], [0.0, 1.0]]), np.array([[-1.0], [0.0]])
    >>> Magnitude()({"kernel": kernel, "bias": bias})
    array([6., 1.])
    """

    of_weight = staticmethod(of_weights.magnitude)

    def __call__(self, weights):
        """The lengths, an array of shape (units,)."""
        kernels = [w for name, w in weights.items() if not name.endswith("bias")]
        biases = [w for name, w in weights.items() if name.endswith("bias")]
        length = np.sqrt(sum(np.square(w, dtype="float64").sum(axis=1) for w in kernels))
        return length + sum(np.abs(b, dtype="float64").sum(axis=1) for b in biases)


@keras.saving.register_keras_serializable("tfprune")
class Random(Criterion):
    """Uniform numbers from 0 to 1, the same at every update for the same seed.

    Args:
        seed: Integer; the same seed gives the same masks. By default one is drawn from Keras's
            global seed.
        aggregate, normalize: See `tfprune.criteria.Criterion`.

    Example:

    >>> weights = {"kernel": np.ones((3, 2))}
    >>> bool((Random()(weights, seed=7) == Random()(weights, seed=7)).all())
    True
    """

    of_weight = staticmethod(of_weights.random)

    def __init__(self, seed=None, *, aggregate="sum", normalize=None):
        super().__init__(aggregate=aggregate, normalize=normalize)
        self.seed = checked_seed(seed)

    def __call__(self, weights, seed=None):
        """The numbers, an array of shape (units,)."""
        units = len(next(iter(weights.values())))
        return np.random.default_rng(seed).random(units)

    def get_config(self):
        """The arguments that make this criterion again."""
        return {"seed": self.seed, **super().get_config()}


@keras.saving.register_keras_serializable("tfprune")
class BatchNormScale(Criterion):
    """|gamma| of the batch norms that a unit passes, and of other norms that scale units.

    Units that pass no norm have no such score and are refused.

    Args:
        aggregate, normalize: See `tfprune.criteria.Criterion`.

    Example:

    >>> BatchNormScale()({"gamma": np.array([[-2.0], [0.5]]), "beta": np.array([[1.0], [9.0]])})
    array([2. , 0.5])

    Reference:
        Z. Liu et al., "Learning Efficient Convolutional Networks through Network Slimming",
        https://arxiv.org/abs/1708.06519.
    """

    roles = ("norms",)

    def __call__(self, weights):
        """The scales, an array of shape (units,); `None` for layers without a scale."""
        scales = [w for name, w in weights.items() if name.split("/")[-1] in ("gamma", "scale")]
        return _absolute_sum(scales) if scales else None


@keras.saving.register_keras_serializable("tfprune")
class FPGM(Criterion):
    """Filter pruning via geometric median: sum over v of ||w_u - w_v||_2 in a layer.

    A filter near the geometric median of all can be replaced by the others; w and -w are far apart.
    Biases do not count.

    Args:
        aggregate, normalize: See `tfprune.criteria.Criterion`.

    Example:

    >>> FPGM()({"kernel": np.array([[3.0], [-3.0], [4.0]])})
    array([ 7., 13.,  8.])

    Reference:
        Y. He et al., "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks
        Acceleration", https://arxiv.org/abs/1811.00250, equation 7.
    """

    def __call__(self, weights):
        """The sums of distances, an array of shape (units,)."""
        kernels = [w for name, w in weights.items() if not name.endswith("bias")]
        rows = np.concatenate(kernels, axis=1).astype("float64")
        rows = rows - rows.mean(axis=0)  # distances stay, and less is lost in the differences below
        squares = np.square(rows).sum(axis=1)
        both = squares[:, None] + squares
        distances = both - 2 * rows @ rows.T
        distances[distances < 1e-12 * both] = 0.0  # closer than what float32 tells apart
        return np.sqrt(distances).sum(axis=1)


class OverRoles(Criterion):
    """Base class of criteria that add up over the weights of some roles.

    Args:
        roles: Which of "makers", "norms" and "consumers" count, by default all; see
            `tfprune.criteria.unit_slices`.
        aggregate, normalize: See `tfprune.criteria.Criterion`.

    Raises:
        ValueError: If there is no such role.
    """

    def __init__(self, roles=ROLES, *, aggregate="sum", normalize=None):
        super().__init__(aggregate=aggregate, normalize=normalize)
        known = [roles] if isinstance(roles, str) else list(roles)
        if not known or set(known) - set(ROLES):
            raise ValueError(
                f"Argument `roles` must be a non-empty selection of {ROLES}. "
                f"Received: roles={roles!r}."
            )
        self.roles = tuple(role for role in ROLES if role in known)

    def get_config(self):
        """The arguments that make this criterion again."""
        return {"roles": list(self.roles), **super().get_config()}


@keras.saving.register_keras_serializable("tfprune")
class L1(OverRoles):
    """Sum |w| over the weights that a unit has in a layer, biases and scales included.

    Args:
        roles: Which of "makers", "norms" and "consumers" count, by default all; see
            `tfprune.criteria.unit_slices`.
        aggregate, normalize: See `tfprune.criteria.Criterion`.

    Example:

    >>> L1()({"kernel": np.array([[3.0, -4.0]]), "bias": np.array([[-1.0]])})
    array([8.])

    Reference:
        H. Li et al., "Pruning Filters for Efficient ConvNets", https://arxiv.org/abs/1608.08710.
    """

    def __call__(self, weights):
        """The sums, an array of shape (units,)."""
        return _absolute_sum(weights.values())


@keras.saving.register_keras_serializable("tfprune")
class L2(OverRoles):
    """||w||_2 over the weights that a unit has in a layer, biases and scales included.

    Args:
        roles: Which of "makers", "norms" and "consumers" count, by default all; see
            `tfprune.criteria.unit_slices`.
        aggregate, normalize: See `tfprune.criteria.Criterion`.

    Example:

    >>> L2()({"kernel": np.array([[2.0, -4.0]]), "bias": np.array([[-4.0]])})
    array([6.])
    """

    def __call__(self, weights):
        """The lengths, an array of shape (units,)."""
        squares = (np.square(w, dtype="float64").sum(axis=1) for w in weights.values())
        return np.sqrt(sum(squares))


@keras.saving.register_keras_serializable("tfprune")
class Taylor(OverRoles):
    """Sum |w dL/dw| over the weights that a unit has in a layer: gamma and beta count too.

    The gradient is the mean over examples, measured on data. Elements of a weight are scored by
    |w dL/dw|.

    Args:
        roles: Which of "makers", "norms" and "consumers" count, by default all; see
            `tfprune.criteria.unit_slices`.
        aggregate, normalize: See `tfprune.criteria.Criterion`.

    Example:

    >>> weights, gradient = {"kernel": np.array([[2.0, -1.0]])}, {"kernel": np.array([[1.0, 3.0]])}
    >>> Taylor()(weights, gradient)
    array([5.])

    Reference:
        P. Molchanov, A. Mallya, S. Tyree, I. Frosio, J. Kautz, "Importance Estimation for Neural
        Network Pruning", https://arxiv.org/abs/1906.10771.
    """

    of_weight = staticmethod(of_weights.gradient)

    def __call__(self, weights, gradient):
        """The sums, an array of shape (units,)."""
        products = (w * np.asarray(gradient[name], "float64") for name, w in weights.items())
        return _absolute_sum(products)


@keras.saving.register_keras_serializable("tfprune")
class SecondOrder(OverRoles):
    """Sum w^2 E[(dL/dw)^2] over the weights that a unit has in a layer.

    The mean of squared gradients, over batches of the data, approximates the diagonal of the
    Hessian; the factor 1/2 of the Taylor expansion is left out. With batches of one example it is
    the mean over examples.

    Args:
        roles: Which of "makers", "norms" and "consumers" count, by default all; see
            `tfprune.criteria.unit_slices`.
        aggregate, normalize: See `tfprune.criteria.Criterion`.

    Example:

    >>> weights, squared = {"kernel": np.array([[2.0, -1.0]])}, {"kernel": np.array([[1.0, 3.0]])}
    >>> SecondOrder()(weights, squared)
    array([7.])

    Reference:
        L. Theis et al., "Faster gaze prediction with dense networks and Fisher pruning",
        https://arxiv.org/abs/1801.05787.
    """

    of_weight = staticmethod(of_weights.second_order)

    def __call__(self, weights, squared_gradient):
        """The sums, an array of shape (units,)."""
        return sum(
            (np.square(w, dtype="float64") * squared_gradient[name]).sum(axis=1)
            for name, w in weights.items()
        )
