"""What a run that goes on compares: contents, in another process too, and no names of Keras's."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tfprune.shrinking.fingerprints import of_argument, of_data, of_model, of_training

X = np.arange(24, dtype="float32").reshape(8, 3)


def network(units=4, activation="relu", rate=1e-3, loss="mse"):
    keras.utils.set_random_seed(0)
    hidden = keras.layers.Dense(units, activation)  # named by Keras
    model = keras.Sequential([keras.Input((3,)), hidden, keras.layers.Dense(2)])
    model.compile(keras.optimizers.Adam(rate), loss)
    return model


class Batches(keras.utils.PyDataset):
    def __init__(self, size=4):
        super().__init__()
        self.size = size

    def __len__(self):
        return len(X) // self.size

    def __getitem__(self, index):
        return X[index * self.size : (index + 1) * self.size], None


def test_a_model_that_is_made_again_is_the_same_under_other_names():
    one, other = network(), network()
    assert one.layers[0].name != other.layers[0].name
    assert of_model(one) == of_model(other)
    assert of_training(one) == of_training(other)


@pytest.mark.parametrize("change", [{"units": 5}, {"activation": "tanh"}, {}, {"masks": True}])
def test_another_model_is_another(change):
    model, other = network(), network(**{k: v for k, v in change.items() if k != "masks"})
    if not change:
        other.layers[1].bias.assign_add([0.0, 1e-6])
    if "masks" in change:  # of elements that are zero anyway
        model, other = tfprune.prunable(model), tfprune.prunable(model)
        tfprune.freeze(other, other.layers[1], "bias")
    assert of_model(model) != of_model(other)


def test_another_optimizer_loss_or_step_is_another_training():
    found = {of_training(network(**change)) for change in ({}, {"rate": 0.1}, {"loss": "mae"})}
    trained = network()
    trained.fit(X, X[:, :2], verbose=0)
    assert len(found | {of_training(trained)}) == 4


def test_data_by_values_and_datasets_by_shape_and_length():
    dataset = tf.data.Dataset.from_tensor_slices(X)
    kinds = [
        (X,),
        (X, X),
        (X[:4],),
        (X.astype("float64"),),
        ({"a": X},),
        ({"b": X},),
        (X, None),
        (np.array(["some", "words"], object),),
        (np.array(["other", "words"], object),),
        dataset.batch(2),
        dataset.batch(4),
        Batches(),
        Batches(2),
        None,
    ]
    found = [of_data(data) for data in kinds]
    assert len(set(found)) == len(kinds)
    assert found == [of_data(data) for data in kinds]
    changed = X.copy()
    changed[3, 1] += 1e-3
    assert of_data((changed,)) != of_data((X,)) == of_data((tf.constant(X),))
    assert of_argument((X, X)) == of_data((X, X))


def test_functions_by_their_code():
    def made(by, constant=1):
        return (lambda model: model + by) if constant == 1 else (lambda model: model + by + 2)

    assert of_argument(made(1)) == of_argument(made(1))
    assert of_argument(made(1)) != of_argument(made(1, constant=2))
    assert " at 0x" not in of_argument(keras.callbacks.EarlyStopping())
    assert of_argument(tfprune.criteria.L1(aggregate="max")) != of_argument(tfprune.criteria.L1())
