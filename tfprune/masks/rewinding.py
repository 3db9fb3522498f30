"""Snapshots of training to rewind to, as for lottery tickets: `capture` and `rewind`."""

import json
import pathlib
import zipfile
from dataclasses import dataclass

import keras
import numpy as np

from tfprune import _keras
from tfprune._tools import plain_data
from tfprune._tools.checks import check_model
from tfprune._tools.files import written_whole
from tfprune.masks.setting import masked_layers

_FORMAT = "tfprune snapshot 1"


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The state of training that `capture` returns: all of it but data and masks.

    Attributes:
        step: `optimizer.iterations`; 0 without an optimizer.
        weights: Array by the path of the weight in the model, as `"d/kernel"`; those that are not
            trained (moving averages of norms) are among them.
        seeds: The states of the random generators of layers, in the model's order.
        optimizer: Array by the name of the optimizer's variable: slots, counters, learning rate.
            None if it was captured without an optimizer.
    """

    step: int
    weights: dict
    seeds: tuple
    optimizer: dict | None

    def __repr__(self):
        slots = None if self.optimizer is None else len(self.optimizer)
        return f"Snapshot(step={self.step}, weights={len(self.weights)}, optimizer={slots})"

    def save(self, path):
        """Writes the snapshot as a NumPy archive, whole or not at all.

        Args:
            path: The file to write; it must end in `.npz`. What is there is replaced.

        Returns:
            The path as `pathlib.Path`.

        Raises:
            ValueError: If the path does not end in `.npz`.
        """
        path = pathlib.Path(path)
        if path.suffix != ".npz":
            raise ValueError(f"Argument `path` must end in '.npz'. Received: path={str(path)!r}.")
        arrays = [("weights", name, array) for name, array in self.weights.items()]
        arrays += [("seeds", str(place), array) for place, array in enumerate(self.seeds)]
        arrays += [("optimizer", name, array) for name, array in (self.optimizer or {}).items()]
        contents = {
            "format": _FORMAT,
            "step": self.step,
            "has_optimizer": self.optimizer is not None,
            "arrays": [[part, name, array.dtype.name] for part, name, array in arrays],
        }
        stored = {
            str(place): plain_data.stored(array) for place, (_, _, array) in enumerate(arrays)
        }
        with written_whole(path) as place:
            np.savez(place, contents=np.array(json.dumps(contents)), **stored)
        return path

    @classmethod
    def load(cls, path):
        """Reads a snapshot from a file.

        Args:
            path: A file that `save` wrote.

        Raises:
            ValueError: If the file is none.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                contents = json.loads(str(archive["contents"]))
                if contents["format"] != _FORMAT:
                    raise ValueError(f"format={contents['format']!r}")
                parts = {"weights": {}, "seeds": {}, "optimizer": {}}
                for place, (part, name, dtype) in enumerate(contents["arrays"]):
                    parts[part][name] = plain_data.restored(archive[str(place)], dtype)
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                "Argument `path` must be a file that `Snapshot.save` wrote. "
                f"Received: path={str(path)!r} ({error})."
            ) from error
        return cls(
            step=contents["step"],
            weights=parts["weights"],
            seeds=tuple(parts["seeds"].values()),
            optimizer=parts["optimizer"] if contents["has_optimizer"] else None,
        )


def capture(model, optimizer=None):
    """Returns a snapshot of the weights, the optimizer's state and the random generators of layers.

    Args:
        model: A built model, with masks or without.
        optimizer: The optimizer of a custom training loop; by default `model.optimizer`. One that
            is not built yet is built.

    Returns:
        A `Snapshot`.

    Raises:
        ValueError: If the model is not built.

    Example:

    >>> import tfprune
    >>> model = keras.Sequential([keras.Input((4,)), tfprune.layers.Dense(2, name="d")])
    >>> model.compile("adam", "mse")
    >>> early = tfprune.capture(model)
    >>> history = model.fit(np.ones((8, 4)), np.ones((8, 2)), epochs=3, verbose=0)
    >>> counts = tfprune.prune_weights(model, 0.5)
    >>> tfprune.rewind(model, early)
    >>> int(model.optimizer.iterations), int(np.count_nonzero(model.get_layer("d").kernel))
    (0, 4)
    """
    check_model(model)
    optimizer = _built(model, optimizer)
    state = None if optimizer is None else _optimizer_state(model, optimizer)
    return Snapshot(
        step=0 if optimizer is None else int(keras.ops.convert_to_numpy(optimizer.iterations)),
        weights={name: _copy(v) for name, v in _weights(model).items()},
        seeds=tuple(_copy(variable) for variable in seed_variables(model)),
        optimizer=None if state is None else {name: _copy(v) for name, v in state.items()},
    )


