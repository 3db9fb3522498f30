"""Graphs of Dense layers in one line, and what they compute, in NumPy.

`"v1=5(in) v2=4(v1) m=cat(v1,v2)"` has Dense layers of 5 and 4 units and their concatenation. `in`
is an input of 3 unless the line says otherwise, as in `"in=6() ..."`. A Dense layer of 2 units,
`of_m`, stands behind whatever nothing takes. All weights are integers and all is in double
precision, so that results are equal, not close. The biases of a layer are 1, 2, 3, ..., by which
units are known again after an edit; those of new units are 0.
"""

import re

import keras
import numpy as np

from tfprune import surgery

layers = keras.layers

SIDE_BY_SIDE = "v1=5(in) v2=4(in) "
THREE = "v1=4(in) v2=5(in) v3=6(in) "
EQUAL = "v1=5(in) v2=5(in) v3=5(in) s=add(v1,v2,v3) v5=4(s)"
CYCLE = "v1=3(in) v2=5(v1) v3=same(v2) p1=3(v3) p2=2(v3) v4=cat(p1,p2) v5=add(v4,v2)"
LONG_CYCLE = "v1=3(in) v2=5(v1) v3=same(v2) p1=2(v3) p2=3(p1) p3=2(v3) v4=cat(p2,p3) v5=add(v4,v2)"
RESIDUAL = "v1=10(in) v2=3(v1) v3=same(v2) v4=10(v3) v5=add(v4,v1) v6=4(v5)"
SMALL_CYCLE = "v1=6(in) v2=2(v1) a=same(v2) b=4(v2) v4=cat(a,b) v5=add(v4,v1)"

OPERATIONS = {
    "cat": (layers.Concatenate, lambda *values: np.concatenate(values, -1)),
    "add": (layers.Add, lambda *values: sum(values)),
    "sub": (layers.Subtract, lambda a, b: a - b),
    "mul": (layers.Multiply, lambda *values: np.prod(values, axis=0)),
    "max": (layers.Maximum, lambda *values: np.max(values, axis=0)),
    "mean": (layers.Average, lambda *values: np.mean(values, axis=0)),
    "same": (lambda name: layers.Activation("linear", name=name), lambda value: value),
    "relu": (layers.ReLU, lambda value: np.maximum(value, 0)),
    "twice": (lambda name: layers.Rescaling(2.0, name=name), lambda value: 2 * value),
}


def vertices(line):
    """The names of a graph, each with its kind and inputs, those added for the ends too."""
    found = re.findall(r"(\w+)=(\w+)\(([\w,]*)\)", line)
    found = {name: (kind, inputs.split(",") if inputs else []) for name, kind, inputs in found}
    if "in" not in found:
        found = {"in": ("3", []), **found}
    taken = {name for _, inputs in found.values() for name in inputs}
    ends = [name for name in found if name not in taken and not name.startswith("of_")]
    ends = {f"of_{name}": ("2", [name]) for name in ends}
    return {**found, **ends}


def graph(line):
    """The model of a line."""
    keras.config.set_dtype_policy("float64")
    tensors, inputs, ends = {}, [], []
    for name, (kind, given) in vertices(line).items():
        given = [tensors[each] for each in given]
        if not given:
            tensors[name] = keras.Input((int(kind),), name=name)
            inputs.append(tensors[name])
        elif kind.isdigit():
            tensors[name] = layers.Dense(int(kind), name=name)(given[0])
        else:
            operation = OPERATIONS[kind][0](name=name)
            tensors[name] = operation(given if hasattr(operation, "_merge_function") else given[0])
        if name.startswith("of_"):
            ends.append(tensors[name])
    return numbered(keras.Model(inputs, ends))


def numbered(model):
    """The model with integers in its kernels, and the numbers of units as biases."""
    draw = np.random.default_rng(0)
    for layer in dense_layers(model):
        shape = layer.kernel.shape
        kernel = draw.integers(1, 4, shape) * draw.choice([-1, 1], shape)
        layer.set_weights([kernel, np.arange(1, 1 + shape[1])])
    return model


def dense_layers(model):
    return [layer for layer in model.layers if isinstance(layer, layers.Dense)]


