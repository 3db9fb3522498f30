"""Removes and repeats residual blocks: depth."""

from dataclasses import dataclass

import keras
import numpy as np

from tfprune import _keras
from tfprune._tools.checks import is_integer
from tfprune.blocks.find import find_blocks
from tfprune.rebuild.bypassed import bypass, place_of
from tfprune.stripping.check import check_equal
from tfprune.surgery import graph
from tfprune.surgery.block_identity import NoIdentityError, zeroed_weights
from tfprune.surgery.edits.base import Edit
from tfprune.surgery.lookup import model_at, operation_at, walk_operations

_INITS = ("identity", "copy")


def find_block(model, given, argument="block"):
    """The block of a model that a name or a layer stands for.

    Args:
        model: A model with a graph.
        given: The name of a block, as in the report of `tfprune.prune_blocks`; or a layer or
            operation in it, or its name.
        argument: What the argument is called in errors.

    Returns:
        A `tfprune.blocks.find.Block`.

    Raises:
        ValueError: If there is no such block, or several.
    """
    blocks = find_blocks(model)

    def is_in(block):
        operations = [node.operation for node in block.part.nodes]
        names = {block.name, *(each.name for each in (*operations, *block.layers))}
        return given in names or any(given is each for each in (*operations, *block.layers))

    found = [block for block in blocks.blocks if block.name == given]
    found = found or list(filter(is_in, blocks.blocks))
    if len(found) == 1:
        return found[0]
    stays = "".join(f" {each}" for each in blocks.stays[:5])
    raise ValueError(
        f"Argument `{argument}` must be a residual block that can be bypassed, a layer in it, or "
        f"the name of either. Received: {argument}={getattr(given, 'name', given)!r}, of "
        f"{len(found) or 'no'} block{'s' * (len(found) > 1)}. Blocks are: "
        f"{', '.join(repr(block.name) for block in blocks.blocks[:20])}.{stays}"
    )


@dataclass(frozen=True)
class RemoveBlock(Edit):
    """Removes a residual block, see `tfprune.surgery.remove_block`."""

    block: str

    keeps_shapes = True

    def check(self, model):
        find_block(model, self.block)

    def draft(self, model, draft):
        block = find_block(model, self.block)
        parts = draft.bypassed.setdefault(block.path, [])
        if not parts:
            around = model_at(model, block.path)
            draft.graph_edits.append((block.path, lambda config: bypass(config, around, parts)))
        parts.append(block.part)

    def effects(self, model):
        return [f"block {self.block!r} is removed"]

    def describe(self):
        return "remove block", self.block, ""


@dataclass(frozen=True)
class RepeatBlock(Edit):
    """Repeats a residual block behind itself, see `tfprune.surgery.repeat_block`.

    `operations` are the names of the operations in it.
    """

    block: str
    operations: tuple
    times: int = 1
    init: str = "identity"

    before_sizes = True
    alone = True
    keeps_shapes = True

    @classmethod
    def of(cls, model, block, times, init):
        """The edit of arguments of `tfprune.surgery.repeat_block`."""
        found = find_block(model, block)
        operations = tuple(dict.fromkeys(node.operation.name for node in found.part.nodes))
        times = times.item() if isinstance(times, np.integer) else times
        _check_times(times)
        return cls(found.name, operations, times, init)

    def check(self, model):
        if self.init not in _INITS:
            raise ValueError(f"Argument `init` must be one of {_INITS}. Received: {self.init!r}.")
        _check_times(self.times)
        block = find_block(model, self.block)
        calls = [node for node, _ in _keras.nodes(_keras.functional(model_at(model, block.path)))]
        taken = {each.name for _, each in walk_operations(model)}
        for node in block.part.nodes:
            name = node.operation.name
            if sum(each.operation is node.operation for each in calls) > 1:
                raise ValueError(
                    "A block whose layers are called elsewhere too cannot be repeated. "
                    f"Received: block={self.block!r}, with {name!r}."
                )
        for name in taken.intersection(self.names):
            raise ValueError(
                "The names of repeated layers must be new. "
                f"Received: block={self.block!r}; the model has {name!r} already."
            )
        if self.init == "identity":
            self._zeroed(block)

    @property
    def names(self):
        """The names of the operations that come."""
        return [
            _name(each, number) for number in range(1, self.times + 1) for each in self.operations
        ]

    def _zeroed(self, block):
        try:
            return zeroed_weights(block.part)
        except NoIdentityError as error:
            raise ValueError(self._refusal(error)) from error

    def _refusal(self, reason):
        return (
            "The block cannot begin as the identity, and nothing was changed. Received: block="
            f"{self.block!r}. Reason: {reason}. Use `init='copy'`, with which the model computes "
            "something else."
        )

    def draft(self, model, draft):
        block = find_block(model, self.block)
        around = model_at(model, block.path)
        ends = [place_of(around, tensor) for tensor in (block.part.start, block.part.end)]
        names = [
            {each: _name(each, number) for each in self.operations}
            for number in range(1, self.times + 1)
        ]
        originals = [operation_at(model, block.path, each) for each in self.operations]
        zeroed = self._zeroed(block) if self.init == "identity" else []
        zeroed = {id(weight) for weight in zeroed}

        def repeated(config):
            return graph.with_repeated(config, *ends, names)

        def weights_set(new):
            for each in names:
                for ours in originals:
                    theirs = operation_at(new, block.path, each[ours.name])
                    _copy_state(ours, theirs, zeroed)

        def checked(new):
            try:
                check_equal(model, new, name="deeper")
            except (RuntimeError, ValueError) as error:
                reason = "without its branches it computes something else, as by a norm after a sum"
                raise ValueError(self._refusal(reason)) from error

        draft.repeated.update(map(id, originals))
        draft.graph_edits.append((block.path, repeated))
        draft.weight_setters.append(weights_set)
        if self.init == "identity":
            draft.checks.append(checked)

    def effects(self, model):
        return [] if self.init == "identity" else [f"block {self.block!r} is repeated"]

    def describe(self):
        times = "once" if self.times == 1 else f"{self.times} times"
        return "repeat block", self.block, f"{times}, init={self.init}"


def _check_times(times):
    if not is_integer(times) or times < 1:
        raise ValueError(f"Argument `times` must be an integer above 0. Received: {times!r}.")


def _name(name, number):
    return f"{name}_repeat" if number == 1 else f"{name}_repeat_{number}"


def _copy_state(ours, theirs, zeroed):
    """Copies weights and masks of an operation to its repetition, with zeros for some weights."""
    if not isinstance(ours, keras.layers.Layer):
        return
    for weight, other in zip(ours.weights, theirs.weights, strict=True):
        value = np.asarray(_keras.raw(weight))
        other.assign(np.zeros_like(value) if id(weight) in zeroed else value)
    for layer, other in zip(_keras.all_layers(ours), _keras.all_layers(theirs), strict=True):
        masks = getattr(layer, "masks_by_name", None) or {}
        for name, mask in masks.items():
            fresh = other.masks_by_name[name]
            fresh.set(np.asarray(_keras.raw(mask.trainable)), np.zeros(fresh.frozen.shape, bool))
