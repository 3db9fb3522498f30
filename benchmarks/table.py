"""Writes `benchmarks/README.md`: one table of all benchmarks, with the last values measured.

python benchmarks/table.py
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

HERE = Path(__file__).parent
RESULTS, README = HERE / "results", HERE / "README.md"
NOT_PROGRAMS = ("table.py", "torch_models.py")

INTRODUCTION = """# Benchmarks

Each program measures all sides in one run, in turns, and writes what it finds, with the machine, to
`results/`. "x" is a ratio to what is named beside it: the median of pairs. The last values are read
from those files by `python benchmarks/table.py`, which writes this page.

| program | what is measured | bound or goal | last value | peer |
|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Benchmark:
    """A row of the table.

    Attributes:
        program: The path of the program in this folder.
        measures: What is measured.
        bound: What is allowed, or aimed at.
        last: Function of the results, which returns the last value in words; or, where that takes
            more words than fit, where it stands.
        peer: What it is measured beside.
    """

    program: str
    measures: str
    bound: str
    last: Callable | str
    peer: str

    @property
    def row(self):
        path, last = RESULTS / f"{Path(self.program).stem}.json", self.last
        if callable(last):
            last = last(json.loads(path.read_text())) if path.exists() else "not kept"
        name = f"[`{self.program}`]({self.program})"
        return f"| {name} | {self.measures} | {self.bound} | {last} | {self.peer} |\n"


def spread(values, unit="", digits=2):
    """The least and the greatest of some numbers, in words."""
    low, high = (f"{bound(values):.{digits}f}" for bound in (min, max))
    return f"{low}{unit}" if low == high else f"{low} to {high}{unit}"


def _over_build(*calls):
    def last(results):
        works = results["work"].values()
        found = {
            call: [w["over_build"][call]["median"] for w in works if call in w["over_build"]]
            for call in calls
        }
        return "; ".join(f"{call} {spread(values)} x" for call, values in found.items() if values)

    return last


def _strip(results):
    memory = results["memory_on_top"].values()
    words = _over_build("prunable", "prune_units", "strip without check")(results)
    works = results["work"].values()
    checks = [w["check_over_predict"]["median"] for w in works if "check_over_predict" in w]
    taken = ", ".join(
        f"{call} {max(m[call] for m in memory):.2f}" for call in ("prunable", "strip")
    )
    check = f"; the check {spread(checks)} x" if checks else ""
    return f"{words}{check}; memory over the weights: {taken}"


def _step_overhead(results):
    return "; ".join(
        f"{name.split()[0].rstrip(',')} "
        + ", ".join(
            f"{label.removeprefix('tfprune').strip(', ') or 'masked'} {found['median']:.2f} x"
            for label, found in case["ratios"].items()
            if label.startswith("tfprune")
        )
        for name, case in results["cases"].items()
    )


def _mask_update(results):
    update, step = results["update"], results["step"]
    return (
        f"{update['over_partition']['update']['median']:.2f} x `np.partition`; "
        f"a step with an update {step['ratios']['tfprune']['median']:.2f} x a plain one "
        f"(tfmot {step['ratios']['tfmot']['median']:.1f} x)"
    )


def _scale(results):
    return "; ".join(
        f"{kind} {found['fitted']:.2f}, between the two largest models {found['largest']:.2f}"
        for kind, found in results["largest_exponent"].items()
    )


def _accuracies(way):
    def last(results):
        return ", ".join(
            f"{mean(found):.1f} % at {at}" for at, found in results["ways"][way].items()
        )

    return last


def _sparse_accuracy(results):
    return "; ".join(
        f"{name.split()[0]}, gradual magnitude at 90 %: {found['gradual']['0.9']['mean']:.1%}"
        for name, found in results["networks"].items()
    )


def _unit_pruning(results):
    return "; ".join(
        f"{name} at {points[1]['macs']:.2f} of the MACs: {points[1]['latency']:.2f} of the latency"
        for name, points in results["latency"].items()
    )


