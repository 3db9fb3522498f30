"""Random models of user code: a seed draws their layers, what is in them, sizes and weights.

Run it by itself for many seeds: `python -m tests.random_user_code --seeds 500`.
"""

import argparse
import collections
import dataclasses
import re
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import keras
import numpy as np

import tfprune
from tests import user_code as user
from tfprune.rebuild.copying import in_double_precision

layers, ops = keras.layers, keras.ops
STRINGS = np.array(["red", "green", "blue", "pink", "grey"])
SENTENCES = np.array(["red green", "blue red red", "pink", "grey blue", "green grey pink"])
LENGTH = 5
TOLERANCE = 3e-5


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A model, and inputs for it: two batches of different sizes."""

    model: keras.Model
    inputs: tuple
    story: str


def random_user_model(seed):
    """A model of user code made from a seed, with inputs for it."""
    draw = np.random.default_rng(seed)
    grower = _Grower(draw)
    shell = grower.pick(["functional"] * 3 + ["trains", "sequential", "nested", "net", "net"])
    if shell == "net":
        shell = grower.pick(_SUBCLASSED)
    kind = grower.pick(_INPUTS)
    start, first, dynamic = _start(grower, kind)
    batches = tuple(_batch(draw, kind, first, size) for size in (3, 4))
    is_graph = shell in ("functional", "trains", "sequential", "nested")
    shape = start.shape
    if is_graph:
        if dynamic and grower.chance(0.5):
            shape = (None, *shape[1:])
        x = inputs = keras.Input(shape, dtype=start.dtype, name="given")
    else:
        x = batches[0]
    steps = grower.chain(x, first, int(draw.integers(2, 5)))
    residual = grower.chance(0.3)

    def other():
        return grower.chain(x, _start(grower, kind)[1], 1)

    model = _shell(shell, steps, inputs if is_graph else x, residual, other)
    _randomise(model, draw)
    if shell == "NetOfDicts":
        batches = tuple({"given": batch} for batch in batches)
    story = f"{shell} of {kind}{shape}: " + ", ".join(type(s).__name__ for s in steps)
    return Drawn(model, batches, story)


# The parts of a model -----------------------------------------------------------------------------

_INPUTS = ["vector", "series", "series", "series", "image", "tokens", "tokens", "masked"]
_INPUTS += ["strings", "sentences", "hashed"]
_SUBCLASSED = ["Net", "NetTrains", "NetWithLoss", "NetOfDicts", "Distiller", "Vae"]


@dataclasses.dataclass(frozen=True)
class _Start:
    shape: tuple
    dtype: str = "float32"


def _start(grow, kind):
    """The input of a model, the layers that come first, and whether a length may stay open."""
    width = grow.width()
    if kind == "vector":
        return _Start((5,)), [grow.first_dense()], False
    if kind == "series":
        return _Start((LENGTH, 3)), [grow.first_dense()], True
    if kind == "image":
        return _Start((6, 6, 3)), [grow.first_convolution()], False
    if kind == "masked":
        return _Start((LENGTH, 3)), [layers.Masking(), layers.Dense(width)], True
    embed = layers.Embedding(12, width, mask_zero=grow.chance(0.5))
    if kind == "tokens":
        if grow.chance(0.4):
            return _Start((LENGTH,), "int32"), [grow.make(user.Table, 12, width)], True
        return _Start((LENGTH,), "int32"), [embed], True
    if kind == "strings":
        look_up = layers.StringLookup(vocabulary=list(STRINGS))
        return _Start((LENGTH,), "string"), [look_up, embed], True
    if kind == "hashed":
        return _Start((LENGTH,), "string"), [layers.Hashing(12), embed], True
    words = layers.TextVectorization(output_sequence_length=LENGTH, vocabulary=list(STRINGS))
    return _Start((), "string"), [words, embed], False


def _batch(draw, kind, first, size):
    if kind == "tokens":
        return draw.integers(0, 12, (size, LENGTH)).astype("int32")
    if kind in ("strings", "hashed"):
        return keras.ops.convert_to_tensor(draw.choice(STRINGS, (size, LENGTH)))
    if kind == "sentences":
        return keras.ops.convert_to_tensor(draw.choice(SENTENCES, size))
    shape = {"vector": (5,), "image": (6, 6, 3)}.get(kind, (LENGTH, 3))
    values = draw.normal(size=(size, *shape)).astype("float32")
    if kind == "masked":
        values[:, -1] = 0
    return values


def _shell(shell, steps, x, residual, other):
    if shell == "sequential":
        return keras.Sequential([x, *steps])
    if shell in ("functional", "trains", "nested"):
        cls = user.Trains if shell == "trains" else keras.Model
        y = x
        for place, step in enumerate(steps):
            before, y = y, step(y)
            fits = before.shape[1:] == y.shape[1:] and None not in y.shape[1:]
            if residual and fits and place > 1:
                y = before + y
            if shell == "nested" and place == len(steps) - 3:
                y = keras.Model(x, y, name="inner")(x)
        return cls(x, y)
    if shell == "Vae":
        model = user.Vae(keras.Sequential(steps))
    elif shell == "Distiller":
        both = [[*each, layers.Dense(2)] for each in (steps, other())]
        model = user.Distiller(*map(keras.Sequential, both))
    else:
        model = getattr(user, shell)(steps, residual=residual)
    model({"given": x} if shell == "NetOfDicts" else x)
    return model


class _Grower:
    """Draws layers that fit, one after the other."""

    def __init__(self, draw):
        self.draw = draw

    def chance(self, probability):
        return self.draw.random() < probability

    def pick(self, options):
        return options[int(self.draw.integers(len(options)))]

    def width(self):
        return self.pick([4, 6, 8])

    def make(self, cls, *args, **kwargs):
        return self.pick(user.STYLES.get(cls, [cls]))(*args, **kwargs)

    def activation(self):
        return self.pick(["relu", "tanh", "gelu", user.swish, user.squared_relu])

    def chain(self, x, first, count):
        """The layers of a model, built on `x`, from the first ones to the head."""
        steps = []
        for step in first:
            steps.append(step)
            x = step(x)
        for _ in range(count):
            step = self.step(x)
            try:
                x = step(x)
            except ValueError as error:  # Keras makes no `keras.Variable` in layers inside layers
                if "stateless scope" not in str(error):
                    raise
                continue
            steps.append(step)
        while len(x.shape) > 2:
            step = self.pooling(x)
            steps.append(step)
            x = step(x)
        steps.append(layers.Dense(6, activation="tanh"))
        x = steps[-1](x)
        steps.append(self.head(first))
        steps[-1](x)
        return steps

    def first_dense(self):
        return self.pick(
            [
                lambda: layers.Dense(self.width(), activation=self.activation()),
                lambda: user.HandDense(self.width()),
                lambda: user.LowRank(self.width()),
            ]
        )()

    def first_convolution(self):
        if self.chance(0.5):
            return layers.Conv2D(self.width(), 3, padding="same", activation="relu")
        return self.make(user.Filters, self.width())

    def pooling(self, x):
        if len(x.shape) == 4:
            return self.pick([layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D])()
        options = [layers.GlobalAveragePooling1D, layers.GlobalMaxPooling1D]
        options += [lambda: self.make(user.MaskedMean), lambda: self.make(user.OneStep)]
        options += [lambda: layers.Lambda(lambda x: ops.max(x, axis=1))]
        options += [layers.Flatten, lambda: layers.GRU(4)] if x.shape[1] is not None else []
        return self.pick(options)()

    def head(self, first):
        embedding = [step for step in first if isinstance(step, layers.Embedding)]
        if embedding and self.chance(0.2):
            width = embedding[0].output_dim
            return user.Chain([layers.Dense(width), user.TiedHead(embedding[0])])
        return self.pick([lambda: layers.Dense(2), lambda: user.HandDense(2, "linear")])()

    def step(self, x, depth=0):
        """A layer that can be called on `x`."""
        options = self.any_rank(depth)
        if len(x.shape) == 3:
            options = options + self.of_series(x.shape[1]) * 2
        if len(x.shape) == 4:
            options = options + self.of_images() * 2
        return self.pick(options)()

    def any_rank(self, depth):
        width, make = self.width(), self.make
        options = [
            lambda: make(user.Scale),
            lambda: make(user.Affine),
            lambda: make(user.Normalised, width),
            lambda: make(user.Gated, width),
            lambda: make(user.Tied, width),
            lambda: make(user.Fused, width),
            lambda: make(user.Context),
            lambda: make(user.Picked),
            lambda: make(user.Norm, self.pick(["layer", "rms", "moving"])),
            lambda: make(user.Mlp, width, self.pick([1, 2])),
            lambda: make(user.TwoOutputs, width),
            lambda: make(user.GraphInside, width),
            lambda: make(user.DropBlock, hidden=width),
            lambda: user.HandDense(width, self.activation()),
            lambda: user.LowRank(width, activation=self.activation()),
            lambda: user.local(width, self.pick([ops.tanh, user.swish, user.squared_relu])),
            lambda: layers.Dense(width, activation=self.activation()),
            lambda: layers.LayerNormalization(),
            lambda: layers.BatchNormalization(),
            self.function,
        ]
        if depth < 2:
            options += [lambda: self.parts(depth), lambda: self.nested(depth)] * 2
        return options

    def function(self):
        """A Lambda: of the module's function, of a closure, with arguments."""
        factor = float(self.draw.uniform(0.5, 2))
        return self.pick(
            [
                lambda: layers.Lambda(user.swish),
                lambda: layers.Lambda(lambda x: ops.tanh(x) * factor),
                lambda: layers.Lambda(lambda x, by: x + by, arguments={"by": factor}),
                lambda: layers.Lambda(lambda x: ops.concatenate([x, ops.relu(x)], axis=-1)),
                lambda: layers.Lambda(lambda x: x - ops.mean(x, axis=-1, keepdims=True)),
            ]
        )()

    def of_series(self, length):
        make, width = self.make, self.width()
        options = [
            lambda: make(user.FirstPositions),
            lambda: make(user.Heads, 2, 3),
            lambda: make(user.ClassToken),
            lambda: make(user.Queries, 2),
            lambda: make(user.Cross, width),
            lambda: make(user.SplitHeads, 2),
            lambda: make(user.Transformer, 2, width),
            lambda: layers.Conv1D(width, 2, padding="causal", activation="relu"),
            lambda: layers.LSTM(width, return_sequences=True),
            lambda: layers.RNN(make(user.Cell, width), return_sequences=True),
            lambda: layers.TimeDistributed(make(user.Tied, width)),
            lambda: make(user.KeepsMask),
        ]
        fixed = [lambda: make(user.Position), lambda: make(user.TakenPositions)]
        return options + fixed * (length is not None)

    def of_images(self):
        make, width = self.make, self.width()
        return [
            lambda: make(user.Filters, width),
            lambda: make(user.ConvBlock, width),
            lambda: make(user.Squeeze, width),
            lambda: make(user.Position),
            lambda: layers.Conv2D(width, 3, padding="same", activation=self.activation()),
            lambda: layers.DepthwiseConv2D(3, padding="same"),
            layers.MaxPooling2D,
        ]

    def parts(self, depth):
        """Layers in a dict, of equal width."""
        width = self.width()
        parts = {
            name: self.pick(
                [
                    lambda: layers.Dense(width, activation=self.activation()),
                    lambda: user.HandDense(width),
                    lambda: user.Chain([self.plain(depth + 1), layers.Dense(width)]),
                    lambda: user.LowRank(width),
                ]
            )()
            for name in ("left", "right")
        }
        return user.Parts(parts, self.pick(["add", "multiply", "concatenate"]))

    def nested(self, depth):
        """Layers in lists in a dict, which may be of this kind too."""
        steps = [self.plain(depth + 1) for _ in range(self.pick([2, 3]))]
        return user.Chain(steps, residual=self.chance(0.3))

    def plain(self, depth):
        return self.pick(self.any_rank(depth))()


