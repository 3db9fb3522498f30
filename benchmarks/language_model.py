"""Small language models pruned: perplexity against parameters.

A Llama-like and a GPT-2-like `CausalLM` of KerasHub, of about two million parameters, are trained
on the source text of Python's standard library, byte by byte. Then they lose

* width: heads and the MLP, with `selection="same_class"`; the hidden width, which all blocks share,
  stays, because each unit of it is missed more;
* depth: whole blocks, by block influence;
* both: one block, and the rest by width;
* both in one call, which decides how many blocks go;

until 30 % of the parameters of the blocks are gone. Each is measured without training, and after a
tenth of the training steps with distillation, and beside it a model of the size of the first,
trained from scratch for the same total number of steps. And half of the weights, or two of four,
are pruned in one shot by magnitude, Wanda (within outputs, as in its paper, and within weights) and
SparseGPT.

    python benchmarks/language_model.py [--fast] [--steps N] [--only llama|gpt2] [--keep FOLDER]
                                        [--out FILE]

Needs `keras-hub`.
"""

import argparse
import json
import math
import os
import platform
import sys
import sysconfig
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import keras_hub
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

import tfprune

LENGTH, BATCH, LAYERS, WIDTH = 64, 32, 6, 160
REMOVED, NEAR_DENSE, OF_MAGNITUDE = 0.3, 1.05, 0.5
"""What goes of the blocks, the perplexity that is aimed at, over the dense one, and the rise that
is aimed at with SparseGPT, over that of magnitude."""


CRITERIA = {
    "magnitude": ("magnitude", None),
    "wanda": ("wanda", None),
    "wanda within weights": ("wanda", "unstructured"),
    "sparsegpt": ("sparsegpt", None),
}
"""By label, the criterion and the pattern where single elements are pruned."""


def llama(**changes):
    numbers = {"num_query_heads": 8, "num_key_value_heads": 4, "intermediate_dim": 448}
    return keras_hub.models.LlamaCausalLM(
        backbone=keras_hub.models.LlamaBackbone(**_sizes(numbers, changes)), preprocessor=None
    )


def gpt2(**changes):
    numbers = {"num_heads": 8, "intermediate_dim": 640, "max_sequence_length": LENGTH}
    return keras_hub.models.GPT2CausalLM(
        backbone=keras_hub.models.GPT2Backbone(**_sizes(numbers, changes)), preprocessor=None
    )


def _sizes(numbers, changes):
    sizes = {"vocabulary_size": 256, "num_layers": LAYERS, "hidden_dim": WIDTH}
    return {**sizes, **numbers, "dropout": 0.0, **changes}


