"""What prunable and strip take, and what they give: over Keras's own build of the same model.

Half of the units of well-known architectures are masked at random. Then, in turns within one run:
Keras builds the model, `prunable` copies it, `couple` finds its coupled units, `prune_units` masks
half of them by magnitude, `strip` runs without its check (analysis and rebuild) and with it,
`rebuild` runs alone. `prunable` may take 1.5 times as long as the build, `prune_units` as long as
it, and so may analysis and rebuild, in processor time. The check may take as long as the first
`predict` of the masked and the small model, on as many images; untrained networks are its dearest
case, since their outputs hardly vary, and are compared in double precision. Beside it the peer,
Torch-Pruning, traces an equal ResNet-50 and DenseNet-121 and prunes half of their units at random.

Memory is measured on dense layers with 192 MiB of weights: what a process holds at most, on top of
the model given. `prunable` may take 1.2 times the weights, `strip` what it returns plus half of
the weights.

At last the pay-off: the latency of the small model over the dense one, beside the ratio of MACs.

    python benchmarks/strip.py [--fast] [--out FILE]

Torch and Torch-Pruning come with `pip install 'tfprune[benchmark]'`; without them the peer is left
out.
"""

import argparse
import gc
import json
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from _memory import STATUS, forget_largest, largest_so_far, megabytes, number_of
from _timing import interleaved, ratio
from _torch_peer import PEER, elements, peer_modules, peer_pruner, torch_called
from rich.console import Console
from rich.table import Table

import tfprune
from tfprune.coupling import couple, keeping
from tfprune.coupling.costs import costs
from tfprune.rebuild.convert import without_masks
from tfprune.rebuild.engine import rebuild
from tfprune.stripping.check import check_equal
from tfprune.units.prunable import PrunableUnits
from tfprune.units.scores import UnitScores
from tfprune.units.selection.select_units import select_units

ARCHITECTURES = ("ResNet50", "DenseNet121", "EfficientNetB0", "NASNetMobile", "ConvNeXtTiny")
SIZE = 64
BOUNDS = {"strip without check": 1.0, "prunable": 1.5, "prune_units": 1.0}
CHECK_BOUND = 1.0
IMAGES = 4  # as many as the check makes
WIDTHS = {"wide": [4096] * 4, "deep": [2048] * 13}  # 192 MiB of weights each
MEMORY_BOUNDS = {"prunable": 1.2, "strip": 0.5}
BATCHES = (1, 32)


def build(name):
    make = getattr(keras.applications, name)
    return make(weights=None, input_shape=(SIZE, SIZE, 3))


def masked(name):
    """A model with half of its units masked at random, its coupling, and which units stay."""
    model = tfprune.prunable(build(name))
    units = PrunableUnits(model)
    dead = select_units(units, 0.5, UnitScores(tfprune.criteria.Random(seed=0)))
    units.mask(dead)
    return model, units.coupling, ~dead


# Time and memory ---------------------------------------------------------------------------------


def memory_peak(name, stage):
    """By how many MB a process grows at most, from its imports on, up to a stage of the work.

    A process of its own, because TensorFlow keeps memory for later use: in one where much was done
    before, a stage takes none.
    """
    return number_of(__file__, "--peak", name, stage)


def print_peak(name, stage):
    modules = peer_modules()
    before = largest_so_far()
    if stage.startswith("torch"):
        make, prune, stock, _ = peer_pruner(name, modules, SIZE)
        stock.append(make().eval())
        if stage == "torch-pruning":
            prune()
    elif stage == "build":
        build(name)
    else:
        model, _, _ = masked(name)
        if stage == "strip":
            tfprune.strip(model)
    print(largest_so_far() - before)


def memory_on_top(widths, stage):
    """What a stage takes at most on top of the model given, over the weights of that.

    For `strip`, without what it returns. Memory that is freed goes back to the system at once, so
    that none is used again unseen: TensorFlow keeps it in a pool with oneDNN.
    """
    environment = {"MALLOC_MMAP_THRESHOLD_": "65536", "TF_ENABLE_ONEDNN_OPTS": "0"}
    return number_of(__file__, "--on-top", widths, stage, **environment)


def print_on_top(widths, stage):
    sizes = WIDTHS[widths]
    model = mlp(sizes)
    for weight in model.weights:  # what it was initialised with stays for a while
        weight.assign(np.random.default_rng(0).normal(size=weight.shape))
    tfprune.strip(tfprune.prunable(mlp([8, 8, 8])))  # what is made once
    if stage == "strip":
        model = tfprune.prunable(model)
        tfprune.prune_units(model, 0.5)
    gc.collect()
    forget_largest()
    before = largest_so_far()
    new = getattr(tfprune, stage)(model)
    taken = largest_so_far() - before
    if stage == "strip":
        taken -= megabytes(new)
    print(taken / megabytes(model))


def mlp(sizes):
    inputs = keras.Input((sizes[0],))
    return keras.Sequential([inputs, *(keras.layers.Dense(n, "relu") for n in sizes[1:])])


