import keras
import pytest

from tfprune.coupling import trace


def names(model):
    return [call.operation.name for call in trace(model).calls]


def test_lists_calls_in_running_order():
    inputs = keras.Input((3,))
    x = keras.layers.Dense(4, name="a")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="b")(x))
    assert names(model) == ["a", "b"]


def test_a_shared_layer_is_a_call_for_each_use():
    inputs = keras.Input((3,))
    shared = keras.layers.Dense(3, name="shared")
    assert names(keras.Model(inputs, shared(shared(inputs)))) == ["shared", "shared"]


def test_nested_models_are_flattened_with_their_names():
    inner = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, name="in")], name="inner")
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2, name="out")(inner(inner(inputs))))
    traced = trace(model)
    assert names(model) == ["in", "in", "out"]
    assert [parent.name for parent in traced.calls[0].parents] == ["inner"]
    assert traced.calls[1].inputs == traced.calls[0].outputs
    assert traced.outputs == traced.calls[-1].outputs


def test_raw_operators_are_calls():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, inputs + keras.layers.Dense(3, name="d")(inputs))
    calls = trace(model).calls
    assert len(calls[-1].inputs) == 2


def test_a_mask_is_not_data():
    inputs = keras.Input((5,), dtype="int32")
    x = keras.layers.Embedding(7, 3, mask_zero=True)(inputs)
    model = keras.Model(inputs, keras.layers.LSTM(2, name="lstm")(x))
    (call,) = [call for call in trace(model).calls if call.operation.name == "lstm"]
    assert "mask" in call.kwargs
    assert [tensor.shape for tensor in call.inputs] == [(None, 5, 3)]


def test_an_unbuilt_sequential_says_what_to_do():
    with pytest.raises(ValueError, match=r"not built.*keras.Input"):
        trace(keras.Sequential([keras.layers.Dense(2)]))


def test_a_subclassed_model_says_what_to_do():
    class Mine(keras.Model):
        pass

    with pytest.raises(ValueError, match=r"no `call` of its own.*Give Mine a `call`"):
        trace(Mine())