def _randomise(model, draw):
    """Random values for all weights, of a size for which their products neither grow nor vanish."""
    for weight in model.weights:
        if "seed" in weight.path or not keras.backend.is_float_dtype(weight.dtype):
            continue
        value = draw.normal(size=weight.shape)
        if len(weight.shape) > 1:
            value *= 1.2 / max(1.0, np.prod(weight.shape[:-1], dtype=float)) ** 0.5
        else:
            value = 0.3 * value + (1.0 if weight.name in _FACTORS else 0.0)
        weight.assign(np.abs(value) + 0.5 if "variance" in weight.name else value)


_FACTORS = {"gamma", "length", "scale_0", "scale_1"}


# What comes out of it -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a model.

    Attributes:
        seed: Its seed.
        kind: "exact", "refused", "wrong" or "bare error".
        words: What was said, or what is wrong.
        story: What the model is made of.
        ratio: How many parameters are left, as a share.
        pinned: The reasons why units stay, if they were asked for.
        saved: Whether it was saved, and loaded, before it was stripped again.
    """

    seed: int
    kind: str
    words: str = ""
    story: str = ""
    ratio: float = 1.0
    pinned: tuple = ()
    saved: bool = False

    def __str__(self):
        kind = f"{self.kind}, x{self.ratio:.2f}{', saved' * self.saved}"
        return f"seed {self.seed}: {kind}; {self.story} {self.words}"


def outcome(seed, with_reasons=False):
    """Prunes half of the units of the model of a seed and strips it; compares at each step."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    try:
        drawn = random_user_model(seed)
    except Exception:
        return Outcome(seed, "not built", traceback.format_exc(limit=-6))
    try:
        return _outcome(seed, drawn, with_reasons)
    except (ValueError, RuntimeError) as error:
        kind = "refused" if is_named(error, drawn.model) else "bare error"
        kind = "wrong" if "does not compute" in str(error) else kind
        words = str(error) if kind != "bare error" else traceback.format_exc(limit=-6)
        return Outcome(seed, kind, words, drawn.story)
    except Exception:
        return Outcome(seed, "bare error", traceback.format_exc(limit=-6), drawn.story)


