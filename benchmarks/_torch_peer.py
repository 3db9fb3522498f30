"""Torch-Pruning, the peer of `strip.py`: models that it prunes, how large they are, how fast."""

PEER = {"ResNet50": "resnet50", "DenseNet121": "densenet121"}
"""The torch model in `torch_models` that equals one of `keras.applications`."""


def peer_modules():
    """Torch, Torch-Pruning and the models, or None where they are not installed."""
    try:
        import torch
        import torch_models
        import torch_pruning
    except ImportError:
        return None
    return torch, torch_pruning, torch_models


def peer_pruner(name, modules, size):
    """A function that prunes the next of a stock of equal torch models, and the stock."""
    torch, torch_pruning, torch_models = modules
    make = getattr(torch_models, PEER[name])
    stock, done = [], []

    def prune():
        model = stock.pop()
        torch_pruning.pruner.BasePruner(
            model,
            torch.zeros(1, 3, size, size),
            importance=torch_pruning.importance.RandomImportance(),
            pruning_ratio=0.5,
            ignored_layers=[model[-1]],
        ).step()
        done[:] = [model]

    return make, prune, stock, done


def elements(torch_model):
    """The elements of all weights, those of batch norms that are no parameters included."""
    state = torch_model.state_dict().items()
    return sum(value.numel() for key, value in state if "num_batches" not in key)


def torch_called(model, torch, size):
    """For a batch size, a function that calls a torch model."""

    def at(batch):
        x = torch.randn(batch, 3, size, size)

        def run():
            with torch.inference_mode():
                model(x)

        return run

    return at