def work(name, rounds, modules):
    """Times in seconds and peaks of memory in MB of everything that is done to one model."""
    dense, (model, coupling, kept) = build(name), masked(name)
    fresh = [tfprune.prunable(dense) for _ in range(rounds + 1)]
    small = tfprune.strip(model, check=False)
    images = np.random.default_rng(0).normal(size=(IMAGES, SIZE, SIZE, 3)).astype("float32")

    def first_predict():
        for each in (model, small):
            each.predict_function = None
            each.predict(images, verbose=0)

    runs = {
        "build": lambda: build(name),
        "prunable": lambda: tfprune.prunable(dense),
        "couple": lambda: couple(model),
        "rebuild": lambda: rebuild(model, keeping(coupling, kept)),
        "strip without check": lambda: tfprune.strip(model, check=False),
        "strip": lambda: tfprune.strip(model),
        "prune_units": lambda: tfprune.prune_units(fresh.pop(), 0.5),
        "check": lambda: check_equal(model, small),
        "predict": first_predict,
    }
    if modules and name in PEER:
        make, prune, stock, _ = peer_pruner(name, modules, SIZE)
        stock += [make().eval() for _ in range(rounds + 1)]
        assert elements(stock[0]) == model.count_params() == build(name).count_params()
        runs |= {"torch build": lambda: make().eval(), "torch-pruning": prune}
    # Models leave cycles behind; whoever comes next should not pay for collecting them.
    times = interleaved(runs, rounds=rounds, repeats=1, prepare=gc.collect, clock=time.process_time)
    stages = ["build", "mask", "strip"]
    stages += ["torch build", "torch-pruning"] if "torch-pruning" in times else []
    memory = {stage: memory_peak(name, stage) for stage in stages}
    against = {
        key: ratio(times[key], times["torch build" if key == "torch-pruning" else "build"])
        for key in times
        if key not in ("build", "torch build", "check", "predict")
    }
    result = {
        "parameters": int(model.count_params()),
        "seconds": {key: float(np.median(value)) for key, value in times.items()},
        "over_build": against,
        "check_over_predict": ratio(times["check"], times["predict"]),
        "memory_mb": memory,
        "holds": {key: not against[key].exceeds(bound) for key, bound in BOUNDS.items()},
    }
    result["holds"]["check"] = not result["check_over_predict"].exceeds(CHECK_BOUND)
    if "torch-pruning" in times:
        result["over_torch_pruning"] = ratio(times["strip without check"], times["torch-pruning"])
    return result


# Pay-off -----------------------------------------------------------------------------------------


def payoff(name, rounds, modules):
    """Latency of the small model over the dense one, and their MACs."""
    model, _, _ = masked(name)
    dense, small = without_masks(model), tfprune.strip(model)
    macs = [sum(call.macs for call in costs(each)) for each in (dense, small)]
    result = {
        "macs": macs,
        "macs_ratio": macs[1] / macs[0],
        "parameters_ratio": small.count_params() / dense.count_params(),
    }
    runs = {"dense": called(dense), "small": called(small)}
    if modules and name in PEER:
        make, prune, stock, done = peer_pruner(name, modules, SIZE)
        stock.append(make().eval())
        prune()
        runs |= {"torch dense": torch_called(make().eval(), modules[0], SIZE)}
        runs |= {"torch small": torch_called(done[0], modules[0], SIZE)}
        result["torch_parameters_ratio"] = elements(done[0]) / elements(make())
    for batch in BATCHES:
        at_batch = {key: run(batch) for key, run in runs.items()}
        times = interleaved(at_batch, rounds=rounds, repeats=1 if batch > 1 else 4, warm_up=3)
        result[f"latency_{batch}"] = {
            "milliseconds": {key: float(np.median(value) * 1e3) for key, value in times.items()},
            "ratio": ratio(times["small"], times["dense"]),
        }
        if "torch small" in times:
            torch_ratio = ratio(times["torch small"], times["torch dense"])
            result[f"latency_{batch}"]["torch_ratio"] = torch_ratio
    return result


def called(model):
    """For a batch size, a function that calls a model through `tf.function`."""
    traced = tf.function(lambda x: model(x, training=False))

    def at(batch):
        x = tf.random.normal((batch, SIZE, SIZE, 3))
        return lambda: traced(x).numpy()

    return at


# Results -----------------------------------------------------------------------------------------


def work_table(results):
    rows = Table(
        title="Over Keras's own build, in processor time: median of pairs (quartiles); memory: "
        "peak of a process"
    )
    columns = ("prunable", "prune_units", "couple", "rebuild", "strip without check", "strip")
    last = ("check over predict", "MB: build", "mask", "strip")
    for column in ("Model", "build", *columns, *last):
        rows.add_column(column)
    for name, result in results.items():
        against = {key: str(result["over_build"][key]) for key in columns}
        for key, bound in BOUNDS.items():
            against[key] += f" {_said(result['holds'][key], bound)}"
        rows.add_row(
            name,
            f"{result['seconds']['build']:.2f} s",
            *against.values(),
            f"{result['check_over_predict']} {_said(result['holds']['check'], CHECK_BOUND)}",
            *(f"{result['memory_mb'][key]:.0f}" for key in ("build", "mask", "strip")),
        )
    return rows


