"""RMS norms as users write them."""

import keras

ops = keras.ops
UNITS = 12


class Norm(keras.layers.Layer):
    """A layer that computes a function of its input and of a weight for each unit."""

    function = None

    def __init__(self, epsilon=0.05, shape=None, **kwargs):
        super().__init__(**kwargs)
        self.epsilon, self.shape = epsilon, shape

    def build(self, shape):
        self.width = shape[-1]
        self.scale = self.add_weight(shape=self.shape or (shape[-1],), name="scale")

    def call(self, x):
        return type(self).function(self, x)


def norm(function, **attributes):
    return type("Norm", (Norm,), {"function": function, **attributes})


def mean_square(x):
    return ops.mean(ops.square(x), axis=-1, keepdims=True)


class Inside(Norm):
    """The number of units is an attribute, and the epsilon is in a tuple."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.options = ("rms", 0.05)

    def call(self, x):
        squares = ops.sum(x * x, -1, keepdims=True) / self.width
        return x / ops.sqrt(squares + self.options[1]) * self.scale


SPELLINGS = {
    "rsqrt": norm(lambda s, x: x * ops.rsqrt(mean_square(x) + s.epsilon) * s.scale),
    "one more": norm(lambda s, x: x / ops.sqrt(mean_square(x) + s.epsilon) * (1 + s.scale)),
    "affine": norm(lambda s, x: (0.5 - 2 * s.scale) * x * (mean_square(x) + s.epsilon) ** -0.5),
    "in float32": norm(
        lambda s, x: (
            ops.cast(
                ops.cast(x, "float32") * ops.rsqrt(mean_square(ops.cast(x, "float32")) + s.epsilon),
                s.compute_dtype,
            )
            * s.scale
        )
    ),
    "an einsum": norm(
        lambda s, x: (
            x
            * ops.rsqrt(ops.einsum("...i,...i->...", x, x)[..., None] / x.shape[-1] + s.epsilon)
            * s.scale
        )
    ),
    "a width that stays": norm(
        lambda s, x: x * ops.rsqrt(ops.sum(x * x, -1, keepdims=True) / UNITS + s.epsilon) * s.scale
    ),
    "no epsilon": norm(lambda s, x: x * ops.rsqrt(mean_square(x)) * s.scale),
    "attributes": Inside,
}
