"""Conversion of a model by its config, to stock layers or other sizes."""

import contextlib

import keras

from tfprune import _keras
from tfprune.coupling import resizing
from tfprune.coupling.kept_cells import KeptCells
from tfprune.coupling.rules import has_rule
from tfprune.coupling.time_steps import at_each_step, innermost
from tfprune.layers import DROP_INS
from tfprune.masks.in_place import own_config, unmask
from tfprune.masks.setting import masked_layers
from tfprune.rebuild.copied_state import copy_weights
from tfprune.rebuild.copying import copy_model
from tfprune.rebuild.dead_calls import without_dead_calls
from tfprune.rebuild.shared_layers import SharedLayers

_DROP_IN_NAMES = {
    name: DROP_INS[stock]
    for name, stock in vars(keras.layers).items()
    if isinstance(stock, type) and stock in DROP_INS
}
_STOCK_NAMES = {drop_in.__name__: name for name, drop_in in reversed(_DROP_IN_NAMES.items())}


def to_stock(config):
    """Returns a serialised layer with its class, and those of layers in it, as stock classes."""
    if config.get("registered_name") == "tfprune>InPlace":
        config = own_config(config)
    is_ours = str(config.get("registered_name")).startswith("tfprune>")
    if is_ours and config["class_name"] in _STOCK_NAMES:
        name = _STOCK_NAMES[config["class_name"]]
        config = {**config, "module": "keras.layers", "class_name": name, "registered_name": None}
    return _keras.in_nested(config, to_stock)


def without_masks(model):
    """Returns the model made of stock layers, zeros included; itself if it has no masks.

    A subclassed model stays one of its class.

    Example:

    >>> import tfprune
    >>> model = keras.Sequential([keras.Input((3,)), tfprune.layers.Dense(2, name="d")])
    >>> type(without_masks(model).get_layer("d")) is keras.layers.Dense
    True
    """
    if not masked_layers(model):
        return model
    if _keras.functional(model) is None:
        return unmask(copy_model(model).model)
    stock = rebuilt(model, lambda config, _: to_stock(config), keep=unmask)
    unmask_inside(stock)
    copy_weights(model, stock)
    return stock


def unmask_inside(model):
    """Takes the masks from the layers of a model that have any, such as those of users' classes."""
    for layer in masked_layers(model):
        unmask(layer)


# A model from its edited config -----------------------------------------------------------------


_LEFT_OUT = {"config": {}}  # in place of a layer that is edited by itself


def _itself(layer):
    return layer


def rebuilt(
    model,
    edit,
    dropped=None,
    restructure=None,
    added=(),
    keep=_itself,
    resize_kept=None,
    *,
    copies=None,
    empty=None,
    initialize=False,
    as_graph=False,
    replaced=(),
):
    """Returns a new model from the config of a model, with every operation passed through `edit`.

    Args:
        model: A Functional or built Sequential model.
        edit: Function of a serialised operation and the operation; returns the new serialised
            operation. Not called for nested models, but for what is in them.
        dropped: Dict from a call, as the names of the nested models around it, its operation's
            name and its node index, to the positions of the inputs that are dropped.
        restructure: Function of the config of the model, or of one nested in it, and the names of
            the models around its layers; returns the new config. It is applied before `dropped`.
        added: Layers in the new config that are not in the model, for their custom classes.
        keep: Function of the copy of a layer without a rule, which is copied as an object and needs
            no config; returns what the new model has of it.
        resize_kept: Function of such a layer and its copy, which changes the copy's sizes in place.
        empty: Dict from a call of a split, given so too, to which of its pieces are empty.
        copies: An `UnchangedCopies`, or a `ResizedCopies`: which other layers are copied, and the
            values of their weights.
        initialize: Whether weights get what their initializers make. That takes longer than all the
            rest, and is only needed where `copy_weights` does not overwrite all elements.
        as_graph: Whether Sequential models become Functional ones, which may hold operations that
            are no layers.
        replaced: The ids of layers in place of which `edit` puts others.

    Returns:
        The new model; its weights are 0 unless `initialize`.
    """
    dead = dropped or {}, empty or {}
    rebuilding = _Rebuilding(model, edit, dead, restructure, keep, resize_kept, copies, as_graph)
    config = rebuilding.edited(model)
    configured = [o for o in _keras.all_operations(model) if id(o) not in rebuilding.places]
    operations = [*configured, *added]
    initial_values = contextlib.nullcontext() if initialize else _keras.zeros_as_initial_values()
    with initial_values:
        new = keras.saving.deserialize_keras_object(
            config,
            custom_objects={**_keras.custom_objects_of(operations), **rebuilding.custom_objects},
            safe_mode=False,
        )
    rebuilding.cells.restore()
    rebuilding.tie(model, new, replaced)
    return new


