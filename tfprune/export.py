"""A finished model to disk, for inference: as a SavedModel or as a `.keras` file."""

import pathlib
import zipfile

import keras
import numpy as np
import tensorflow as tf

from tfprune import _keras
from tfprune.coupling.shapes import random_inputs, sized_inputs
from tfprune.files import written_whole
from tfprune.masks import masked_layers


def export(model, path, *, format="saved_model", overwrite=False):
    """Writes a model for inference, in a form that knows nothing of tfprune.

    * `"saved_model"`: a directory for `tf.saved_model.load`, TensorFlow Serving and converters.
      Each weight is stored once, and only those that inference reads: no optimizer, metrics or
      seeds. It has the signature `serving_default`, which takes the model's inputs as keywords by
      their names and gives a dict by output name (an output name that comes again gets `_1`,
      `_2`), and the function `serve`, which takes and gives tensors in the structure of the
      model's own inputs and outputs. Dynamic dimensions stay dynamic. Layers run in inference
      mode. Look-up tables go along.
    * `"keras"`: a `.keras` file without optimizer and compile state. To go on with training
      later, save with `model.save` instead.

    What is written is checked: every stored value against the model's, and, for a SavedModel
    whose inputs have no dynamic size but the batch and which draws no random numbers and updates
    no state, the outputs for one random sample. The model appears under `path` complete or not
    at all, also if the process is killed.

    Args:
        model: A Functional or built Sequential model without masks; for the `.keras` format any
            built model.
        path: Where to write, on a local file system: a directory, or a file that ends in `.keras`.
        format: `"saved_model"` or `"keras"`.
        overwrite: Whether a model that is at `path` already is replaced. It stays until the new
            one is complete.

    Returns:
        The path as `pathlib.Path`.

    Raises:
        ValueError: If the model carries masks or cannot be exported, or if the path is taken or
            does not fit the format. Nothing is written then.
        RuntimeError: If what was written is not what the model is. It is removed then.

    Example:

    >>> import pathlib, tempfile
    >>> model = keras.Sequential([keras.Input((3,), name="x"), keras.layers.Dense(2, name="y")])
    >>> path = export(model, pathlib.Path(tempfile.mkdtemp()) / "small")
    >>> loaded = tf.saved_model.load(path)
    >>> loaded.serve(tf.ones((5, 3))).shape
    TensorShape([5, 2])
    >>> list(loaded.signatures["serving_default"](x=tf.ones((5, 3))))
    ['y']
    """
    if format not in _WRITERS:
        raise ValueError(
            f"Argument `format` must be one of {sorted(_WRITERS)}. Received: format={format!r}."
        )
    path = pathlib.Path(path)
    _check_path(path, format, overwrite)
    _check_no_masks(model)
    if not model.built:
        raise ValueError(
            f"Argument `model` must be built. Received: model={model.name!r}. Call it on data once."
        )
    with written_whole(path.resolve()) as place:
        _WRITERS[format](model, place)
    return path


def _check_path(path, format, overwrite):
    received = f"Received: path={str(path)!r}, format={format!r}"
    if ":/" in str(path):
        raise ValueError(
            f"Argument `path` must be on a local file system. {received}. Export to a local "
            "directory and copy it."
        )
    if (path.suffix == ".keras") != (format == "keras"):
        expected = "end in `.keras`" if format == "keras" else "be a directory, not a `.keras` file"
        raise ValueError(f"Argument `path` must {expected}. {received}.")
    if not path.exists():
        return
    if not overwrite:
        raise ValueError(
            f"Argument `path` must be free. {received}. Pass `overwrite=True` to replace what is "
            "there."
        )
    is_model = path.is_file() if format == "keras" else (path / "saved_model.pb").is_file()
    is_empty = path.is_dir() and not any(path.iterdir())
    if not is_model and not (is_empty and format == "saved_model"):
        raise ValueError(
            "Cannot overwrite what is at the path, because it is no model of that format. "
            f"{received}. Remove it first."
        )


def _check_no_masks(model):
    masked = masked_layers(model)
    if masked:
        names = ", ".join(repr(layer.name) for layer in masked[:5])
        raise ValueError(
            "Cannot export a model that carries masks, because they would be exported too. "
            f"Received: model={model.name!r} with {len(masked)} masked layers ({names}"
            f"{', ...' if len(masked) > 5 else ''}). Call `tfprune.strip(model)` first and export "
            "what it returns."
        )


# .keras ------------------------------------------------------------------------------------------


def _write_keras(model, place):
    _keras.without_compile_state(model).save(place)
    with zipfile.ZipFile(place) as archive:
        broken = archive.testzip()
    if broken is not None:
        raise RuntimeError(f"The `.keras` file cannot be read back. Received: {broken!r} in it.")


# SavedModel --------------------------------------------------------------------------------------


