"""Layers that Keras has quantized: what is left of the model is pruned, they stay as they are."""

import keras
import numpy as np
import pytest

import tfprune

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 8)).astype("float32")


class Block(L.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = L.Dense(8, activation="relu", name="first_inside")
        self.fixed = L.Dense(8, name="fixed")

    def build(self, shape):
        self.first.build(shape)
        self.fixed.build((*shape[:-1], 8))

    def call(self, inputs):
        return inputs + self.fixed(self.first(inputs))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.layers_ = [L.Dense(9, activation="relu", name="wide"), L.Dense(8, name="fixed")]
        self.layers_ += [L.Dense(7, activation="relu", name="deep"), L.Dense(3, name="logits")]

    def call(self, inputs):
        for layer in self.layers_:
            inputs = layer(inputs)
        return inputs


def dense(fixed=None):
    layers = [L.Dense(9, activation="relu", name="wide"), fixed or L.Dense(8, name="fixed")]
    layers += [L.Dense(7, activation="relu", name="deep"), L.Dense(3, name="logits")]
    return keras.Sequential([keras.Input((8,)), *layers])


def einsum():
    return dense(L.EinsumDense("ab,bc->ac", 8, bias_axes="c", name="fixed"))


def embedding():
    layers = [L.Embedding(9, 8, name="fixed"), L.GlobalAveragePooling1D(name="mean")]
    layers += [L.Dense(7, activation="relu", name="deep"), L.Dense(3, name="logits")]
    return keras.Sequential([keras.Input((8,), dtype="int32"), *layers])


def attention():
    x = keras.Input((4, 8))
    y = L.MultiHeadAttention(2, 4, name="fixed")(x, x)
    y = L.Dense(7, activation="relu", name="deep")(y)
    return keras.Model(x, L.Dense(3, name="logits")(y))


def block():
    layers = [Block(name="block"), L.Dense(7, activation="relu", name="deep")]
    return keras.Sequential([keras.Input((8,)), *layers, L.Dense(3, name="logits")])


def subclassed():
    model = Subclassed()
    model(X[:1])
    return model


CONFIGS = {
    "gptq": lambda: keras.quantizers.GPTQConfig(None, None, group_size=-1),
    "awq": lambda: keras.quantizers.AWQConfig(None, None, group_size=-1),
}
CASES = {
    **{f"dense, {mode}": (dense, mode) for mode in ("int8", "int4", "float8", "gptq", "awq")},
    "einsum, float8": (einsum, "float8"),
    "embedding, int4": (embedding, "int4"),
    "attention, int8": (attention, "int8"),
    "block, int8": (block, "int8"),
    "block, gptq": (block, "gptq"),
    "subclassed, gptq": (subclassed, "gptq"),
}


def parts(model):
    """The layers of a model, those inside layers too, by their names."""
    return {layer.name: layer for layer in _all(model)}


def _all(layer):
    yield layer
    for part in getattr(layer, "_layers", []):
        yield from _all(part)


def quantized(name):
    make, mode = CASES[name]
    model = make()
    layer = next(v for k, v in parts(model).items() if k.endswith("fixed"))
    for part in layer._layers if make is attention else [layer]:
        if hasattr(part, "kernel") or make is embedding:
            part.quantize(mode, config=CONFIGS.get(mode, lambda: None)())
    return model


def inputs_of(model, count=48):
    tensor = model.inputs[0] if getattr(model, "inputs", None) else keras.Input((8,))
    if tensor.dtype == "int32":
        return RNG.integers(0, 9, (count, *tensor.shape[1:]))
    return RNG.normal(size=(count, *tensor.shape[1:])).astype("float32")


def of_fixed(model):
    """What the quantized layer of a model holds."""
    name = next(k for k in parts(model) if k.endswith("fixed"))
    return [np.asarray(v) for v in parts(model)[name].variables]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", CASES)
def test_the_rest_is_pruned_and_they_stay_as_they_are(name):
    model = quantized(name)
    x, before = inputs_of(model), of_fixed(model)
    masked = tfprune.prunable(model)
    np.testing.assert_array_equal(masked(x), model(x))
    with pytest.warns(UserWarning, match=r"fixed.*: it is quantized \(.*\), which comes after pr"):
        tfprune.prune_units(masked, 0.5, exclude=["first_inside"] if "block" in name else None)
    with pytest.warns(UserWarning, match="it is quantized"):
        tfprune.prune_weights(masked, 0.6)
    outputs = np.array(masked(x))
    small = tfprune.strip(masked)
    np.testing.assert_allclose(small(x), outputs, rtol=1e-4, atol=1e-5)
    assert_same(of_fixed(small), before)
    assert_same(of_fixed(model), before)
    assert parts(small)["deep"].units <= 4
    np.testing.assert_allclose(tfprune.strip(model)(x), model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["dense, float8", "attention, int8", "dense, gptq"])
def test_prune_and_surgery_leave_them(name):
    model = quantized(name)
    x, before = inputs_of(model), of_fixed(model)
    small = tfprune.prune(model, 0.4, (x,))
    assert_same(of_fixed(small), before)
    assert small.count_params() < model.count_params()
    wider = tfprune.surgery.resize(model, {"deep": 11})
    assert_same(of_fixed(wider), before)
    np.testing.assert_allclose(wider(x), model(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="cannot be met.*is quantized.*which comes after pruning"):
        tfprune.surgery.resize(model, {"fixed": 5})


@pytest.mark.parametrize("name", ["dense, int8", "dense, float8", "attention, int8"])
def test_they_are_refused_by_name(name):
    masked = tfprune.prunable(quantized(name))
    for call in (
        lambda: tfprune.prune_units(masked, 0.5, only=["fixed"]),
        lambda: tfprune.prune_weights(masked, 0.5, only=["fixed"]),
        lambda: tfprune.freeze_weights(masked, 0.5, only=["fixed"]),
        lambda: tfprune.set_masks(masked, "fixed", "kernel", trainable=[0]),
    ):
        with pytest.raises(ValueError, match=r"is quantized \(.*\), which comes after pruning"):
            call()
    assert "which comes" in str(tfprune.explain(masked))
    assert "is quantized" in " ".join(tfprune.inspect(masked).notes)


def test_a_model_that_is_quantized_wholly_is_refused():
    model = dense()
    model.quantize("int8")
    for call in (tfprune.prune_units, tfprune.prune_weights):
        with pytest.raises(ValueError, match=r"is quantized \(int8\), which comes after pruning"):
            call(tfprune.prunable(model), 0.5)
    with pytest.raises(ValueError, match="is quantized"):
        tfprune.prune(model, 0.5, (X,))
    with pytest.raises(ValueError, match="no kernels that can be rounded.*is quantized"):
        tfprune.quantize_aware(model)


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_training_leaves_them_as_they_are(mode):
    model = quantized(f"dense, {mode}")
    before = of_fixed(model)
    masked = tfprune.prunable(model)
    masked.compile("adam", "mse")
    callback = tfprune.callbacks.PruneWeights(tfprune.schedules.OneShot(0.5, step=1))
    masked.fit(X, np.zeros((48, 3)), epochs=2, verbose=0, callbacks=[callback])
    kernels = [each for each in of_fixed(masked) if each.dtype == np.int8]
    assert_same(kernels, [each for each in before if each.dtype == np.int8])
    assert tfprune.summary(masked).sparsity > 0.3
