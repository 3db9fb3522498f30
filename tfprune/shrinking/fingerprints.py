"""Strings by which a run that goes on knows the model, the data and the arguments it began with.

They are those of contents, not of objects: the same in another process, and without the names that
Keras counts up for objects without one.
"""

import hashlib
import json
import re
import types

import keras
import numpy as np
import tensorflow as tf

from tfprune import _keras
from tfprune.masks.setting import masked_layers


def of_model(model):
    """The fingerprint of a model that is built: its layers, their configs, weights and masks."""
    digest = hashlib.sha256()
    for layer in _keras.all_layers(model):
        _add(digest, type(layer).__qualname__, None if layer is model else _config(layer))
    _add_arrays(digest, model.weights)
    for layer in masked_layers(model):
        for masks in (layer.trainable_masks, layer.frozen_masks):
            _add_arrays(digest, masks.values())
    return digest.hexdigest()


def of_training(model):
    """The fingerprint of how a model is trained: its optimizer with its state, its loss."""
    digest, optimizer = hashlib.sha256(), model.optimizer
    compiled = _keras.compile_arguments(model)
    _add(digest, {name: of_argument(each) for name, each in sorted(compiled.items())})
    _add(digest, _config(optimizer))
    _add_arrays(digest, [] if optimizer is None else optimizer.variables)
    return digest.hexdigest()


def of_data(data):
    """The fingerprint of data: the values of arrays; of a dataset shapes and length, not values."""
    digest = hashlib.sha256()
    if isinstance(data, tf.data.Dataset):
        _add(digest, "dataset", str(data.element_spec), int(data.cardinality()))
    elif isinstance(data, keras.utils.PyDataset):
        shapes = keras.tree.map_structure(np.shape, data[0])
        _add(digest, type(data).__qualname__, data.num_batches, str(shapes))
    else:
        arrays = keras.tree.flatten(data)
        _add(digest, len(arrays), str(keras.tree.map_structure(lambda _: 0, data)))
        _add_arrays(digest, arrays)
    return digest.hexdigest()


def of_argument(value):
    """An argument in words, which another value does not have; data by its `of_data`.

    >>> of_argument(0.5), of_argument(["stem", None])
    ('0.5', "['stem', None]")
    """
    is_data = isinstance(value, (tf.data.Dataset, keras.utils.PyDataset))
    leaves = keras.tree.flatten(value)
    if is_data or any(isinstance(each, np.ndarray) or tf.is_tensor(each) for each in leaves):
        return of_data(value)
    if isinstance(value, types.FunctionType):
        code = value.__code__
        digest = hashlib.sha256(code.co_code)
        _add(digest, _without_addresses(code.co_consts), code.co_names)
        return f"{value.__module__}.{value.__qualname__} {digest.hexdigest()[:16]}"
    return _without_addresses(value)


def _without_addresses(value):
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _config(item):
    """The config of a layer or an optimizer, as far as there is one."""
    try:
        config = item.get_config()
    except Exception:  # a user's `get_config` may fail in any way
        return None
    return _without_addresses(json.dumps(_without_names(config), default=str, sort_keys=True))


def _without_names(config):
    if isinstance(config, dict):
        return {str(key): _without_names(each) for key, each in config.items() if key != "name"}
    if isinstance(config, (list, tuple)):
        return [_without_names(each) for each in config]
    return config


def _add(digest, *parts):
    digest.update(repr(parts).encode())


def _add_arrays(digest, arrays):
    for each in arrays:
        array = None if each is None else np.asarray(_value(each))
        _add(digest, None if array is None else (array.shape, str(array.dtype)))
        if array is not None:
            is_text = array.dtype.kind == "O"
            digest.update(repr(array.tolist()).encode() if is_text else array.tobytes())


def _value(array):
    """The value of a variable or tensor; an array as it is."""
    is_array = isinstance(array, np.ndarray) or not hasattr(array, "dtype")
    return array if is_array else keras.ops.convert_to_numpy(array)
