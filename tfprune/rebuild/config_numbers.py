"""The whole numbers in the config of a model, and the sizes of the weights that they make.

Which number decides about which axis of which weight is found and not listed: the class makes a
model from its config with other numbers, and the shapes of the weights are compared. The weights
get no values, so this takes little time and no memory for models of any size.
"""

import copy
import itertools

from tfprune import _keras
from tfprune.masks.in_place import unmask
from tfprune.rebuild.copying import copy_model

MOST_TRIED = 512
"""How many combinations of numbers are tried to find those that make given shapes."""


class ConfigNumbers:
    """The numbers in the config of a model of a user's or a library's class.

    Args:
        model: The model, of a class that is neither `keras.Model` nor `keras.Sequential`.

    Attributes:
        before: A dict from the place of each whole number above 1 in the config, as a tuple of keys
            and indices, to the number.
        shapes_before: The shapes of the weights that the config makes.

    Raises:
        ValueError: If the class cannot make the model from its config.
    """

    def __init__(self, model):
        self._model, self._moved = model, {}
        if _keras.is_stock(type(model)):
            self._refuse(f"it is a plain {type(model).__name__}, and no class makes it")
        try:
            self._config = unmask(copy_model(model).model).get_config()
        except Exception as error:  # the user's own code may fail in any way
            self._refuse(f"its `get_config` fails: {type(error).__name__}: {str(error)[:200]}")
        self._held = {
            name: getattr(model, name)
            for name, value in self._config.items()
            if isinstance(value, dict) and _is_without_weights(getattr(model, name, None))
        }
        numbers = dict(_numbers(self._config, self._held))
        self.before = {place: number for place, number in numbers.items() if number > 1}
        self._building = _keras.without_values
        self.shapes_before = self.shapes({})
        if self.shapes_before is None:  # it uses values of weights when it is built
            self._building = _keras.zeros_as_initial_values
            self.shapes_before = self.shapes({})
        if self.shapes_before != [tuple(weight.shape) for weight in weights_in_order(model)]:
            self._refuse("its config makes weights of other shapes")

    def shapes(self, numbers):
        """The shapes of all weights with other numbers in the config.

        Args:
            numbers: A dict from places to numbers, for those that change.

        Returns:
            A list of tuples; None if the class makes no model of them.
        """
        try:
            with self._building():
                return [tuple(w.shape) for w in weights_in_order(self._made(numbers, {}))]
        except Exception:  # the user's own code may fail in any way
            return None

    def make(self, numbers, floats):
        """A model of the class with other numbers in its config; its weights hold zeros."""
        with _keras.zeros_as_initial_values():
            return self._made(numbers, floats)

    def _made(self, numbers, floats):
        config = copy.deepcopy({k: v for k, v in self._config.items() if k not in self._held})
        for place, number in {**numbers, **floats}.items():
            *path, last = place
            inner = config
            for key in path:
                inner = inner[key]
            inner[last] = number
        return type(self._model).from_config({**config, **self._held})

    @property
    def floats(self):
        """A dict from the place of each floating-point number in the config to the number."""
        return dict(_numbers(self._config, self._held, float))

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
                wrong = [
                    i for i, pair in enumerate(zip(found, shapes, strict=True)) if len({*pair}) > 1
                ]
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

    def moved(self, place):
        """The axes of weights whose sizes depend on a number, as pairs of indices.

        Empty for a number that changes how many weights there are.
        """
        if place not in self._moved:
            number = self.before[place]
            others = (2 * number, number // 2, number + 1, number - 1)
            found = (self.shapes({place: other}) for other in others if other > 0)
            differing = (each for each in found if each not in (None, self.shapes_before))
            self._moved[place] = self._differing_axes(next(differing, self.shapes_before))
        return self._moved[place]

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
        weights = [weights_in_order(self._model)[index].path for index in wrong]
        pairs = [
            f"{w!r} {shapes[i]}, not {nearest[i]}" for w, i in zip(weights, wrong, strict=True)
        ]
        self._refuse(
            "no numbers in its config make these shapes. What comes nearest makes "
            + "; ".join(pairs[:3])
            + (f"; and {len(pairs) - 3} more" if len(pairs) > 3 else "")
        )

    def _refuse(self, why):
        raise ValueError(
            f"The config of a model cannot say its new sizes, because {why}. Received: "
            f"model={self._model.name!r} ({type(self._model).__name__}). Prune with "
            "`selection='same_class'`, which keeps what a config can say, or strip without "
            "`same_class=True`."
        )


def name_of(place):
    """The name of a place in a config, for messages: `num_heads`, `vision_encoder.num_heads`."""
    return ".".join(str(key) for key in place if key not in ("config",))


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
        if isinstance(value, dict | list):
            if not (place == () and key in held):
                yield from _numbers(value, held, kind, here)
        elif (
            isinstance(value, kind) and not isinstance(value, bool) and (kind is float or value > 1)
        ):
            yield here, value
