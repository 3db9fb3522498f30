"""A deep copy of Python objects: functions, methods, containers, objects of any class.

Private here, and why:

* `tf.__internal__.tracking.wrap`: lists and dicts which TensorFlow tracks are made by it.
"""

import collections
import collections.abc
import contextlib
import functools
import operator
import types

import numpy as np
import tensorflow as tf

from tfprune._keras.sharing import is_shared, leads_to_copies, slot_names

_PLAIN = frozenset({str, int, float, bool, type(None)})


class DeepCopy:
    """One deep copy. What refers to itself is entered before its parts are copied.

    Not that of the standard library, because functions refer to copies by their closures, what has
    no state is shared, and a class need not know how to be copied.
    """

    def __init__(self):
        self.copies = {}  # by the id of the original
        self.originals = []  # kept alive, so that no id is given twice
        self.kept_functions = []  # kept alive too: functions that are their own copies
        self.tracked = []  # dicts of TensorFlow, which may be added to only, and their items
        self.ways = {}  # by class
        self.ways_of_kinds = {
            types.FunctionType: self._function,
            types.MethodType: self._method,
            functools.partial: self._partial,
            types.CellType: self._cell,
            list: self._list,
            dict: self._dict,
            tuple: self._tuple,
            (set, frozenset): self._set,
            np.ndarray: lambda array: self.enter(array, array.copy()),
        }

    def copy(self, value):
        """The copy of a value, or the value itself if it is shared."""
        kind = type(value)
        if kind in _PLAIN:
            return value
        if id(value) in self.copies:
            return self.copies[id(value)]
        if kind not in self.ways:
            self.ways[kind] = self._way(value)
        return self.ways[kind](value)

    def enter(self, old, new):
        """Notes a copy, and returns it."""
        self.copies[id(old)] = new
        self.originals.append(old)
        return new

    def pairs(self):
        """The pairs of an object and its copy."""
        return Pairs(self.originals, self.copies)

    def rename(self, keys):
        """Replaces keys of dicts and elements of sets that name originals, as ids do.

        Args:
            keys: Dict from a key or element to what stands for it in the copies.
        """
        for old in self.originals:
            if isinstance(old, (dict, set)):
                new = self.copies[id(old)]
                if new and not keys.keys().isdisjoint(new):
                    _rename(new, keys)
        for new, items in self.tracked:
            new.update({keys.get(key, key): value for key, value in items.items()})

    def _way(self, value):
        """The method which copies values of the class of `value`."""
        for kind, way in self.ways_of_kinds.items():
            if isinstance(value, kind):
                return way
        return _itself if is_shared(value) else self._object

    def _object(self, value, without=()):
        new = self.enter(value, object.__new__(type(value)))
        self._copy_attributes(value, new, without)
        for name in slot_names(value):
            if hasattr(value, name):
                object.__setattr__(new, name, self.copy(getattr(value, name)))
        return new

    def _copy_attributes(self, value, new, without=()):
        attributes = getattr(value, "__dict__", None)
        if not attributes:
            return new
        own, copies = new.__dict__, self.copies
        for name, attribute in attributes.items():
            if type(attribute) in _PLAIN:
                if name not in without:
                    own[name] = attribute
            elif name not in without:
                key = id(attribute)
                own[name] = copies[key] if key in copies else self.copy(attribute)
        return new

    def _function(self, function):
        if not leads_to_copies(function):
            self.copies[id(function)] = function
            self.kept_functions.append(function)
            return function
        cells = tuple(self.copy(cell) for cell in function.__closure__ or ())
        if id(function) in self.copies:  # its closure refers to it
            return self.copies[id(function)]
        new = types.FunctionType(
            function.__code__, function.__globals__, function.__name__, closure=cells or None
        )
        self.enter(function, new)
        functools.update_wrapper(new, function, updated=())
        del new.__wrapped__
        new.__defaults__ = self.copy(function.__defaults__)
        new.__kwdefaults__ = self.copy(function.__kwdefaults__)
        return self._copy_attributes(function, new)

    def _cell(self, cell):
        new = self.enter(cell, types.CellType())
        with contextlib.suppress(ValueError):  # an empty cell
            new.cell_contents = self.copy(cell.cell_contents)
        return new

    def _method(self, method):
        owner = self.copy(method.__self__)
        if owner is method.__self__:
            return method
        return self.enter(method, types.MethodType(self.copy(method.__func__), owner))

    def _partial(self, partial):
        if not leads_to_copies(partial):
            return partial
        function, args = self.copy(partial.func), self.copy(partial.args)
        return self.enter(partial, type(partial)(function, *args, **self.copy(partial.keywords)))

    def _list(self, values):
        if type(values) is list and not values:
            return self.enter(values, [])
        if _is_of_tensorflow(type(values)):
            return self._wrapped(values, list(values))
        new = self.enter(values, type(values).__new__(type(values)))
        list.extend(new, [self.copy(value) for value in values])
        return self._copy_attributes(values, new)

    def _dict(self, values):
        if type(values) is dict and not values:
            return self.enter(values, {})
        if _is_of_tensorflow(type(values)):
            new = self.enter(values, tf.__internal__.tracking.wrap({}))
            self.tracked.append((new, self.copy(dict(values))))
            return new
        new = self.enter(values, type(values).__new__(type(values)))
        if isinstance(values, collections.defaultdict):
            new.default_factory = self.copy(values.default_factory)
        is_ordered = isinstance(values, collections.OrderedDict)
        enter = (collections.OrderedDict if is_ordered else dict).__setitem__
        for key, value in values.items():
            enter(new, self.copy(key), self.copy(value))
        return self._copy_attributes(values, new)

    def _wrapped(self, wrapper, values):
        """A list or tuple which TensorFlow tracks: it wraps what is assigned to it."""
        return self.enter(wrapper, tf.__internal__.tracking.wrap(self.copy(values)))

    def _tuple(self, values):
        if _is_of_tensorflow(type(values)) and not hasattr(values, "_fields"):
            return self._wrapped(values, tuple(values))
        items = [value if type(value) in _PLAIN else self.copy(value) for value in values]
        if all(new is old for new, old in zip(items, values, strict=True)):
            return values
        return self.enter(values, tuple.__new__(type(values), items))

    def _set(self, values):
        if type(values) is set and not values:
            return self.enter(values, set())
        items = {self.copy(value) for value in values}
        if isinstance(values, frozenset):
            return self.enter(values, type(values)(items))
        new = self.enter(values, type(values).__new__(type(values)))
        set.update(new, items)
        return self._copy_attributes(values, new)


