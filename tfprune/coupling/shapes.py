"""Shape inference: the shapes that each call of a model works on, for given input sizes."""

import inspect
from dataclasses import dataclass, field

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.calls import Passed, Tensor
from tfprune.coupling.model_inputs import input_structure
from tfprune.coupling.model_trace import trace


@dataclass(frozen=True)
class Shapes:
    """The shapes that an operation is called on, with the batch axis; None where not known.

    Attributes:
        inputs: The shapes of all tensors among the arguments, in the order of the parameters.
        outputs: The shapes of all outputs.
        arguments: The arguments by parameter name, with a shape in place of each tensor.
    """

    inputs: tuple
    outputs: tuple
    arguments: dict = field(default_factory=dict)


def sized_inputs(model, input_shapes=None):
    """Returns a shape without the batch axis for each input, with dynamic sizes filled in.

    Args:
        model: Any Keras model that is built.
        input_shapes: What the dynamic dimensions are taken to be: the shape of the one input
            without the batch axis, as `(224, 224, 3)`; for several inputs a list of shapes, or a
            dict by input name.

    Returns:
        A tuple of shapes; None where a dimension is dynamic and no size was given.

    Raises:
        ValueError: If the shapes given do not fit the model's inputs.

    Example:

    >>> model = keras.Sequential([keras.Input((None, 3)), keras.layers.Dense(2)])
    >>> sized_inputs(model), sized_inputs(model, (7, 3))
    (((None, 3),), ((7, 3),))
    """
    graph = _keras.functional(model)
    inputs = trace(model).inputs if graph is None else graph.inputs
    declared = [tuple(tensor.shape[1:]) for tensor in inputs]
    if input_shapes is None:
        return tuple(declared)
    given = _listed(model, input_shapes)
    if len(given) != len(declared):
        raise ValueError(_does_not_fit(f"one shape for each of {len(declared)} inputs", given))
    for ours, theirs in zip(declared, given, strict=True):
        fits = len(ours) == len(theirs) and all(
            size is None or size == other for size, other in zip(ours, theirs, strict=True)
        )
        if not fits:
            raise ValueError(_does_not_fit(f"shapes without the batch axis like {ours}", theirs))
    return tuple(given)


def _listed(model, input_shapes):
    """The shapes as a list in the order of the model's inputs."""
    if isinstance(input_shapes, dict):
        names = _input_names(model)
        if set(names) != set(input_shapes):
            raise ValueError(_does_not_fit(f"a dict with the keys {names}", input_shapes))
        input_shapes = [input_shapes[name] for name in names]
    elif all(size is None or isinstance(size, int) for size in input_shapes):
        input_shapes = [input_shapes]
    return [tuple(shape) for shape in input_shapes]


def _input_names(model):
    graph = _keras.functional(model)
    if graph is not None:
        return [tensor.name for tensor in graph.inputs]
    paths = keras.tree.flatten_with_path(input_structure(model))
    return ["_".join(map(str, path)) for path, _ in paths]


def _does_not_fit(expected, given):
    return f"Argument `input_shapes` must be {expected}. Received: {given}."


def random_inputs(model, sizes, batch_size=1):
    """Returns random samples in the structure of a model's inputs.

    Args:
        model: Any Keras model that is built.
        sizes: A shape without the batch axis for each input, nothing in it dynamic.
        batch_size: How many samples, where the model does not fix it.

    Returns:
        Tensors of standard normal numbers; of zeros for integers, which every embedding has, and
        of empty strings.

    Example:

    >>> model = keras.Sequential([keras.Input((None, 3)), keras.layers.Dense(2)])
    >>> random_inputs(model, sized_inputs(model, (7, 3)), batch_size=2).shape
    TensorShape([2, 7, 3])
    """
    generator = np.random.default_rng(0)

    def draw(tensor, size):
        shape = (tensor.shape[0] or batch_size, *size)
        if keras.backend.is_float_dtype(tensor.dtype):
            values = generator.normal(size=shape)
        else:
            values = np.full(shape, "" if tensor.dtype == "string" else 0)
        return keras.ops.convert_to_tensor(values, tensor.dtype)

    structure = input_structure(model)
    tensors = map(draw, keras.tree.flatten(structure), sizes)
    return keras.tree.pack_sequence_as(structure, list(tensors))


