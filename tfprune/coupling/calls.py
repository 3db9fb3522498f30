"""Calls of operations and the tensors between them: what the trace of a model consists of."""

import functools
from dataclasses import dataclass, field

import keras
import numpy as np


@dataclass(frozen=True, eq=False)
class Tensor:
    """A symbolic tensor between calls.

    Attributes:
        shape: The shape with the batch axis, None where dynamic.
        dtype: The dtype.
        has_mask: Whether it carries a mask of time steps. Layers that take a list of tensors see it
            though it is not among their arguments.
        sized: Function of a size of the batch and one of other dynamic axes that returns the shape,
            where these are not what stands in place of None.
    """

    shape: tuple
    dtype: str
    has_mask: bool = False
    sized: object = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class Call:
    """One call of one operation (a layer called twice is two calls).

    Attributes:
        operation: The Keras layer or operation.
        args, kwargs: The arguments, with a `Tensor` in place of each symbolic tensor.
        outputs: The tensors it makes.
        parents: The nested models around the call, outermost first.
        node_index: Which of the `inbound_nodes` in the operation's config it is.
        not_traced: For a composite layer that could not be inlined, the reason.
        in_place: Whether it stands in a layer that stays what it is, so that arrays and numbers
            among its arguments come from the layer's code and cannot be changed.
        memo: A cache for rules, for the duration of one analysis.
    """

    operation: keras.Operation
    args: tuple
    kwargs: dict
    outputs: tuple
    parents: tuple = ()
    node_index: int = 0
    not_traced: str | None = None
    in_place: bool = False
    memo: dict = field(default_factory=dict, repr=False)

    @property
    def path(self):
        """The names of the nested models around the operation, then its own."""
        return tuple(part.name for part in (*self.parents, self.operation))

    @functools.cached_property
    def masks(self):
        """The tensors that mask time steps."""
        leaves = keras.tree.flatten(self.kwargs.get("mask"))
        return tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))

    @functools.cached_property
    def data_kwargs(self):
        """The keyword arguments without `mask`, which is not data."""
        return {name: value for name, value in self.kwargs.items() if name != "mask"}

    @functools.cached_property
    def inputs(self):
        """The tensors among the arguments, in order, but for masks."""
        leaves = keras.tree.flatten([list(self.args), self.data_kwargs])
        return tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))

    @property
    def arrays(self):
        """The arrays among the arguments, in order: constants, and weights of a user's layer."""
        leaves = keras.tree.flatten([list(self.args), self.data_kwargs])
        return tuple(leaf for leaf in leaves if isinstance(leaf, np.ndarray) and leaf.ndim)


class Passed(keras.Operation):
    """A tensor that enters or leaves a layer which is traced for one set of sizes.

    Attributes:
        layer: The layer that it leaves, or None.
    """

    def __init__(self, name, layer=None):
        super().__init__(name=name)
        self.layer = layer

    def call(self, inputs):
        """The tensor."""
        return inputs


@dataclass(frozen=True, eq=False)
class Trace:
    """The calls of a model in topological order.

    Attributes:
        inputs, outputs: The tensors of the model.
        calls: The calls.
        entries: For the input layers of nested models, by id, the tensors that are given to them,
            one for each call of the model.
        siblings: The outputs of each call of a nested model that has several.
        names: For layers inside composite layers, by id, names that tell where they are:
            `"block_dense"` for `dense` in `block`.
        output_structure: The outputs in the structure in which the model gives them.
        in_place: For composite layers that stay what they are, by id, the first call; not for
            those inside others.
        inlined: For all composite layers that are inlined, by id, their calls.
        weight_axes: The axes of the weights that are tensors in the calls.
        unreached: The parts of users' models and layers that no call reaches, see
            `tfprune.coupling.unreached`.
    """

    inputs: tuple
    outputs: tuple
    calls: tuple = field(repr=False)
    entries: dict = field(repr=False)
    siblings: tuple = field(repr=False)
    names: dict = field(default_factory=dict, repr=False)
    output_structure: object = field(default=None, repr=False)
    in_place: dict = field(default_factory=dict, repr=False)
    inlined: dict = field(default_factory=dict, repr=False)
    weight_axes: object = field(default=None, repr=False)
    unreached: tuple = ()

    def users_of(self, tensor):
        """The operations that take a tensor, also where it enters a layer that stays what it is."""
        found = [call for call in self.calls if tensor in call.inputs]
        for call in found:  # which grows
            if isinstance(call.operation, Passed):
                found += [other for other in self.calls if call.outputs[0] in other.inputs]
        return [each.operation for each in found if not isinstance(each.operation, Passed)]

    def looked_up(self, tensor):
        """What the layers know that look up an input, as an array; None without such layers."""
        readers = [user for user in self.users_of(tensor) if hasattr(user, "get_vocabulary")]
        known = [word for reader in readers for word in reader.get_vocabulary() if word != ""]
        return np.array(known) if known else None

    @functools.cached_property
    def calls_of(self):
        """The calls of each operation, by its id."""
        found = {}
        for call in self.calls:
            found.setdefault(id(call.operation), []).append(call)
        return found
