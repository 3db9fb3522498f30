"""Converts a model that tfmot pruned to a masked Keras 3 model.

The masks pass through `prunable` in place of the weights, so that each one arrives at its weight.
"""

import json
import pathlib
import warnings
import zipfile

import h5py
import keras
import numpy as np
import tensorflow as tf

from tfprune import _keras
from tfprune.interop import tf_keras
from tfprune.interop.tf_keras import Weight
from tfprune.interop.tfmot import sources
from tfprune.masks.setting import masked_layers, set_masks
from tfprune.stripping import check
from tfprune.stripping.examples import caller, random_batches
from tfprune.stripping.prunable import prunable

_TWO_LIBRARIES = 10
"""By how much more two libraries may differ than two models of one: their operations round
differently."""


def from_tfmot(model_or_path, *, custom_objects=None):
    """Converts a `tf_keras` model that tfmot pruned to a masked Keras 3 model.

    Use it to remove units with `tfprune.strip` after pruning with tfmot, or to go on in Keras 3.

    Names, weights and the graph stay. Pruning wrappers are removed, and tfmot's mask becomes the
    trainable mask of the weight. In a model without wrappers, as `strip_pruning` returns it, the
    exact zeros of kernels and embeddings become masks. All other weights get fresh masks.

    TensorFlow functions in the graph (`x + y`, `x[:, 1]`, `tf.reshape`, `tf.nn.relu`) become
    operations of Keras 3. Layers and models with a `call` of their own, Lambdas and Python
    functions as activations are traced: they are run on symbolic tensors, and a nested model of the
    layers and functions in them takes their place. A weight that such a layer holds itself becomes
    an `Embedding` of its name, whose rows it is. What cannot be traced needs a class in
    `custom_objects`.

    Both models are run on random inputs and compared; a file that `tf_keras` cannot load is not
    compared, which a warning says. Optimizer and loss are not converted: compile the new model.

    Args:
        model_or_path: A model of `tf_keras`, wrapped by `prune_low_magnitude` as a whole, in some
            of its layers, or not at all; or the path of an `.h5` or `.keras` file of one. An `.h5`
            file is read without `tf_keras` where that is missing. (tfmot itself cannot write
            wrapped recurrent or attention layers to `.h5`.)
        custom_objects: Dict from names to what replaces them, in Keras 3: a class of layers, made
            from the config of the old one, or a function that takes this config as keywords and
            returns the layer; a function on tensors for a Python activation, or for a TensorFlow
            function by its name (`{"linalg.band_part": function}`). Weights are matched by name,
            or by their order and shapes.

    Returns:
        A new model of `tfprune.layers`, not compiled.

    Raises:
        ValueError: If the model is not built, or has a layer, an argument or an operation that
            Keras 3 does not have.
        ModuleNotFoundError: If a `.keras` file is given and `tf_keras` or tfmot is missing.
        RuntimeError: If the two models do not compute the same; names the first layer that differs.

    Example:

    >>> import tf_keras
    >>> pruned = tf_keras.Sequential([tf_keras.layers.Dense(2, input_shape=(3,), name="d")])
    >>> pruned.set_weights([np.array([[0.0, 1.0], [2.0, 0.0], [0.0, 3.0]]), np.zeros(2)])
    >>> model = from_tfmot(pruned)
    >>> np.asarray(model.get_layer("d").trainable_masks["kernel"]).astype(int).tolist()
    [[0, 1], [1, 0], [0, 1]]
    """
    description, is_wrapped, theirs = _read(model_or_path, custom_objects or {})
    build = tf_keras.Build(custom_objects)
    ours = build.model(description)
    if build.in_inference:
        warnings.warn(
            "Layers that are called with `training=False` run in training mode in the `fit` of "
            f"Keras 3. Received: layers={sorted(set(build.in_inference))}. Set their `trainable` "
            "to False to keep the statistics of batch normalizations in them.",
            stacklevel=2,
        )
    pairs = list(_variable_pairs(ours, description))
    ours = ours.layers[-1] if description.is_one_layer else ours
    masked = _with_masks(ours, pairs, is_wrapped)
    if theirs is None or _keras.recurrent_states(masked):
        warnings.warn(
            f"{masked.name!r} was taken over without comparing its outputs: "
            + ("it remembers states." if theirs is not None else "`tf_keras` cannot load it here."),
            stacklevel=2,
        )
    else:
        _check_equal(theirs, ours, masked, build.tensors)
    return masked