def _write_saved_model(model, place):
    # A tf.Module that holds the variables alone: Keras's own objects would bring each variable
    # along a second time. The graph stands in `serving_default`; `serve` only calls it, because
    # tf.saved_model.save traces the functions it finds once more.
    function = _traced(model)
    module = tf.Module()
    module.values = list(function.variables)
    module.tables = _tables(model)
    module.serve = _in_model_structure(model, function)
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    try:
        tf.saved_model.save(module, place, {"serving_default": function}, options)
    except AssertionError as error:
        if "untracked" not in str(error):
            raise
        raise ValueError(
            "Cannot export a model with a resource that is no attribute of one of its layers. "
            f"Received: model={model.name!r} ({error})."
        ) from error
    _check_saved_model(model, function, tf.saved_model.load(place))


def _traced(model):
    """The concrete function of the model at inference: tensors to a dict by output name."""
    graph = _keras.functional(model)
    if graph is None:
        raise ValueError(
            "Argument `model` must be a Functional or built Sequential model, which knows its "
            f"inputs. Received: model={model.name!r} ({type(model).__name__}). Build one as "
            "`keras.Model(inputs, model.call(inputs))` with `inputs = keras.Input(...)`."
        )
    inputs = keras.tree.flatten(_keras.input_structure(model))
    if any(tensor.sparse or getattr(tensor, "ragged", False) for tensor in inputs):
        raise ValueError(
            "Argument `model` must take dense inputs. Received: model="
            f"{model.name!r} with inputs {inputs}."
        )
    names = _output_names(graph)

    def serve(*tensors):
        structured = keras.tree.pack_sequence_as(_keras.input_structure(model), tensors)
        outputs = keras.tree.flatten(model(structured, training=False))
        return dict(zip(names, outputs, strict=True))

    specs = [tf.TensorSpec(tensor.shape, tensor.dtype, tensor.name) for tensor in inputs]
    function = tf.function(serve, autograph=False).get_concrete_function(*specs)
    python = sorted(_operation_types(function) & {"PyFunc", "PyFuncStateless", "EagerPyFunc"})
    if python:
        raise ValueError(
            "Cannot export a model that calls back into Python, because no other process could "
            f"run it. Received: model={model.name!r} with operations {python}."
        )
    return function


def _output_names(graph):
    names = []
    for name in graph.output_names:
        count = 0
        unique = name
        while unique in names:
            count += 1
            unique = f"{name}_{count}"
        names.append(unique)
    return names


def _in_model_structure(model, function):
    """A function which takes and gives tensors in the structure that the model takes and gives."""
    structure = _keras.input_structure(model)
    outputs = _keras.functional(model).output
    names = _output_names(_keras.functional(model))
    specs = keras.tree.map_structure(
        lambda tensor: tf.TensorSpec(tensor.shape, tensor.dtype, tensor.name), structure
    )

    @tf.function(input_signature=[specs], autograph=False)
    def serve(inputs):
        by_name = function(*keras.tree.flatten(inputs))
        return keras.tree.pack_sequence_as(outputs, [by_name[name] for name in names])

    return serve


def _tables(model):
    """The look-up tables and other resources which the layers of a model hold."""
    kind = tf.saved_model.experimental.TrackableResource
    return [
        value
        for layer in _keras.all_layers(model)
        for value in vars(layer).values()
        if isinstance(value, kind)
    ]


def _operation_types(function):
    """The types of all TensorFlow operations of a concrete function, inner functions included."""
    definition = function.graph.as_graph_def()
    bodies = [inner.node_def for inner in definition.library.function]
    return {node.op for nodes in [definition.node, *bodies] for node in nodes}


def _check_saved_model(model, function, loaded):
    """Compares what was written with the model, as far as that is cheap."""
    for stored, variable in zip(loaded.values, function.variables, strict=True):
        if stored.numpy().tobytes() != variable.numpy().tobytes():
            raise RuntimeError(
                "The SavedModel holds another value than the model. "
                f"Received: variable={variable.name!r}, path of the model={model.name!r}."
            )
    sizes = sized_inputs(model)
    changes = [op for op in _operation_types(function) if op.startswith(("Assign", "Random"))]
    if changes or any(None in size for size in sizes):
        return
    sample = random_inputs(model, sizes)
    expected = keras.tree.flatten(model(sample, training=False))
    outputs = keras.tree.flatten(loaded.serve(sample))
    names = _output_names(_keras.functional(model))
    for name, ours, theirs in zip(names, expected, outputs, strict=True):
        if ours.dtype.is_floating and not _agree(ours, theirs):
            raise RuntimeError(
                "The SavedModel does not compute what the model computes. "
                f"Received: output={name!r}, {ours} from the model, {theirs} from the SavedModel."
            )


def _agree(ours, theirs):
    """Whether two tensors are equal up to what reordered sums of their precision may differ."""
    a, b = (np.asarray(tf.cast(tensor, tf.float64)) for tensor in (ours, theirs))
    size = np.max(np.abs(a), initial=1e-3, where=np.isfinite(a))
    tolerance = (1e-3 if ours.dtype.size > 2 else 5e-2) * size
    return np.allclose(a, b, rtol=0, atol=tolerance, equal_nan=True)


_WRITERS = {"keras": _write_keras, "saved_model": _write_saved_model}
