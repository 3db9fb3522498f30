"""Converts a model that tfmot pruned to a masked Keras 3 model.

The masks pass through `prunable` in place of the weights, so that each one arrives at its weight.
"""

import pathlib
import warnings

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.trace import trace
from tfprune.interop import tf_keras
from tfprune.interop.tfmot import sources
from tfprune.masks.setting import masked_layers, set_masks
from tfprune.stripping import check
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

    Both models are run on random inputs and compared; a file that `tf_keras` cannot load is not
    compared, which a warning says. Optimizer and loss are not converted: compile the new model.

    Args:
        model_or_path: A Functional or Sequential model of `tf_keras`, wrapped by
            `prune_low_magnitude` as a whole, in some of its layers, or not at all; or the path of
            an `.h5` or `.keras` file of one. An `.h5` file is read without `tf_keras`. (tfmot
            itself cannot write wrapped recurrent or attention layers to `.h5`.)
        custom_objects: Dict from names to the Keras 3 classes and functions that replace layers and
            functions which Keras 3 does not have.

    Returns:
        A new model of `tfprune.layers`, not compiled.

    Raises:
        ValueError: If the model is subclassed or not built, or has a layer or an argument that
            Keras 3 does not have.
        ModuleNotFoundError: If a `.keras` file is given and `tf_keras` or tfmot is missing.
        RuntimeError: If the two models do not compute the same, which would be a bug here.

    Example:

    >>> import tf_keras
    >>> pruned = tf_keras.Sequential([tf_keras.layers.Dense(2, input_shape=(3,), name="d")])
    >>> pruned.set_weights([np.array([[0.0, 1.0], [2.0, 0.0], [0.0, 3.0]]), np.zeros(2)])
    >>> model = from_tfmot(pruned)
    >>> np.asarray(model.get_layer("d").trainable_masks["kernel"]).astype(int).tolist()
    [[0, 1], [1, 0], [0, 1]]
    """
    source, theirs = _read(model_or_path, custom_objects)
    config = tf_keras.translated(source.config, custom_objects)
    ours = keras.saving.deserialize_keras_object(config, custom_objects=custom_objects)
    masked = _with_masks(ours, source)
    if theirs is None or _keras.recurrent_states(masked):
        warnings.warn(
            f"{masked.name!r} was taken over without comparing its outputs: "
            + ("it remembers states." if theirs is not None else "`tf_keras` cannot load it here."),
            stacklevel=2,
        )
    else:
        _check_equal(theirs, masked)
    return masked


# Reading ------------------------------------------------------------------------------------------


def _read(model_or_path, custom_objects):
    """The `Source`, and the `tf_keras` model to compare with, or None."""
    if isinstance(model_or_path, keras.Model):
        raise ValueError(
            "Argument `model_or_path` must be a model of `tf_keras`. Received: a Keras 3 model, "
            f"{model_or_path.name!r}. Make it prunable with `tfprune.prunable(model)`."
        )
    if hasattr(model_or_path, "to_json"):
        return sources.of_model(model_or_path), model_or_path
    path = pathlib.Path(model_or_path)
    if path.suffix not in (".h5", ".hdf5", ".keras") or not path.is_file():
        raise ValueError(
            "Argument `model_or_path` must be a `tf_keras` model, or the path of an existing "
            f"`.h5` or `.keras` file. Received: model_or_path={str(model_or_path)!r}."
        )
    if path.suffix == ".keras":
        model = _loaded(path)
        return sources.of_model(model), model
    source = sources.of_h5(path)
    if custom_objects:  # of Keras 3, so `tf_keras` cannot load it
        return source, None
    try:
        return source, _loaded(path)
    except ModuleNotFoundError:
        return source, None


def _loaded(path):
    try:
        import tensorflow_model_optimization as tfmot
        import tf_keras
    except ImportError as error:
        raise ModuleNotFoundError(
            "Reading a `.keras` file of `tf_keras` needs `tf_keras` and tfmot. Install them with "
            f"`pip install 'tfprune[tfmot]'`. Received: {str(path)!r}."
        ) from error
    with tfmot.sparsity.keras.prune_scope():
        return tf_keras.models.load_model(path, compile=False)


# Weights and masks --------------------------------------------------------------------------------


def _with_masks(model, source):
    """The model made prunable, with the weights and masks of the source."""
    pairs = list(_variable_pairs(model, source))
    is_wrapped = tf_keras.is_wrapped(source.config)
    masks = [weight.mask if is_wrapped else _zeros(weight) for _, weight in pairs]
    # Weights find their places in the new model, also those of composite layers, which are
    # opened; so the masks travel as weights first.
    for (variable, _), mask in zip(pairs, masks, strict=True):
        variable.assign(np.ones(variable.shape) if mask is None else mask)
    carrier = prunable(model)
    for variable, weight in pairs:
        variable.assign(weight.value)
    for layer in model.layers:
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


def _variable_pairs(model, source):
    """The variables of the new model, each with its `Weight` in the source."""
    for layer in model.layers:
        weights = source.weights.get(layer.name, ())
        variables = layer.trainable_weights + layer.non_trainable_weights
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
        yield from zip(variables, weights, strict=True)


# Checking -----------------------------------------------------------------------------------------


def _check_equal(theirs, ours):
    inputs = check.random_inputs(trace(ours))
    structure = keras.tree.pack_sequence_as(_keras.input_structure(ours), inputs)
    before = keras.tree.flatten(theirs(structure, training=False))
    after = keras.tree.flatten(ours(structure, training=False))
    error = max(
        check.error(*(np.asarray(keras.ops.cast(output, "float64")) for output in pair))
        for pair in zip(before, after, strict=True)
    )
    allowed = _TWO_LIBRARIES * check.TOLERANCE[check.lowest_precision(ours)]
    if not error <= allowed:
        raise RuntimeError(
            "The Keras 3 model does not compute what the `tf_keras` model computes. Received: "
            f"model={ours.name!r}, relative difference={error:.3g}, allowed={allowed:.3g}. Please "
            "report it with the model's `to_json()`."
        )
