"""Describes a `tf_keras` model by its serialised config, as an `.h5` file holds it.

None of the model's code is run, so neither `tf_keras` nor tfmot is needed.
"""

from tfprune.interop.tf_keras.description import (
    WRAPPER,
    Call,
    LayerDescription,
    ModelDescription,
    Output,
    mapped,
)

_MODELS = ("Sequential", "Functional", "Model")
_KEEPS_LISTS = ("TFOpLambda", "SlicingOpLambda", "ClassMethod", "InstanceMethod")
"""Layers whose first argument stays a list where it is one of a single tensor."""

_CONSTANT = "_CONSTANT_VALUE"


def described_config(serialised, weights):
    """The `ModelDescription` of a serialised model.

    Args:
        serialised: Dict with `class_name` and `config`, as `json.loads(model.to_json())`.
        weights: Dict from the names of the layers of the outermost model to tuples of `Weight`.
    """
    return _model(serialised, weights)


def _model(serialised, weights):
    config = serialised["config"]
    layers = tuple(_layer(each, weights) for each in config["layers"])
    if serialised["class_name"] == "Sequential":
        first = layers[0].serialised["config"] if layers else {}
        shape = first.get("batch_input_shape") or config.get("build_input_shape")
        return ModelDescription(config["name"], layers, input_shape=shape, is_sequential=True)
    return ModelDescription(
        config["name"],
        layers,
        _ends(config["input_layers"]),
        _ends(config["output_layers"]),
        trainable=config.get("trainable", True),
    )


def _layer(serialised, weights):
    key = _name(serialised)
    inner = unwrapped(serialised)
    is_model = inner["class_name"] in _MODELS and "layers" in inner["config"]
    first = int(_has_call_of_its_own(inner))
    # The class of a wrapper keeps what is shared apart from the layer in it.
    return LayerDescription(
        name=_name(inner),
        serialised=inner,
        calls=tuple(
            _call(data, first + place, inner["class_name"])
            for place, data in enumerate(serialised.get("inbound_nodes", ()))
        ),
        identity=inner.get("shared_object_id"),
        model=_model(inner, {}) if is_model else None,
        weights=weights.get(key, ()) if not is_model or key in weights else None,
        key=key,
    )


def unwrapped(serialised):
    """A serialised layer without the pruning wrappers around it."""
    while serialised["class_name"] == WRAPPER:
        serialised = serialised["config"]["layer"]
    return serialised


def is_wrapped(serialised):
    """Whether a pruning wrapper is anywhere in a serialised layer or model."""
    if isinstance(serialised, dict):
        if serialised.get("class_name") == WRAPPER:
            return True
        return any(is_wrapped(value) for value in serialised.values())
    return isinstance(serialised, list) and any(is_wrapped(value) for value in serialised)


def _name(serialised):
    return serialised["config"].get("name") or serialised["name"]


def _has_call_of_its_own(serialised):
    """Whether a nested model had a call when it was made; it is not one of the graph's."""
    if serialised["class_name"] == "Sequential":
        return serialised["config"]["layers"][0]["class_name"] == "InputLayer"
    return serialised["class_name"] in _MODELS and "layers" in serialised["config"]


def _call(data, index, class_name):
    """One call of a layer, out of nested lists `[layer, call, tensor, keywords]`."""
    keywords = []

    def first_argument(leaf):
        keywords.append(leaf[3] if len(leaf) == 4 else {})
        return _output(leaf)

    first = mapped(data, first_argument, _is_reference)
    if isinstance(first, list) and len(first) == 1 and class_name not in _KEEPS_LISTS:
        first = first[0]
    kwargs = mapped(keywords[0] if keywords else {}, _output, _is_reference)
    return Call(index, (first,), kwargs)


def _is_reference(structure):
    is_one = isinstance(structure, list) and len(structure) in (3, 4)
    return is_one and isinstance(structure[0], str) and type(structure[1]) is int


def _output(leaf):
    if not _is_reference(leaf):
        return leaf
    name, place, index = leaf[:3]
    return index if name == _CONSTANT else Output(name, place, index)


def _ends(structure):
    """Inputs or outputs of a model; a single one is not in a list."""
    ends = mapped(structure, _output, _is_reference)
    return ends[0] if isinstance(ends, list) and len(ends) == 1 else ends
