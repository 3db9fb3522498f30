"""Plans: several edits of a model that are solved together and applied at once, or not at all.

A plan holds edits; `plan_steps.py` carries them out.
"""

import dataclasses

from tfprune._tools.checks import check_model
from tfprune._tools.tables import Printable, table
from tfprune.coupling.kept_units import NEW
from tfprune.surgery.arguments import serialised_layer
from tfprune.surgery.edits import (
    Connect,
    Disconnect,
    Insert,
    Remove,
    RemoveBlock,
    RepeatBlock,
    Replace,
    Resize,
    ResizeDepthMultiplier,
    ResizeKernel,
    Shrink,
    from_dict,
)
from tfprune.surgery.edits.blocks import find_block
from tfprune.surgery.edits.names import inserted_names, named_layers
from tfprune.surgery.growth import Split
from tfprune.surgery.indices import units_after
from tfprune.surgery.inlining import InlinedModel, renamed
from tfprune.surgery.lookup import find_operation
from tfprune.surgery.plan_steps import PlanSteps


class Plan(Printable):
    """Edits of a model that are solved together and applied at once, made by `edit`.

    Its methods add the edits of the functions of the same name in `tfprune.surgery`.

    Attributes:
        edits: The edits so far.
    """

    def __init__(
        self,
        model,
        *,
        criterion="magnitude",
        relaxed=False,
        split=None,
        time_limit=60.0,
        verbose=0,
    ):
        if not time_limit > 0:
            raise ValueError(f"Argument `time_limit` must be above 0. Received: {time_limit!r}.")
        self._inlined_model = InlinedModel(model)
        self._split, self._units = split, None
        self._options = {
            "criterion": criterion,
            "relaxed": relaxed,
            "time_limit": time_limit,
            "verbose": verbose,
        }
        self._new = self._carried_out = None
        self.edits = ()

    @property
    def _model(self):
        return self._inlined_model.graph

    # Edits --------------------------------------------------------------------------------------

    def resize(self, changes):
        """Adds the edit of `tfprune.surgery.resize`."""
        if not isinstance(changes, dict) or not changes:
            raise ValueError(
                "Argument `changes` must be a dict from layers to sizes, such as 8 or "
                f"`tfprune.surgery.by(+2)`. Received: changes={changes!r}."
            )
        pairs = changes.items()
        self._add(*(edit for pair in pairs for edit in Resize.of(self._name, *pair)))

    def shrink(self):
        """Adds the edit of `tfprune.surgery.shrink`."""
        self._add(Shrink())

    def insert(self, after, layers, init="identity", before=None):
        """Adds the edit of `tfprune.surgery.insert`."""
        layers = list(layers) if isinstance(layers, (list, tuple)) else [layers]
        made = [serialised_layer(layer, "layers") for layer in layers]
        serialised, weights = zip(*made, strict=True) if made else ((), ())
        if before is not None:
            before = list(before) if isinstance(before, (list, tuple)) else [before]
            before = tuple(self._consumer(each) for each in before)
        self._add(Insert(self._name(after, "after"), serialised, init, weights, before))

    def remove(self, layer, *, fit=None):
        """Adds the edit of `tfprune.surgery.remove`."""
        self._add(Remove(self._name(layer), fit))

    def connect(self, source, target, *, position=None, fit=None):
        """Adds the edit of `tfprune.surgery.connect`."""
        self._add(Connect(*self._ends(source, target), position, fit))

    def disconnect(self, source, target, *, position=None):
        """Adds the edit of `tfprune.surgery.disconnect`."""
        self._add(Disconnect(*self._ends(source, target), position))

    def resize_kernel(self, layer, kernel_size, padding=None):
        """Adds the edit of `tfprune.surgery.resize_kernel`."""
        self._add(ResizeKernel.of(self._name(layer), kernel_size, padding))

    def resize_depth_multiplier(self, layer, depth_multiplier):
        """Adds the edit of `tfprune.surgery.resize_depth_multiplier`."""
        self._add(ResizeDepthMultiplier.of(self._name(layer), depth_multiplier))

    def replace(self, layer, new_layer, keep_weights=True):
        """Adds the edit of `tfprune.surgery.replace`."""
        serialised, weights = serialised_layer(new_layer, "new_layer")
        self._add(Replace(self._name(layer), serialised, keep_weights, weights))

    def remove_block(self, block):
        """Adds the edit of `tfprune.surgery.remove_block`."""
        self._add(RemoveBlock(self._block(block)))

    def repeat_block(self, block, times=1, *, init="identity"):
        """Adds the edit of `tfprune.surgery.repeat_block`."""
        if block not in inserted_names(self.edits):
            self._inlined_model.inline_around_blocks()
        self._add(RepeatBlock.of(self._model, self._inlined_model.layer(block), times, init))

    def _block(self, block):
        """The name of a block, given it, or a layer in it or its name."""
        name = block if isinstance(block, str) else getattr(block, "name", None)
        if name in inserted_names(self.edits):
            return name
        self._inlined_model.inline_around_blocks()
        return find_block(self._model, self._inlined_model.layer(block)).name

    def _add(self, *edits):
        if self._new is not None:
            raise RuntimeError("The plan was carried out already. Begin a new one with `edit`.")
        inserted = inserted_names((*self.edits, *edits))
        for edit in edits:
            if not named_layers(edit) & inserted:  # else it is checked once the layer is inserted
                renamed(edit, self._inlined_model.ends).check(self._model)
        self.edits = (*self.edits, *edits)
        self._carried_out = None

    def _consumer(self, layer):
        """The name of a layer or operation, or of the model, which stands for its outputs."""
        is_model = layer is self._model or layer == self._model.name
        return self._model.name if is_model else self._name(layer, "before")

    def _ends(self, source, target):
        return self._name(source, "source"), self._name(target, "target")

    def _name(self, layer, argument="layer"):
        name = layer if isinstance(layer, str) else getattr(layer, "name", None)
        if name in inserted_names(self.edits):
            return name
        layer = self._inlined_model.inline_around(layer, argument)
        if isinstance(layer, str):
            return layer
        name = getattr(layer, "name", None)
        find_operation(self._model, layer, argument)
        find_operation(self._model, name, argument)  # a plan holds names, so they must be unique
        return name

    # Results ------------------------------------------------------------------------------------

    @property
    def model(self):
        """The new model. The plan is solved and applied when this is first read."""
        if self._new is None:
            self._new = self._steps.new_model()
        return self._new

    @property
    def effects(self):
        """The reasons why the new model computes something else, empty if it computes the same."""
        return self._steps.effects()

    @property
    def sizes(self):
        """The layers whose number of units changes, or whose units do, as `Resized`."""
        return self._steps.sizes()

    @property
    def _steps(self):
        if self._carried_out is None:
            self._carried_out = PlanSteps(
                self._inlined_model, self.edits, self._units, self._split, **self._options
            )
        return self._carried_out

    # Context manager, printing, JSON ------------------------------------------------------------

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is None:
            self.model  # noqa: B018 - applied here, so that errors are raised here

    def tables(self):
        """Tables of the edits and the sizes, and whether the model will compute the same."""
        edits = table(["Edit", "Layer", "How"], [], title=f"Plan for {self._model.name!r}")
        for edit in self.edits:
            edits.add_row(*edit.describe())
        found = [edits]
        if self.sizes:
            sizes = table(["Layer"], ["Units", "then", "removed", "new"])
            for each in self.sizes:
                removed = each.before - (each.after - each.new)
                sizes.add_row(each.name, *map(str, (each.before, each.after, removed, each.new)))
            found.append(sizes)
        why = self.effects
        says = f"The function changes: {'; '.join(why)}." if why else "The function stays the same."
        return [*found, says]

    def to_dict(self):
        """The plan with its solution as values that JSON can write.

        It has the selected units in place of the criterion.
        """
        units = []
        _, kept_units, joins = self._steps.solve()
        outputs = [
            (operation, None, made.tolist(), units_after(kept_units, made))
            for operation, made in (() if joins is None else joins.outputs())
        ]
        for layer, family, before, after in (*self._steps.changed_units(), *outputs):
            indices = {unit: index for index, unit in enumerate(before)}
            kept = [indices.get(unit, NEW) for unit in after]
            is_new = [kept_units.counts[before].tolist()] if NEW in kept else []
            units.append([layer.name, family, len(before), kept, *is_new])
        return {
            "edits": [edit.to_dict() for edit in self.edits],
            "units": units,
            "split": dataclasses.asdict(self._split) if self._split else None,
        }

    @classmethod
    def from_dict(cls, model, content):
        """The plan of a dict from `to_dict`, for a model of the same architecture.

        Args:
            model: The model.
            content: The dict, as it was or read from JSON.

        Raises:
            ValueError: If the model does not have the layers or units of the plan.
        """
        split = content["split"]
        plan = cls(model, split=None if split is None else Split(**split))
        edits = [from_dict(each) for each in content["edits"]]
        if any(isinstance(each, (RemoveBlock, RepeatBlock)) for each in edits):
            plan._inlined_model.inline_around_blocks()
        for name in set().union(*map(named_layers, edits)) - inserted_names(edits):
            plan._inlined_model.inline_around(name)
        plan._add(*edits)
        plan._units = content["units"]
        return plan