def _outcome(seed, drawn, with_reasons):
    model, (first, second) = drawn.model, drawn.inputs
    before = [np.array(weight) for weight in model.weights]
    masked = tfprune.prunable(model)
    if {id(v) for v in model.variables} & {id(v) for v in masked.variables}:
        return Outcome(seed, "wrong", "prunable shares a variable", drawn.story)
    difference = _difference(model, masked, (first, second))
    if difference > 0:
        return Outcome(seed, "wrong", f"prunable differs by {difference:.2g}", drawn.story)
    if type(model) is not keras.Model and type(model) is not keras.Sequential:
        _train(masked, second)
    tfprune.prune_units(masked, 0.5, tfprune.criteria.Random(seed=seed))
    small, report = tfprune.strip(masked, return_report=True)
    difference = _difference(masked, small, (first, second))
    if difference > TOLERANCE:  # unless it is rounding
        in_double = [in_double_precision(each).model for each in (masked, small)]
        difference = _difference(*in_double, (first, second))
    if not difference <= TOLERANCE:
        return Outcome(seed, "wrong", f"strip differs by {difference:.2g}", drawn.story)
    if not all(np.array_equal(a, b) for a, b in zip(before, model.weights, strict=True)):
        return Outcome(seed, "wrong", "the model given was changed", drawn.story)
    sets = tfprune.explain(masked).sets if with_reasons else ()
    pinned = tuple(dict.fromkeys(reason for each in sets for reason in each.pinned))
    ratio = small.count_params() / masked.count_params()
    saved = ()
    if not report.not_from_config:
        loaded = _loaded(small, first)
        if loaded is None or not _difference(small, loaded, (first, second)) <= TOLERANCE:
            fails = _loaded(model, first)
            if fails is not None and _difference(model, fails, (first, second)) <= TOLERANCE:
                return Outcome(seed, "wrong", "a .keras file does not hold it", drawn.story)
        else:
            small, saved = loaded, True
    if with_reasons:
        tfprune.explain(small)
    wrong = _not_kept_again(small, (first, second))
    if wrong:
        return Outcome(seed, "wrong", wrong, drawn.story)
    return Outcome(seed, "exact", "", drawn.story, ratio, pinned, bool(saved))


