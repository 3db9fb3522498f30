"""int8 after pruning: measured ranges against training with fake quantisation, on digits.

A small CNN (a residual block with a depthwise convolution, batch norms) loses 60 % of its units and
three quarters of its weights, and is trained on: as it is, or with fake quantisation by
`tfprune.quantize_aware`, the same epochs from the same weights. Both are stripped and written as
int8 LiteRT files. Three seeds; mean and deviation.

    python benchmarks/quantization.py [--seeds N] [--epochs N] [--out FILE]
"""

import argparse
import json
import os
import platform
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from _digits import digits
from rich.console import Console
from rich.table import Table

import tfprune

L = keras.layers
WAYS = ("measured ranges", "quantize_aware")


def network():
    x = keras.Input((8, 8, 1), name="image")
    y = L.Conv2D(16, 3, padding="same", use_bias=False, name="stem")(x)
    y = L.ReLU(name="act")(L.BatchNormalization(name="norm")(y))
    z = L.DepthwiseConv2D(3, padding="same", use_bias=False, name="spatial")(y)
    z = L.ReLU(name="act_2")(L.BatchNormalization(name="norm_2")(z))
    z = L.BatchNormalization(name="norm_3")(L.Conv2D(16, 1, use_bias=False, name="point")(z))
    y = L.Flatten(name="flat")(L.MaxPooling2D(name="pool")(L.ReLU(name="act_3")(y + z)))
    y = L.Dense(32, activation="relu", name="hidden")(y)
    return keras.Model(x, L.Dense(10, name="logits")(y), name="digits")


def compiled(model, rate):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    return model


def litert_outputs(model, x_train, x):
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.tflite"
        tfprune.export(model, path, quantize="int8", representative_data=x_train[:300])
        interpreter = tf.lite.Interpreter(str(path))
        size, (given,) = path.stat().st_size, interpreter.get_input_details()
        interpreter.resize_tensor_input(given["index"], x.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], x)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"]), size


def measured(model, x_train, x, labels):
    """A stripped model beside its int8 file and beside Keras's int8."""
    ours = model.predict(x, verbose=0)
    theirs, size = litert_outputs(model, x_train, x)
    step = np.ptp(ours) / 255  # of the outputs in int8
    model.quantize("int8")
    by_keras = model.predict(x, verbose=0)
    size_of = np.sqrt(np.mean(ours**2))
    return {
        "accuracy": float((ours.argmax(1) == labels).mean()),
        "accuracy in LiteRT": float((theirs.argmax(1) == labels).mean()),
        "accuracy in Keras's int8": float((by_keras.argmax(1) == labels).mean()),
        "error in LiteRT": float(np.sqrt(np.mean((theirs - ours) ** 2)) / size_of),
        "error by rounding outputs alone": float(step / np.sqrt(12) / size_of),
        "other digits in LiteRT": float((theirs.argmax(1) != ours.argmax(1)).mean()),
        "bytes of the file": size,
    }


def run(seed, epochs):
    keras.utils.set_random_seed(seed)
    x_train, y_train, x, labels = digits()
    dense = compiled(network(), 3e-3)
    dense.fit(x_train, y_train, epochs=3 * epochs, batch_size=32, verbose=0)
    masked = tfprune.prunable(dense)
    tfprune.prune_units(masked, 0.6, selection="global")
    tfprune.prune_weights(masked, 0.75)
    compiled(masked, 1e-3).fit(x_train, y_train, epochs=epochs, batch_size=32, verbose=0)
    found = {}
    for way in WAYS:
        if way == "quantize_aware":
            model = tfprune.quantize_aware(masked, (x_train,))
        else:
            model = tfprune.prunable(masked)
        keras.utils.set_random_seed(seed)
        compiled(model, 3e-4).fit(x_train, y_train, epochs=epochs, batch_size=32, verbose=0)
        found[way] = measured(tfprune.strip(model), x_train, x, labels)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--out", default=Path(__file__).parent / "results/quantization.json")
    arguments = parser.parse_args()
    runs = [run(seed, arguments.epochs) for seed in range(arguments.seeds)]
    table = Table("", *WAYS, title="int8 after pruning, digits")
    results = {}
    for name in runs[0][WAYS[0]]:
        cells = []
        for way in WAYS:
            values = np.array([each[way][name] for each in runs], "float64")
            results.setdefault(way, {})[name] = {"mean": values.mean(), "std": values.std()}
            cells.append(f"{values.mean():.4g} ± {values.std():.2g}")
        table.add_row(name, *cells)
    Console(width=100).print(table)
    versions = {"python": platform.python_version(), "tensorflow": tf.__version__}
    versions["keras"] = keras.__version__
    content = {"seeds": arguments.seeds, "epochs": arguments.epochs, **versions, **results}
    Path(arguments.out).write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
