"""Smaller models of the model's own class: config, cache and presets say the new sizes."""

import gc
import subprocess
import sys
import weakref

import keras
import numpy as np
import pytest

import tfprune
from tests.kerashub_models import BACKBONES, hub, inputs_of, randomise
from tests.stripping.test_kept_classes import assert_same, data

layers, ops = keras.layers, keras.ops

TASKS = {
    "GPT2CausalLM": "GPT2",
    "LlamaCausalLM": "Llama",
    "MistralCausalLM": "Mistral",
    "GemmaCausalLM": "Gemma",
    "Qwen3CausalLM": "Qwen3",
    "QwenMoeCausalLM": "QwenMoe",
    "OPTCausalLM": "OPT",
    "BartSeq2SeqLM": "Bart",
    "BertTextClassifier": "Bert",
    "ViTImageClassifier": "ViT",
}
QUICK = {"LlamaCausalLM"}


def task(name):
    heads = {} if name.endswith("LM") else {"num_classes": 3}
    backbone = BACKBONES[TASKS[name]]()
    made = getattr(hub().models, name)(backbone=backbone, preprocessor=None, **heads)
    return randomise(made)


def masked(model, target=0.5, **arguments):
    masked = tfprune.prunable(model)
    random = tfprune.criteria.Random(seed=0)
    tfprune.prune_units(masked, target, random, selection="same_class", **arguments)
    return masked


def generated(task):
    """Greedy tokens after four given ones, up to a length of 12, and without a cache the same."""
    draw = np.random.default_rng(1)
    tokens = draw.integers(1, 50, (2, 12)).astype("int32")
    given = np.repeat([[1] * 4 + [0] * 8], 2, axis=0).astype("int32")
    inputs = {"token_ids": tokens, "padding_mask": given}
    if "encoder_token_ids" in task.input:
        inputs = {f"decoder_{name}": value for name, value in inputs.items()}
        inputs |= {"encoder_token_ids": tokens, "encoder_padding_mask": np.ones_like(given)}
    task.compile(sampler="greedy")
    found = task.generate(inputs, stop_token_ids=None)
    return np.asarray(found.get("token_ids", found.get("decoder_token_ids")))


def without_cache(task, tokens):
    """The greedy token after each of the tokens, by a call of the whole model."""
    inputs = {"token_ids": tokens, "padding_mask": np.ones_like(tokens)}
    return np.asarray(ops.argmax(task(inputs), axis=-1))


LOADING = """
import sys
import keras_hub, numpy as np
name, folder, file = sys.argv[1:]
given = dict(np.load(file))
task = getattr(keras_hub.models, name).from_preset(folder)
words = given.pop("words", None)
np.save(file.replace(".npz", ".npy"), task(given.get("inputs", given), training=False))
if words is not None:
    task.compile(sampler="greedy")
    print(task.generate([str(words)], max_length=12, stop_token_ids=None)[0])
assert "tfprune" not in sys.modules
"""


def loaded_elsewhere(name, task, x, folder, **more):
    """The outputs of a task from its preset, in a process without tfprune, and what it prints."""
    task.save_to_preset(str(folder / "preset"))
    given = x if isinstance(x, dict) else {"inputs": x}
    np.savez(folder / "x.npz", **given, **more)
    run = [sys.executable, "-c", LOADING, name, folder / "preset", folder / "x.npz"]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return np.load(folder / "x.npy"), done.stdout


def assert_loads_elsewhere(name, task, x, folder, **more):
    found, printed = loaded_elsewhere(name, task, x, folder, **more)
    expected = np.asarray(task(x, training=False))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    return printed


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in TASKS]
)
def test_tasks_generate_and_have_presets(name, tmp_path):
    model = task(name)
    pruned = masked(model)
    small, report = tfprune.strip(pruned, same_class=True, return_report=True)
    assert type(small) is type(model)
    assert report.error < 1e-5
    before, after = model.backbone.get_config(), small.backbone.get_config()
    numbers = [key for key, value in before.items() if isinstance(value, int)]
    changed = {key for key in numbers if before[key] != after[key]}
    assert changed
    assert all(after[key] < before[key] for key in changed)
    if name.endswith("LM"):
        tokens = generated(pruned)
        np.testing.assert_array_equal(generated(small), tokens)
        if "CausalLM" in name:
            found = without_cache(small, tokens)
            np.testing.assert_array_equal(found[:, 3:-1], tokens[:, 4:])
    assert_loads_elsewhere(name, small, inputs_of(model), tmp_path)