def walk(traced, input_shapes):
    """Yields the calls of a trace with their shapes, for given shapes of its inputs.

    Shapes are derived anew rather than taken from the model, because in one that folds time into
    the batch axis (`reshape(x, (-1, width))`) the number of rows is not that of samples. In a layer
    that was traced for one set of sizes, they are not known.

    Args:
        traced: A `Trace`.
        input_shapes: A shape with the batch axis for each input, None = not known.

    Yields:
        A `Call` and its `Shapes`.
    """
    known = {
        tensor: keras.KerasTensor(shape, dtype=tensor.dtype)
        for tensor, shape in zip(traced.inputs, input_shapes, strict=True)
    }
    sizes = {}
    for call in traced.calls:
        if call.in_place:
            outputs = [_unknown(tensor) for tensor in call.outputs]
        elif isinstance(call.operation, Passed):
            ((given,), (made,)) = call.inputs, call.outputs
            outputs = [_passed(call.operation, given, made, known, sizes)]
        else:
            args, kwargs = keras.tree.map_structure(
                lambda leaf: known.get(leaf, leaf) if _is_tensor(leaf) else leaf,
                (list(call.args), _passed_on(call)),
            )
            said = keras.tree.flatten(call.operation.compute_output_spec(*args, **kwargs))
            outputs = [
                one if tensor.sized is None else keras.KerasTensor(tensor.shape, tensor.dtype)
                for one, tensor in zip(said, call.outputs, strict=True)
            ]
        known.update(zip(call.outputs, outputs, strict=True))
        yield call, shapes_of(call, lambda tensor: tuple(known[tensor].shape))


def _unknown(tensor):
    return keras.KerasTensor((None,) * len(tensor.shape), tensor.dtype)


def _passed(operation, given, made, known, sizes):
    """What enters a layer that was traced for one set of sizes, or leaves it.

    Args:
        operation: The `Passed`.
        given, made: Its input and output.
        known: The symbolic tensors that are known.
        sizes: Dict from the sizes that were traced with to those that there are, added to.
    """
    if operation.layer is None:
        shape = known[given].shape
        pairs = zip(given.shape, made.shape, shape, strict=True)
        sizes.update({traced: size for size_given, traced, size in pairs if size_given is None})
        return _unknown(made)
    shape = [
        sizes.get(traced) if size is None else size
        for size, traced in zip(made.shape, given.shape, strict=True)
    ]
    return keras.KerasTensor(tuple(shape), made.dtype)


def shapes_of(call, size):
    """Returns the `Shapes` of a call.

    Args:
        call: A `Call`.
        size: Function from a `Tensor` to its shape with the batch axis, None = not known.

    Returns:
        A `Shapes`.
    """
    signature = inspect.signature(call.operation.call)
    bound = signature.bind(*call.args, **_passed_on(call)).arguments
    tensors = [leaf for leaf in keras.tree.flatten(list(bound.values())) if _is_tensor(leaf)]
    return Shapes(
        inputs=tuple(map(size, tensors)),
        outputs=tuple(map(size, call.outputs)),
        arguments={name: _sized(value, size) for name, value in bound.items()},
    )


def _passed_on(call):
    """The keyword arguments of a call that Keras passes on: no `training` that is not taken."""
    is_taken = "training" in inspect.signature(call.operation.call).parameters
    return {name: v for name, v in call.kwargs.items() if is_taken or name != "training"}


def _is_tensor(leaf):
    return isinstance(leaf, Tensor)


def _sized(argument, size):
    if _is_tensor(argument):
        return size(argument)
    if isinstance(argument, (list, tuple)):
        return [_sized(item, size) for item in argument]
    return argument
