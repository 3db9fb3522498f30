"""scikit-learn's digits, the same 1,200 to train on and 597 to test on in every benchmark."""

import numpy as np
from sklearn.datasets import load_digits


def digits():
    """Training and test images of 8 x 8 pixels, and their labels."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype("float32").reshape(-1, 8, 8, 1)
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[:1200], order[1200:]
    return images[train], labels[train], images[test], labels[test]
