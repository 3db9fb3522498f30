"""Inputs on which a model is compared with what was made of it: random ones, or examples given."""

import keras
import numpy as np
import tensorflow as tf

from tfprune import _keras
from tfprune.coupling.any_size import demanded_sizes
from tfprune.coupling.failures import core
from tfprune.coupling.model_inputs import call_arguments, input_structure
from tfprune.coupling.model_trace import trace
from tfprune.exporting.checks import have_shapes_of, unpacked_batches

_EXAMPLES = 4
_BATCH = 32  # of examples that are given

_SIZES = ((16,), (11, 13, 9), (32, 48, 32), (8,), (64,), (128,), (4,), (2,))
"""What dynamic axes are tried with, in order; the last number stands for all axes after it.

Then, if the model takes none of these, sizes of its weights.
"""


def random_batches(model, sizes=2, run=None):
    """Returns random inputs that a model can run on, with a fixed seed.

    They are normal numbers for floats. Whole numbers and strings are what the layers that look them
    up know. If the batch of the model is fixed and small, there are as many as make four examples.

    Args:
        model: Any Keras model that is built.
        sizes: If the model has dynamic axes, how many sizes are tried, where it takes so many.
        run: Function of a batch which runs the model on it and leaves it as it was; called on one
            batch of each size that is tried.

    Returns:
        A list of batches, each a list of arrays in the order of the model's inputs.

    Raises:
        ValueError: If the model can be run on none that was tried.

    Example:

    >>> model = keras.Sequential([keras.Input((None, 3)), keras.layers.Dense(2)])
    >>> [x.shape for (x,) in random_batches(model)]
    [(4, 16, 3), (4, 11, 3)]
    """
    run, tensors = run or _caller(model), keras.tree.flatten(input_structure(model))
    known = _known_values(model, tensors)
    dynamic = any(None in tensor.shape[1:] for tensor in tensors)
    found, failure = [], None
    demanded = [(size,) for size in demanded_sizes(model) if (size,) not in _SIZES]
    for size in (*_SIZES, *demanded) if dynamic else _SIZES[:1]:
        if size in demanded and found:
            break
        batches, error = _accepted(run, tensors, known, size)
        found += batches
        failure, sizes = failure or error, sizes - bool(batches)
        if not sizes:
            return found
    if not found:
        raise ValueError(
            "The model cannot be compared, because it runs on no random inputs that were tried. "
            f"Received: model={model.name!r}, inputs of the shapes "
            f"{[tuple(tensor.shape) for tensor in tensors]}; the first attempt ended with "
            f"{type(failure).__name__}: {core(str(failure))}. Pass examples to `strip` with "
            "`data=...`, or `check=False`."
        ) from failure
    return found


