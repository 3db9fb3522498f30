"""The biases of kernels: what is added to a product of inputs with a kernel."""

from tfprune import _keras


def kernel_biases(model):
    """By the id of a kernel the layer and its bias, or None, where Keras adds it to the product."""
    found = {}
    for layer in _keras.all_layers(model):
        kernel, bias = getattr(layer, "kernel", None), getattr(layer, "bias", None)
        is_plain = _keras.changed_kernel(layer) is None
        if kernel is None or not is_plain or not _is_call_of_keras(layer):
            continue
        if bias is not None and tuple(kernel.shape[-len(bias.shape) :]) != tuple(bias.shape):
            continue
        found[id(kernel)] = layer, bias
    return found


def _is_call_of_keras(layer):
    for cls in type(layer).__mro__:
        if "call" in vars(cls) and cls.__module__.split(".")[0] != "tfprune":
            return cls.__module__.split(".")[0] == "keras"
    return False
