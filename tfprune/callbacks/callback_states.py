"""The states of the callbacks of a `fit`, to save and to restore."""

import warnings

import keras

from tfprune._tools import plain_data

_WRITERS = ("CSVLogger", "ProgbarLogger", "RemoteMonitor", "TensorBoard")
"""Keras's callbacks of which the state is what they have written."""

_OF_FIT = ("params", "_params", "_model")
"""Attributes that `fit` sets."""


class CallbackStates:
    """The states of callbacks, for `BackupAndRestore`.

    A callback that has `get_state` and `set_state` is asked. Of another the state is the
    attributes which have changed since training began; they must be plain data.

    Args:
        callbacks: A list of callbacks, after all of them have begun.
    """

    def __init__(self, callbacks):
        self._by_name = dict(_named(callbacks))
        self._begun = {name: dict(vars(each)) for name, each in self._by_name.items()}
        self._prints = {name: _prints(each) for name, each in self._by_name.items()}
        self._refused = set()

    def pack(self, arrays):
        """The states by the names of callbacks, as `plain_data.pack` makes them."""
        packed = {}
        for name, callback in self._by_name.items():
            state = self._state(name, callback)
            if state:
                try:
                    packed[name] = plain_data.pack(state, arrays)
                except plain_data.NotPlainError as error:
                    raise ValueError(
                        f"The state of a callback must be plain data. Received: {name} with a "
                        f"{error} in what `get_state` returned."
                    ) from error
        return packed

    def restore(self, packed, arrays):
        """Gives the states back."""
        for name, state in packed.items():
            callback = self._by_name.get(name)
            if callback is None:
                warnings.warn(
                    f"The backup holds the state of a callback {name}, and this `fit` has none. "
                    "Pass the same callbacks to go on as before.",
                    stacklevel=2,
                )
            elif hasattr(callback, "set_state"):
                callback.set_state(plain_data.unpack(state, arrays))
            else:
                for attribute, value in state["dict"]:
                    current = getattr(callback, attribute, None)
                    setattr(callback, attribute, plain_data.unpack(value, arrays, current))

    def _state(self, name, callback):
        if hasattr(callback, "get_state"):
            return callback.get_state()
        begun, prints = self._begun[name], _prints(callback)
        changed = {
            attribute: value
            for attribute, value in vars(callback).items()
            if attribute not in _OF_FIT
            if prints.get(attribute) != self._prints[name].get(attribute)
            or (attribute not in prints and value is not begun.get(attribute))
        }
        opaque = [attribute for attribute in changed if attribute not in prints]
        if not opaque:
            return changed
        if name not in self._refused:
            self._refused.add(name)
            warnings.warn(
                f"The state of the callback {name} is not in the backup, because its attribute "
                f"`{opaque[0]}` is a {type(changed[opaque[0]]).__name__}. Give it `get_state()`, "
                "which returns numbers, strings, arrays and containers of them, and "
                "`set_state(state)`.",
                stacklevel=2,
            )
        return {}


def _named(callbacks):
    """Each callback that has a state of its own, with a name: its class, and a number."""
    counts = {}
    for callback in callbacks:
        kind = type(callback).__name__
        if type(callback).__module__.startswith("keras.") and kind in _WRITERS:
            continue
        if isinstance(callback, keras.callbacks.BackupAndRestore):
            continue
        counts[kind] = counts.get(kind, 0) + 1
        yield (kind if counts[kind] == 1 else f"{kind} {counts[kind]}"), callback


def _prints(callback):
    """Fingerprints of the attributes that are plain data, by name."""
    found = {}
    for name, value in vars(callback).items():
        arrays = []
        if name in _OF_FIT:
            continue
        try:
            found[name] = plain_data.fingerprint(plain_data.pack(value, arrays), arrays)
        except plain_data.NotPlainError:
            continue
    return found
