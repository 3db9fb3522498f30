"""LeNet-300-100 and LeNet-5 for MNIST, and how the benchmarks of this folder train them."""

import keras
import numpy as np


def lenet_300_100():
    """The MLP 784-300-100-10 of 266,610 parameters, with logits."""
    return keras.Sequential(
        [
            keras.Input((28, 28)),
            keras.layers.Flatten(),
            keras.layers.Dense(300, activation="relu", name="first"),
            keras.layers.Dense(100, activation="relu", name="second"),
            keras.layers.Dense(10, name="logits"),
        ]
    )


def lenet_5():
    """Caffe's LeNet-5, 20-50-500-10, of 431,080 parameters, with logits."""
    return keras.Sequential(
        [
            keras.Input((28, 28)),
            keras.layers.Reshape((28, 28, 1)),
            keras.layers.Conv2D(20, 5, name="conv_1"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(50, 5, name="conv_2"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(500, activation="relu", name="hidden"),
            keras.layers.Dense(10, name="logits"),
        ]
    )


class ShiftedBatches(keras.utils.PyDataset):
    """Batches in a new order each epoch, some of them moved by up to one pixel.

    Args:
        x, y: Arrays of images and targets.
        batch: Integer, the examples in a batch.
        share: Float, how many of the batches are moved, each as a whole.
        seed: Integer.
    """

    def __init__(self, x, y, batch, *, share=0.3, seed=0):
        super().__init__()
        self.padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
        self.y, self.batch, self.share = y, batch, share
        self.rng = np.random.default_rng(seed)
        self.order = self.rng.permutation(len(y))

    def __len__(self):
        return -(-len(self.y) // self.batch)

    def __getitem__(self, index):
        rows = self.order[index * self.batch : (index + 1) * self.batch]
        is_moved = self.rng.random() < self.share
        top, left = self.rng.integers(0, 3, 2) if is_moved else (1, 1)
        return self.padded[rows, top : top + 28, left : left + 28], self.y[rows]

    def on_epoch_end(self):
        """Draws another order."""
        self.order = self.rng.permutation(len(self.y))


def train(model, x, targets, *, epochs, rate, batch=256, sgd=None, shift_seed=None, callbacks=()):
    """Trains a model on one-hot or soft targets; the rate falls to 0 along a cosine.

    The optimizer is Adam, or SGD with the arguments `sgd`. With a `shift_seed` the data are
    `ShiftedBatches`.
    """
    rate = keras.optimizers.schedules.CosineDecay(rate, epochs * -(-len(x) // batch))
    optimizer = keras.optimizers.Adam(rate) if sgd is None else keras.optimizers.SGD(rate, **sgd)
    model.compile(optimizer, keras.losses.CategoricalCrossentropy(from_logits=True))
    data = {"x": x, "y": targets, "batch_size": batch}
    if shift_seed is not None:
        data = {"x": ShiftedBatches(x, targets, batch, seed=shift_seed)}
    return model.fit(**data, epochs=epochs, verbose=0, callbacks=list(callbacks))


def soft_targets(teacher, x, y, *, share=0.7, temperature=2.0):
    """What a student learns: a mixture of the labels and what the dense network says."""
    logits = teacher.predict(x, batch_size=1000, verbose=0) / temperature
    soft = np.exp(logits - logits.max(axis=1, keepdims=True))
    soft /= soft.sum(axis=1, keepdims=True)
    return (share * soft + (1 - share) * np.eye(10)[y]).astype("float32")


def error(model, x, y):
    """The share of wrong answers, in percent."""
    found = model.predict(x, batch_size=1000, verbose=0).argmax(axis=1)
    return 100 * float(np.mean(found != y))
