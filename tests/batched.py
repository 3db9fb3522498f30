"""Data in batches, for what reads arrays in batches of 32."""

import keras
import numpy as np


class Batched(keras.utils.PyDataset):
    """Arrays `(x, y)`, each an array or a list of arrays, in batches of a size, in order."""

    def __init__(self, data, size):
        super().__init__()
        self.data, self.size = data, size

    def __len__(self):
        return -(-len(keras.tree.flatten(self.data[0])[0]) // self.size)

    def __getitem__(self, index):
        part = slice(index * self.size, (index + 1) * self.size)
        return tuple(
            keras.tree.map_structure(lambda a: np.asarray(a)[part], each) for each in self.data
        )


def batched(data, size):
    return Batched([each for each in data if each is not None], size)
