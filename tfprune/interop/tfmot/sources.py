"""Reads config, weights and masks of a pruned `tf_keras` model or `.h5` file."""

import json
from dataclasses import dataclass

import h5py
import numpy as np

from tfprune.interop import tf_keras

_PREFIX = "prune_low_magnitude_"
_KEPT_BY_WRAPPERS = ("mask", "threshold", "pruning_step")
_PRUNED_BY_WRAPPERS = ("kernel", "recurrent_kernel", "pointwise_kernel", "embeddings")


@dataclass(frozen=True)
class Weight:
    """A weight of the model: its name in the layer, its value, and its mask if it has one."""

    name: str
    value: np.ndarray
    mask: np.ndarray | None


@dataclass(frozen=True)
class Source:
    """A model that was read.

    Attributes:
        config: The serialised model.
        weights: For each of its layers, by its name in Keras 3, the weights in Keras's order:
            trainable ones first.
    """

    config: dict
    weights: dict


def of_model(model):
    """Reads a `tf_keras` model."""
    try:
        config = json.loads(model.to_json())
    except NotImplementedError:  # of a subclassed model
        config = {"config": {}}
    if "layers" not in config["config"]:
        raise ValueError(
            "Argument `model_or_path` must be a Functional or Sequential model of `tf_keras`. "
            f"Received: model={model.name!r} ({type(model).__name__}), a subclassed one."
        )
    masks, of_wrappers = {}, set()
    for wrapper in model.submodules:
        if type(wrapper).__name__ == tf_keras.WRAPPER:
            of_wrappers.add(id(wrapper.pruning_step))
            for weight, mask, threshold in wrapper.pruning_vars:
                masks[id(weight)] = mask.numpy() != 0
                of_wrappers |= {id(mask), id(threshold)}
    names = tf_keras.new_names(config)
    weights = {
        names[layer.name]: tuple(
            Weight(_own_name(variable.name), variable.numpy(), masks.get(id(variable)))
            for variable in layer.trainable_weights + layer.non_trainable_weights
            if id(variable) not in of_wrappers
        )
        for layer in model.layers
    }
    return Source(config, weights)


def of_h5(path):
    """Reads an `.h5` file, for which neither `tf_keras` nor tfmot is needed."""
    with h5py.File(path, "r") as file:
        if "model_config" not in file.attrs:
            raise ValueError(
                "The file holds weights without a model. "
                f"Received: {str(path)!r}. Save it with `model.save(path)`, not `save_weights`."
            )
        config = json.loads(file.attrs["model_config"])
        group = file["model_weights"]
        weights = {
            new: _weights_of(group[old])
            for old, new in tf_keras.new_names(config).items()
            if old in group
        }
    return Source(config, weights)


def _weights_of(group):
    """The weights of one layer, those of wrappers taken for their masks."""
    paths = [name.decode() if isinstance(name, bytes) else name for name in _names(group)]
    masks = {}
    for path in paths:
        if _is_wrapper_s(path) and _own_name(path) == "mask":
            layer = path.rpartition("/")[0].split(_PREFIX)[-1]
            found = [
                other
                for other in paths
                if f"/{layer}/" in f"/{other}" and _own_name(other) in _PRUNED_BY_WRAPPERS
            ]
            mask = np.asarray(group[path]) != 0
            if len(found) != 1 or group[found[0]].shape != mask.shape:
                raise ValueError(
                    "Cannot tell which weight a mask in the file belongs to. Received: "
                    f"mask={path!r} of shape {mask.shape}, weights={found}. Load the file with "
                    "`tf_keras` and pass the model."
                )
            masks[found[0]] = mask
    return tuple(
        Weight(_own_name(path), np.asarray(group[path]), masks.get(path))
        for path in paths
        if not _is_wrapper_s(path)
    )


def _names(group):
    """The names of the weights in their order; long lists are stored in pieces."""
    if "weight_names" in group.attrs:
        return list(group.attrs["weight_names"])
    pieces, names = 0, []
    while f"weight_names{pieces}" in group.attrs:
        names += list(group.attrs[f"weight_names{pieces}"])
        pieces += 1
    return names


def _is_wrapper_s(path):
    return _PREFIX in path and _own_name(path) in _KEPT_BY_WRAPPERS


def _own_name(path):
    return path.split("/")[-1].split(":")[0]
