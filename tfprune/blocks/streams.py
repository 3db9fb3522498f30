"""Residual streams: the parts of a graph that add to what they take, one after the other.

Such a part takes a tensor and gives one of the same shape which is that tensor with something
added, normalised or activated. So the part can be bypassed: what it takes goes on in place of what
it gives.
"""

import dataclasses
from dataclasses import dataclass

import keras

from tfprune import _keras
from tfprune.coupling.composite import filled, trace_composite
from tfprune.coupling.layer_runs import NotTracedError, is_composite, symbolic

_ADDITIONS = (keras.layers.Add, _keras.raw_operation("Add"))


@dataclass(frozen=True, eq=False)
class Part:
    """A part of a graph between two tensors of a residual stream.

    Attributes:
        start, end: The symbolic tensor that it takes, and the one that it gives.
        nodes: The calls between, in an order in which they can run.
        is_layer: Whether it is one call of a composite layer, or of a model.
        structure: What parts that are alike have in common: the classes of their operations, in
            order, without those of norms and activations after the addition.
        is_other: Whether it is an addition unlike all others of its stream.
        users: The names of the operations that use what is computed in it; without any, it can be
            bypassed.
    """

    start: keras.KerasTensor
    end: keras.KerasTensor
    nodes: tuple
    is_layer: bool
    structure: tuple
    is_other: bool = False
    users: tuple = ()


