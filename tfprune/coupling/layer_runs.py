"""Runs of the `call` of a layer's copy on symbolic tensors, and the graphs that they give."""

import contextlib
import functools
import inspect
import math
from dataclasses import dataclass

import keras

from tfprune import _keras
from tfprune.coupling import any_size
from tfprune.coupling.calls import Tensor
from tfprune.coupling.failures import core, failure
from tfprune.coupling.rules import has_rule
from tfprune.coupling.weight_values import WeightArray


@dataclass(frozen=True, eq=False)
class Inside:
    """The graph inside a composite layer, for one call of it.

    Attributes:
        inputs: The symbolic tensors that stand for those among the arguments, in order.
        outputs: What `call` returned: a structure of symbolic tensors; in place, of constants too.
        nodes: The calls inside, in an order in which they can run.
        originals: For each object of the copy, such as a layer or variable, by id, the original.
        problem: Why the nodes are no graph by themselves, or None.
        weights: Pairs of a symbolic tensor and the weight of the layer for which it stands, or the
            constant.
        in_place: Whether the graph holds for sizes of the inputs which are numbers, takes the
            layer's own weights, or differs in training, so that it cannot replace the layer.
        is_for_inference: Whether `call` does something else in training, which the graph, where it
            replaces the layer, does not do.
    """

    inputs: list
    outputs: object
    nodes: list
    originals: dict
    problem: str | None = None
    weights: tuple = ()
    in_place: bool = False
    is_for_inference: bool = False


def is_composite(operation):
    """Whether an operation is a custom layer made of layers, without a rule."""
    is_layer = isinstance(operation, keras.layers.Layer) and _keras.functional(operation) is None
    if not is_layer or has_rule(operation) or len(_keras.all_layers(operation)) == 1:
        return False
    return not _keras.is_stock(type(operation))


