"""What an update of masks takes: global magnitude over a ResNet-50, and at every training step.

One update brings the 25.6 million weights of a ResNet-50 from dense to 80%, ranked together. In
turns within one run: `np.partition` of the same scores (the bound is 2.5 times that), the update
without an optimizer and with the slots of Adam, an update from 50% to 80%, and the peer,
`torch.nn.utils.prune.global_unstructured`, on an equal model. What each needs of memory is measured
in a process of its own. Then a training step of an MLP 784-1024-1024-10 with an update at each step
over the plain step, beside tensorflow-model-optimization (tfmot) over `tf_keras`.

    python benchmarks/mask_update.py [--fast] [--out FILE]

Torch and tfmot come with `pip install 'tfprune[benchmark,tfmot]'`; without them they are left out.
"""

import argparse
import gc
import json
import os
import platform
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from _memory import forget_largest, largest_so_far, number_of
from _timing import interleaved, ratio
from rich.console import Console
from rich.table import Table
from step_overhead import CASES, STEPS_A_TURN, keras_step, tf_keras_step

import tfprune
from tfprune.weights.prunable import select_weights

SPARSITY = 0.8
BOUND = 2.5
STEP_BOUND = 3.0
MLP = CASES[0]
UPDATE_LABELS = {
    "update": "dense to 80%",
    "update with Adam": "dense to 80%, slots of Adam",
    "update again": "50% to 80%",
    "torch": "torch global_unstructured",
}
STEP_PAIRS = {"tfprune": ("updated", "keras"), "tfmot": ("tfmot", "tf_keras")}


# A ResNet-50 -------------------------------------------------------------------------------------


def masked_resnet(optimizer=None):
    keras.utils.set_random_seed(0)
    model = tfprune.prunable(keras.applications.ResNet50(weights=None))
    if optimizer is not None:
        model.compile(optimizer, "mse")
        model.optimizer.build(model.trainable_variables)
    return model


class Resnet:
    """A model, and the way back to where it was before an update."""

    def __init__(self, sparsity_before=0.0, optimizer=None):
        self.model = masked_resnet(optimizer)
        self.weights = select_weights(self.model)
        if sparsity_before:
            tfprune.prune_weights(self.model, sparsity_before, distribution="global")
        self.before = [(w.value.copy(), w.trainable_mask.copy()) for w in self.weights]

    def reset(self):
        for weight, (value, mask) in zip(self.weights, self.before, strict=True):
            tfprune.set_masks(self.model, weight.layer, weight.name, trainable=mask)
            weight.variable.assign(value)

    def update(self):
        counts = tfprune.prune_weights(self.model, SPARSITY, distribution="global")
        assert counts.pruned == round(SPARSITY * counts.elements)


class TorchResnet:
    """The same with torch."""

    def __init__(self):
        import torch
        from torch.nn.utils import prune
        from torch_models import resnet50

        self.prune = prune
        self.parameters = [
            (module, "weight")
            for module in resnet50().modules()
            if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))
        ]
        self.before = [module.weight.detach().clone() for module, _ in self.parameters]

    def reset(self):
        for (module, name), value in zip(self.parameters, self.before, strict=True):
            if self.prune.is_pruned(module):
                self.prune.remove(module, name)
                module.weight.data.copy_(value)

    def update(self):
        method = self.prune.L1Unstructured
        self.prune.global_unstructured(self.parameters, pruning_method=method, amount=SPARSITY)


def subjects():
    """What is updated, by name."""
    found = {
        "update": Resnet(),
        "update with Adam": Resnet(optimizer="adam"),
        "update again": Resnet(sparsity_before=0.5),
    }
    if has("torch"):
        found["torch"] = TorchResnet()
    return found


def has(module):
    try:
        __import__(module)
    except ImportError:
        return False
    return True


def update_of_resnet(rounds):
    """Seconds, ratios and memory of an update of all weights."""
    resnets = subjects()
    scores = np.concatenate([np.abs(value).ravel() for value, _ in resnets["update"].before])
    if "torch" in resnets:
        assert scores.size == sum(value.numel() for value in resnets["torch"].before)
    count = round(SPARSITY * scores.size)

    def prepare():
        for resnet in resnets.values():
            resnet.reset()
        gc.collect()

    runs = {"partition": lambda: np.partition(scores, count)}
    runs |= {name: resnet.update for name, resnet in resnets.items()}
    times = interleaved(runs, rounds=rounds, repeats=1, prepare=prepare)
    over_partition = {name: ratio(times[name], times["partition"]) for name in resnets}
    over_torch = ratio(times["update"], times["torch"]) if "torch" in times else None
    return {
        "elements": int(scores.size),
        "seconds": {name: float(np.median(value)) for name, value in times.items()},
        "over_partition": over_partition,
        "over_torch": over_torch,
        "extra_memory_mb": {name: memory_peak(name) for name in resnets},
        "bound": BOUND,
        "holds": not over_partition["update"].exceeds(BOUND)
        and (over_torch is None or not over_torch.exceeds(1.0)),
    }