class Graph:
    """The calls of a functional graph, or inside a composite layer, and the parts that repeat.

    Args:
        nodes: The calls, in an order in which they can run.
        inputs, outputs: The symbolic tensors.

        originals: For each object of a copy whose calls these are, by id, the original.

    Attributes:
        parts: The residual parts that can be bypassed.
        used_parts: Those in which something else uses what is computed, so that they cannot.
        containers: The calls of composite layers and models that hold parts and are none
            themselves, each with the `Graph` inside it.
        is_repeating: Whether some of its parts repeat, as in a stack of blocks.
    """

    def __init__(self, nodes, inputs, outputs, originals=None):
        self.nodes, self.inputs, self.outputs = nodes, inputs, outputs
        self.originals, self.containers = originals or {}, []
        self._makers = {id(t): node for node in nodes for t in node.outputs}
        self._users, self._before = {}, {}
        for number, node in enumerate(nodes):
            before = 1 << number
            for tensor in node.arguments.keras_tensors:
                self._users.setdefault(id(tensor), []).append(node)
                before |= self._before.get(id(self._makers.get(id(tensor))), 0)
            self._before[id(node)] = before
        self._numbers = {id(node): number for number, node in enumerate(nodes)}
        steps = self._without_nested([*filter(None, map(self._residual, nodes))])
        self.parts, self.used_parts, self.is_repeating = self._grouped(self._linked(steps))

    # Steps: single residual additions, and composite layers that hold some -----------------------

    def _residual(self, node):
        """The start and end of a call that adds to what it takes, or None."""
        if isinstance(node.operation, _ADDITIONS):
            return self._addition(node)
        graph = _inside(node)
        if graph is None:
            return None
        place = graph.stream_from()
        if place is not None and not graph.is_repeating:
            start, end = symbolic(filled(node, {}))[place], node.outputs[0]
            if _alike(start, end):
                return self._part(start, end, (node,), is_layer=True)
        if graph.parts or graph.containers:
            self.containers.append((node, graph))
        return None

    def _addition(self, node):
        end = node.outputs[0]
        users = self._users.get(id(end), ())
        if len(users) == 1 and isinstance(users[0].operation, _ADDITIONS):
            return None  # one of the terms of a longer sum
        terms = self._terms(node)
        for term in terms:
            if _alike(term, end) and any(o is not term and self._leads_to(term, o) for o in terms):
                return self._part(term, end, self._between(term, end))
        return None

    def _terms(self, node):
        found = []
        for tensor in _tensors(node):
            maker = self._makers.get(id(tensor))
            is_sum = maker is not None and isinstance(maker.operation, _ADDITIONS)
            is_inner = is_sum and len(self._users[id(tensor)]) == 1
            found += self._terms(maker) if is_inner else [tensor]
        return found

    def _leads_to(self, start, end):
        """Whether a tensor is computed from another."""
        return bool(self._between(start, end))

    def _between(self, start, end):
        """The calls through which a tensor is computed from another."""
        maker = self._makers.get(id(end))
        if maker is None:
            return ()
        before, reached, found = self._before[id(maker)], {id(start)}, []
        first = self._numbers.get(id(self._makers.get(id(start))), -1)
        for node in self.nodes[first + 1 : self._numbers[id(maker)] + 1]:
            is_needed = before >> self._numbers[id(node)] & 1
            if is_needed and any(id(tensor) in reached for tensor in _tensors(node)):
                reached.update(map(id, node.outputs))
                found.append(node)
        return tuple(found) if id(end) in reached else ()

    def _passage(self, tensor):
        """What a norm or activation takes that gives a tensor, or None."""
        node = self._makers.get(id(tensor))
        if node is None or not _is_passage(node):
            return None
        (given,) = _tensors(node)
        return given

    def _without_nested(self, steps):
        """The steps without those in the branch of another, or without that one, if they repeat."""
        left = list(steps)
        for outer in steps:
            inner = [s for s in steps if s is not outer and set(s.nodes) < set(outer.nodes)]
            repeats = len({step.structure for step in inner}) < len(inner)
            left = [s for s in left if s not in ([outer] if repeats else inner)]
        return left

    def _linked(self, steps):
        """Runs of steps, each of which ends where the next begins.

        Norms and activations between them are part of the step before.
        """
        steps, follows, trailing = list(steps), {}, {}
        ends = {id(step.end): place for place, step in enumerate(steps)}
        for place, step in enumerate(steps):
            tensor = step.start
            while tensor is not None and id(tensor) not in ends:
                tensor = self._passage(tensor)
            before = None if tensor is None else ends[id(tensor)]
            if before is not None and before not in follows:
                follows[before] = place
                trailing[before] = [type(n.operation) for n in self._between(tensor, step.start)]
                longer = self._until(steps[before], step.start)
                if not self._outer_users(longer):
                    steps[before] = longer
        runs, seen = [], set()
        for place in range(len(steps)):
            run = []
            while place is not None and place not in seen:
                seen.add(place)
                run.append(place)
                place = follows.get(place)
            if len(run) > 1:
                self._extend(steps, run[-1], trailing.get(run[-2], ()))
            runs.append([steps[each] for each in run])
        return runs

    def _extend(self, steps, place, kinds):
        """Lets the last step of a run take in the norm after it, as those before it do."""
        for kind in kinds:
            users = self._users.get(id(steps[place].end), [])
            fits = len(users) == 1 and _is_passage(users[0]) and type(users[0].operation) is kind
            if not fits:
                return
            steps[place] = self._until(steps[place], users[0].outputs[0])

    def _part(self, start, end, nodes, is_layer=False):
        structure = tuple((type(n.operation), len(_weights(n.operation))) for n in nodes)
        return Part(start, end, nodes, is_layer, structure)

    def _until(self, part, end):
        """A part with norms and activations after it, or further parts, up to another tensor."""
        nodes = self._between(part.start, end)
        if part.is_layer:
            nodes = (*part.nodes, *self._between(part.end, end))
        return dataclasses.replace(part, end=end, nodes=nodes)

    def _outer_users(self, part):
        """The names of the operations that use what is computed in a part."""
        inside, outputs, found = set(map(id, part.nodes)), set(map(id, self.outputs)), {}
        for tensor in (tensor for node in part.nodes for tensor in node.outputs):
            if tensor is not part.end:
                users = self._users.get(id(tensor), ())
                found.update((u.operation.name, None) for u in users if id(u) not in inside)
                if id(tensor) in outputs:
                    found["the outputs"] = None
        return tuple(found)

    # Parts that repeat ----------------------------------------------------------------------------

    def _grouped(self, runs):
        """The parts of all runs, of as many steps as repeat, and whether they are a stack."""
        found, used, is_repeating = [], [], False
        for run in runs:
            place = 0
            while place < len(run):
                period, times = _repetition(run[place:])
                is_stack = times > 1 and (period > 1 or run[place].is_layer or times > 2)
                is_repeating = is_repeating or is_stack
                for _ in range(times):
                    steps = run[place : place + period]
                    part = self._joined(steps, times == 1 and _is_single(steps[0], run))
                    users = self._outer_users(part)
                    (used if users else found).append(dataclasses.replace(part, users=users))
                    place += period
        return found, used, is_repeating

    def _joined(self, steps, is_other):
        part = dataclasses.replace(steps[0], is_other=is_other)
        if len(steps) == 1:
            return part
        structure = tuple(step.structure for step in steps)
        joined = dataclasses.replace(part, is_layer=False, structure=structure)
        return self._until(joined, steps[-1].end)

    def stream_from(self):
        """The place of the input that reaches the first output through parts, or None."""
        ends = {id(part.end): part.start for part in (*self.parts, *self.used_parts)}
        places = {id(tensor): place for place, tensor in enumerate(self.inputs)}
        tensor, has_part = self.outputs[0] if self.outputs else None, False
        while tensor is not None and id(tensor) not in places:
            has_part = has_part or id(tensor) in ends
            tensor = ends[id(tensor)] if id(tensor) in ends else self._passage(tensor)
        return places[id(tensor)] if tensor is not None and has_part else None