class LayerRun:
    """Runs the `call` of a copy of a layer.

    Attributes:
        failed: After a run in place that failed, the layer inside whose call did, or None.
        is_outside: After such a run, whether something was computed with weights outside of the
            graph.
        training: The argument `training` of `call`, where it is passed; by default that of
            inference, if it is needed.
    """

    def __init__(self, layer, copy, originals):
        self.layer, self.copy, self.originals = layer, copy, originals
        self.failed, self.calling, self.training = None, [], None
        self.is_outside, self._looked_up = False, None
        call = inspect.getattr_static(own_class(copy), "call")
        call = getattr(call, "python_function", call)  # that of a `tf.function`
        self.call = call.__get__(copy, type(copy))

    def traced(self, args, kwargs, sizes=None):
        """The `Inside` for symbolic arguments, with `sizes` in place of None in their shapes."""
        inside, constants = self.traced_once(args, kwargs, sizes)
        unused = _uncovered([node.operation for node in inside.nodes], self.copy)
        if unused:  # then it must not use them itself
            for variable in unused:
                _keras.forbid_reading(variable)
            inside, constants = self.traced_once(args, kwargs, sizes)
        self._check_problem(inside)
        if constants:
            self._change_weights(unused)
            inside, others = self.traced_once(args, kwargs, sizes)
            if not any_size.is_equal(constants, others):
                line = _keras.line_of(_node_where_changed(inside, constants, others))
                why = "it computes with weights, or at random, outside of the layers inside"
                raise NotTracedError(self.layer, f"{line}{why}")
        if sizes is None and (constants or _are_open(inside.inputs)):
            self._check(inside, *self._placeholders(args, kwargs))
        return inside

    def traced_with_sizes(self, args, kwargs):
        """The `Inside` for any sizes, out of those for two; see `any_size`."""
        insides = [self.traced(args, kwargs, sizes) for sizes in any_size.SIZES]
        args, kwargs = self._placeholders(args, kwargs)
        inputs = symbolic((args, kwargs))
        try:
            outputs = any_size.merged(*insides, inputs)
        except any_size.DependsOnSizeError as error:
            raise NotTracedError(self.layer, str(error)) from error
        except Exception as error:  # a call may fail where a size is not known
            why = f"a size is not known: {type(error).__name__}: {core(str(error))}"
            raise NotTracedError(self.layer, why) from error
        inside, _ = self._inside(inputs, outputs)
        self._check_problem(inside)
        self._check(inside, args, kwargs)
        return inside

    def traced_in_place(self, args, kwargs, sizes, deeply=False, closed=(), with_constants=False):
        """The `Inside` for one set of sizes, in which own weights are tensors too.

        The calls of composite layers inside are part of it, not only those of the layer; with
        `deeply`, those of all layers of users' classes; not of those in `closed`. With
        `with_constants`, calls of layers on constants are part of it too, such as embeddings of all
        positions, and weights of whole numbers are tensors as well.
        """
        left = {id(inner) for part in closed for inner in _keras.all_layers(part)}
        inlined = [
            part
            for part in _keras.all_layers(self.copy)[1:]
            if self._is_inlined(part, deeply) and id(self.originals[id(part)]) not in left
        ]
        for part in inlined:
            _keras.call_directly(part, functools.partial(self._called, part))
        weights = tuple(
            (tensor, self.originals[id(variable)])
            for part in [self.copy, *inlined]
            for variable, tensor in _keras.symbolic_weights(part, with_constants)
        )
        for part in [self.copy, *inlined] if with_constants else ():
            for stock in _keras.sub_layers(part):
                if stock.weights and _keras.is_stock(type(stock)):
                    call = functools.partial(type(stock).__call__, stock)
                    _keras.call_directly(stock, functools.partial(self._on_constants, call))
        inside, constants = self.traced_once(args, kwargs, sizes, weights)
        self._check_problem(inside)
        self._run_on_weights(inside)
        if constants:
            self._change_weights(())
            _, others = self.traced_once(args, kwargs, sizes, weights)
            if not any_size.is_equal(constants, others):
                node = _node_where_changed(inside, others, constants)
                self.failed = self.originals.get(id(_keras.part_of(node)))
                self.is_outside = True
                why = "it computes with values of weights, or at random, outside of its graph"
                raise NotTracedError(self.layer, why)
        return inside

    def _on_constants(self, call, *args, **kwargs):
        """Calls a layer on symbolic tensors in place of constants, if it gets no others."""
        leaves = keras.tree.flatten((args, kwargs))
        if self._looked_up is None or any(map(_keras.is_symbolic, leaves)):
            return call(*args, **kwargs)
        stand_ins = {id(leaf): _stand_in(leaf) for leaf in leaves if _keras.is_constant(leaf)}
        values = {id(leaf): leaf for leaf in leaves}
        self._looked_up += [(tensor, values[key]) for key, tensor in stand_ins.items()]
        args, kwargs = keras.tree.map_structure(
            lambda leaf: stand_ins.get(id(leaf), leaf), (args, kwargs)
        )
        return call(*args, **kwargs)

    def _run_on_weights(self, inside):
        """Runs what is computed of weights alone, which fails if they are too short."""
        values = {
            id(tensor): _keras.raw(weight) if isinstance(weight, keras.Variable) else weight
            for tensor, weight in inside.weights
        }
        for node in inside.nodes:
            arguments = list(node.arguments.args), dict(node.arguments.kwargs)
            leaves = keras.tree.flatten(arguments)
            taken = [leaf for leaf in leaves if _keras.is_symbolic(leaf)]
            if not taken or not all(id(leaf) in values for leaf in taken):
                continue
            args, kwargs = keras.tree.map_structure(
                lambda leaf: values.get(id(leaf), leaf), arguments
            )
            try:
                found = keras.tree.flatten(node.operation(*args, **kwargs))
            except Exception as error:  # such as a slice that is longer than a weight
                why = f"{_keras.line_of(node)}{type(error).__name__}: {core(str(error))}"
                raise NotTracedError(self.layer, why) from error
            values.update(zip(map(id, node.outputs), found, strict=True))

    def _is_inlined(self, part, deeply):
        original = self.originals[id(part)]
        if isinstance(original, keras.Model) or _keras.is_stock(type(original)):
            return False
        return is_composite(original) or (deeply and not has_rule(original))

    def _called(self, part, *args, **kwargs):
        """Calls a layer inside as Keras does, but for the node that Keras would make."""
        call = own_class(part).call.__get__(part)
        args, kwargs = keras.tree.map_structure(lambda leaf: _cast(leaf, part), (args, kwargs))
        first = next(iter([*args, *kwargs.values()]), None)
        mask = _keras.mask_of(first)
        if mask is not None and "mask" in inspect.signature(call).parameters:
            kwargs.setdefault("mask", mask)
        self.calling.append(part)
        try:
            return call(*args, **_for_inference(call, kwargs))
        except Exception:  # the layer's own code may fail on symbolic tensors in any way
            self.failed = self.failed or self.originals[id(part)]
            raise
        finally:
            self.calling.pop()

    def _inside(self, inputs, outputs, weights=None):
        """The `Inside` of a run, and the constant tensors that its calls take."""
        looked_up, self._looked_up = self._looked_up or [], None
        weights = None if weights is None else (*weights, *looked_up)
        nodes, constants, problem = _keras.nodes_between(
            [*inputs, *(tensor for tensor, _ in weights or ())],
            [leaf for leaf in keras.tree.flatten(outputs) if _keras.is_symbolic(leaf)],
            with_variables=weights is not None,
        )
        constants += [value for _, value in looked_up]
        _check_built(self.layer, [node.operation for node in nodes], self.originals)
        inside = Inside(
            inputs, outputs, nodes, self.originals, problem, weights or (), weights is not None
        )
        return inside, constants

    def _check_problem(self, inside):
        if inside.problem is not None:
            raise NotTracedError(self.layer, inside.problem)
        for node in inside.nodes:
            if _keras.calls_functions_of_layers(node):
                why = f"its `{type(node.operation).__name__}` calls functions that use layers"
                raise NotTracedError(self.layer, why)

    def _check(self, inside, args, kwargs):
        """Checks by running it that what was read off the sizes is right for others."""
        try:
            any_size.check(self._outputs, symbolic((args, kwargs)), (args, kwargs), inside)
        except any_size.DependsOnSizeError as error:
            raise NotTracedError(self.layer, str(error)) from error
        except Exception as error:
            why = f"its graph fails for other sizes: {type(error).__name__}: {core(str(error))}"
            raise NotTracedError(self.layer, why) from error

    def _change_weights(self, without):
        """Gives the weights of the copy other values, to see what was computed with them."""
        kept = set(map(id, without))
        with _keras.unguarded():
            for weight in self.copy.weights:
                if id(weight) not in kept and keras.backend.is_float_dtype(weight.dtype):
                    weight.assign(0.5 * _keras.values(weight) + 0.1)

    def _placeholders(self, args, kwargs, sizes=None):
        return keras.tree.map_structure(
            lambda leaf: _placeholder(leaf, sizes), (list(args), dict(kwargs))
        )

    def _outputs(self, args, kwargs):
        structure = [list(args), dict(kwargs)]
        args, kwargs = keras.tree.map_structure(lambda leaf: _cast(leaf, self.layer), structure)
        kwargs = _for_inference(self.call, kwargs)
        if self.training is not None:
            kwargs["training"] = self.training
        return self.call(*args, **kwargs)

    def states(self):
        """The values of the weights of the copy that gradients do not change."""
        return [_keras.values(weight).copy() for weight in self.copy.non_trainable_variables]

    def traced_once(self, args, kwargs, sizes, weights=None):
        """The `Inside` of one run, unchecked, and the constant tensors that its calls take.

        Args:
            args, kwargs: The arguments.
            sizes: The numbers in place of None in their shapes; None to leave these open.
            weights: In place, pairs of a symbolic tensor and the weight for which it stands.
        """
        args, kwargs = self._placeholders(args, kwargs, sizes)
        inputs, self._looked_up = symbolic((args, kwargs)), []
        try:
            shapes = contextlib.nullcontext() if sizes is None else _keras.inferring_shapes()
            functions = _keras.tensorflow_on_symbols(weights is not None)
            lines, einsums = (
                _keras.noting_lines(self.call, self.calling),
                _keras.einsums_in_lower_case(),
            )
            with lines, shapes, functions, einsums, _keras.noting_losses() as losses:
                outputs = self._outputs(args, kwargs)
        except Exception as error:  # the layer's own code may fail on symbolic tensors in any way
            why, depth = failure(self.call, error)
            raise NotTracedError(self.layer, why, depth) from error
        if losses and weights is None:  # which its graph alone would not add
            raise NotTracedError(self.layer, "its `call` adds a loss")
        are_symbolic = [_keras.is_symbolic(leaf) for leaf in keras.tree.flatten(outputs)]
        if not any(are_symbolic) or (weights is None and not all(are_symbolic)):
            why = "its `call` returns something else than symbolic tensors"
            raise NotTracedError(self.layer, why)
        return self._inside(inputs, outputs, weights)