def _accepted(run, tensors, known, sizes):
    """Batches of these sizes that the model runs on, and else the first error that it raises."""
    batch_size = next((t.shape[0] for t in tensors if t.shape and t.shape[0]), _EXAMPLES)
    failure = None
    for attempt in range(max(map(len, known), default=1)):
        values = [each[min(attempt, len(each) - 1)] for each in known]
        seeds = range(-(-_EXAMPLES // batch_size))
        batches = [_drawn(tensors, values, sizes, seed) for seed in seeds]
        try:
            run(batches[0])
        except Exception as error:  # whatever a user's layer raises for what it does not take
            failure = failure or error
        else:
            return batches, None
    return [], failure


def _drawn(tensors, known, sizes, seed):
    """One batch of random inputs."""
    found = []
    for place, (tensor, values) in enumerate(zip(tensors, known, strict=True)):
        by_axis = (_EXAMPLES, *sizes, *[sizes[-1]] * len(tensor.shape))
        shape = [
            size if given is None else given
            for given, size in zip(tensor.shape, by_axis, strict=False)
        ]
        generator = np.random.default_rng([seed, place])
        found.append(_random(tensor.dtype, shape, values, generator))
    return found


def _random(dtype, shape, known, generator):
    if dtype == "string":
        return generator.choice(known, shape).astype(object)
    if known is not None:
        return generator.choice(known, shape).astype(dtype)
    if dtype == "bool":
        return generator.integers(0, 2, shape).astype(bool)
    return generator.normal(size=shape).astype(dtype)


# What may be in an input --------------------------------------------------------------------------


def _known_values(model, tensors):
    """For each input, what it may hold, to be tried in turn: sets of values; None for floats."""
    graph = _keras.functional(model)
    if graph is None:
        traced, others = trace(model), _keras.all_layers(model)[1:]
        # Those that take an input after code of the user's are not known.
        read_by = [
            users if any(map(_looks_up, users)) or tensor.dtype == "string" else users + others
            for tensor, users in zip(tensors, map(traced.users_of, traced.inputs), strict=True)
        ]
    else:
        read_by = [_readers(graph, {id(tensor)})[0] for tensor in graph.inputs]
    return [
        _values(tensor.dtype, readers) for tensor, readers in zip(tensors, read_by, strict=True)
    ]


def _readers(graph, carried):
    """The layers that take what enters a graph as it is, and the outputs that still are it."""
    readers, carried = [], set(carried)
    for node, _ in _keras.nodes(graph):
        given = [id(t) in carried for t in node.arguments.keras_tensors]
        if not any(given):
            continue
        inner = _keras.functional(node.operation)
        if inner is not None:
            entering = [t for t, is_it in zip(inner.inputs, given, strict=False) if is_it]
            found, leaving = _readers(inner, set(map(id, entering)))
            readers += found
            pairs = zip(inner.outputs, node.outputs, strict=True)
            carried |= {id(outer) for ours, outer in pairs if id(ours) in leaving}
            continue
        readers.append(node.operation)
        is_whole = [not keras.backend.is_float_dtype(tensor.dtype) for tensor in node.outputs]
        carried |= {id(t) for t, whole in zip(node.outputs, is_whole, strict=True) if whole}
    return readers, carried


def _values(dtype, readers):
    """The sets of values that layers look up, the largest first."""
    layers = [part for each in readers if _is_layer(each) for part in _keras.all_layers(each)]
    if dtype == "string":
        return [_texts(layers)]
    looked_up = [_vocabulary(layer) for layer in layers if hasattr(layer, "get_vocabulary")]
    numbers = [each for words in looked_up for each in words if not isinstance(each, str)]
    if numbers:
        return [np.array(numbers)]
    is_float = keras.backend.is_float_dtype(dtype)
    if is_float:  # an embedding takes floats too, but other layers of a block do not
        layers = [each for each in readers if isinstance(each, keras.layers.Embedding)]
    rows = {rows for layer in layers for rows in _rows(layer)}
    if is_float and not rows or dtype == "bool":
        return [None]
    rows |= {256} if dtype == "uint8" else {2} if not is_float else set()
    return [np.arange(number) for number in sorted(rows, reverse=True)]


def _looks_up(operation):
    return isinstance(operation, keras.layers.Embedding) or hasattr(operation, "get_vocabulary")


def _is_layer(operation):
    return isinstance(operation, keras.layers.Layer)


def _rows(layer):
    """How many rows a layer may have to look up, as it says or as its own weights have."""
    if isinstance(layer, keras.layers.Embedding):
        return [layer.input_dim]
    if isinstance(layer, keras.layers.CategoryEncoding):
        return [layer.num_tokens]
    if _keras.is_stock(type(layer)):
        return []
    return [weight.shape[0] for weight in layer.weights if len(weight.shape) > 1]


def _vocabulary(layer):
    return [word for word in layer.get_vocabulary() if word not in ("", None)]


def _texts(layers):
    """Words that the layers know, and pairs of them for those that split what they get."""
    readers = [layer for layer in layers if hasattr(layer, "get_vocabulary")]
    known = [str(word) for layer in readers for word in _vocabulary(layer)]
    words = known or ["word", "another"]
    if any(isinstance(layer, keras.layers.TextVectorization) for layer in layers):
        words = [f"{one} {other}" for one, other in zip(words, words[1:] + words[:1], strict=True)]
    return words


# Examples that are given --------------------------------------------------------------------------


def given_batches(model, data):
    """The inputs in data, in batches of at most 32.

    Args:
        model: The model that takes them.
        data: An array, `(x,)`, `(x, y)` or a dict of arrays; or a `tf.data.Dataset` or
            `keras.utils.PyDataset` of such batches. What stands behind x is not used.

    Yields:
        Lists of arrays, in the order of the model's inputs.

    Raises:
        ValueError: If there are no examples, or they do not fit the model's inputs.
    """
    tensors = keras.tree.flatten(input_structure(model))
    is_batched = isinstance(data, (tf.data.Dataset, keras.utils.PyDataset))
    is_tuple = isinstance(data, (tuple, list))
    batches = unpacked_batches(data) if is_batched else [data if is_tuple else (data,)]
    fixed = next((tensor.shape[0] for tensor in tensors if tensor.shape and tensor.shape[0]), None)
    is_empty = True
    for x, *_ in batches:
        arrays = [np.asarray(each) for each in keras.tree.flatten(x)]
        _check_given(model, tensors, arrays)
        step = fixed or _BATCH
        for start in range(0, len(arrays[0]) - (fixed or 1) + 1, step):
            is_empty = False
            yield [
                array[start : start + step].astype(_dtype(tensor.dtype))
                for array, tensor in zip(arrays, tensors, strict=True)
            ]
    if is_empty:
        raise ValueError(
            "Argument `data` must hold at least one batch of examples. "
            f"Received: data of type {type(data).__name__}, batch size={fixed or 'any'}."
        )


def _dtype(dtype):
    return object if dtype == "string" else tf.as_dtype(dtype).as_numpy_dtype


def _check_given(model, tensors, arrays):
    if not have_shapes_of(arrays, tensors):
        raise ValueError(
            "Argument `data` must hold inputs as the model takes them, of the shapes "
            f"{[tuple(tensor.shape) for tensor in tensors]}, as `x`, `(x,)`, `(x, y)` or a dataset "
            f"of such batches. Received: model={model.name!r}, arrays of the shapes "
            f"{[array.shape for array in arrays]}."
        )


# Running ------------------------------------------------------------------------------------------


def _caller(model):
    """As `caller`; the model is left as it was."""
    run = caller(model)

    def unchanged(arrays):
        with _keras.unchanged(model):
            return run(arrays)

    return unchanged


def caller(model):
    """Returns a function from a list of arrays to the outputs of a model in inference.

    The outputs are flat, as arrays in float64; those of strings hold objects.
    """
    if _keras.functional(model) is None:
        structure = call_arguments(model)
    else:
        structure = (_keras.input_structure(model),), {}

    def run(arrays):
        tensors = list(map(tf.convert_to_tensor, arrays))  # Keras has no strings
        args, kwargs = keras.tree.pack_sequence_as(structure, tensors)
        outputs = keras.tree.flatten(model(*args, **kwargs, training=False))
        return [_as_array(output) for output in outputs if output is not None]

    return run


def _as_array(tensor):
    if keras.backend.standardize_dtype(tensor.dtype) == "string":
        return np.asarray(tensor)
    return keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float64"))