def replace_references(holders, replacements):
    """Lets objects and containers that were copied refer to other objects.

    Args:
        holders: The copies.
        replacements: Pairs of an object that they refer to and the one in its place.
    """
    keys = {id(old): id(new) for old, new in replacements}
    known = {id(old): new for old, new in replacements}

    def now(value):
        if isinstance(value, tuple) and not hasattr(value, "_fields"):
            items = tuple(map(now, value))
            return value if all(map(operator.is_, items, value)) else items
        return known.get(id(value), value)

    for holder in holders:
        if isinstance(holder, types.CellType):
            with contextlib.suppress(ValueError):  # an empty cell
                holder.cell_contents = now(holder.cell_contents)
        elif isinstance(holder, list):
            list.__setitem__(holder, slice(None), list(map(now, holder)))
        elif isinstance(holder, dict):
            is_dict = issubclass(type(holder), dict)  # not what TensorFlow wraps around one
            enter = dict.__setitem__ if is_dict else type(holder).__setitem__
            for key, value in list(holder.items()):
                if now(value) is not value:
                    enter(holder, key, now(value))
            if is_dict and not keys.keys().isdisjoint(holder):
                _rename(holder, keys)
        elif isinstance(holder, set):
            _rename(holder, keys)
        attributes = getattr(holder, "__dict__", {})
        attributes.update({name: now(value) for name, value in attributes.items()})


class Pairs(collections.abc.Sequence):
    """The pairs of an object and its copy, made when they are asked for: there are many."""

    def __init__(self, originals, copies):
        self._originals, self._copies = originals, copies

    def __len__(self):
        return len(self._originals)

    def __getitem__(self, place):
        old = self._originals[place]
        return old, self._copies[id(old)]


@functools.lru_cache(maxsize=1024)
def _is_of_tensorflow(cls):
    return cls.__module__.partition(".")[0] == "tensorflow"


def _itself(value):
    return value


def _rename(values, keys):
    """Replaces the elements of a set, or the keys of a dict, that name originals."""
    if isinstance(values, set):
        renamed = {keys.get(key, key) for key in values}
        set.clear(values)
        set.update(values, renamed)
        return
    renamed = {keys.get(key, key): value for key, value in values.items()}
    dict.clear(values)
    dict.update(values, renamed)
