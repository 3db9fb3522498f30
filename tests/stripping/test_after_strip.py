"""What comes after strip: training, files, a served model, pruning again."""

import keras
import numpy as np
import tensorflow as tf

import tfprune
from tests.stripping.whole_models import assert_same_outputs, kernel, pruned, samples

layers = keras.layers


class TestWhatComesAfter:
    def classifier(self):
        inputs = keras.Input((6,), name="x")
        x = layers.Dense(8, activation="relu", name="one")(inputs)
        x = layers.BatchNormalization(name="norm")(x)
        x = x + layers.Dense(8, activation="relu", name="two")(x)
        outputs = {"a": layers.Dense(2, name="a")(x), "b": layers.Dense(3, name="b")(x)}
        return pruned(
            inputs,
            outputs,
            optimizer=keras.optimizers.Adam(0.01),
            loss={"a": "mse", "b": "mae"},
            loss_weights={"a": 1.0, "b": 0.5},
            metrics={"a": ["mae"]},
        )

    def test_training_goes_on_step_by_step_as_it_would_have(self):
        model = self.classifier()
        draw = np.random.default_rng(0)
        x = draw.normal(size=(32, 6)).astype("float32")
        y = {"a": draw.normal(size=(32, 2)), "b": draw.normal(size=(32, 3))}
        model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
        small = tfprune.strip(model)
        assert int(small.optimizer.iterations) == 8
        ours = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0).history
        theirs = small.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0).history
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4)
        assert_same_outputs(model, small, 1e-4)

    def test_json_and_back(self):
        small = tfprune.strip(self.classifier())
        again = keras.models.model_from_json(small.to_json())
        again.set_weights(small.get_weights())
        assert_same_outputs(small, again, 0)

    def test_saved_files_keep_the_compile_state_and_train_on(self, tmp_path):
        model = self.classifier()
        x = samples(model)
        y = {"a": np.ones((3, 2)), "b": np.ones((3, 3))}
        model.train_on_batch(x, y)
        small = tfprune.strip(model)
        small.save(tmp_path / "small.keras")
        loaded = keras.models.load_model(tmp_path / "small.keras")
        assert_same_outputs(small, loaded, 0)
        for _ in range(2):
            np.testing.assert_allclose(small.train_on_batch(x, y), loaded.train_on_batch(x, y))

    def test_a_saved_model_serves_the_same(self, tmp_path):
        small = tfprune.strip(self.classifier())
        served = tf.saved_model.load(tfprune.export(small, tmp_path / "served"))
        x = samples(small)
        for name, value in small(x).items():
            np.testing.assert_allclose(served.serve(x)[name], value, rtol=1e-5, atol=1e-6)

    def test_a_stripped_model_can_be_pruned_and_stripped_again(self):
        small = tfprune.strip(self.classifier())
        model = tfprune.prunable(small)
        tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=1))
        smaller = tfprune.strip(model)
        assert kernel(smaller, "one") == (6, 2)
        assert_same_outputs(model, smaller)
