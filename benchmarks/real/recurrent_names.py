"""A GRU that tells the gender of Thai given names: units pruned in one call.

A network of an embedding, a GRU and two dense layers is trained on 11,500 names. Then 50 and 70 %
of its units go by `tfprune.prune`, in one call without training and in one with epochs. Beside it
stand random choice with the same epochs, and a network of the small size trained from scratch for
as many epochs as the other two together. Accuracy in % on a tenth of the names.

    python benchmarks/real/recurrent_names.py --names FOLDER [--fast] [--seeds N] [--out FILE]

FOLDER holds person_names_female_th.txt and person_names_male_th.txt: they are in the package
pythainlp 5.4.0 (Apache), in pythainlp/corpus.
"""

import argparse
import gc
import os
import sys
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from _plots import bars
from _results import RESULTS, mean_and_deviation, write
from rich.console import Console
from rich.table import Table

import tfprune

SEEDS = 5
EPOCHS, MORE_EPOCHS, BATCH, RATE = 12, 12, 64, 2e-3
PRUNED = (0.5, 0.7)
LENGTH, UNITS = 16, 64
FILES = ("person_names_female_th.txt", "person_names_male_th.txt")


def names(folder):
    """Characters of names as integers, their gender, for training and to test on."""
    paths = [folder / name for name in FILES]
    if not all(path.exists() for path in paths):
        raise SystemExit(f"No {' and '.join(FILES)} in {folder}. {__doc__.split('FOLDER')[-1]}")
    female, male = (set(path.read_text(encoding="utf-8").split()) for path in paths)
    both = sorted([(name, 0) for name in female - male] + [(name, 1) for name in male - female])
    letters = sorted({letter for name, _ in both for letter in name})
    numbers = {letter: place for place, letter in enumerate(letters, 1)}
    x = np.zeros((len(both), LENGTH), "int32")
    for row, (name, _) in zip(x, both, strict=True):
        known = [numbers[letter] for letter in name[-LENGTH:]]
        row[LENGTH - len(known) :] = known
    y = np.array([gender for _, gender in both])
    order = np.random.default_rng(0).permutation(len(both))
    x, y, tested = x[order], y[order], len(both) // 10
    return len(letters) + 1, x[tested:], y[tested:], x[:tested], y[:tested]


def network(letters):
    return keras.Sequential(
        [
            keras.Input((LENGTH,), dtype="int32"),
            keras.layers.Embedding(letters, 24, name="letters"),
            keras.layers.GRU(UNITS, name="recurrent"),
            keras.layers.Dense(32, activation="relu", name="hidden"),
            keras.layers.Dense(2, name="gender"),
        ]
    )


def compiled(model, examples, epochs, rate):
    falling = keras.optimizers.schedules.CosineDecay(rate, epochs * -(-examples // BATCH))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(falling), loss, metrics=["accuracy"])
    return model


def measured(data, seed, fast):
    """Accuracies of one seed."""
    letters, x, y, x_test, y_test = data
    epochs, more = (1, 1) if fast else (EPOCHS, MORE_EPOCHS)

    def accuracy(model):
        return 100 * float(model.evaluate(x_test, y_test, verbose=0)[1])

    def trained(model, count, rate):
        compiled(model, len(x), count, rate)
        model.fit(x, y, BATCH, epochs=count, verbose=0)
        return model

    keras.utils.set_random_seed(seed)
    dense = trained(network(letters), epochs, RATE)
    found = {"dense": accuracy(dense), "parameters": dense.count_params()}
    compiled(dense, len(x), more, RATE / 2)
    for share in PRUNED:
        row = found[str(share)] = {}
        row["one call"] = accuracy(tfprune.prune(dense, share, (x, y)))
        options = {"epochs": more, "batch_size": BATCH}
        small = tfprune.prune(dense, share, (x, y), **options)
        row["one call with epochs"] = accuracy(small)
        criterion = tfprune.criteria.Random(seed)
        random = tfprune.prune(dense, share, (x, y), criterion=criterion, **options)
        row["random with epochs"] = accuracy(random)
        scratch = type(small).from_config(small.get_config())
        row["from scratch"] = accuracy(trained(scratch, epochs + more, RATE))
        found[f"parameters at {share}"] = small.count_params()
        print(seed, share, found["dense"], row, file=sys.stderr, flush=True)
    return found


def show(found):
    """Prints means and deviations."""
    dense = mean_and_deviation([one["dense"] for one in found])
    table = Table(title=f"Accuracy in %, {len(found)} seeds, mean (deviation); dense {dense}")
    table.add_column("units pruned")
    ways = _ways(found)
    for way in ways:
        table.add_column(way, justify="right")
    for place, share in enumerate(PRUNED):
        table.add_row(f"{share:.0%}", *(mean_and_deviation(v[place]) for v in ways.values()))
    Console(width=110).print(table)


def plot(found, path):
    """A bar for each share of units and way."""
    dense = [one["dense"] for one in found]
    ways = {"dense": [dense] * len(PRUNED), **_ways(found)}
    groups = [f"{share:.0%} of the units pruned" for share in PRUNED]
    bars(path, "A GRU on Thai given names", groups, ways, limits=(75, 90))


def _ways(found):
    """By way, for each share the accuracies of all seeds."""
    ways = found[0][str(PRUNED[0])]
    return {way: [[one[str(s)][way] for one in found] for s in PRUNED] for way in ways}


def main():
    """Measures, prints a table, writes JSON and a plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", type=Path, required=True, help="the folder of the two files")
    parser.add_argument("--fast", action="store_true", help="an epoch each, to see that it runs")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--out", type=Path, default=RESULTS / "recurrent_names.json")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    data, found = names(arguments.names), []
    for seed in range(1 if arguments.fast else arguments.seeds):
        keras.backend.clear_session()
        gc.collect()
        found.append(measured(data, seed, arguments.fast))
    show(found)
    plot(found, arguments.out.with_suffix(".png"))
    write(arguments.out, {"epochs": EPOCHS, "more_epochs": MORE_EPOCHS, "seeds": found})


if __name__ == "__main__":
    main()
