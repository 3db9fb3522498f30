"""State beside weights in the legacy `.h5` files of Keras.

Private here, and why:

* the functions of `legacy_h5_format` which write and read weights: they know of nothing but
  weights, so these here stand in their place; `_legacy_weights` says which layers have any;
* `model_metadata`, which writes the bare name of a model's class, though the model may be
  registered under another.
"""

import functools

import keras
from keras.src.legacy.saving import legacy_h5_format as stock
from keras.src.legacy.saving import saving_utils

from tfprune._keras.layers import all_layers
from tfprune._keras.masked_variables import unguarded

_GROUP = "tfprune"
_OF_THE_MODEL = "top_level_model_weights"


@functools.cache
def keep_in_h5_files(kind):
    """Lets Keras write and read the objects of a class, in attributes of layers, in `.h5` files.

    Args:
        kind: A class with `save_own_variables(store)`, and `load_own_variables(store)`, which is
            called with an empty store after weights were loaded that came without such an object.
    """
    save = stock.save_weights_to_hdf5_group

    @functools.wraps(save)
    def save_with_state(group, model, *args, **kwargs):
        save(group, model, *args, **kwargs)
        for layer in model.layers:
            _save(group[layer.name], _states(kind, all_layers(layer)))
        _save(group[_OF_THE_MODEL], _states(kind, [model]))

    stock.save_weights_to_hdf5_group = save_with_state
    saving_utils.model_metadata = _with_registered_names(saving_utils.model_metadata)
    for name, paired in (
        ("load_weights_from_hdf5_group", _paired_by_order),
        ("load_weights_from_hdf5_group_by_name", _paired_by_name),
    ):
        setattr(stock, name, _loading(getattr(stock, name), kind, paired))


def _with_registered_names(model_metadata):
    @functools.wraps(model_metadata)
    def metadata_of(model, *args, **kwargs):
        metadata = model_metadata(model, *args, **kwargs)
        name = keras.saving.get_registered_name(type(model))
        if name.startswith("tfprune>"):
            metadata["model_config"]["class_name"] = name
        return metadata

    return metadata_of


def _loading(load, kind, paired):
    @functools.wraps(load)
    def load_with_state(group, model, *args, **kwargs):
        stores = {}
        try:
            with unguarded():
                load(group, model, *args, **kwargs)
            for entry, parts in [*paired(group, model), (group.get(_OF_THE_MODEL), [model])]:
                found = {} if entry is None else entry.get(_GROUP, {})
                stores |= {
                    id(state): found[key]
                    for key, state in _states(kind, parts).items()
                    if key in found
                }
        finally:
            for state in _states(kind, all_layers(model)).values():
                state.load_own_variables(stores.get(id(state), {}))

    return load_with_state


def _paired_by_order(group, model):
    names = stock.load_attributes_from_hdf5_group(group, "layer_names")
    entries = [
        group[name]
        for name in names
        if stock.load_attributes_from_hdf5_group(group[name], "weight_names")
    ]
    layers = [all_layers(layer) for layer in model.layers if stock._legacy_weights(layer)]
    return zip(entries, layers, strict=True)


def _paired_by_name(group, model):
    return [(group[layer.name], all_layers(layer)) for layer in model.layers if layer.name in group]


def _save(entry, states):
    for key, state in states.items():
        state.save_own_variables(entry.require_group(_GROUP).create_group(key))


def _states(kind, parts):
    """The objects of a class that layers hold, by the place of the layer and the attribute."""
    parts = [part for part in parts if not isinstance(part, keras.layers.InputLayer)]
    return {
        f"{place} {name}": value
        for place, part in enumerate(parts)
        for name, value in vars(part).items()
        if isinstance(value, kind)
    }