def test_a_task_that_reads_text(tmp_path):
    models = hub().models
    words = {word: number for number, word in enumerate(["<|endoftext|>", "\u0120", *"abcdef"])}
    tokenizer = models.GPT2Tokenizer({**words, "ab": len(words)}, ["a b"])
    backbone = models.GPT2Backbone(
        **{"vocabulary_size": 9, "num_layers": 2, "num_heads": 4, "hidden_dim": 32},
        **{"intermediate_dim": 64, "max_sequence_length": 16},
    )
    preprocessor = models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=12)
    model = randomise(models.GPT2CausalLM(backbone, preprocessor))
    model.compile(sampler="greedy")
    model.backbone.get_layer("layer_norm").trainable = False
    pruned = masked(model)
    small = tfprune.strip(pruned, same_class=True)
    assert type(small.sampler) is type(model.sampler)
    assert len(small.trainable_weights) == len(model.trainable_weights) < len(model.weights)
    assert not small.backbone.get_layer("layer_norm").trainable
    written = small.generate(["ab cd"], max_length=12, stop_token_ids=None)
    assert written == pruned.generate(["ab cd"], max_length=12, stop_token_ids=None)
    x = preprocessor.generate_preprocess(["ab cd"])
    printed = assert_loads_elsewhere("GPT2CausalLM", small, dict(x), tmp_path, words="ab cd")
    assert printed.removesuffix("\n") == written[0]
    with pytest.raises(ValueError, match=r"`model.preprocessor` makes them of raw examples"):
        tfprune.prune_units(tfprune.prunable(model), 0.5, "taylor", data=(["ab cd"] * 8,))


