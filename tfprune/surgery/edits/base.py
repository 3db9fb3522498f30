"""What an edit says of itself, and the registry through which plans are read from dicts."""

from dataclasses import dataclass, field, fields

from tfprune import _keras

KINDS = {}


class Edit:
    """One change of a model. Override what the defaults do not say.

    Subclasses are frozen dataclasses whose fields are the names of layers, numbers and serialised
    layers, so that a plan can be written as JSON.
    """

    before_sizes = False
    """Whether it is made before sizes are solved: what it adds can then be resized too."""

    keeps_shapes = False
    """Whether every tensor that was there has the shape it had."""

    def __init_subclass__(cls):
        KINDS[cls.__name__] = cls

    def check(self, model):
        """Raises a `ValueError` where the edit does not fit the model."""

    def rows(self, model, coupling, edits):
        """The constraints on sizes under which the edit can be made: a list of `Row`s.

        Args:
            model: The model, with what is made before sizes are solved.
            coupling: Its units.
            edits: All edits of the plan.
        """
        return []

    def removed(self, model):
        """The layers that go, whose units are worth nothing."""
        return []

    def draft(self, model, draft):
        """Notes in a `Draft` what changes in the config and the weights."""

    def effects(self, model):
        """Why the function of the model changes: a list of sentences."""
        return []

    def describe(self):
        """What is done, to what, and how: three strings."""
        raise NotImplementedError

    def to_dict(self):
        """The edit as plain values."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {"edit": type(self).__name__, **values}


def from_dict(content):
    """The edit of a dict that `Edit.to_dict` gave."""
    values = {key: value for key, value in content.items() if key != "edit"}
    if content.get("edit") not in KINDS:
        raise ValueError(
            f"An edit must be one of {sorted(KINDS)}. Received: {content.get('edit')!r}."
        )
    return KINDS[content["edit"]](**values)


@dataclass(eq=False)
class Draft:
    """What several edits change in a model, to be made at once.

    Attributes:
        layers: For operations, by id, functions of their serialised form that give the new one.
        structure: Functions of the config of a model, or of one nested in it, and the names of the
            models around its layers, that give the new config.
        dropped: For calls, as names and a place, the places of the inputs that they do without.
        apart: For concatenations that get or lose inputs, by id, the names of the models around,
            the operation, and the old positions of the new ones, `NEW` for those that are added.
        windows: For variables, by id, the old indices along each axis of the window.
        replaced: For each operation that is replaced the names of the models around, the
            operation, and whether its weights are kept.
        afterwards: Functions of the new model that set weights.
        checks: Functions of the new model that raise where it is not as it should be.
        added: Layers that come into the model.
        taken: For concatenations, by id, the places of the inputs that they lose.
        next: Edits that are made when these have been.
    """

    layers: dict = field(default_factory=dict)
    structure: list = field(default_factory=list)
    dropped: dict = field(default_factory=dict)
    apart: dict = field(default_factory=dict)
    windows: dict = field(default_factory=dict)
    replaced: list = field(default_factory=list)
    afterwards: list = field(default_factory=list)
    checks: list = field(default_factory=list)
    added: list = field(default_factory=list)
    taken: dict = field(default_factory=dict)
    next: list = field(default_factory=list)

    def positions(self, path, operation, size):
        """The list of old positions of a concatenation, to be changed."""
        return self.apart.setdefault(id(operation), (path, operation, list(range(size))))[-1]

    def edit(self, config, operation):
        """The serialised form of an operation with all that changes in it."""
        for change in self.layers.get(id(operation), ()):
            config = change(config)
        return config

    def restructure(self, config, path):
        """The config of a model with all that changes in its graph."""
        for change in self.structure:
            config = change(config, path)
        return config


def at(model, path, name):
    """The operation of a name in the model nested under the names of `path`."""
    for part in path:
        model = next(each for each in _keras.operations(model) if each.name == part)
    return next((each for each in _keras.operations(model) if each.name == name), None)
