"""KerasHub, imported when the first of its models is built."""

import functools


@functools.cache
def hub():
    import keras_hub

    return keras_hub


def backbone(name, **arguments):
    return lambda: getattr(hub().models, f"{name}Backbone")(**arguments)