def memory_peak(name):
    """By how many MB a process that holds one model grows at most in an update."""
    return number_of(__file__, "--peak", name)


def print_peak(name):
    makers = {
        "update": Resnet,
        "update with Adam": lambda: Resnet(optimizer="adam"),
        "update again": lambda: Resnet(sparsity_before=0.5),
        "torch": TorchResnet,
    }
    resnet = makers[name]()
    gc.collect()
    forget_largest()
    before = largest_so_far()
    resnet.update()
    print(largest_so_far() - before)


# A training step ---------------------------------------------------------------------------------


def updated_steps(rounds):
    """Milliseconds and ratios of training steps with an update each."""
    end = 10 * rounds * STEPS_A_TURN  # rises for as long as is measured
    rising = tfprune.schedules.PolynomialDecay(0.1, 0.9, 0, end, power=1, frequency=1)
    callback = tfprune.callbacks.PruneWeights(rising)
    steps = {
        "keras": keras_step(MLP, keras.layers),
        "updated": keras_step(MLP, tfprune.layers, callback=callback, sparsity=0.0),
    }
    if has("tf_keras") and has("tensorflow_model_optimization"):
        steps["tf_keras"] = tf_keras_step(MLP)
        steps["tfmot"] = tf_keras_step(
            MLP,
            lambda tfmot: tfmot.PolynomialDecay(0.1, 0.9, 0, end, power=1, frequency=1),
        )
    times = interleaved(steps, rounds=rounds, repeats=STEPS_A_TURN, warm_up=2)
    ratios = {
        label: ratio(times[ours], times[stock])
        for label, (ours, stock) in STEP_PAIRS.items()
        if ours in times
    }
    return {
        "milliseconds": {name: float(np.median(t) * 1e3) for name, t in times.items()},
        "ratios": ratios,
        "bound": STEP_BOUND,
        "holds": not ratios["tfprune"].exceeds(STEP_BOUND),
    }


# Results -----------------------------------------------------------------------------------------


def update_table(result):
    elements, partition = result["elements"] / 1e6, result["seconds"]["partition"]
    rows = Table(
        title=f"Global magnitude, {elements:.1f} million weights: median of pairs (quartiles); "
        f"np.partition takes {partition:.3f} s"
    )
    for column in ("Update", "seconds", "over np.partition", "extra MB"):
        rows.add_column(column)
    for name, over in result["over_partition"].items():
        seconds, memory = result["seconds"][name], result["extra_memory_mb"][name]
        rows.add_row(UPDATE_LABELS[name], f"{seconds:.3f}", str(over), f"{memory:.0f}")
    beside = f", over torch {result['over_torch']}" if result["over_torch"] else ""
    rows.caption = f"<= {BOUND:g}{beside}: {'holds' if result['holds'] else 'FAILS'}"
    return rows


def step_table(result):
    rows = Table(title=f"{MLP.name}: a step with an update over the plain step")
    for column in ("", "plain ms", "updated ms", "ratio"):
        rows.add_column(column)
    for label, found in result["ratios"].items():
        ours, stock = (f"{result['milliseconds'][name]:.2f}" for name in STEP_PAIRS[label])
        rows.add_row(label, stock, ours, str(found))
    rows.caption = f"<= {STEP_BOUND:g}: {'holds' if result['holds'] else 'FAILS'}"
    return rows


def versions():
    import importlib.metadata as metadata

    names = ["numpy", "tensorflow", "keras", "tfprune"]
    names += [name for name in ("torch", "tensorflow-model-optimization") if has_package(name)]
    found = {name: metadata.version(name) for name in names if has_package(name)}
    return {"python": platform.python_version(), "processors": os.cpu_count(), **found}


def has_package(name):
    import importlib.metadata as metadata

    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="few rounds: to see that it runs")
    parser.add_argument("--rounds", type=int, default=15)
    default = Path(__file__).parent / "results" / "mask_update.json"
    parser.add_argument("--out", type=Path, default=default)
    parser.add_argument("--peak", metavar="SUBJECT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print_peak(arguments.peak)
        return
    rounds = 3 if arguments.fast else arguments.rounds

    console = Console(width=150)
    with console.status("training steps"):
        step = updated_steps(2 * rounds)
    with console.status("updates of a ResNet-50"):
        update = update_of_resnet(rounds)
    console.print(update_table(update), step_table(step))
    content = {"machine": versions(), "rounds": rounds, "update": update, "step": step}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(content, indent=2, default=asdict) + "\n")
    console.print(f"Written to {arguments.out}")


if __name__ == "__main__":
    main()