def text():
    """The bytes of the standard library, those of one file in ten apart, for validation."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    parts = [np.frombuffer(path.read_bytes(), "uint8") for path in files]
    held_out = np.concatenate(parts[::10])
    return np.concatenate([p for i, p in enumerate(parts) if i % 10]), held_out


def windows(source, count, seed):
    """`(x, y)`: random windows of the text, and for each byte the next."""
    starts = np.random.default_rng(seed).integers(0, len(source) - LENGTH - 1, count)
    rows = source[starts[:, None] + np.arange(LENGTH + 1)].astype("int32")
    tokens = rows[:, :-1]
    return {"token_ids": tokens, "padding_mask": np.ones_like(tokens)}, rows[:, 1:]


def compiled(model, steps, rate=2e-3):
    schedule = keras.optimizers.schedules.CosineDecay(
        rate / 20, steps, alpha=0.02, warmup_target=rate, warmup_steps=max(1, steps // 10)
    )
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=0.01, clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=[],
    )
    return model


def trained(model, source, steps, seed=0):
    x, y = windows(source, steps * BATCH, seed)
    compiled(model, steps).fit(x, y, batch_size=BATCH, epochs=1, shuffle=False, verbose=0)
    return model


def perplexity(model, held_out):
    x, y = windows(held_out, 512, 1)
    logits = tf.cast(model.predict(x, batch_size=BATCH, verbose=0), "float32")
    return float(
        np.exp(
            tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits))
        )
    )


def block_parameters(model):
    backbone = getattr(model, "backbone", model)
    names = ("transformer_layer_",)
    layers = [layer for layer in backbone.layers if layer.name.startswith(names)]
    return sum(layer.count_params() for layer in layers)


def narrower(model, parameters, data, blocks=False):
    """The model of the same class with at most so many parameters."""
    return tfprune.prune(
        model,
        tfprune.budgets.Parameters(int(parameters)),
        data,
        criterion="second_order",
        selection=tfprune.Selection("same_class", blocks=blocks),
        exclude=["token_embedding"],  # and so the hidden width
        recover=(),
    )


def smaller(model, data, goal):
    """Yields names and the model pruned to at most `goal` parameters, by width, depth and both."""
    others = model.count_params() - block_parameters(model)
    yield "width", narrower(model, goal, data)
    count = math.ceil(REMOVED * LAYERS)
    yield "depth", tfprune.prune_blocks(model, count, data=data)
    of_all_blocks = others + (goal - others) * LAYERS / (LAYERS - 1)  # one goes afterwards
    both = narrower(model, of_all_blocks, data)
    yield "width and one block", tfprune.prune_blocks(both, 1, data=data)
    yield "width and depth in one call", narrower(model, goal, data, blocks=True)


def distilled(model, dense, source, steps):
    x, y = windows(source, steps * BATCH, 2)
    model = compiled(model, steps, rate=1e-3)
    return tfprune.distill(model, dense, (x, y), batch_size=BATCH, shuffle=False, verbose=0)


def sparse(model, data, pattern):
    """Yields labels and the model with half of the weights of its blocks, in one shot."""
    for label, (criterion, within) in CRITERIA.items():
        if pattern is not None and within is not None:
            continue
        masked = tfprune.prunable(model)
        tfprune.prune_weights(
            masked,
            0.5,
            criterion,
            pattern=pattern or within,
            data=data,
            exclude=_is_outside_blocks,
        )
        yield label, masked


def _is_outside_blocks(layer, name):
    return "embedding" in layer.name


def measured(make, source, held_out, steps, keep=None):
    start = time.perf_counter()

    def made(name, model, steps):
        """The model trained, or its weights as an earlier run kept them."""
        kept = keep and keep / f"{make.__name__}_{name}_{steps}.weights.h5"
        if kept and kept.exists():
            compiled(model, steps).load_weights(kept)
            return model
        trained(model, source, steps)
        if kept:
            model.save_weights(kept)
        return model

    dense = made("dense", make(), steps)
    data = windows(source, 256, 3)
    rows, total = {}, dense.count_params()
    goal = total - REMOVED * block_parameters(dense)

    def note(name, model):
        value = perplexity(model, held_out)
        rows[name] = {"parameters": model.count_params(), "perplexity": value}
        seconds = time.perf_counter() - start
        print(f"{seconds:6.0f} s  {make.__name__}, {name}: {value:.3f}", file=sys.stderr)

    note("dense", dense)
    for pattern, label in ((None, "50%"), (tfprune.patterns.NM(keep=2, of=4), "2:4")):
        for criterion, model in sparse(dense, data, pattern):
            note(f"{label}, {criterion}", model)
    few, scratch = steps // 10, None
    for name, model in smaller(dense, data, goal):
        scratch = scratch or type(dense).from_config(model.get_config())  # as wide as the first
        note(name, model)
        note(f"{name}, distilled", distilled(model, dense, source, few))
    note("from scratch, as wide", made("scratch", scratch, steps + few))
    return {"steps": steps, "seconds": time.perf_counter() - start, "rows": rows}


def goals(rows):
    """The goals, and whether they are reached."""
    dense = rows["dense"]["perplexity"]
    rise = {name: rows[f"50%, {name}"]["perplexity"] - dense for name in CRITERIA}
    best = min(row["perplexity"] for name, row in rows.items() if name.endswith("distilled"))
    return {
        "rise with SparseGPT over magnitude": (rise["sparsegpt"] / rise["magnitude"], OF_MAGNITUDE),
        "rise with Wanda over magnitude": (rise["wanda"] / rise["magnitude"], 1.0),
        "the same within weights": (rise["wanda within weights"] / rise["magnitude"], 1.0),
        "30 % removed and distilled, over dense": (best / dense, NEAR_DENSE),
        "30 % removed and distilled, over from scratch": (
            best / rows["from scratch, as wide"]["perplexity"],
            1.0,
        ),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="40 steps, to see that it runs")
    parser.add_argument("--steps", type=int, default=1000, help="steps of the dense training")
    parser.add_argument("--only", choices=("llama", "gpt2"), help="one of the two models")
    parser.add_argument("--keep", type=Path, help="folder to keep trained weights in for next time")
    parser.add_argument("--out", type=Path, help="where to write the results as JSON")
    arguments = parser.parse_args()
    steps = 40 if arguments.fast else arguments.steps
    source, held_out = text()
    results = {}
    for make in (llama, gpt2):
        if arguments.only not in (None, make.__name__):
            continue
        keras.utils.set_random_seed(0)
        results[make.__name__] = found = measured(make, source, held_out, steps, arguments.keep)
        found["goals"] = goals(found["rows"])
        table = Table(title=f"{make.__name__}, {steps} steps, {found['seconds']:.0f} s")
        for column in ("", "parameters", "perplexity", "over dense"):
            table.add_column(column, justify="left" if not column else "right")
        dense = found["rows"]["dense"]["perplexity"]
        for name, row in found["rows"].items():
            value = row["perplexity"]
            table.add_row(name, f"{row['parameters']:,}", f"{value:.3f}", f"{value / dense:.3f}")
        for name, (value, most) in found["goals"].items():
            word = "holds" if value <= most else "FAILS"
            table.add_row(name, "", f"{value:.3f}", f"<= {most:g}: {word}")
        Console().print(table)
    if arguments.out:
        about = {"python": platform.python_version(), "processors": os.cpu_count()}
        arguments.out.write_text(json.dumps({"about": about, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