def _is_single(part, run):
    """Whether a part has other operations than all others of its stream, as positions have."""
    return len(run) > 1 and [step.structure for step in run].count(part.structure) == 1


def _repetition(run):
    """How many steps at the begin of a run repeat, and how often."""
    structures = [step.structure for step in run]
    for period in range(1, len(run) // 2 + 1):
        times = 1
        while structures[times * period : (times + 1) * period] == structures[:period]:
            times += 1
        if times > 1:
            return period, times
    return 1, 1


def graph_of(model):
    """The `Graph` of a Functional or Sequential model, or None."""
    graph = _keras.functional(model)
    if graph is None:
        return None
    return Graph([node for node, _ in _keras.nodes(graph)], graph.inputs, graph.outputs)


def graph_inside(layer, args, kwargs):
    """The `Graph` of the `call` of a layer or subclassed model.

    Raises:
        NotTracedError: If it cannot be traced.
    """
    inside = trace_composite(layer, args, kwargs)
    return Graph(inside.nodes, inside.inputs, symbolic(inside.outputs), inside.originals)


def _inside(node):
    """The `Graph` inside a composite layer or model; None of others, and if it is not traced."""
    graph = graph_of(node.operation)
    if graph is not None or not is_composite(node.operation):
        return graph
    try:
        return graph_inside(node.operation, *filled(node, {}))
    except NotTracedError:
        return None


def _tensors(node):
    """The symbolic tensors that a call takes, but for masks."""
    kwargs = {name: value for name, value in node.arguments.kwargs.items() if name != "mask"}
    return symbolic((list(node.arguments.args), kwargs))


def _weights(operation):
    return getattr(operation, "weights", ())


def _alike(start, end):
    return tuple(start.shape) == tuple(end.shape) and start.dtype == end.dtype


def _is_passage(node):
    """Whether a call is that of a norm or activation: of one tensor, and without a matrix."""
    tensors = _tensors(node)
    return (
        len(tensors) == len(node.outputs) == 1
        and _alike(tensors[0], node.outputs[0])
        and all(len(weight.shape) < 2 for weight in _weights(node.operation))
    )
