"""Subclassed models: for which inputs they were built, and whether they train as Keras does.

Private here, and why:

* `_build_shapes_dict` of a layer: the shapes for which it was built, by the arguments of `build`.
"""

import keras


def built_inputs(model):
    """Symbolic tensors of the shapes for which a model was built, with any number of examples.

    Returns:
        A dict from each argument of `build` to a structure of tensors, all of the dtype of the
        model's inputs; empty if the model is not built.
    """
    shapes = dict(getattr(model, "_build_shapes_dict", None) or {})
    return {name: _tensors(shape, model.input_dtype) for name, shape in shapes.items()}


def _tensors(shapes, dtype):
    is_sequence = isinstance(shapes, (list, tuple))
    if is_sequence and all(size is None or isinstance(size, int) for size in shapes):
        return keras.KerasTensor((None, *shapes[1:]) if shapes else (), dtype)
    if isinstance(shapes, dict):
        return {key: _tensors(each, dtype) for key, each in shapes.items()}
    return type(shapes)(_tensors(each, dtype) for each in shapes) if is_sequence else None


def has_stock_train_step(model):
    """Whether a model trains with the `compile` and the `train_step` of Keras."""
    names = ("compile", "train_step", "compute_loss", "compute_metrics")
    return all(getattr(type(model), name) is getattr(keras.Model, name) for name in names)