def _language_model(results):
    return "; ".join(
        f"{name}: rise at 50 % with SparseGPT {found['goals'][_RISE][0]:.2f} x that of magnitude"
        for name, found in results["results"].items()
    )


_RISE = "rise with SparseGPT over magnitude"


def _recovery(results):
    def at_half(network, method):
        return network["0.5"]["methods"][method]["mean"]

    return "; ".join(
        f"{name.split()[0]} {at_half(n, 'nothing'):.1%}, after `reconstruct` "
        f"{at_half(n, 'reconstruct'):.1%}"
        for name, n in results["networks"].items()
    )


def _names(results):
    def of_seeds(way):
        return mean(seed["0.5"][way] for seed in results["seeds"])

    dense = mean(seed["dense"] for seed in results["seeds"])
    ways = {"in one call": of_seeds("one call"), "with epochs": of_seeds("one call with epochs")}
    return ", ".join(f"{way} {found:.1f} %" for way, found in {**ways, "dense": dense}.items())


def _quantization(results):
    ways = ("measured ranges", "quantize_aware")
    return "; ".join(f"{w} {results[w]['accuracy in LiteRT']['mean']:.1%}" for w in ways)


def _errors(results):
    return "; ".join(
        f"{task['network']} / {times}: {task['means']['dynamic surgery']['error']:.2f} %"
        for times, task in results["tasks"].items()
    )


