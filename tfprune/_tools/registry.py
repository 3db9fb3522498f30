"""`get`, `serialize` and `deserialize` for a family of objects, as Keras's modules have them."""

import inspect

import keras


class Registry:
    """The objects that an argument takes: by name, by configuration, or themselves.

    Args:
        base: The class whose instances are accepted, such as `collections.abc.Callable`.
        argument: String, how errors call the argument where `get` is not told otherwise.
        expected: String, what the argument must be, for errors.
        classes: Sequence of classes that a configuration may name without module or package.
        names: Dict of names, or `None` for the default, to objects. A class is instantiated, also
            where `get` is given the class.

    Example:

    >>> registry = Registry(
    ...     keras.Layer, argument="layer", expected='"flat"', names={"flat": keras.layers.Flatten}
    ... )
    >>> registry.get("flat").name
    'flatten'
    >>> registry.get(3, argument="head")
    Traceback (most recent call last):
    ValueError: Argument `head` must be "flat". Received: head=3.
    """

    def __init__(self, base, *, argument, expected, classes=(), names=None):
        self.base = base
        self.argument = argument
        self.expected = expected
        self.classes = {cls.__name__: cls for cls in classes}
        self.names = names or {}

    def get(self, identifier, argument=None, **options):
        """The object that an identifier means.

        Args:
            identifier: A name, a configuration, or an object of the family.
            argument: String, how the caller calls the argument.
            **options: Arguments of the class, where one is instantiated.

        Raises:
            ValueError: If it is none of these.
        """
        found = identifier
        if isinstance(identifier, dict):
            found = self.deserialize(identifier)
        elif identifier is None or isinstance(identifier, str):
            found = self.names.get(identifier)
        if inspect.isclass(found) and found in self.names.values():
            found = found(**options)
        if isinstance(found, self.base) and not inspect.isclass(found):
            return found
        argument = argument or self.argument
        raise ValueError(
            f"Argument `{argument}` must be {self.expected}. Received: {argument}={identifier!r}."
        )

    def serialize(self, instance):
        """The configuration of an object, a dict; see `keras.saving.serialize_keras_object`."""
        return keras.saving.serialize_keras_object(instance)

    def serialize_by_name(self, instance):
        """The name of an object that `get` gives for one, else its configuration."""
        for name, named in self.names.items():
            is_default = type(instance) is named and instance.get_config() == named().get_config()
            if instance is named or is_default:
                return name
        return self.serialize(instance)

    def deserialize(self, config, custom_objects=None):
        """An object from its configuration.

        Args:
            config: Dict, as `serialize` returns it; `{"class_name": ..., "config": ...}` is enough.
            custom_objects: Dict of names to classes which are not registered with Keras.
        """
        known = {**self.classes, **(custom_objects or {})}
        return keras.saving.deserialize_keras_object(config, known)


class Configurable:
    """Base class of objects that are told by their arguments, attributes of the same names.

    Example:

    >>> class Scale(Configurable):
    ...     def __init__(self, factor):
    ...         self.factor = factor
    ...
    ...     def get_config(self):
    ...         return {"factor": self.factor}
    >>> Scale.from_config(Scale(2).get_config())
    Scale(factor=2)
    """

    def get_config(self):
        """The arguments of this object, as a dict that JSON can write."""
        return {}

    @classmethod
    def from_config(cls, config):
        """An object with the arguments that `get_config` returned."""
        parts = {name: part for name, part in config.items() if isinstance(part, (dict, list))}
        return cls(**{**config, **keras.saving.deserialize_keras_object(parts)})

    def __repr__(self):
        values = {name: getattr(self, name, value) for name, value in self.get_config().items()}
        arguments = ", ".join(f"{name}={value!r}" for name, value in values.items())
        return f"{type(self).__name__}({arguments})"
