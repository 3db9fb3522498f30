"""Reads a pruned `tf_keras` model or `.h5` file: its layers, weights and masks."""

import json

import h5py
import numpy as np

from tfprune.interop import tf_keras
from tfprune.interop.tf_keras import Weight

_PREFIX = "prune_low_magnitude_"
_KEPT_BY_WRAPPERS = ("mask", "threshold", "pruning_step")
_PRUNED_BY_WRAPPERS = ("kernel", "recurrent_kernel", "pointwise_kernel", "embeddings")


def of_h5(path):
    """The description of the model in an `.h5` file, and whether pruning wrappers are in it.

    Neither `tf_keras` nor tfmot is needed.
    """
    with h5py.File(path, "r") as file:
        if "model_config" not in file.attrs:
            raise ValueError(
                "The file holds weights without a model. "
                f"Received: {str(path)!r}. Save it with `model.save(path)`, not `save_weights`; or "
                "build the model with `tf_keras`, load the weights into it and pass the model."
            )
        config = json.loads(file.attrs["model_config"])
        if "layers" not in config["config"]:
            raise ValueError(
                "The file holds a subclassed model, of which it does not say the graph. Received: "
                f"{str(path)!r} ({config['class_name']}). Load it with `tf_keras` and pass the "
                "model."
            )
        group = file["model_weights"]
        weights = {name: _weights_of(group[name]) for name in group}
    return tf_keras.described_config(config, weights), tf_keras.is_wrapped(config)


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
        Weight(path.split(":")[0], np.asarray(group[path]), masks.get(path))
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
