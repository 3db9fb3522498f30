"""Configs of layers as Keras writes them, and what makes layers of them."""

import inspect

import keras


def in_nested(config, convert):
    """Applies `convert` to the serialised layers among the arguments of a layer."""
    arguments = config.get("config")
    if not isinstance(arguments, dict):
        return config

    def visit(value):
        if isinstance(value, dict) and "class_name" in value and "config" in value:
            return convert(value)
        if isinstance(value, (list, tuple)):
            return [visit(item) for item in value]
        return value

    return {**config, "config": {name: visit(value) for name, value in arguments.items()}}


def with_functions(config, operation, custom_objects):
    """Lets a config name Python functions, such as activations, in a way that is found again.

    Keras writes their names, which may be those of others, or code without its globals.

    Args:
        config: The serialised operation.
        operation: The operation.
        custom_objects: Dict from names to functions, which is added to.
    """
    arguments = dict(config["config"])
    for name, value in vars(operation).items():
        is_own = inspect.isfunction(value) and not str(value.__module__).startswith("keras.")
        if is_own and name in arguments:
            key = f"function_{id(value)}"
            custom_objects[key] = value
            names = {"module": "builtins", "registered_name": key}
            arguments[name] = {"class_name": "function", "config": key, **names}
    return {**config, "config": arguments}


def without_shapes(config):
    """Removes the shapes for which layers were built: the new ones may differ."""
    config = {key: value for key, value in config.items() if key != "build_config"}
    return in_nested(config, without_shapes)


def custom_objects_of(operations):
    """Classes and functions of operations that are not registered with Keras."""
    found = {}
    for operation in operations:
        for value in [operation, *vars(operation).values()]:
            named = value if inspect.isfunction(value) or inspect.isclass(value) else type(value)
            named = getattr(named, "own_class", None) or named  # that of a layer with masks
            module = getattr(named, "__module__", "")
            is_known = module.startswith(("keras.", "tensorflow.", "builtins", "numpy"))
            name = getattr(named, "__name__", "")
            if not is_known and keras.saving.get_registered_name(named) == name:
                found[name] = named
    return found


def has_numbers(layer):
    """Whether there are whole numbers among the arguments in the config of a layer."""
    try:
        config = layer.get_config()
    except Exception:  # the user's own code may fail in any way
        return False
    values = keras.tree.flatten([v for k, v in config.items() if k not in ("trainable", "name")])
    return any(isinstance(value, int) and not isinstance(value, bool) for value in values)