def graph_operations(model):
    """The operations of a model and of the models in it, with a config of their own in its."""
    for operation in map(innermost, _keras.operations(model)):
        if _keras.functional(operation) is not None:
            yield from graph_operations(operation)
        else:
            yield operation


def _kept_layers(model, copies):
    """The layers of a model, and of the models in it, that go through no config, and the others."""
    kept, others = {}, {}
    for operation in graph_operations(model):
        if isinstance(operation, keras.layers.Layer):
            is_kept = (copies is not None and copies.takes(operation)) or _is_kept(operation)
            (kept if is_kept else others)[id(operation)] = operation
    return list(kept.values()), list(others.values())


def _is_kept(operation):
    is_input = isinstance(operation, keras.layers.InputLayer)  # its shape may change
    if is_input or not isinstance(operation, keras.layers.Layer):
        return False
    if _keras.quantized_layers(operation):  # none of its sizes changes
        return True
    return not has_rule(operation) or (not operation.variables and not _has_config(operation))


def _has_config(layer):
    """Whether Keras can say the arguments of a layer; not those of `Identity(dtype=policy)`."""
    try:
        layer.get_config()
    except NotImplementedError:
        return False
    return True


class BuiltOnce:
    """The class that a config names in place of `keras.Sequential`.

    From a config, that calls all its layers anew for each that it adds.
    """

    @classmethod
    def from_config(cls, config):
        """The Sequential model."""
        layers = map(keras.saving.deserialize_keras_object, config["layers"])
        return keras.Sequential(list(layers), name=config["name"])


