"""A small ResNet on Fashion-MNIST: units pruned by tfprune and by Torch-Pruning.

A network is trained; then 50, 70 and 80 % of its multiply-accumulates go, by `tfprune.prune` in one
call with 2,000 training images, and by Torch-Pruning from the same weights, over all layers
together in small steps, with each of its criteria. Accuracy is measured without training, with the
statistics of batch norms taken anew (which Torch-Pruning leaves to its user), and after two epochs,
by the same optimizer, batches and rates; for tfprune also led by the dense network (`distill`). Of
Torch-Pruning the best criterion of each point counts. Last comes random choice, by tfprune with all
the rest.

    python benchmarks/real/fashion_resnet.py --fashion FOLDER [--fast] [--seeds N] [--out FILE]

Needs `torch` and `torch-pruning`.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # its gradients of strided convolutions fail

import keras
import numpy as np
from _data import FASHION, mnist
from _plots import lines
from _results import RESULTS, mean_and_deviation, write
from rich.console import Console
from rich.table import Table

import tfprune
from tfprune.coupling.costs import total_macs

SEEDS = 5
WIDTHS, BLOCKS = (16, 32, 64), 1
EPOCHS, MORE_EPOCHS, BATCH, RATE = 6, 2, 128, 3e-3
CALIBRATION = 2000
REMAINING = (0.5, 0.3, 0.2)


def resnet():
    """Three stages of a block each; padding is symmetric, as in torch."""
    layers = keras.layers

    def convolved(x, filters, kernel, stride, name):
        if kernel > 1:
            x = layers.ZeroPadding2D(1)(x)
        x = layers.Conv2D(filters, kernel, stride, use_bias=False, name=name)(x)
        return layers.BatchNormalization(epsilon=1e-3, momentum=0.9, name=f"{name}_norm")(x)

    inputs = keras.Input((28, 28, 1))
    x, number = layers.ReLU()(convolved(inputs, WIDTHS[0], 3, 2, "stem")), 0
    for stage, filters in enumerate(WIDTHS):
        for block in range(BLOCKS):
            stride, name = 2 if stage and not block else 1, f"block_{number}"
            y = layers.ReLU()(convolved(x, filters, 3, stride, f"{name}_first"))
            y = convolved(y, filters, 3, 1, f"{name}_second")
            if stride > 1:
                x = convolved(x, filters, 1, stride, f"{name}_skip")
            x, number = layers.ReLU()(layers.Add()([x, y])), number + 1
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, name="head")(x))


def compiled(model, examples, epochs, rate):
    falling = keras.optimizers.schedules.CosineDecay(rate, epochs * -(-examples // BATCH))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(falling), loss)
    return model


def accuracy(model, x, y):
    return 100 * float(np.mean(model.predict(x, batch_size=1000, verbose=0).argmax(1) == y))


def ours(dense, criterion, remaining, x, y, seed):
    """The pruned model of tfprune."""
    keras.utils.set_random_seed(seed)
    calibration = (x[:CALIBRATION], y[:CALIBRATION])
    return tfprune.prune(dense, tfprune.budgets.MACs(remaining), calibration, criterion=criterion)


def measured(arrays, seed):
    """Rows of one seed: by point and method, accuracies."""
    x, y, x_test, y_test = arrays
    keras.utils.set_random_seed(seed)
    dense = compiled(resnet(), len(x), EPOCHS, RATE)
    dense.fit(x, y, BATCH, epochs=EPOCHS, verbose=0)
    found, macs = {"dense": accuracy(dense, x_test, y_test)}, total_macs(dense)
    say(f"seed {seed}, dense {found['dense']:.2f}, {macs:,} multiply-accumulates")
    for remaining in REMAINING:
        rows = found[str(remaining)] = {}
        for name, criterion in {"tfprune": "auto", "random": tfprune.criteria.Random(seed)}.items():
            start = time.perf_counter()
            small = ours(dense, criterion, remaining, x, y, seed)
            row = {"macs": total_macs(small) / macs, "seconds": time.perf_counter() - start}
            row["pruned"] = row["settled"] = accuracy(small, x_test, y_test)
            compiled(small, len(x), MORE_EPOCHS, RATE)
            options = {"batch_size": BATCH, "epochs": MORE_EPOCHS, "verbose": 0}
            led = tfprune.distill(small, dense, (x, y), **options)
            small.fit(x, y, **options)
            row["trained"] = accuracy(small, x_test, y_test)
            row["led"] = accuracy(led, x_test, y_test)
            rows[name] = row
            say(f"  {remaining:.0%} {name}: {row}")
    peer = of_torch_pruning(dense, arrays, seed)
    assert abs(peer["dense"] - found["dense"]) < 0.05
    for remaining in REMAINING:
        rows = peer["rows"][str(remaining)].items()
        rows = {f"Torch-Pruning, {name}": {**row, "led": row["trained"]} for name, row in rows}
        found[str(remaining)].update(rows)
    return found


def of_torch_pruning(dense, arrays, seed):
    """What `_torch_resnet.py` measures, in a process of its own, from the same weights."""
    weights = {
        f"{layer.name}/{w.name}": np.array(w) for layer in dense.layers for w in layer.weights
    }
    settings = {
        "seed": seed,
        "widths": WIDTHS,
        "blocks": BLOCKS,
        "remaining": REMAINING,
        "calibration": CALIBRATION,
        "epochs": MORE_EPOCHS,
        "batch": BATCH,
        "rate": RATE,
    }
    names = ("x", "y", "x_test", "y_test")
    with tempfile.TemporaryDirectory() as folder:
        job, out = (Path(folder) / name for name in ("job.npz", "found.json"))
        np.savez(
            job, settings=json.dumps(settings), **dict(zip(names, arrays, strict=True)), **weights
        )
        script = Path(__file__).with_name("_torch_resnet.py")
        subprocess.run([sys.executable, script, job, out], check=True)
        return json.loads(out.read_text())


def say(line):
    print(line, file=sys.stderr, flush=True)


MEASURES = {
    "pruned": "no training",
    "settled": "no training, norms taken anew",
    "trained": f"{MORE_EPOCHS} epochs",
    "led": f"{MORE_EPOCHS} epochs, of tfprune led by the dense",
}


def best_peer(found, remaining, measure):
    """The criterion of Torch-Pruning with the highest mean, and its values."""
    names = [name for name in found[0][str(remaining)] if name.startswith("Torch-Pruning")]
    values = {n: [one[str(remaining)][n][measure] for one in found] for n in names}
    return max(values.items(), key=lambda item: np.mean(item[1]))


def show(found):
    """Prints means and deviations, and whether tfprune is above."""
    dense = np.mean([one["dense"] for one in found])
    table = Table(title=f"Accuracy in %, {len(found)} seeds, mean (deviation); dense {dense:.2f}")
    for column in ("MACs that remain", "", "tfprune", "random", "best of Torch-Pruning", ""):
        table.add_column(column, justify="left" if not column else "right")
    for remaining in REMAINING:
        for measure, words in MEASURES.items():
            ours, chance = (
                [one[str(remaining)][name][measure] for one in found]
                for name in ("tfprune", "random")
            )
            name, theirs = best_peer(found, remaining, measure)
            cells = list(map(mean_and_deviation, (ours, chance, theirs)))
            above = "above" if np.mean(ours) > np.mean(theirs) else "NOT above"
            cells[2] += f" {name.split(', ')[1]}"
            table.add_row(f"{remaining:.0%}", words, *cells, above)
    Console(width=110).print(table)


def plot(found, path):
    """Accuracy over MACs, without training and after it; of Torch-Pruning the best criterion."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    dense = np.mean([one["dense"] for one in found])
    for axes, measure in zip(figure.subplots(1, 2, sharey=True), ("settled", "led"), strict=True):
        ways = {
            name: [[one[str(r)][name][measure] for one in found] for r in REMAINING]
            for name in ("tfprune", "random")
        }
        peer = [best_peer(found, remaining, measure)[1] for remaining in REMAINING]
        ways["Torch-Pruning, its best criterion"] = peer
        lines(axes, REMAINING, ways, label="MACs that remain", dense=dense)
        axes.set_title(f"a small ResNet on Fashion-MNIST, {MEASURES[measure]}", fontsize="medium")
    axes.set_ylabel("")
    axes.legend()
    figure.savefig(path, dpi=80)


def main():
    """Measures, prints a table, writes JSON and a plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fashion", type=Path, help="the folder of the IDX files")
    parser.add_argument("--fast", action="store_true", help="a tenth of the data, one seed")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--out", type=Path, default=RESULTS / "fashion_resnet.json")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    x, y, x_test, y_test = mnist(arguments.fashion, FASHION)
    if arguments.fast:
        x, y = x[:6000], y[:6000]
    arrays = (x[..., None], y, x_test[..., None], y_test)
    found = []
    for seed in range(1 if arguments.fast else arguments.seeds):
        keras.backend.clear_session()
        gc.collect()
        found.append(measured(arrays, seed))
        content = {
            "settings": {"widths": WIDTHS, "epochs": EPOCHS, "calibration": CALIBRATION},
            "seeds": found,
        }
        write(arguments.out, content)
    show(found)
    plot(found, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