# Reading ------------------------------------------------------------------------------------------


def _read(model_or_path, custom_objects):
    """The description, whether wrappers are in it, and the model to compare with, or None."""
    if isinstance(model_or_path, keras.Model):
        raise ValueError(
            "Argument `model_or_path` must be a model of `tf_keras`. Received: a Keras 3 model, "
            f"{model_or_path.name!r}. Make it prunable with `tfprune.prunable(model)`."
        )
    if hasattr(model_or_path, "to_json"):
        return _read_object(model_or_path, custom_objects)
    path = pathlib.Path(model_or_path)
    if path.suffix not in (".h5", ".hdf5", ".keras") or not path.is_file():
        raise ValueError(
            "Argument `model_or_path` must be a `tf_keras` model, or the path of an existing "
            f"`.h5` or `.keras` file. Received: model_or_path={str(model_or_path)!r}."
        )
    _check_legacy(path)
    try:
        return _read_object(_loaded(path), custom_objects)
    except (ModuleNotFoundError, _NotLoadedError) as error:
        if path.suffix != ".keras":
            return *sources.of_h5(path), None
        raise error


def _check_legacy(path):
    """Refuses a file that Keras 3 wrote."""
    if zipfile.is_zipfile(path):
        version = json.loads(zipfile.ZipFile(path).read("metadata.json"))["keras_version"]
    elif h5py.is_hdf5(path):
        with h5py.File(path, "r") as file:
            version = file.attrs.get("keras_version", "")
    else:
        raise ValueError(
            f"The file is neither an HDF5 nor a `.keras` file. Received: {str(path)!r}."
        )
    if str(version).startswith("3"):
        raise ValueError(
            f"Argument `model_or_path` must be a file of `tf_keras`. Received: {str(path)!r}, "
            f"written by Keras {version}. Load it with `keras.saving.load_model`, and make it "
            "prunable with `tfprune.prunable(model)`."
        )


def _read_object(model, custom_objects):
    is_wrapped = any(type(part).__name__ == tf_keras.WRAPPER for part in model.submodules)
    return tf_keras.described_model(model, known=custom_objects), is_wrapped, model


class _NotLoadedError(ValueError):
    """Raised where `tf_keras` cannot load a file."""


def _loaded(path):
    try:
        import tensorflow_model_optimization as tfmot
        import tf_keras
    except ImportError as error:
        raise ModuleNotFoundError(
            "Reading a `.keras` file of `tf_keras` needs `tf_keras` and tfmot. Install them with "
            f"`pip install 'tfprune[tfmot]'`. Received: {str(path)!r}."
        ) from error
    try:
        with tfmot.sparsity.keras.prune_scope():
            return tf_keras.models.load_model(path, compile=False)
    except Exception as error:  # classes of the user's above all, which may fail in any way
        raise _NotLoadedError(
            f"`tf_keras` cannot load the file. Received: {str(path)!r}, {error}. Load it with "
            "`tf_keras.models.load_model(path, custom_objects=...)`, with the classes it was saved "
            "with, and pass the model."
        ) from error


# Weights and masks --------------------------------------------------------------------------------


def _with_masks(model, pairs, is_wrapped):
    """The model made prunable, with the weights and masks of the source."""
    masks = [weight.mask if is_wrapped else _zeros(weight) for _, weight in pairs]
    # Masks travel as weights first, so that each one arrives at its weight.
    for (variable, _), mask in zip(pairs, masks, strict=True):
        variable.assign(np.ones(variable.shape) if mask is None else mask)
    carrier = prunable(model)
    for variable, weight in pairs:
        variable.assign(weight.value)
    for layer in _keras.all_layers(model):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
    masked = prunable(model)
    for layer, carried in zip(masked_layers(masked), masked_layers(carrier), strict=True):
        for name, mask in carried.masked_weights.items():
            set_masks(masked, layer, name, trainable=keras.ops.convert_to_numpy(mask) != 0)
    return masked


def _zeros(weight):
    """The mask that the zeros of a kernel make; None if there are none, or nothing else."""
    is_kernel = weight.name.endswith("kernel") or weight.name == "embeddings"
    mask = weight.value != 0
    return mask if is_kernel and mask.any() and not mask.all() else None