def edit(model, *, criterion="magnitude", relaxed=False, split=None, time_limit=60.0, verbose=0):
    """Returns a plan of several edits of a model, which are solved together and applied at once.

    Use it in place of the single functions of `tfprune.surgery` where sizes need to fit only after
    several edits, or to see what will change. The methods of the plan have the names and arguments
    of these functions. Inserted layers can be named in later edits. `print(plan)` shows what it
    will do, and `plan.model` is the new model. If anything fails, nothing is changed.

    Args:
        model: Any Keras model that is built. It is not changed. Of a subclassed model, the
            Functional model of its `call` is edited.
        criterion, relaxed, split, time_limit, verbose: As in `tfprune.surgery.resize`.

    Returns:
        A `Plan`, also a context manager, which applies it at the end of the `with` statement.

    Example:

    >>> import keras
    >>> model = keras.Sequential([
    ...     keras.Input((3,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(2)])
    >>> with edit(model) as plan:
    ...     plan.insert("hidden", keras.layers.Dense(4, name="deeper"))
    ...     plan.resize({"deeper": 6})
    >>> [layer.units for layer in plan.model.layers], plan.effects
    ([4, 6, 2], ())
    """
    check_model(model)
    return Plan(
        model,
        criterion=criterion,
        relaxed=relaxed,
        split=split,
        time_limit=time_limit,
        verbose=verbose,
    )