def rewind(model, snapshot, optimizer=None):
    """Resets a model and its optimizer to a snapshot, in place; masks stay as they are now.

    Use it to train a pruned model again from an early step, as for lottery tickets. Pruned elements
    stay 0, frozen elements keep their current value, and the slots of both start anew; all else is
    as captured, `optimizer.iterations` and the learning rate too. Without masks, training continues
    bit for bit as it did from that step, given the same data. Nothing is retraced.

    Args:
        model: The model that was captured, or one of the same weights: with masks now, say.
        snapshot: From `capture` or `Snapshot.load`.
        optimizer: The optimizer of a custom training loop; by default `model.optimizer`.

    Raises:
        ValueError: If the snapshot is of another model or optimizer. Nothing is changed then.

    Reference:
        J. Frankle & M. Carbin, "The Lottery Ticket Hypothesis", https://arxiv.org/abs/1803.03635,
        for rewinding to step 0; J. Frankle et al., "Linear Mode Connectivity and the Lottery
        Ticket Hypothesis", https://arxiv.org/abs/1912.05671, for rewinding to a later one.
    """
    check_model(model)
    if not isinstance(snapshot, Snapshot):
        raise ValueError(
            "Argument `snapshot` must be a `Snapshot`: of `tfprune.capture`, or read from a file "
            "with `tfprune.masks.rewinding.Snapshot.load(path)`. Received: "
            f"snapshot={snapshot!r}."
        )
    optimizer = _built(model, optimizer)
    if (optimizer is None) != (snapshot.optimizer is None):
        raise ValueError(
            "The model and the snapshot must both have an optimizer or neither. Received: "
            f"optimizer={optimizer}, snapshot={snapshot!r}. Compile the model, or capture anew."
        )
    pairs = _pairs("weight", _weights(model), snapshot.weights)
    seeds = dict(enumerate(seed_variables(model)))
    pairs += _pairs("random generator", seeds, dict(enumerate(snapshot.seeds)))
    if optimizer is not None:
        state = _optimizer_state(model, optimizer)
        pairs += _pairs("variable of the optimizer", state, snapshot.optimizer)
    for variable, value in pairs:
        variable.assign(value)  # passes by what is pruned or frozen
    if optimizer is not None:
        for layer in masked_layers(model):
            for mask in layer.masks_by_name.values():
                _keras.reset_slots(optimizer, mask.weight, ~np.asarray(mask.live))


def _built(model, optimizer):
    """The optimizer, None if there is none; it and the model are built."""
    if not model.built:
        raise ValueError(
            "Argument `model` must be built, so that it has weights. "
            f"Received: model={model.name!r}. Call it once or build it."
        )
    optimizer = getattr(model, "optimizer", None) if optimizer is None else optimizer
    if optimizer is not None and not isinstance(optimizer, keras.optimizers.Optimizer):
        raise ValueError(
            "Argument `optimizer` must be the optimizer object that trains the model. "
            f"Received: optimizer={optimizer!r}."
        )
    if optimizer is not None and not optimizer.built:
        optimizer.build(model.trainable_variables)
    return optimizer


def seed_variables(model):
    """The states of the random generators of the layers of a model, in order."""
    weights = {id(variable) for variable in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


def _weights(model):
    """The weights by their paths, without the model's own name, which Keras numbers."""
    return by_name((v.path.removeprefix(f"{model.name}/"), v) for v in model.weights)


def _optimizer_state(model, optimizer):
    """The variables of the optimizer by name, without its own name and the model's."""
    names = [variable.path.split("/", 1)[-1] for variable in optimizer.variables]
    names = [name.removeprefix(f"{model.name}_") for name in names]
    return by_name(zip(names, optimizer.variables, strict=True))


def by_name(pairs):
    """A dict of pairs of a name and a value, with a number after names that are taken."""
    found = {}
    for name, value in pairs:
        taken, number = name, 0
        while taken in found:
            number += 1
            taken = f"{name}_{number}"
        found[taken] = value
    return found


def _copy(variable):
    """The value of a variable, which nobody writes to."""
    value = np.array(keras.ops.convert_to_numpy(_keras.uncast(variable)))
    value.setflags(write=False)
    return value


def _pairs(kind, variables, values):
    """(variable, value) by name, all of which must fit."""
    for name in {**variables, **values}:
        if name not in variables or name not in values:
            where = "snapshot" if name not in values else "model"
            raise ValueError(
                f"The snapshot must be of this model, but the {where} has no {kind} {name!r}."
            )
        shape, value = tuple(variables[name].shape), values[name]
        dtype = keras.backend.standardize_dtype(variables[name].dtype)
        if shape != value.shape or dtype != value.dtype.name:
            raise ValueError(
                f"The snapshot must be of this model, but its {kind} {name!r} is another. "
                f"Received: shape={value.shape}, dtype={value.dtype}. Expected: shape={shape}, "
                f"dtype={dtype}."
            )
    return [(variable, values[name]) for name, variable in variables.items()]
