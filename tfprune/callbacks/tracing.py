"""Traces the functions of a model again, for what they read at the time they are traced."""


def trace_again(model):
    """Makes Keras trace the training, test and predict functions of a model anew."""
    if getattr(model, "compiled", False):
        model.make_train_function(force=True)
        model.make_test_function(force=True)
    if hasattr(model, "make_predict_function"):
        model.make_predict_function(force=True)
