"""The masks of one weight, and its regularizer, whose gradient they mask too."""

import keras

from tfprune import _keras


class WeightMask:
    """The trainable and the frozen mask of one weight.

    `live` caches `trainable & ~frozen`, the elements that training changes. `rewired` is the step
    at which the weight was last rewired, -1 for never; it is saved with the masks.
    """

    not_in_copies = ("observer", "transform")

    observer = None
    """A callable that the weight's tensor passes through while its gradient is accumulated; its
    `saved` is a variable to save with the masks, or `None`."""

    transform = None
    """A function that the weight's tensor passes through at each read, set by a callback."""

    quantizer = None
    """A `WeightQuantizer` that the weight's tensor passes through at each read; it is saved with
    the masks."""

    sums = None
    """What was summed of the weight in training that is to go on, an array; see
    `tfprune.masks.gradient_accumulation`. It is saved with the masks."""

    def __init__(self, weight, name):
        self.weight = weight
        self.trainable = _boolean(weight, name, "trainable_mask", "ones")
        self.frozen = _boolean(weight, name, "frozen_mask", "zeros")
        self.live = _boolean(weight, name, "live", "ones")
        self.rewired = step_variable(f"{name.replace('/', '_')}_rewired", -1)
        _keras.guard(weight, self.trainable, self.live)
        weight.masks = self
        if weight.regularizer is not None:
            weight.regularizer = MaskedRegularizer(weight.regularizer, weight, self.live)

    def read(self):
        """The weight as a tensor whose gradient is 0 in masked elements."""
        value = _keras.uncast(self.weight)
        if self.transform is not None:
            value = self.transform(value)
        if self.quantizer is not None:
            value = self.quantizer(value)
        value = _keras.mask_gradient(value, _keras.uncast(self.live))
        return value if self.observer is None else self.observer(value)

    def set(self, trainable=None, frozen=None):
        """Writes masks (arrays of the weight's shape, or `None`) and zeroes what is pruned."""
        with _keras.unguarded():
            if trainable is None:
                trainable = _keras.values(self.trainable)
            else:
                self.trainable.assign(trainable)
            if frozen is None:
                frozen = _keras.values(self.frozen)
            else:
                self.frozen.assign(frozen)
            # Without frozen elements both variables share their memory.
            live = trainable & ~frozen if frozen.any() else _keras.raw(self.trainable)
            self.live.assign(live)
            self.weight.as_in_checkpoint = None
            if not trainable.all():
                self.weight.zero_pruned(_keras.raw(self.weight))


class MaskedRegularizer:
    """A regularizer whose gradient is 0 in masked elements."""

    def __init__(self, regularizer, weight, live):
        self.regularizer = regularizer
        self.weight = weight
        self.live = live

    def __call__(self, value):
        """The penalty of `value`, the weight or a tensor of its shape."""
        if value is self.weight:
            value = _keras.uncast(self.weight)
        return self.regularizer(_keras.mask_gradient(value, _keras.uncast(self.live)))


def step_variable(name, value):
    """A variable for a step of the optimizer, or -1."""
    return keras.Variable(
        initializer=keras.initializers.Constant(value),
        shape=(),
        dtype="int64",
        trainable=False,
        autocast=False,
        aggregation="only_first_replica",
        name=name,
    )


def _boolean(weight, name, kind, initializer):
    return _keras.MaskVariable(
        initializer=initializer,
        shape=tuple(weight.shape),
        dtype="bool",
        trainable=False,
        autocast=False,
        name=f"{name.replace('/', '_')}_{kind}",
    )
