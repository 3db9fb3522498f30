"""The base class of edits, and the registry that reads them from dicts."""

import copy
from dataclasses import dataclass, field, fields

import keras
import numpy as np

from tfprune.coupling.analysis import made_axis
from tfprune.rebuild.dead_calls import without_dead_calls
from tfprune.surgery.inputs import InputList
from tfprune.surgery.lookup import graph_outputs

KINDS = {}


class Edit:
    """One change of a model; subclasses override what applies to them.

    Subclasses are frozen dataclasses whose fields are the names of layers, numbers and serialised
    layers, so that a plan can be written as JSON.
    """

    before_sizes = False
    """Whether the edit is made before sizes are solved, so that what it adds can be resized too."""

    alone = False
    """Whether the edit is made by itself, after the others."""

    keeps_shapes = False
    """Whether the tensors of the model keep their shapes."""

    def __init_subclass__(cls):
        KINDS[cls.__name__] = cls

    def check(self, model):
        """Raises a `ValueError` where the edit does not fit the model."""

    def constraints(self, model, coupling, joins):
        """The `SizeConstraint`s under which the edit can be made, as a list.

        Args:
            model: The model, after the edits that are made before sizes are solved.
            coupling: Its units.
            joins: The concatenations whose inputs change, a `tfprune.surgery.edges.Joins`, or None.
        """
        return []

    def removed(self, model):
        """The layers that are removed, whose units have no utility."""
        return []

    def draft(self, model, draft):
        """Adds the changes in the config and the weights to a `Draft`."""

    def effects(self, model):
        """The reasons why the model computes something else: a list of sentences."""
        return []

    def describe(self):
        """Three strings: what is done, to what, and how."""
        raise NotImplementedError

    def to_dict(self):
        """The edit as values that JSON can write."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        values = {k: v.item() if isinstance(v, np.integer) else v for k, v in values.items()}
        return {"edit": type(self).__name__, **values}


def from_dict(content):
    """The edit of a dict from `Edit.to_dict`."""
    values = {key: value for key, value in content.items() if key != "edit"}
    if content.get("edit") not in KINDS:
        raise ValueError(
            f"An edit must be one of {sorted(KINDS)}. Received: {content.get('edit')!r}."
        )
    return KINDS[content["edit"]](**values)


@dataclass(eq=False)
class Draft:
    """The changes of several edits to a model, to be made at once.

    A path is a tuple of the names of the nested models around an operation.

    Attributes:
        layer_edits: For operations, by id, functions from their serialised form to the new one.
        graph_edits: Pairs of a path and a function from the config of the model there to the new
            one.
        dropped_inputs: For calls, as names and an index, the indices of the inputs they lose.
        concatenations: For concatenations that gain or lose inputs, and depthwise convolutions with
            other outputs, by id, the path, the operation, and the old positions of the new ones,
            `NEW` for those that are added.
        windows: For variables, by id, the old indices along each axis of the window.
        gathered: For variables, by id, the old indices along further axes, `NEW` for new ones.
        replaced: For each operation that is replaced the path, the operation, and whether its
            weights are kept.
        weight_setters: Functions of the new model that set weights.
        checks: Functions of the new model that raise an error where it is wrong.
        new_layers: Layers that are added to the model.
        inputs: For operations whose inputs change, by id, their `InputList`.
        repeated: The ids of operations that come several times.
        bypassed: For paths, the parts of the graph there that are removed.
        next_edits: Edits to make after these.
    """

    layer_edits: dict = field(default_factory=dict)
    graph_edits: list = field(default_factory=list)
    dropped_inputs: dict = field(default_factory=dict)
    concatenations: dict = field(default_factory=dict)
    windows: dict = field(default_factory=dict)
    gathered: dict = field(default_factory=dict)
    replaced: list = field(default_factory=list)
    weight_setters: list = field(default_factory=list)
    checks: list = field(default_factory=list)
    new_layers: list = field(default_factory=list)
    inputs: dict = field(default_factory=dict)
    repeated: set = field(default_factory=set)
    bypassed: dict = field(default_factory=dict)
    next_edits: list = field(default_factory=list)

    def positions(self, model, path, operation):
        """The list of old positions along the axis of a concatenation, to be changed in place."""
        size = graph_outputs(model, path, operation)[0][0].shape[made_axis(operation)]
        return self.concatenations.setdefault(id(operation), (path, operation, list(range(size))))[
            -1
        ]

    def inputs_of(self, model, path, operation):
        """The `InputList` of an operation, to be changed in place."""
        if id(operation) not in self.inputs:
            inputs = self.inputs[id(operation)] = InputList.of(model, path, operation)
            self.graph_edits.append((path, inputs.connected))
        return self.inputs[id(operation)]

    def edit(self, config, operation):
        """The serialised form of an operation after all edits."""
        for change in self.layer_edits.get(id(operation), ()):
            config = change(config)
        return config

    def restructure(self, config, path):
        """The config of the model at a path after all edits of its graph."""
        for where, change in self.graph_edits:
            config = change(config) if where == path else config
        changed = [inputs for inputs in self.inputs.values() if inputs.path == path]
        if not changed:
            return config
        alone = {inputs.operation.name for inputs in changed if inputs.is_bypassed}
        return without_dead_calls(config, {(name, 0): () for name in alone})


def layer_of(serialised):
    """A new layer from its serialised form, which stays as it is (Keras takes wrappers' apart)."""
    return keras.saving.deserialize_keras_object(copy.deepcopy(serialised))
