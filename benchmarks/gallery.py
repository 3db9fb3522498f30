"""What half of the units less makes of models that people know: writes `docs/gallery.md`.

Each model is built with random weights, half of its units go in every layer, in multiples of 8, by
their L2 norm, and the small model is measured beside the whole one: parameters,
multiply-accumulates, and latency on LiteRT with one thread (`keras.applications`, images of
160 x 160) or of the Keras call (KerasHub, 128 tokens or an image), batches of one.

    python benchmarks/gallery.py [--fast] [--out FILE]

KerasHub comes with `pip install 'tfprune[test]'`; without it its models are left out.
"""

import argparse
import gc
import json
import os
import platform
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.progress import track
from rich.table import Table

import tfprune
from tfprune.coupling.costs import total_macs
from tfprune.measuring.latency import latency

SIZE, LENGTH = 160, 128
APPLICATIONS = (
    *("ConvNeXtTiny", "DenseNet121", "EfficientNetB0", "EfficientNetV2B0", "InceptionV3"),
    *("MobileNet", "MobileNetV2", "MobileNetV3Small", "NASNetMobile", "ResNet50", "VGG16"),
    "Xception",
)
PAGE = Path(__file__).parents[1] / "docs" / "gallery.md"
RESULTS = Path(__file__).parent / "results" / "gallery.json"
INTRODUCTION = """\
# Models that people know, at half of their units

Half of the units of every layer, in multiples of 8, by their L2 norm, taken from models with
random weights; `strip` then compared what is left with the masked model. What remains of
parameters, multiply-accumulates and latency, measured side by side by `benchmarks/gallery.py`
(two cores, batches of one; the latency of images of 160 x 160 on LiteRT with one thread, of
KerasHub that of the Keras call with {length} tokens or one image).

"""


def of_keras_hub():
    """Builders of backbones of a few tens of millions of parameters, by name; none without it."""
    try:
        from keras_hub import models
    except ImportError:
        return {}
    text = {"vocabulary_size": 8000, "num_layers": 6, "hidden_dim": 384, "intermediate_dim": 1536}
    heads = {"num_heads": 6, "max_sequence_length": LENGTH}
    grouped = {"num_query_heads": 6, "num_key_value_heads": 2}
    image = {"image_shape": (SIZE, SIZE, 3), "patch_size": 16, "num_layers": 6, "num_heads": 6}
    return {
        "BERT": lambda: models.BertBackbone(**text, **heads),
        "GPT-2": lambda: models.GPT2Backbone(**text, **heads),
        "Llama": lambda: models.LlamaBackbone(**text, **grouped),
        "Gemma": lambda: models.GemmaBackbone(**text, **grouped, head_dim=64),
        "ViT": lambda: models.ViTBackbone(**image, hidden_dim=384, mlp_dim=1536),
    }


def application(name):
    """A builder of a model of `keras.applications`."""
    make = getattr(keras.applications, name)
    return lambda: make(weights=None, input_shape=(SIZE, SIZE, 3))


def measured(name, make, runtime):
    """A row of the table."""
    keras.utils.set_random_seed(0)
    model = make()
    masked = tfprune.prunable(model)
    tfprune.prune_units(masked, 0.5, "l2", selection=tfprune.Selection("uniform", round_to=8))
    small, report = tfprune.strip(masked, return_report=True)
    shapes = None
    if any(None in tensor.shape[1:] for tensor in keras.tree.flatten(model.inputs)):
        shapes = {tensor.name: (LENGTH,) for tensor in keras.tree.flatten(model.inputs)}
    macs = [total_macs(each, shapes) for each in (model, small)]
    seconds = latency([model, small], 1, shapes, runtime=runtime)
    return {
        "name": name,
        "parameters": [model.count_params(), small.count_params()],
        "macs": macs,
        "milliseconds": [1000 * each for each in seconds],
        "error": report.error,
    }


def table_of(rows):
    """The Markdown table of the page."""
    lines = [
        "| | parameters | MACs | ms | share of the latency |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        parameters, macs = (
            " → ".join(f"{number / scale:.3g} {unit}" for number in row[key])
            for key, scale, unit in (("parameters", 1e6, "M"), ("macs", 1e6, "M"))
        )
        before, after = row["milliseconds"]
        lines.append(
            f"| {row['name']} | {parameters} | {macs} | {before:.3g} → {after:.3g} "
            f"| {after / before:.2f} |"
        )
    return "\n".join(lines) + "\n"


def show(rows):
    """Prints the table."""
    table = Table(title="Half of the units less: what remains", title_justify="left")
    for column in ("", "parameters", "MACs", "latency", "error"):
        table.add_column(column, justify="left" if not column else "right")
    for row in rows:
        shares = [row[key][1] / row[key][0] for key in ("parameters", "macs", "milliseconds")]
        error = "not compared" if row["error"] is None else f"{row['error']:.1e}"
        table.add_row(row["name"], *(f"{share:.2f}" for share in shares), error)
    Console().print(table)


def main():
    """Measures, prints, and writes the page and the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="two models, and no page")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    makers = {name: (application(name), "litert") for name in APPLICATIONS}
    makers.update({f"{name} (KerasHub)": (make, "keras") for name, make in of_keras_hub().items()})
    if arguments.fast:
        makers = {name: makers[name] for name in ("MobileNetV2", "MobileNetV3Small")}
    rows = []
    for name, (make, runtime) in track(makers.items(), "Pruning"):
        keras.backend.clear_session()
        gc.collect()
        rows.append(measured(name, make, runtime))
    show(rows)
    machine = {
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
    }
    arguments.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    if not arguments.fast:
        PAGE.write_text(INTRODUCTION.format(length=LENGTH) + table_of(rows), "utf-8")


if __name__ == "__main__":
    main()