def _variable_pairs(model, description):
    """The variables of the new model, each with its `Weight` in the source."""
    for each in description.layers:
        if each.weights is None:
            yield from _variable_pairs(model.get_layer(each.new_name), each.model)
        elif each.class_name == tf_keras.OWN_WEIGHT:
            yield from _pairs_of_table(model.get_layer(each.new_name), each.weights[0])
        elif each.weights or each.class_name not in tf_keras.OPERATIONS:
            yield from _pairs_of_layer(_layer_named(model, each.new_name), each.weights)


def _layer_named(model, name):
    return next((layer for layer in model.layers if layer.name == name), None)


def _pairs_of_table(layer, weight):
    """The pair of a weight that a layer held itself, and the table that it became."""
    variable = layer.embeddings
    mask = None if weight.mask is None else weight.mask.reshape(variable.shape)
    value = Weight(weight.path, weight.value.reshape(variable.shape), mask)
    return [(variable, value)]


def _pairs_of_layer(layer, weights):
    variables = [] if layer is None else layer.trainable_weights + layer.non_trainable_weights
    for length in (3, 2, 1):  # by name, where both sides use the same names
        ours = {_tail(variable.path, length): variable for variable in variables}
        theirs = {_tail(weight.path, length): weight for weight in weights}
        is_unique = len(ours) == len(variables) and len(theirs) == len(weights)
        if is_unique and ours.keys() == theirs.keys():
            pairs = [(ours[key], theirs[key]) for key in ours]
            if all(tuple(v.shape) == w.value.shape for v, w in pairs):
                return pairs
    ours = [(variable.name, tuple(variable.shape)) for variable in variables]
    theirs = [(weight.name, weight.value.shape) for weight in weights]
    has_same_names = sorted(name for name, _ in ours) == sorted(name for name, _ in theirs)
    if not has_same_names:  # those of custom layers may
        ours, theirs = ([shape for _, shape in found] for found in (ours, theirs))
    if ours != theirs:
        raise ValueError(
            "The layer must have the same weights in both models, in the same order. "
            f"Received: layer={layer.name!r} ({type(layer).__name__}), in Keras 3: {ours}, in "
            f"the source: {theirs}."
        )
    return list(zip(variables, weights, strict=True))


def _tail(path, length):
    return "/".join(path.split("/")[-length:])


# Checking -----------------------------------------------------------------------------------------


def _check_equal(theirs, plain, ours, tensors):
    """Raises where the masked model, `ours`, computes something else than `theirs`."""
    allowed = _TWO_LIBRARIES * check.TOLERANCE[check.lowest_precision(ours)]
    inputs, run = random_batches(ours)[0], caller(ours)
    positive = [
        np.abs(x) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x for x in inputs
    ]
    is_compared = False
    for given in (inputs, positive):
        before = [np.asarray(each, "float64") for each in _outputs_of(theirs, given)]
        after = run(given)
        is_compared |= all(np.isfinite(each).any() for each in before)
        difference = max(check.error(*pair) for pair in zip(before, after, strict=True))
        if not difference <= allowed:
            raise RuntimeError(
                "The Keras 3 model does not compute what the `tf_keras` model computes. Received: "
                f"model={ours.name!r}, relative difference={difference:.3g}, "
                f"allowed={allowed:.3g}{_first_difference(theirs, plain, tensors, given, allowed)}."
                " If this layer is of your own class, look at the one in `custom_objects`; else "
                "please report it with the model's `to_json()`."
            )
    if not is_compared:
        warnings.warn(
            f"{ours.name!r} was taken over without comparing its outputs: they are not finite for "
            "random inputs.",
            stacklevel=3,
        )


def _outputs_of(theirs, arrays):
    """The outputs of a `tf_keras` model, flat."""
    arrays = list(map(tf.convert_to_tensor, arrays))
    args, kwargs = tf_keras.call_arguments(theirs, arrays)
    return [keras.ops.cast(each, "float64") for each in keras.tree.flatten(theirs(*args, **kwargs))]


def _first_difference(theirs, ours, tensors, inputs, allowed):
    """Words on the first layer whose outputs differ; none if that cannot be told."""
    try:
        names, before, after = tf_keras.outputs_by_layer(theirs, ours, tensors, inputs)
    except (ValueError, AttributeError):
        return ""
    for name, one, other in zip(names, before, after, strict=True):
        if not check.error(one, other) <= allowed:
            return f", first different layer={name!r}"
    return ""
