"""What becomes of random models of user code that are pruned, stripped, saved and stripped again.

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
from tests.random_user_models import random_user_model
from tfprune.rebuild.copying import in_double_precision

TOLERANCE = 3e-5


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