class NotTracedError(ValueError):
    """The `call` of a layer could not be run on symbolic tensors; the message says which and why.

    Args:
        layer: The layer.
        why: The line that failed and the words of the exception, or what else is the reason.
        depth: The line of `call` up to which it ran; by default it ran to its end.
    """

    def __init__(self, layer, why, depth=math.inf):
        self.depth = depth
        kind = own_class(layer).__name__
        super().__init__(f"{layer.name!r} ({kind}) could not be traced: {why}")


def own_class(layer):
    """The class of a layer before it was given masks."""
    return getattr(layer, "own_class", None) or type(layer)


def _for_inference(call, kwargs):
    """The argument `training` as False, if the `call` must have one or would train without."""
    given = {name: value for name, value in kwargs.items() if name != "training"}
    parameter = inspect.signature(call).parameters.get("training")
    is_needed = parameter is not None and parameter.default not in (None, False)
    return {**given, "training": False} if is_needed else given


def _check_built(layer, parts, originals):
    for part in parts:
        original = originals.get(id(part))
        is_layer = isinstance(original, keras.layers.Layer)
        if is_layer and not original.built and part.weights:
            raise NotTracedError(
                layer, f"its layer {part.name!r} is not built; call the model on data once"
            )


def _are_open(tensors):
    """Whether any has an axis of unknown size after that of the batch, which `call` may ask for."""
    return any(None in tensor.shape[1:] for tensor in tensors)