def memory_table(results):
    rows = Table(title="Memory on top of a model with 192 MiB of weights, over its weights")
    for column in ("Dense layers", "prunable", "strip, without what it returns"):
        rows.add_column(column)
    for widths, result in results.items():
        rows.add_row(
            f"{len(WIDTHS[widths]) - 1} x {WIDTHS[widths][0]}",
            *(f"{result[k]:.2f} {_said(result[k] <= b, b)}" for k, b in MEMORY_BOUNDS.items()),
        )
    return rows


def _said(holds, bound):
    return f"<= {bound:g} holds" if holds else f"<= {bound:g} FAILS"


def peer_table(results):
    rows = Table(title="Analysis and removal, beside Torch-Pruning on an equal model")
    names = ("Model", "tfprune", "Torch-Pruning", "ratio", "over their builds", "MB", "MB torch")
    for column in names:
        rows.add_column(column)
    for name, result in results.items():
        if "over_torch_pruning" in result:
            ours, theirs = "strip without check", "torch-pruning"
            medians = [result["over_build"][key].median for key in (ours, theirs)]
            rows.add_row(
                name,
                f"{result['seconds'][ours]:.2f} s",
                f"{result['seconds'][theirs]:.2f} s",
                str(result["over_torch_pruning"]),
                " / ".join(f"{median:.2f}" for median in medians),
                *(f"{result['memory_mb'][key]:.0f}" for key in ("strip", theirs)),
            )
    return rows


def payoff_table(results):
    rows = Table(title="The small model over the dense one")
    latencies = [f"latency, batch {batch}" for batch in BATCHES]
    for column in ("Model", "parameters", "MACs", *latencies, *(f"torch, {b}" for b in BATCHES)):
        rows.add_column(column)
    for name, result in results.items():
        found = [result[f"latency_{batch}"] for batch in BATCHES]
        rows.add_row(
            name,
            f"{result['parameters_ratio']:.2f}",
            f"{result['macs_ratio']:.2f}",
            *(str(latency["ratio"]) for latency in found),
            *(str(latency.get("torch_ratio", "")) for latency in found),
        )
    return rows


def versions(modules):
    found = {
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "tfprune": tfprune.__version__,
    }
    if modules:
        found |= {"torch": modules[0].__version__, "torch-pruning": modules[1].__version__}
    return {"python": platform.python_version(), "processors": os.cpu_count(), **found}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="few rounds: to see that it runs")
    parser.add_argument("--rounds", type=int, default=9)
    only = "measure these; of others what FILE has stays"
    parser.add_argument("--only", nargs="+", default=ARCHITECTURES, metavar="MODEL", help=only)
    default = Path(__file__).parent / "results" / "strip.json"
    parser.add_argument("--out", type=Path, default=default)
    parser.add_argument("--peak", nargs=2, metavar=("MODEL", "STAGE"), help=argparse.SUPPRESS)
    parser.add_argument("--on-top", nargs=2, metavar=("WIDTHS", "STAGE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print_peak(*arguments.peak)
        return
    if arguments.on_top:
        print_on_top(*arguments.on_top)
        return
    rounds = 2 if arguments.fast else arguments.rounds

    console, modules = Console(width=150), peer_modules()
    content = {
        "machine": versions(modules),
        "rounds": rounds,
        "input_shape": [SIZE, SIZE, 3],
        "bounds": BOUNDS,
        "memory_bounds": MEMORY_BOUNDS,
        "memory_on_top": {},
        "work": {},
        "payoff": {},
    }
    if arguments.only is not ARCHITECTURES and arguments.out.exists():
        before = json.loads(arguments.out.read_text())
        content |= {part: before[part] for part in ("work", "payoff")}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for widths in WIDTHS if STATUS.exists() else ():  # only Linux tells the peak from now on
        with console.status(widths):
            content["memory_on_top"][widths] = {
                stage: memory_on_top(widths, stage) for stage in MEMORY_BOUNDS
            }
    for name in arguments.only:
        with console.status(name):
            content["work"][name] = work(name, rounds, modules)
            content["payoff"][name] = payoff(name, 2 * rounds, modules)
        arguments.out.write_text(json.dumps(content, indent=2, default=asdict) + "\n")
        keras.backend.clear_session()
    measured, paid = (
        {name: content[part][name] for name in arguments.only} for part in ("work", "payoff")
    )
    console.print(work_table(measured))
    console.print(memory_table(content["memory_on_top"]))
    if modules:
        console.print(peer_table(measured))
    console.print(payoff_table(paid))
    console.print(f"Written to {arguments.out}")


if __name__ == "__main__":
    main()