def _loaded(model, batch):
    """A model from a `.keras` file; None where Keras cannot write or read one, or not run it."""
    classes = {type(layer).__name__: type(layer) for layer in tfprune._keras.all_layers(model)}
    classes["swish"], classes["squared_relu"] = user.swish, user.squared_relu
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.keras"
        try:
            model.save(path)
            loaded = keras.models.load_model(path, classes, safe_mode=False)
            loaded(batch)
        except Exception:  # without a config, or with functions that a file does not hold
            return None
    return loaded


def _not_kept_again(small, batches):
    """What is wrong with a stripped model that is stripped again, and made prunable again."""
    again = tfprune.strip(small)
    if again.count_params() != small.count_params():
        return f"strip again: {small.count_params()} -> {again.count_params()} parameters"
    if _difference(small, again, batches) > TOLERANCE:
        return "strip again changes what it computes"
    if _difference(small, tfprune.prunable(small), batches) > 0:
        return "it cannot be made prunable again"
    return ""


def _train(model, inputs):
    """One step of the model's own `train_step`."""
    outputs = model(inputs)
    model.compile("sgd", loss=None if isinstance(model, user.NetOfDicts) else "mse")
    if not isinstance(model, user.NetOfDicts):
        model.train_on_batch(inputs, np.zeros(outputs.shape, "float32"))


