"""Random graphs of raw operations between dense layers, for property tests."""

import keras
import numpy as np

from tests.random_chains import randomise

ops = keras.ops


def random_graph(seed, layers):
    """A Functional model of dense layers joined by operations on tensors; a seed draws all."""
    draw = np.random.default_rng(seed)
    shape = [(4,), (3, 4), (4, 2, 6)][int(draw.integers(3))]
    inputs = keras.Input(shape)
    tensors = [inputs]
    for _ in range(int(draw.integers(3, 9))):
        x = tensors[-1] if draw.random() < 0.7 else tensors[int(draw.integers(len(tensors)))]
        make = _dense if draw.random() < 0.4 else STEPS[int(draw.integers(len(STEPS)))]
        tensors += make(draw, x, tensors, layers) or []
    outputs = [layers.Dense(2)(t) for t in _leaves(tensors) if t is not inputs]
    model = keras.Model(inputs, outputs or layers.Dense(2)(inputs))
    randomise(model, draw)
    return model


def _leaves(tensors):
    """The last three tensors with an axis of channels."""
    return [t for t in tensors if len(t.shape) > 1][-3:]


def _dense(draw, x, tensors, layers):
    activation = [None, "relu", "sigmoid", "tanh"][int(draw.integers(4))]
    if len(x.shape) < 2:
        return None
    return [layers.Dense(int(draw.choice([4, 6, 8])), activation=activation)(x)]


def _unary(draw, x, tensors, layers):
    functions = [
        lambda x: -x,
        lambda x: abs(x),
        lambda x: 2.0 - x,
        lambda x: 0.5 * x + 1,
        lambda x: x / 3,
        lambda x: 0.0 * x,
        lambda x: ops.tanh(x) ** 2,
        ops.square,
        ops.sigmoid,
        ops.gelu,
        lambda x: ops.clip(x, -0.5, 1.0),
        lambda x: ops.where(x > 0, x, 0.1 * x),
        lambda x: ops.cast(x, "float32"),
        ops.stop_gradient,
        lambda x: ops.softmax(x, axis=int(draw.integers(1, len(x.shape)))),
        lambda x: ops.cumsum(x, axis=int(draw.integers(1, len(x.shape)))),
        lambda x: ops.normalize(x + 0.1, axis=int(draw.integers(1, len(x.shape)))),
        lambda x: x * _array(draw, x.shape[-1:]),
        lambda x: ops.maximum(x, _array(draw, (1, *x.shape[1:]))),
        lambda x: x + _array(draw, x.shape[1:]),
    ]
    return [functions[int(draw.integers(len(functions)))](x)]


def _elsewhere(draw, x, tensors, layers):
    """Operations over steps and images, and what has no rule."""
    rank, axis = len(x.shape), int(draw.integers(1, len(x.shape)))
    options = [
        lambda: ops.argmax(x, axis=axis, keepdims=True) * 0.1,
        lambda: ops.moments(x + 0.1, axes=[axis], keepdims=True)[0],
        lambda: ops.logsumexp(x, axis=axis, keepdims=True),
        lambda: ops.cumprod(x, axis=axis),
        lambda: ops.sort(x, axis=axis),
        lambda: keras.layers.Softmax(axis=axis)(x),
        lambda: ops.hstack([x, x]),
        lambda: ops.conjugate(x),
        lambda: ops.moveaxis(ops.rfft(ops.moveaxis(x, axis, -1))[0], -1, axis),
        lambda: ops.moveaxis(ops.top_k(ops.moveaxis(x, axis, -1), 1)[0], -1, axis),
        lambda: ops.linspace(x, 2 * x, 2, axis=axis),
        lambda: ops.slice_update(x, [0] * rank, ops.tanh(x)),
    ]
    if rank == 3:
        options += [
            lambda: keras.layers.Attention()([x, x]),
            lambda: keras.layers.AdditiveAttention()([x, ops.tanh(x)]),
            lambda: keras.layers.AdaptiveAveragePooling1D(2)(x) if x.shape[1] > 1 else x,
        ]
    if rank == 4:
        options += [
            lambda: ops.image.resize(x, (3, 3)),
            lambda: ops.image.pad_images(x, 1, 0, 1, 1),
            lambda: keras.layers.RandomFlip()(x),
        ]
    y = options[int(draw.integers(len(options)))]()
    return [ops.cast(y, "float32")] if len(y.shape) > 1 else None


def _array(draw, shape):
    return draw.normal(size=shape).astype("float32") * (draw.random(shape) < 0.7)


def _binary(draw, x, tensors, layers):
    functions = [ops.add, ops.subtract, ops.multiply, ops.maximum, lambda x, y: x / (1 + abs(y))]
    fits = [t for t in tensors if _broadcasts(t.shape, x.shape)]
    if not fits:
        return None
    y = fits[int(draw.integers(len(fits)))]
    pair = (x, y) if draw.random() < 0.5 else (y, x)
    return [functions[int(draw.integers(len(functions)))](*pair)]


def _broadcasts(ours, theirs):
    pairs = zip(ours[:0:-1], theirs[:0:-1], strict=False)
    return len(ours) == len(theirs) and all(a == b or 1 in (a, b) for a, b in pairs)


