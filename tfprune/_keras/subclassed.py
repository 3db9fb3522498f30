"""Subclassed models: for which inputs they were built, and whether they train as Keras does.

Private here, and why:

* `_build_shapes_dict` of a layer: the shapes for which it was built, by the arguments of `build`.
  Without a `build` of its own, these are those of the first argument of `call` alone;
* `_inbound_nodes` of a layer: its calls on symbolic tensors, with all arguments.
"""

import inspect

import keras

from tfprune._keras.graphs import functional
from tfprune._keras.layers import all_layers

_CALLED_ON = "_tfprune_called_on"


def built_inputs(model):
    """Symbolic tensors of the shapes for which a model was built, with any number of examples.

    Returns:
        A dict from each argument of `build` to a structure of tensors, all of the dtype of the
        model's inputs; empty if the model is not built.
    """
    shapes = dict(getattr(model, "_build_shapes_dict", None) or {})
    return {name: _tensors(shape, model.input_dtype) for name, shape in shapes.items()}


def built_shapes(layer):
    """The shapes that a layer or model takes and those that it makes: two lists.

    Without a graph only those for which it was built are known, and nothing of what it makes.
    """
    graph = functional(layer)
    if graph is not None:
        return [tuple(t.shape) for t in graph.inputs], [tuple(t.shape) for t in graph.outputs]
    shapes = dict(getattr(layer, "_build_shapes_dict", None) or {})
    tensors = keras.tree.flatten([_tensors(shape, "float32") for shape in shapes.values()])
    return [tuple(tensor.shape) for tensor in tensors if tensor is not None], []


def _tensors(shapes, dtype):
    is_sequence = isinstance(shapes, (list, tuple))
    if is_sequence and all(size is None or isinstance(size, int) for size in shapes):
        return keras.KerasTensor((None, *shapes[1:]) if shapes else (), dtype)
    if isinstance(shapes, dict):
        return {key: _tensors(each, dtype) for key, each in shapes.items()}
    return type(shapes)(_tensors(each, dtype) for each in shapes) if is_sequence else None


def note_call(model, args, kwargs):
    """Notes what a model is called on: see `called_on`."""
    found = _tensor_arguments(model, args, kwargs)
    before = vars(model).get(_CALLED_ON)
    vars(model)[_CALLED_ON] = found if before is None else _merged(before, found)


def called_on(model):
    """Symbolic tensors like those that a model was called on, with any number of examples.

    Only calls on symbolic tensors are known, and those that `note_call` noted.

    Returns:
        A dict from the name of each argument of `call` that was given to a structure of tensors;
        empty if no call is known.
    """
    if _CALLED_ON in vars(model):
        return vars(model)[_CALLED_ON]
    for node in reversed(model._inbound_nodes):
        return _tensor_arguments(model, node.arguments.args, node.arguments.kwargs)
    return {}


def keep_calls(model, copy):
    """Lets a copy, whose calls on symbolic tensors are its own, know what the model was called on.

    A model with a graph needs none.
    """
    if called_on(model):
        vars(copy)[_CALLED_ON] = called_on(model)


def has_own_call(model):
    """Whether the class of a model says what it computes, and not only how it trains."""
    return inspect.unwrap(type(model).call) is not keras.Model.call


def check_parts_built(model):
    """Raises a `ValueError` if parts of a model whose class has no `call` are not built."""
    missing = [part.name for part in all_layers(model)[1:] if not part.built]
    if missing:
        raise ValueError(
            "The model has no `call` of its own, so each of its parts must be built before. "
            f"Received: model={model.name!r} ({type(model).__name__}), not built: {missing}. Call "
            "these on data once, or train the model for a step."
        )


def models_inside(model):
    """The models among the attributes of a model, and in lists and dicts there: a dict by name."""
    found = {}
    for name, value in vars(model).items():
        if name.startswith("_"):
            continue
        if isinstance(value, keras.Model):
            found[name] = value
        elif isinstance(value, (list, tuple)):
            found.update({f"{name}[{place}]": part for place, part in enumerate(value)})
        elif isinstance(value, dict):
            found.update({f"{name}[{key!r}]": part for key, part in value.items()})
    return {name: part for name, part in found.items() if isinstance(part, keras.Model)}


def required_arguments(model):
    """The names of the arguments that the `call` of a model must be given."""
    parameters = inspect.signature(model.call).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    needed = [p.name for p in parameters if p.kind in kinds and p.default is p.empty]
    return [name for name in needed if name not in ("training", "mask")]


def _tensor_arguments(model, args, kwargs):
    """The arguments of a call that are structures of tensors; none if others are not as usual."""
    signature = inspect.signature(model.call)
    try:
        given = signature.bind(*args, **kwargs).arguments
    except TypeError:
        return {}
    found = {}
    for name, value in given.items():
        leaves = keras.tree.flatten(value)
        if name in ("training", "mask") or value is signature.parameters[name].default:
            continue
        if not leaves or not all(hasattr(leaf, "shape") for leaf in leaves):
            return {}
        found[name] = keras.tree.map_structure(_like, value)
    return found


def _like(tensor):
    shape = tuple(tensor.shape)
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return keras.KerasTensor((None, *shape[1:]) if shape else (), dtype)


def _merged(before, after):
    """Two calls as one: sizes that differ are unknown; the later call if the two are not alike."""
    try:
        return keras.tree.map_structure(_merged_tensor, before, after)
    except (TypeError, ValueError):
        return after


def _merged_tensor(before, after):
    if before.dtype != after.dtype:
        raise ValueError
    pairs = zip(before.shape, after.shape, strict=True)
    return keras.KerasTensor([a if a == b else None for a, b in pairs], before.dtype)


def has_stock_train_step(model):
    """Whether a model trains with the `compile` and the `train_step` of Keras."""
    names = ("compile", "train_step", "compute_loss", "compute_metrics")
    return all(getattr(type(model), name) is getattr(keras.Model, name) for name in names)


def has_stock_compile(model):
    """Whether a model is compiled by the `compile` of Keras, not by one of its own."""
    return type(model).compile is keras.Model.compile


def renew_optimizers(model):
    """Gives a copy of a model that was resized optimizers without slots, as its own are set up."""
    for name, value in list(vars(model).items()):
        if isinstance(value, keras.optimizers.Optimizer):
            setattr(model, name, type(value).from_config(value.get_config()))