def _difference(ours, theirs, batches):
    """The largest difference, over how much the output varies with the input."""
    worst = 0.0
    for batch in batches:
        pairs = [keras.tree.flatten(model(batch, training=False)) for model in (ours, theirs)]
        for a, b in zip(*pairs, strict=True):
            a, b = (np.asarray(each, "float64") for each in (a, b))
            if a.shape != b.shape or not (np.isfinite(a) == np.isfinite(b)).all():
                return np.inf
            spread = max(np.ptp(a, axis=0).max(), 1e-2 * np.abs(a).max(), 1e-6)
            worst = max(worst, np.abs(a - b).max() / spread)
    return worst


def is_named(error, model):
    """Whether an error is one of the package's own and names a layer, with a line if it failed."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    words = str(error)
    names = {layer.name for layer in tfprune._keras.all_layers(model)}
    is_ours = "/tfprune/" in frame.filename and isinstance(error, ValueError)
    names_one = any(f"'{name}'" in words for name in names)
    fails = re.search(r"could not be traced: \w*(Error|Exception)", words)
    return is_ours and names_one and not fails


def table(found):
    """The outcomes, as lines."""
    kinds = collections.Counter(each.kind for each in found)
    exact = [each for each in found if each.kind == "exact"]
    shrunk = [each for each in found if each.ratio < 0.98]
    ratios = [each.ratio for each in exact] or [1.0]
    lines = [str(each) for each in found if each.kind != "exact"]
    lines += [str(each) for each in exact if each.ratio >= 0.98]
    reasons = collections.Counter(
        re.sub(r"'[^']*'", "_", reason) for each in found for reason in each.pinned
    )
    lines += [f"{number:5} {reason}" for reason, number in reasons.most_common(40)]
    lines += [f"{kind}: {number}" for kind, number in kinds.most_common()]
    lines += [f"saved as .keras: {sum(each.saved for each in found)}"]
    lines += [f"shrunk: {len(shrunk)} of {len(found)}, median x{np.median(ratios):.2f}"]
    return "\n".join(lines)


def main():
    """Prints what becomes of the models of many seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=40, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seconds", type=float, default=np.inf, help="when to stop")
    parser.add_argument("--reasons", action="store_true", help="list why units stay")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    found, start = [], time.monotonic()
    for seed in range(args.first, args.first + args.seeds):
        if time.monotonic() - start > args.seconds:
            break
        began = time.monotonic()
        found.append(outcome(seed, args.reasons))
        print(f"{time.monotonic() - began:5.1f} s {found[-1]}", flush=True)
    print(table(found))


if __name__ == "__main__":
    main()