class Block(layers.Layer):
    """A transformer block of a user, with its sizes as arguments and a weight of its own."""

    def __init__(self, dim, heads, ff_dim, **kwargs):
        super().__init__(**kwargs)
        self.dim, self.heads, self.ff_dim = dim, heads, ff_dim
        self.attention = layers.MultiHeadAttention(heads, dim // heads)
        self.norms = [layers.LayerNormalization(), layers.LayerNormalization()]
        self.up, self.down = layers.Dense(ff_dim, activation="gelu"), layers.Dense(dim)

    def build(self, shape):
        self.attention.build(shape, shape)
        for norm in self.norms:
            norm.build(shape)
        self.up.build(shape)
        self.down.build((*shape[:-1], self.ff_dim))
        self.positions = self.add_weight(shape=(shape[1], self.dim), name="positions")

    def call(self, x):
        y = self.norms[0](x)
        x = x + self.attention(y, y) + self.positions
        return x + self.down(self.up(self.norms[1](x)))

    def get_config(self):
        sizes = {"dim": self.dim, "heads": self.heads, "ff_dim": self.ff_dim}
        return {**super().get_config(), **sizes}


class Net(keras.Model):
    """A subclassed model with a config."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.first, self.last = layers.Dense(width, name="first"), layers.Dense(2, name="last")
        self.blocks = [Block(width, 4, 2 * width, name=f"block_{n}") for n in range(2)]

    def call(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.last(x)

    def get_config(self):
        return {"width": self.width, "name": self.name}


def functional(ff_dims=(24, 24, 24)):
    inputs = keras.Input((6, 3))
    x = layers.Dense(16, name="patches")(inputs)
    for number, ff_dim in enumerate(ff_dims):
        x = Block(16, 4, ff_dim, name=f"block_{number}")(x)
    x = layers.GlobalAveragePooling1D()(x)
    return randomise(keras.Model(inputs, layers.Dense(2, name="head")(x)))


def subclassed():
    model = Net(16, name="net")
    model(data())
    return randomise(model)


def saved_and_loaded(model, path):
    model.save(path)
    return keras.saving.load_model(path, {"Block": Block, "Net": Net})


def test_numbers_of_users_blocks_become_smaller_together(tmp_path):
    pruned = masked(functional())
    small = tfprune.strip(pruned, same_class=True)
    assert_same(small, pruned, data())
    blocks = [layer for layer in small.layers if isinstance(layer, Block)]
    sizes = {(block.dim, block.heads, block.ff_dim) for block in blocks}
    assert len(blocks) == 3
    assert sizes == {(8, 2, 12)}
    loaded = saved_and_loaded(small, tmp_path / "small.keras")
    np.testing.assert_array_equal(loaded(data()), small(data()))


def test_a_subclassed_model_with_a_config_is_made_again(tmp_path):
    pruned = masked(subclassed())
    small = tfprune.strip(pruned, same_class=True)
    assert type(small) is Net
    assert small.width == 8
    assert_same(small, pruned, data())
    loaded = saved_and_loaded(small, tmp_path / "small.keras")
    np.testing.assert_array_equal(loaded(data()), small(data()))


def test_a_budget_is_met_from_below_by_all_numbers_alike():
    model = functional()
    pruned = masked(model, tfprune.budgets.Parameters(0.4))
    small = tfprune.strip(pruned, same_class=True)
    assert 0.2 * model.count_params() < small.count_params() <= 0.4 * model.count_params()
    with pytest.raises(ValueError, match="cannot be met by a model of the same class"):
        masked(model, tfprune.budgets.Parameters(3))


def test_layers_that_are_excluded_keep_their_numbers():
    model = functional()
    pruned = masked(model, exclude="patches")
    small = tfprune.strip(pruned, same_class=True)
    blocks = [layer for layer in small.layers if isinstance(layer, Block)]
    assert {(block.dim, block.heads, block.ff_dim) for block in blocks} == {(16, 4, 12)}


def test_unequal_blocks_are_refused_by_weight():
    pruned = tfprune.prunable(subclassed())
    name = next(s.name for s in tfprune.explain(pruned).sets if s.units == 32)
    tfprune.prune_units(pruned, units={name: range(8)})
    before = [v.numpy() for v in pruned.variables]
    with pytest.raises(ValueError, match=r"no numbers in its config make these shapes.*kernel"):
        tfprune.strip(pruned, same_class=True)
    for array, variable in zip(before, pruned.variables, strict=True):
        np.testing.assert_array_equal(array, variable)
    assert tfprune.strip(pruned).count_params() < subclassed().count_params()


def test_what_is_known_of_a_model_does_not_keep_it():
    pruned = masked(subclassed())
    known = weakref.ref(pruned)
    del pruned
    gc.collect()
    assert known() is None


def test_classes_of_keras_need_no_class_made_again():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4, name="a"), layers.Dense(2)])
    with pytest.raises(ValueError, match="no class but those of Keras"):
        masked(model)


class Scaled(Net):
    """Multiplies by the root of its width, as Gemma does: a smaller one computes something else."""

    def call(self, x):
        x = self.first(x) * self.width**0.5
        for block in self.blocks:
            x = block(x)
        return self.last(x)


def test_a_class_that_scales_by_its_width_is_refused_with_that_reason():
    model = Scaled(16, name="scaled")
    model(data())
    with pytest.raises(ValueError, match=r"Not width.*computes something else then"):
        masked(randomise(model))


def test_prune_in_one_call_and_training_goes_on():
    model = subclassed()
    model.compile("adam", "mse")
    y = np.zeros((5, 6, 2), "float32")
    model.fit(data(), y, epochs=1, verbose=0)
    small, report = tfprune.prune(
        model, 0.5, (data(), y), selection="same_class", epochs=2, recover=None, return_report=True
    )
    assert type(small) is Net
    assert small.width == 8
    assert int(small.optimizer.iterations) == 3
    assert report.parameters.after == small.count_params()
