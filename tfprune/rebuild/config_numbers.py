"""The whole numbers in the config of a model, and the sizes of the weights that they make.

Which number decides about which axis of which weight is found and not listed: the class makes a
model from its config with other numbers, and the shapes of the weights are compared. The weights
get no values, so this takes little time and no memory for models of any size.
"""

import copy
import functools
import itertools

import keras

from tfprune import _keras
from tfprune.masks.in_place import unmask
from tfprune.rebuild.copying import copy_model

_NO_ARGUMENTS = ("build_config", "compile_config", "inbound_nodes", "batch_shape", "dtype")

MOST_TRIED = 512
"""How many combinations of numbers are tried to find those that make given shapes."""


class ConfigNumbers:
    """The numbers in the config of a model of a user's or a library's class.

    Args:
        model: The model: of a class of its own, or with layers of users' classes in it.

    Attributes:
        before: A dict from the places of each whole number above 1 in the config to the number. A
            place is a tuple of keys and indices. An argument that has the same value in all objects
            of a class, as in all blocks of a model, is one number with several places.
        shapes_before: The shapes of the weights that the config makes.
        taken_together: Those of the numbers asked for with `moved` that the class takes only along
            with others.

    Raises:
        ValueError: If the class cannot make the model from its config.
    """

    def __init__(self, model):
        self._name, self._moved = f"{model.name!r} ({type(model).__name__})", {}
        self._paths = [weight.path for weight in weights_in_order(model)]
        self.taken_together = set()
        plain = unmask(copy_model(model).model)
        parts = _keras.all_layers(plain)
        if all(_keras.is_stock(type(part)) for part in parts):
            self.refuse("it has no class but those of Keras, which `strip` keeps in any case")
        self._classes = _keras.custom_objects_of(parts)
        try:
            self._class, config = type(plain), plain.get_config()
            self._config = _keras.without_shapes({"config": config})["config"]
            self._build_config = plain.get_build_config()
        except Exception as error:  # the user's own code may fail in any way
            self.refuse(f"its `get_config` fails: {type(error).__name__}: {str(error)[:200]}")
        self._held = {
            name: getattr(plain, name)
            for name, value in self._config.items()
            if isinstance(value, dict) and _is_without_weights(getattr(plain, name, None))
        }
        self.before = self._found()
        self._shapes = _shapes_of(self._class, repr(self._config))
        self._building = _keras.without_values
        self.shapes_before = self.shapes({})
        if self.shapes_before is None:  # it uses values of weights when it is built
            self._building = _keras.zeros_as_initial_values
            self._shapes.clear()
            self.shapes_before = self.shapes({})
        if self.shapes_before != [tuple(weight.shape) for weight in weights_in_order(model)]:
            self.refuse("its config makes weights of other shapes")

    def shapes(self, numbers):
        """The shapes of all weights with other numbers in the config.

        Args:
            numbers: A dict from places to numbers, or to lists, for those that change.

        Returns:
            A list of tuples; None if the class makes no model of them.
        """
        key = repr(sorted(numbers.items(), key=repr))
        if key not in self._shapes:
            try:
                with self._building():
                    made = weights_in_order(self._made(numbers, {}))
                self._shapes[key] = [tuple(weight.shape) for weight in made]
            except Exception:  # the user's own code may fail in any way
                self._shapes[key] = None
        return self._shapes[key]

    def make(self, numbers, floats):
        """A model of the class with other numbers in its config; its weights hold zeros."""
        with _keras.zeros_as_initial_values():
            return self._made(numbers, floats)

    def _made(self, numbers, floats):
        config = copy.deepcopy({k: v for k, v in self._config.items() if k not in self._held})
        for places, number in {**numbers, **floats}.items():
            for *path, last in places:
                inner = config
                for key in path:
                    inner = inner[key]
                inner[last] = copy.copy(number)
        with keras.saving.custom_object_scope(self._classes):
            made = self._class.from_config({**config, **self._held})
        if not made.built and self._build_config:
            made.build_from_config(self._build_config)
        return made

    def _found(self, kind=int):
        """The numbers of a kind, with their places."""
        found = {}
        for place, number in _numbers(self._config, self._held, kind):
            found.setdefault((*self._argument(place), number), []).append(place)
        return {
            tuple(places): key[-1] for key, places in found.items() if kind is float or key[-1] > 1
        }

    def _argument(self, place):
        """The class of the object that an argument is of, and its name."""
        owner, start, inner = self._class.__name__, 0, self._config
        for depth, key in enumerate(place[:-1]):
            if isinstance(inner, dict) and "class_name" in inner and key == "config":
                owner, start = inner["class_name"], depth + 1
            inner = inner[key]
        return owner, *place[start:]

    def lists(self, length):
        """The lists of so many entries in the config, as pairs of a place and the list."""
        return [each for each in _numbers(self._config, self._held, list) if len(each[1]) == length]

    @property
    def floats(self):
        """A dict from the places of each floating-point number in the config to the number."""
        return self._found(float)

    def matching(self, shapes):
        """The numbers that make weights of given shapes.

        Args:
            shapes: A list of tuples, in the order of `weights_in_order`.

        Returns:
            A dict of the numbers that change.

        Raises:
            ValueError: If no numbers make them.
        """
        options = {p: self._options(p, shapes) for p in self.before}
        options = {place: values for place, values in options.items() if len(values) > 1}
        nearest = None
        tried = itertools.product(*options.values())
        for values in itertools.islice(tried, MOST_TRIED):
            numbers = dict(zip(options, values, strict=True))
            found = self.shapes(numbers)
            if found == shapes:
                return {p: n for p, n in numbers.items() if n != self.before[p]}
            if found is not None and len(found) == len(shapes):
                wrong = [index for index, shape in enumerate(shapes) if found[index] != shape]
                if nearest is None or len(wrong) < len(nearest[1]):
                    nearest = found, wrong
        return self._refuse_shapes(shapes, *(nearest or (self.shapes_before, [])))

    def _options(self, place, shapes):
        """What a number may become: what the axes that it moves ask for, and what it is."""
        number, found = self.before[place], {}
        moved = self.moved(place)
        for index, axis in moved:
            old, new = self.shapes_before[index][axis], shapes[index][axis]
            if number * new % old == 0:
                found[number * new // old] = None
        return [*(n for n in found if n != number and n > 0), number] if moved else [number]

    def moved(self, places):
        """The axes of weights whose sizes may depend on a number, as pairs of indices.

        Empty for a number that changes how many weights there are. For one that the class takes
        only along with others, all axes of that size.
        """
        if places not in self._moved:
            number = self.before[places]
            others = (2 * number, number // 2, number + 1, number - 1)
            made = [self.shapes_before]
            while others and made[-1] in (None, self.shapes_before):
                other, *others = others
                made.append(self.shapes({places: other}) if other > 0 else self.shapes_before)
            if made[-1] in (None, self.shapes_before) and None in made:
                self.taken_together.add(places)
                made.append([tuple(n * (1 + (n == number)) for n in s) for s in self.shapes_before])
            self._moved[places] = self._differing_axes(made[-1] or self.shapes_before)
        return self._moved[places]

    def _differing_axes(self, shapes):
        if [*map(len, self.shapes_before)] != [*map(len, shapes)]:
            return []
        return [
            (index, axis)
            for index, pair in enumerate(zip(self.shapes_before, shapes, strict=True))
            for axis, (before, after) in enumerate(zip(*pair, strict=True))
            if before != after
        ]

    def _refuse_shapes(self, shapes, nearest, wrong):
        pairs = [f"{self._paths[i]!r} {nearest[i]}, not {shapes[i]}" for i in wrong]
        self.refuse(
            "no numbers in its config make these shapes. What comes nearest makes "
            + "; ".join(pairs[:3])
            + (f"; and {len(pairs) - 3} more" if len(pairs) > 3 else "")
        )

    def refuse(self, why):
        """Raises a `ValueError` that says why the config cannot say the new sizes."""
        raise ValueError(
            f"The config of a model cannot say its new sizes, because {why}. Received: "
            f"model={self._name}. Prune units with "
            "`selection='same_class'`, which keeps what a config can say, or leave `same_class` "
            "out."
        )


@functools.lru_cache(maxsize=8)
def _shapes_of(cls, config):
    """The shapes that a class made of numbers so far, for a config as text; added to."""
    return {}


def name_of(places):
    """What a number is called in messages: `num_heads`, `vision_encoder.num_heads`, `0.dim`."""
    names = [".".join(str(key) for key in place if key != "config") for place in places]
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def weights_in_order(model):
    """The weights of a model that a config makes, in the order in which its layers were made."""
    found = {
        id(variable): variable
        for layer in _keras.all_layers(model)
        for variable in _keras.own_variables(layer)
    }
    return list(found.values())


def _is_without_weights(value):
    return value is not None and not getattr(value, "weights", None)


def _numbers(config, held, kind=int, place=()):
    """The numbers in a nested config, with their places."""
    items = config.items() if isinstance(config, dict) else enumerate(config)
    for key, value in items:
        here = (*place, key)
        if (place == () and key in held) or key in _NO_ARGUMENTS:
            continue
        if isinstance(value, kind) and not isinstance(value, bool):
            yield here, value
        if isinstance(value, dict | list):
            yield from _numbers(value, held, kind, here)