def width(model, name):
    layer = model.get_layer(name)
    return layer.output.shape[-1]


def kept(model, name):
    """The units of a layer by their indices before the edit, -1 for new ones."""
    return [int(number) - 1 for number in np.array(model.get_layer(name).bias)]


def example(model):
    draw = np.random.default_rng(1)
    return [draw.integers(-2, 3, (4, tensor.shape[-1])) for tensor in model.inputs]


def outputs(model, example):
    example = [np.asarray(each, "float64") for each in example]
    return [np.array(y) for y in keras.tree.flatten(model(example))]


def by_hand(line, model, example, units=None, without=()):
    """What a graph computes with the weights of the model, in NumPy.

    Args:
        line: The graph.
        model: Where the weights are from.
        example: Arrays for its inputs.
        units: For layers by name, the units that count; all others give 0.
        without: Edges that give 0, as pairs of a name and the position of one of its inputs.
    """
    values, example = {}, list(example)
    for name, (kind, inputs) in vertices(line).items():
        given = [values[each] * ((name, i) not in without) for i, each in enumerate(inputs)]
        if not given:
            values[name] = example.pop(0).astype("float64")
        elif kind.isdigit():
            layer = model.get_layer(name)
            values[name] = given[0] @ np.array(layer.kernel) + np.array(layer.bias)
            if units is not None:
                values[name] *= np.isin(np.arange(values[name].shape[1]), units.get(name, ()))
        else:
            values[name] = OPERATIONS[kind][1](*given)
    return [value for name, value in values.items() if name.startswith("of_")]


def resized(line, model, changes, utility=None, **options):
    """The model with other sizes; fails if it does not compute what is to be expected.

    That is what the old graph computes where the units that are gone give 0, since new ones have no
    effect.
    """
    before = model.get_weights()
    plan = surgery.edit(model, criterion=scores(utility or {}), **options)
    plan.resize(changes)
    new, x = plan.model, example(model)
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    units = {layer.name: kept(new, layer.name) for layer in dense_layers(new)}
    expected = by_hand(line, model, x, units)
    for ours, theirs in zip(outputs(new, x), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    none_goes = all(set(range(width(model, name))) <= set(ids) for name, ids in units.items())
    assert none_goes == (plan.effects == ())
    return new


def scores(utility):
    """A criterion of the scores that are given for layers, and 1 for all other units."""

    def criterion(layer, weights):
        ones = np.ones(len(next(iter(weights.values()))))
        return np.asarray(utility.get(layer.name, ones), "float64")

    return criterion


def wiring(model):
    """The names of what each layer takes, and of a Dense layer the units."""
    found = {}
    for layer in model.layers:
        given = [tensor._keras_history[0].name for tensor in keras.tree.flatten(layer.input)]
        given = [] if isinstance(layer, layers.InputLayer) else given
        found[layer.name] = (getattr(layer, "units", None), given)
    return found


def expected_wiring(line):
    """What `wiring` is to be."""
    return {
        name: (int(kind) if kind.isdigit() and inputs else None, inputs)
        for name, (kind, inputs) in vertices(line).items()
    }


def dense(units, name="new"):
    return layers.Dense(units, name=name)


def edited(line, edit, utility=None):
    """The old model, the plan and the new one; the old one must be as it was."""
    model = graph(line)
    before, wired = model.get_weights(), wiring(model)
    plan = surgery.edit(model, criterion=scores(utility or {}))
    edit(plan)
    new = plan.model
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert wiring(model) == wired
    return model, plan, new


def assert_equal(ours, theirs):
    for y, z in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(y, z, rtol=1e-12, atol=1e-10)  # new weights are no integers


def check(before, edit, after, utility=None):
    """Checks names, sizes and outputs; where no effect is told, also that the function is kept."""
    model, plan, new = edited(before, edit, utility)
    assert wiring(new) == expected_wiring(after)
    x = example(new)
    assert_equal(outputs(new, x), by_hand(after, new, x))
    if not plan.effects:
        assert_equal(outputs(new, x), outputs(model, x))
    return model, plan, new


def summary(value):
    return value if isinstance(value, str) else None