class _Rebuilding:
    """The config of a model, edited, in which some layers stand as the objects they are."""

    def __init__(self, model, edit, dead, restructure, keep, resize_kept, copies, as_graph):
        self.edit, self.dead, self.restructure = edit, dead, restructure
        self.as_graph = as_graph
        layers, others = _kept_layers(model, copies)
        self.cells = KeptCells(others)
        self.kept = [*layers, *self.cells.cells]
        self.places = {id(layer): place for place, layer in enumerate(self.kept)}
        inside = filter(None, map(at_each_step, _keras.all_layers(model)))
        self.at_each_step = [each for each in inside if _keras.functional(each) is not None]
        self.shared = SharedLayers(model)
        how = () if copies is None else (copies.new_value, copies.masks)
        self.copied = _keras.copied_objects(self.kept, *how)
        made = self.copied[0][1]
        for place, layer in enumerate(self.kept):
            if copies is None or not copies.takes(layer):
                made[place] = keep(made[place])
        if resize_kept is not None:
            for layer, copy in zip(self.kept, made, strict=True):
                resize_kept(layer, copy)

        places = [layer.name for layer in self.kept]

        class Kept:
            """The class that a config names in place of that of a layer that is kept."""

            @classmethod
            def from_config(cls, config):
                layer = made[config["place"]]
                if config["name"] != places[config["place"]]:  # it comes once more
                    layer = _keras.copied_objects([self.kept[config["place"]]])[0][1][0]
                    layer.name = config["name"]
                return layer

        classes = self.cells.become(made[len(layers) :])
        kinds = {"Kept": Kept, "BuiltOnce": BuiltOnce}
        self.custom_objects = {**kinds, **classes, **self.shared.custom_objects}

    def tie(self, model, new, replaced):
        """Lets layers that are kept hold those of the new model where they hold some of `model`."""
        copies, replacements = {id(old): copy for old, copy in self.copied}, []
        for ours, theirs in _keras.layer_pairs(model, new, {*self.places, *replaced}):
            pairs = [(ours, theirs), *_keras.own_variable_pairs(ours, theirs)]
            pairs = [(copies[id(a)], b) for a, b in pairs if id(a) in copies]
            replacements += [(a, b) for a, b in pairs if a is not b]
        if replacements:
            _keras.replace_references([copy for _, copy in self.copied], replacements)

    def edited(self, model, path=()):
        """The serialised model with all its operations edited; `path` names the models around."""
        inside = [each for each in self.at_each_step if each is not model]
        written = _keras.functional(model) if self.as_graph else model
        serialised = _keras.graph_config(written, [*self.kept, *inside])
        config = serialised["config"]
        operations = {operation.name: operation for operation in _keras.operations(model)}
        layers = [self._operation(_with_name(each), operations, path) for each in config["layers"]]
        config = {**config, "layers": layers, "name": model.name}
        config.pop("build_input_shape", None)
        config = config if self.restructure is None else self.restructure(config, path)
        here = [{k[-2:]: v for k, v in each.items() if k[:-2] == path} for each in self.dead]
        config = without_dead_calls(config, *here) if any(here) else config
        if serialised["class_name"] == keras.Sequential.__name__:
            names = {"class_name": "BuiltOnce", "registered_name": "BuiltOnce", "module": None}
            serialised = {**serialised, **names}
        return {**serialised, "config": self.shared.counted(config, operations)}

    def _operation(self, config, operations, path):
        operation = operations.get(config["config"]["name"])
        if operation is None:  # the input layer of a Sequential model
            return _keras.without_shapes(config)
        return self._edited(config, operation, path)

    def _edited(self, config, operation, path):
        """A serialised operation edited; `path` names the models around it."""
        outer = {k: v for k, v in config.items() if k in ("name", "inbound_nodes")}
        if _keras.functional(operation) is not None:
            new = {**self.edited(operation, (*path, operation.name)), **outer}
        elif id(operation) in self.places:
            identity = {"name": operation.name, "place": self.places[id(operation)]}
            names = {"class_name": "Kept", "registered_name": "Kept", "module": None}
            return {**names, "config": identity, **outer}
        else:
            inner = at_each_step(operation)
            given = config if inner is None else _with_layer(config, _LEFT_OUT)
            given = _keras.without_shapes(self.cells.named(given))
            given = _keras.with_functions(given, operation, self.custom_objects)
            new = self.edit(given, operation)
            if isinstance(operation, _keras.FAKE_QUANTIZATION):
                new = {**new, "config": {}}  # it takes no name
            if inner is not None and new["config"].get("layer") == _LEFT_OUT:  # not replaced
                path = (*path, operation.name)
                new = _with_layer(new, self._edited(config["config"]["layer"], inner, path))
        return self.shared.wrapped(new, operation)


def _with_name(config):
    """Adds the name to the arguments, where an operation of Keras leaves it out of its config."""
    name = config.get("name")
    return config if name is None else {**config, "config": {"name": name, **config["config"]}}


def _with_layer(config, layer):
    """A serialised wrapper of another serialised layer."""
    return {**config, "config": {**config["config"], "layer": layer}}


@resizing.rebuilds_models_inside
def _rebuilt_inside(model, edit, resize_kept):
    return rebuilt(model, edit, resize_kept=resize_kept, keep=unmask)