def _shape(draw, x, tensors, layers):
    rank, axis = len(x.shape), int(draw.integers(1, len(x.shape) + 1))
    order = [0, *(1 + draw.permutation(rank - 1))]
    options = [
        lambda: ops.transpose(x, [int(a) for a in order]),
        lambda: ops.expand_dims(x, axis),
        lambda: ops.flip(x, axis=min(axis, rank - 1)),
        lambda: ops.squeeze(x, [a for a in range(1, rank) if x.shape[a] == 1]),
        lambda: ops.reshape(x, (-1, *_other_shape(draw, x.shape[1:]))),
        lambda: ops.reshape(x, (-1, *_other_shape(draw, x.shape[1:]))),
        lambda: keras.layers.Reshape(_other_shape(draw, x.shape[1:]))(x),
        lambda: keras.layers.Flatten()(x),
        lambda: ops.swapaxes(ops.tanh(ops.swapaxes(x, 0, 1)), 0, 1),
        lambda: ops.moveaxis(x, 1, -1),
        lambda: ops.reshape(x, (-1, x.shape[-1])),
    ]
    if rank > 4:
        options = options[5:8]
    if None in x.shape[1:]:
        return None
    y = options[int(draw.integers(len(options)))]()
    return [y] if len(y.shape) > 1 and None not in y.shape[1:] else None


def _other_shape(draw, shape):
    size = int(np.prod(shape))
    factors = [f for f in range(1, size + 1) if size % f == 0]
    first = int(draw.choice(factors))
    if draw.random() < 0.5:
        return (first, size // first)
    rest = [f for f in factors if (size // first) % f == 0]
    second = int(draw.choice(rest))
    return (first, second, size // first // second)


def _index(draw, x, tensors, layers):
    axis = int(draw.integers(1, len(x.shape)))
    size = x.shape[axis]
    low, high = sorted(int(i) for i in draw.integers(0, size + 1, 2))
    key = [
        slice(low, high or 1),
        slice(None, None, -1),
        slice(int(draw.integers(2)), None, 2),
        slice(-2, None),
        slice(high - 1 if high else None, None, -1),
        int(draw.integers(-size, size)),
    ][int(draw.integers(6))]
    if isinstance(key, slice) and not range(*key.indices(size)):
        return None
    if isinstance(key, int) and len(x.shape) < 3:
        return None
    if axis == len(x.shape) - 1 and draw.random() < 0.5:
        return [x[..., key]]
    return [x[(slice(None),) * axis + ((key, None) if draw.random() < 0.2 else (key,))]]


def _pieces(draw, x, tensors, layers):
    axis = int(draw.integers(1, len(x.shape)))
    size = x.shape[axis]
    options = [
        lambda: ops.split(x, 2, axis=axis) if size % 2 == 0 else None,
        lambda: ops.split(x, [1, size - 1], axis=axis) if size > 2 else None,
        lambda: [ops.take(x, draw.integers(0, size, int(draw.integers(1, 5))), axis=axis)],
        lambda: [ops.take(x, draw.integers(0, size, (2, 2)), axis=axis)],
        lambda: ops.unstack(x, axis=axis)[:2] if len(x.shape) > 2 else None,
    ]
    return options[int(draw.integers(len(options)))]()


def _bigger(draw, x, tensors, layers):
    axis, rank = int(draw.integers(1, len(x.shape))), len(x.shape)
    others = [t for t in tensors if len(t.shape) == rank]
    same = [t for t in tensors if t.shape == x.shape]
    y = same[int(draw.integers(len(same)))]
    fits = [t for t in others if _others(t, axis) == _others(x, axis)]
    z = fits[int(draw.integers(len(fits)))]
    widths = [(0, 0), *((int(draw.integers(3)), 1) for _ in range(rank - 1))]
    options = [
        lambda: ops.repeat(x, 2, axis=axis),
        lambda: ops.repeat(x, [1 + i % 2 for i in range(x.shape[axis])], axis=axis),
        lambda: ops.tile(x, [1] * (rank - 1) + [2]),
        lambda: ops.pad(x, widths),
        lambda: ops.pad(x, widths, constant_values=0.5),
        lambda: ops.roll(x, 1, axis=axis),
        lambda: ops.stack([x, y], axis=axis),
        lambda: ops.concatenate([x, z], axis=axis),
        lambda: keras.layers.Concatenate(axis=axis)([z, x]),
    ]
    if np.prod(x.shape[1:]) > 200 or rank > 4:
        return None
    return [options[int(draw.integers(len(options)))]()]


def _others(tensor, axis):
    return [size for a, size in enumerate(tensor.shape) if a not in (0, axis)]


def _reduce(draw, x, tensors, layers):
    axis, keepdims = int(draw.integers(1, len(x.shape))), bool(draw.random() < 0.5)
    if len(x.shape) < 3 and not keepdims:
        return None
    function = [ops.sum, ops.sum, ops.mean, ops.max, ops.min, ops.var, ops.prod, ops.norm]
    return [function[int(draw.integers(len(function)))](x, axis=axis, keepdims=keepdims)]


def _product(draw, x, tensors, layers):
    rank = len(x.shape)
    weights = _array(draw, (x.shape[-1], 4))
    fits = [t for t in tensors if len(t.shape) == rank == 3]
    y = fits[int(draw.integers(len(fits)))] if fits else x
    options = [lambda: ops.matmul(x, weights), lambda: ops.tensordot(x, weights, axes=1)]
    if rank == 3 and y.shape[-1] == x.shape[-1]:
        options += [
            lambda: ops.einsum("btc,bsc->bts", x, y),
            lambda: ops.matmul(x, ops.transpose(y, (0, 2, 1))),
            lambda: keras.layers.Dot(axes=2)([x, y]),
        ]
    if rank == 3 and y.shape[1] == x.shape[1]:
        options += [
            lambda: ops.einsum("btc,btd->bcd", x, y),
            lambda: keras.layers.Dot(axes=1)([x, y]),
        ]
    return [options[int(draw.integers(len(options)))]()]


STEPS = [_unary, _unary, _binary, _binary, _shape, _shape, _index, _pieces, _bigger, _reduce]
STEPS += [_product, _elsewhere, _elsewhere]
