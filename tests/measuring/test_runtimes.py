"""Every runtime takes the same models; what a runtime has not is refused."""

import sys

import keras
import numpy as np
import pytest

import tfprune
from tfprune import budgets
from tfprune.measuring import runtimes
from tfprune.measuring.latency import latency
from tfprune.measuring.runtimes import inference

L = keras.layers


def two_inputs():
    image, text = keras.Input((None, None, 3), name="image"), keras.Input((4,), name="text")
    x = L.GlobalAveragePooling2D()(L.Conv2D(6, 3)(image))
    return keras.Model({"image": image, "text": text}, [L.Dense(2)(L.Concatenate()([x, text])), x])


@pytest.fixture(scope="module")
def model():
    return two_inputs()


@pytest.mark.parametrize("runtime", runtimes.NAMES)
def test_a_model_of_several_dynamic_inputs_runs_in_each_runtime(model, runtime):
    sizes = {"image": (9, 8, 3), "text": (4,)}
    assert latency([model], 3, sizes, runtime=runtime)[0] > 0


@pytest.mark.parametrize("runtime", runtimes.NAMES)
def test_a_dynamic_size_that_is_not_given_is_refused_in_each_runtime(model, runtime):
    with pytest.raises(ValueError, match="`input_shapes` must be given"):
        inference(model, runtime=runtime)


@pytest.mark.parametrize("runtime", ["saved_model", "litert", "onnx"])
def test_what_runs_computes_what_the_model_computes(model, runtime):
    inputs = runtimes._inputs(model, 3, {"image": (9, 8, 3), "text": (4,)})
    arrays = {name: np.asarray(value) for name, value in inputs.items()}
    found = runtimes._exported(model, inputs, 3, runtime, 2, None).run(arrays)
    expected = [np.asarray(each) for each in model(inputs, training=False)]
    pairs = zip(*(sorted(each, key=np.size) for each in (found.values(), expected)), strict=True)
    for theirs, ours in pairs:
        np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("quantize", ["float16", "dynamic", "int8"])
def test_weights_are_stored_as_asked(quantize):
    model = keras.Sequential([keras.Input((64,)), L.Dense(256)])
    inputs = runtimes._inputs(model, 1, None)
    plain, small = (
        runtimes.litert.converted(model, how, inputs, batch_size=1) for how in (None, quantize)
    )
    assert len(small) < 0.75 * len(plain)
    inference(model, runtime="litert", quantize=quantize)()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"runtime": "tflite"}, r"`runtime` must be one of .*'litert'"),
        ({"runtime": "keras", "threads": 1}, "one pool of threads in a process"),
        ({"runtime": "saved_model", "threads": 2}, "one pool of threads in a process"),
        ({"runtime": "litert", "threads": 0}, "`threads` must be an integer of at least 1"),
        ({"runtime": "litert", "quantize": "int4"}, "`quantize` must be one of"),
        ({"runtime": "onnx", "quantize": "int8"}, "`quantize` must be None but for LiteRT"),
    ],
)
def test_what_a_runtime_has_not_is_refused(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        budgets.Latency(1.0, **arguments)
    with pytest.raises(ValueError, match=message):
        tfprune.compare(model, model, **arguments)


def test_a_runtime_that_is_not_installed_is_refused_before_any_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    model = tfprune.prunable(keras.Sequential([keras.Input((4,)), L.Dense(4), L.Dense(2)]))
    budget = budgets.Latency(1.0, runtime="onnx")
    with pytest.raises(
        ImportError, match=r"`runtime='onnx'` needs .*pip install 'tfprune\[onnx\]'"
    ):
        tfprune.prune_units(model, budget)
    assert not any(count.pruned for count in tfprune.prune_units(model, 0.0))


def test_a_budget_is_met_in_the_runtime_that_it_names():
    model = keras.Sequential([keras.Input((8,)), L.Dense(6, name="a"), L.Dense(2)])
    budget = budgets.Latency(1000.0, runtime="litert")
    small = tfprune.prune(model, budget, criterion="magnitude", recover=None)
    assert small.get_layer("a").units == 6
    with pytest.raises(budgets.UnmetError, match="in LiteRT"):
        tfprune.prune(model, budgets.Latency(1e-7, runtime="litert"), criterion="magnitude")


def test_latency_is_compared_in_the_runtime_that_is_named():
    model = keras.Sequential([keras.Input((8,)), L.Dense(6)])
    found = tfprune.compare(model, model, runtime="litert", threads=1, batch_sizes=(2,))
    assert found.latency[2].before > 0
    assert found.latency[2].ratio
