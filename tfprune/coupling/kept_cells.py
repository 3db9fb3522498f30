"""Recurrent cells of users' classes that stand in configs as the objects they are.

Keras makes the layers over them from their configs, those in a `Bidirectional` twice. So until the
new model is there, each cell is of a class made for it, of which a config makes that cell.
"""

from tfprune.coupling.rules.custom_cells import own_cells


class KeptCells:
    """The cells of a model that go through no config.

    Args:
        layers: The layers over them.
    """

    def __init__(self, layers):
        found = {id(cell): cell for layer in layers for cell in own_cells(layer)}
        self.cells = list(found.values())
        self.names = {key: f"KeptCell{place}" for place, key in enumerate(found)}
        self.copies = []

    def become(self, copies):
        """Gives the copies of the cells their classes; returns these by name."""
        self.copies = [(copy, type(copy)) for copy in copies]
        classes = {}
        for copy, name in zip(copies, self.names.values(), strict=True):
            classes[name] = copy.__class__ = _class_of(copy, name)
        return classes

    def named(self, config):
        """A serialised layer in which the classes of cells are named."""
        arguments = config.get("config")
        if not isinstance(arguments, dict):
            return config
        if arguments.get("kept") in self.names:
            name = self.names[arguments["kept"]]
            return {**config, "class_name": name, "registered_name": name, "module": None}

        def visit(value):
            if isinstance(value, dict):
                return self.named(value)
            return [visit(item) for item in value] if isinstance(value, (list, tuple)) else value

        return {**config, "config": {name: visit(value) for name, value in arguments.items()}}

    def restore(self):
        """Gives the copies the classes they had."""
        for copy, cls in self.copies:
            copy.__class__ = cls


def _class_of(cell, name):
    cls = type(cell)
    attributes = {
        "get_config": lambda self: {"name": self.name},
        "from_config": classmethod(lambda _, config: cell),
        "__module__": cls.__module__,
    }
    return type(cls)(name, (cls,), attributes)
