"""The weights of a layer of a user's class, and how units pass through it with them."""

from dataclasses import dataclass, field

from tfprune import _keras
from tfprune.coupling.rules.unit_propagation import Passage


@dataclass(frozen=True)
class WrittenNorm:
    """A hand-written RMS norm over units, see `written_norms`.

    Attributes:
        weight: The place of its weight.
        slope, intercept: Its gain is `slope * weight + intercept`.
        epsilon: The place of its epsilon among the attributes; None if it has none.
        counts: Whether its mean divides by the number of units that there are, not by that of once.
    """

    weight: int
    slope: float
    intercept: float
    epsilon: tuple | None
    counts: bool


@dataclass(frozen=True, eq=False)
class OwnWeights:
    """How units pass through a layer with weights of its own.

    Attributes:
        numbers: For each whole number among the attributes that is a size, by its place, where that
            size is: the place of an input or weight, and the axis.
        axes: For each weight with an axis that belongs to units of the output, the axis.
        used: For each weight with an axis that belongs to units of the input which it joins, that.
        passage: How units pass through, where they are not joined. Its places are those of the
            inputs, then those of the weights.
        out_axis: The axis along which the units stand that the weights make, or None.
        sources: For each weight in `axes`, the index that each of these units follows.
        hidden: For units that weights make and others use, the axis of each weight, and the places
            of those that use them.
        reason: Why the units of the inputs stay, where only others were found.
        norm: What it takes to resize the layer, if it is a norm over the units that pass through.
    """

    numbers: dict
    axes: dict
    used: dict = field(default_factory=dict)
    passage: Passage | None = None
    out_axis: int | None = None
    sources: dict = field(default_factory=dict)
    hidden: tuple = ()
    reason: str | None = None
    norm: WrittenNorm | None = None


def own_weights(layer):
    """The weights of a layer and of the layers inside, without masks."""
    return [weight for weight in layer.weights if "float" in weight.dtype]


def has_own_weights(operation):
    """Whether an operation is a layer of a user's class with weights."""
    return not _keras.is_stock(type(operation)) and bool(getattr(operation, "weights", None))


def places(call):
    """The place of each weight of a layer: they come after the tensors that it is called on."""
    first = len(call.inputs) + len(call.masks)
    return dict(enumerate(own_weights(call.operation), first))
