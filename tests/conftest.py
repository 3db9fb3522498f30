import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import keras
import pytest
from tensorflow.python.framework.ops import gradient_registry

import tfprune  # noqa: F401 (its modules, and TensorFlow's, are to be frozen)

# Models are cycles that hold much memory, so they are collected often. What the imports made stays
# anyway: a collection need not look through its millions of objects.
gc.collect()
gc.freeze()
gc.set_threshold(200_000, 20, 100)


def pytest_collection_modifyitems(items):
    """Notebooks take long, and cannot say so themselves."""
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def fresh_keras():
    """The same seed and dtype policy for every test, whichever ran before."""
    keras.utils.set_random_seed(1)
    policy = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(policy)


@pytest.fixture(autouse=True, scope="module")
def memory():
    """What the models of one module hold goes before the next; what is left will stay."""
    yield
    keras.backend.clear_session()
    # TensorFlow keeps each custom gradient that was traced, and with it the graph around it.
    for name in [each for each in gradient_registry.list() if each.startswith("CustomGradient-")]:
        del gradient_registry._registry[name]
    gc.collect()
    gc.freeze()
