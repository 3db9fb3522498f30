"""The inputs of operations that take a list of tensors, which edits change one after the other."""

from dataclasses import dataclass

import keras

from tfprune.coupling.rules import rule_of
from tfprune.coupling.rules.joins import Concatenate
from tfprune.surgery import graph
from tfprune.surgery.lookup import find_operation, graph_inputs, graph_outputs


@dataclass(eq=False)
class InputList:
    """The inputs of an operation before and after edits.

    Attributes:
        path: The names of the models around the operation.
        operation: The operation.
        tensors: The symbolic tensors that it takes before the edits.
        edges: Its inputs after them: for each the index of the old one, or the operation that gives
            the new one.
    """

    path: tuple
    operation: object
    tensors: list
    edges: list

    @classmethod
    def of(cls, model, path, operation):
        """The inputs as they are in a model."""
        tensors = graph_inputs(model, path, operation)
        return cls(path, operation, tensors, list(range(len(tensors))))

    @property
    def is_bypassed(self):
        """Whether one input is left, and the operation goes; a concatenation stays."""
        return len(self.edges) == 1 and not isinstance(rule_of(self.operation), Concatenate)

    def connect(self, model, edit):
        """Adds the input of a `Connect` at its position among those that are there now."""
        _, source = find_operation(model, edit.source, "source")
        place = len(self.edges) if edit.position is None else edit.position
        if not 0 <= place <= len(self.edges):
            raise ValueError(
                f"Argument `position` must be from 0 to {len(self.edges)}. "
                f"Received: position={edit.position!r}, target={edit.target!r}."
            )
        self.edges.insert(place, source)

    def disconnect(self, model, edit):
        """Removes the input of a `Disconnect`, the last one of several that are equal."""
        source_path, source = find_operation(model, edit.source, "source")
        made = graph_outputs(model, source_path, source)
        given = {id(tensor) for tensor in keras.tree.flatten(made)}
        same = [
            place
            for place, each in enumerate(self.edges)
            if each is source or (isinstance(each, int) and id(self.tensors[each]) in given)
        ]
        same = same if edit.position is None else [n for n in same if n == edit.position]
        if not same:
            raise ValueError(
                "The source must be one of several inputs of the target, at the position that "
                f"is named. Received: source={edit.source!r}, target={edit.target!r}, "
                f"position={edit.position}."
            )
        del self.edges[same[-1]]

    def check(self):
        """Raises a `ValueError` if no input is left."""
        if not self.edges:
            raise ValueError(
                "An operation must keep one of its inputs. "
                f"Received: target={self.operation.name!r}, of which all are disconnected."
            )

    def connected(self, config):
        """The config of the model around it with the new inputs."""
        edges = [edge if isinstance(edge, int) else edge.name for edge in self.edges]
        return graph.with_inputs(config, self.operation.name, edges)