def _node_where_changed(inside, before, after):
    """A call that takes a constant which was another before, or None."""
    pairs = zip(before, after, strict=False)
    changed = {id(b) for a, b in pairs if not any_size.is_equal(a, b)}
    for node in inside.nodes:
        leaves = keras.tree.flatten([list(node.arguments.args), dict(node.arguments.kwargs)])
        if changed.intersection(map(id, leaves)):
            return node
    return None


def _stand_in(constant):
    """A symbolic tensor for a constant."""
    dtype = keras.backend.standardize_dtype(constant.dtype)
    return keras.Input(batch_shape=tuple(constant.shape), dtype=dtype)


def tensors_in(structure):
    """The symbolic tensors and `Tensor`s among the leaves of a structure."""
    leaves = keras.tree.flatten(structure)
    return [leaf for leaf in leaves if _keras.is_symbolic(leaf) or isinstance(leaf, Tensor)]


def symbolic(structure):
    """The symbolic tensors among the leaves of a structure."""
    return [leaf for leaf in keras.tree.flatten(structure) if _keras.is_symbolic(leaf)]


def _placeholder(leaf, sizes):
    if isinstance(leaf, WeightArray):
        return keras.Input(batch_shape=leaf.shape, dtype=leaf.dtype.name)
    if not (_keras.is_symbolic(leaf) or isinstance(leaf, Tensor)):
        return leaf
    leaf = leaf if sizes is None else any_size.with_size(leaf, sizes)
    return keras.Input(batch_shape=leaf.shape, dtype=leaf.dtype)


def _cast(tensor, layer):
    """Casts an input of a layer as Keras does, to the dtype in which the layer computes."""
    is_tensor = _keras.is_symbolic(tensor) or keras.ops.is_tensor(tensor)
    dtype = keras.backend.standardize_dtype(tensor.dtype) if is_tensor else None
    if not is_tensor or not keras.backend.is_float_dtype(dtype):
        return tensor
    if layer.autocast and dtype != layer.compute_dtype:
        return keras.ops.cast(tensor, layer.compute_dtype)
    return tensor


def _uncovered(operations, layer):
    """The weights and seeds of a layer that do not belong to layers of a graph."""
    inner = [o for o in operations if isinstance(o, keras.layers.Layer)]
    covered = {id(variable) for sub_layer in inner for variable in sub_layer.variables}
    return [variable for variable in layer.variables if id(variable) not in covered]
