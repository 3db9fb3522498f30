"""Keras's `model.quantize` on what `strip` returns: it computes the same, and zeros stay zeros."""

import keras
import numpy as np
import pytest

import tfprune

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 16)).astype("float32")


def mlp():
    layers = [
        L.Dense(32, activation="relu", name="wide"),
        L.Dense(24, activation="relu", name="deep"),
    ]
    return keras.Sequential([keras.Input((16,)), *layers, L.Dense(3, name="logits")])


PATTERNS = {"single elements": None, "2:4": tfprune.patterns.NM(keep=2, of=4)}


def stripped(pattern):
    masked = tfprune.prunable(mlp())
    if pattern is None:
        tfprune.prune_units(masked, 0.25)
    sparsity = 0.7 if pattern is None else 0.5
    tfprune.prune_weights(masked, sparsity, pattern=pattern, only=["wide", "deep"])
    return tfprune.strip(masked)


def by_hand(layers, inputs):
    """int8 as Keras computes it: inputs rounded for each example, kernels for each channel."""
    for kernel, bias, is_last in layers:
        kernel_step = np.abs(kernel).max(axis=0) / 127
        input_step = np.abs(inputs).max(axis=-1, keepdims=True) / 127
        integers = np.round(inputs / np.maximum(input_step, 1e-12)) @ np.round(kernel / kernel_step)
        outputs = integers * input_step * kernel_step + bias
        inputs = outputs if is_last else np.maximum(outputs, 0)
    return inputs


@pytest.mark.parametrize("pattern", PATTERNS)
def test_int8_is_what_rounding_by_hand_gives_and_keeps_zeros(pattern):
    small = stripped(PATTERNS[pattern])
    before, plain = [np.array(layer.kernel) for layer in small.layers], np.array(small(X))
    biases = [np.array(layer.bias) for layer in small.layers]
    size = sum(weight.nbytes for weight in before)
    small.quantize("int8")
    expected = by_hand(list(zip(before, biases, [False, False, True], strict=True)), X)
    np.testing.assert_allclose(small(X), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    assert 0 < np.abs(small(X) - plain).max() < 0.05 * np.ptp(plain)
    for layer, kernel in zip(small.layers, before, strict=True):
        stored = np.asarray(layer._kernel)
        assert stored.dtype == np.int8 and (stored[kernel == 0] == 0).all()
        assert (kernel == 0).mean() > 0.25 or layer.name == "logits"
    assert 4 * sum(np.asarray(layer._kernel).nbytes for layer in small.layers) == size
    if pattern == "2:4":
        for layer in small.layers[:2]:
            groups = np.asarray(layer._kernel)
            groups = groups[: len(groups) // 4 * 4].reshape(-1, 4, groups.shape[1])
            assert ((groups != 0).sum(axis=1) <= 2).all()


def test_a_quantized_model_is_saved_and_loaded(tmp_path):
    small = stripped(None)
    small.quantize("int8")
    small.save(tmp_path / "small.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "small.keras")(X), small(X))
    path = tfprune.export(small, tmp_path / "saved")
    assert path.is_dir()


class Language(keras.Model):
    """What Keras's GPTQ takes: a model of tokens that tells its blocks."""

    def __init__(self):
        super().__init__()
        self.table = L.Embedding(20, 16, name="table")
        self.blocks = [Block(name=f"block_{i}") for i in range(2)]
        self.head = L.Dense(20, name="head")

    def call(self, inputs):
        x = self.table(inputs)
        for block in self.blocks:
            x = block(x)
        return self.head(x)

    def get_quantization_layer_structure(self, mode):
        return {"pre_block_layers": [self.table], "sequential_blocks": self.blocks}


class Block(L.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.wide = L.Dense(32, activation="relu", name="wide")
        self.narrow = L.Dense(16, name="narrow")

    def build(self, shape):
        self.wide.build(shape)
        self.narrow.build((*shape[:-1], 32))

    def call(self, inputs):
        return inputs + self.narrow(self.wide(inputs))


@pytest.mark.parametrize("symmetric", [True, False])
def test_gptq_follows_strip(symmetric):
    model, tokens = Language(), RNG.integers(0, 20, (64, 12))
    model(tokens[:1])
    masked = tfprune.prunable(model)
    tfprune.prune_units(masked, 0.5, only=lambda layer: layer.name == "wide")
    tfprune.prune_weights(masked, 0.75, only=lambda layer, name: "narrow" in layer.name)
    small = tfprune.strip(masked, custom_layers="keep")
    assert [block.wide.units for block in small.blocks] == [16, 16]
    plain = np.array(small(tokens))
    config = keras.quantizers.GPTQConfig(
        dataset=list(tokens), tokenizer=object(), weight_bits=8, num_samples=16,
        sequence_length=12, group_size=-1, symmetric=symmetric,
    )  # fmt: skip
    zeros = [np.asarray(block.narrow.kernel) == 0 for block in small.blocks]
    small.quantize("gptq", config=config, filters=["wide", "narrow"])
    assert small.blocks[0].wide.quantization_mode == "gptq"
    assert 0 < np.abs(small(tokens) - plain).max() < 0.05 * np.ptp(plain)
    for block, zero in zip(small.blocks, zeros, strict=True):  # 0 is one of the integers
        layer = block.narrow
        scale, place = (np.asarray(x, "float64").T for x in (layer.kernel_scale, layer.kernel_zero))
        kernel = (np.asarray(layer.quantized_kernel, "float64").T - place) * scale
        assert zero.mean() > 0.4 and not kernel[zero].any()