BENCHMARKS = (
    Benchmark(
        "strip.py",
        "`prunable`, `prune_units` without data, `strip` without its check, over Keras's build; "
        "the check over a first `predict` of both models; memory; latency gained",
        "1.5 x, 1 x, 1 x (goal 0.7); 1 x; 1.2 and 0.5 of the weights",
        _strip,
        "Torch-Pruning on ResNet-50 and DenseNet-121",
    ),
    Benchmark(
        "scale.py",
        "exponents of time and peak memory of `prunable`, `explain`, `prune_units`, `strip` and "
        "`export` against the size of a model: 1 to 350 million parameters, 10 to 1,000 layers",
        "1.1",
        _scale,
        "Keras's build",
    ),
    Benchmark(
        "step_overhead.py",
        "a training step with masks over the stock one",
        "MLP 1.15 x (goal 1.05), CNN 1.05 x (goal 1.02), none above tfmot's; StraightThrough: "
        "goal 1.5 x",
        _step_overhead,
        "Keras; tfmot on tf_keras",
    ),
    Benchmark(
        "mask_update.py",
        "an update of all masks: of a ResNet-50 over `np.partition`, and of an MLP at each step",
        "2.5 x; 3 x (goal 2)",
        _mask_update,
        "tfmot, `torch.nn.utils.prune`",
    ),
    Benchmark(
        "shrink_while_training.py",
        "`fit_and_shrink` to a fifth of the MACs in four stages, wall time over masks alone",
        "0.6 x (goal 0.5)",
        lambda r: f"{r['ratio']['median']:.2f} x, processor {r['processor_ratio']['median']:.2f} x",
        "masks alone",
    ),
    Benchmark(
        "surgery.py",
        "edits of a network over Keras's build",
        "1 x for an edit",
        _over_build("shrink", "grow", "insert", "remove", "plan of four"),
        "Keras's build",
    ),
    Benchmark(
        "recovery_cost.py",
        "`recalibrate` and `reconstruct` over one `predict`, for each group of layers",
        "5 x a group",
        lambda r: "; ".join(f"{n} {m['ratio_for_a_group']:.1f} x" for n, m in r["methods"].items()),
        "`predict`",
    ),
    Benchmark(
        "digits_sweep.py",
        "the digits experiment as one program: how many times as long `fit` takes",
        "at least 20 x",
        lambda r: f"{r['times_as_long']['fit']['median']:.0f} x",
        "`fit`",
    ),
    Benchmark(
        "gallery.py",
        "known models at half of their units: parameters, MACs, latency where they ship",
        "none",
        "not measured yet",
        "the dense models",
    ),
    Benchmark(
        "latency_budget.py",
        "a budget of half of the latency: speed by MACs, importance kept",
        "0.8 of the speed that MACs promise; more importance than by MACs",
        "not measured yet",
        "a budget of MACs that is searched until it is as fast",
    ),
    Benchmark(
        "sparse_litert.py",
        "the sparsity from which sparse kernels of LiteRT are faster",
        "none",
        lambda r: spread([p["sparsity"] for p in r["break_even"] if p["sparsity"] is not None]),
        "dense kernels of LiteRT",
    ),
    Benchmark(
        "one_shot.py",
        "memory, time and gain of SparseGPT on 500 MiB of decoder blocks",
        "1.3 x the weights",
        lambda r: f"{r['results']['sparsegpt']['over_weights']:.2f} x",
        "magnitude",
    ),
    Benchmark(
        "unit_pruning.py",
        "accuracy over the MACs that remain for each criterion, and latency",
        "none",
        _unit_pruning,
        "random choice",
    ),
    Benchmark(
        "sparse_accuracy.py",
        "accuracy over sparsity for each algorithm on digits",
        "none",
        _sparse_accuracy,
        "tfmot, random choice",
    ),
    Benchmark(
        "recovery.py",
        "accuracy after half of the MACs went in one shot, with each way to bring it back",
        "none",
        _recovery,
        "fine-tuning",
    ),
    Benchmark(
        "contribution_weight.py",
        "the weight `ActivationContribution` gives to new values, by what its choice costs",
        "none",
        lambda r: f"on XOR {r['0.3']['within_1e-5']:.0%} of networks unchanged with 0.3",
        "other weights",
    ),
    Benchmark(
        "language_model.py",
        "perplexity of small language models against parameters",
        "none",
        _language_model,
        "magnitude, training from scratch",
    ),
    Benchmark(
        "quantization.py",
        "accuracy of int8 LiteRT files after pruning",
        "none",
        _quantization,
        "measured ranges",
    ),
    Benchmark(
        "real/lenet_units.py",
        "LeNet-300-100 on MNIST, share of the units left in one call without labels",
        "94.5 % at 0.2, 87.5 % at 0.1, 66 % at 0.05",
        _accuracies("default"),
        "the criteria before, random choice",
    ),
    Benchmark(
        "real/lenet5_units.py",
        "error of LeNet-5 on MNIST at a tenth of the MACs, by L0 gates",
        "1 %",
        lambda r: (
            f"{r['means']['L0']['error']:.2f} % at {r['means']['L0']['macs']:.3f} of the MACs"
        ),
        "`prune`, random choice",
    ),
    Benchmark(
        "real/lenet_weights.py",
        "error of LeNets on MNIST with 12, 56 and 108 times fewer parameters",
        "the dense error; 2 %; 0.95 %",
        _errors,
        "gradual magnitude",
    ),
    Benchmark(
        "real/mlpnet_weights.py",
        "MLPNet on MNIST at a sparsity in one call without training",
        "none",
        _accuracies("obc"),
        "SparseGPT, second order, magnitude",
    ),
    Benchmark(
        "real/pretrained.py",
        "agreement of trained networks of others with the dense, at half of the MACs, no labels",
        "95 %",
        lambda r: "; ".join(f"{n} {f['default']['all']:.1f} %" for n, f in r["networks"].items()),
        "random choice",
    ),
    Benchmark(
        "real/recurrent_names.py",
        "accuracy of a GRU on names without half of its units",
        "none",
        _names,
        "random choice, training from scratch",
    ),
    Benchmark(
        "real/fashion_resnet.py",
        "a ResNet on Fashion-MNIST without 50, 70 and 80 % of its MACs",
        "above Torch-Pruning's",
        "not measured yet",
        "Torch-Pruning",
    ),
)


def page():
    """The text of the README."""
    return INTRODUCTION + "".join(benchmark.row for benchmark in BENCHMARKS)


if __name__ == "__main__":
    README.write_text(page())
