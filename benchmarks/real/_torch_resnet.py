"""The small ResNet of `fashion_resnet.py` in torch, pruned by Torch-Pruning.

    python benchmarks/real/_torch_resnet.py JOB.npz FOUND.json

`fashion_resnet.py` starts it as a process of its own: torch and TensorFlow in one have ended it by
a segmentation fault. The job holds images and labels, settings, and the weights of the Keras model
as `layer/weight`.
"""

import copy
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

torch.set_num_threads(1)  # with two, version 2.14 corrupts memory now and then


class Block(nn.Module):
    """Two convolutions with norms, and what they are added to."""

    def __init__(self, channels, filters, stride):
        super().__init__()
        self.first = nn.Conv2d(channels, filters, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(filters, eps=1e-3)
        self.second = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(filters, eps=1e-3)
        self.skip = None
        if stride > 1 or channels != filters:
            self.skip = nn.Conv2d(channels, filters, 1, stride, bias=False)
            self.skip_norm = nn.BatchNorm2d(filters, eps=1e-3)

    def forward(self, x):
        y = torch.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        return torch.relu(y + (x if self.skip is None else self.skip_norm(self.skip(x))))


class ResNet(nn.Module):
    """As `resnet` of `fashion_resnet.py`."""

    def __init__(self, widths, blocks):
        super().__init__()
        self.stem = nn.Conv2d(1, widths[0], 3, 2, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(widths[0], eps=1e-3)
        found, channels = [], widths[0]
        for stage, filters in enumerate(widths):
            for number in range(blocks):
                found.append(Block(channels, filters, 2 if stage and not number else 1))
                channels = filters
        self.blocks = nn.Sequential(*found)
        self.head = nn.Linear(channels, 10)

    def forward(self, x):
        x = self.blocks(torch.relu(self.stem_norm(self.stem(x))))
        return self.head(x.mean(dim=(2, 3)))


def with_weights(arrays, widths, blocks):
    """The torch model that computes what the Keras model does, from arrays by `layer/weight`."""
    made = ResNet(widths, blocks)

    def take(module, layer_name, **names):
        for name, weight in names.items():
            array = arrays[f"{layer_name}/{weight}"]
            array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
            getattr(module, name).data = torch.tensor(np.ascontiguousarray(array))

    for name, module in made.named_modules():
        layer_name = name.replace("blocks.", "block_").replace(".", "_")
        if isinstance(module, nn.Conv2d):
            take(module, layer_name, weight="kernel")
        elif isinstance(module, nn.Linear):
            take(module, layer_name, weight="kernel", bias="bias")
        elif isinstance(module, nn.BatchNorm2d):
            statistics = {"running_mean": "moving_mean", "running_var": "moving_variance"}
            take(module, layer_name, weight="gamma", bias="beta", **statistics)
    return made.eval()


def tensors(x, y=None):
    """Images (n, 28, 28, 1) as a tensor (n, 1, 28, 28), and labels."""
    images = torch.tensor(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    return images if y is None else (images, torch.tensor(y))


def accuracy(model, x, y):
    """In %."""
    model.eval()
    with torch.no_grad():
        found = torch.cat([model(part).argmax(1) for part in tensors(x).split(1000)])
    return 100 * float((found.numpy() == y).mean())


def train(model, x, y, epochs, batch, rate):
    """By Adam, at a rate that falls to 0 along half a cosine, as the Keras model is."""
    images, labels = tensors(x, y)
    steps = epochs * -(-len(x) // batch)
    optimizer = torch.optim.Adam(model.parameters(), rate, eps=1e-7)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for _ in range(epochs):
        for part in torch.randperm(len(x)).split(batch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[part]), labels[part]).backward()
            optimizer.step()
            falling.step()
    return model.eval()


def settle(model, x):
    """Takes the statistics of batch norms anew, over all of `x`."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
    model.train()
    with torch.no_grad():
        for part in tensors(x).split(500):
            model(part)
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


def importances():
    """The criteria of Torch-Pruning 1.6 that are measured, by name.

    LAMP, Taylor and Hessian were behind these at each point in a run of one seed.
    """
    from torch_pruning import importance

    return {
        "l2": importance.MagnitudeImportance(p=2),
        "bn_scale": importance.BNScaleImportance(),
        "fpgm": importance.FPGMImportance(),
    }


def operations(model):
    """Multiply-accumulates for an image, as Torch-Pruning counts them."""
    import torch_pruning

    return torch_pruning.utils.count_ops_and_params(model, torch.zeros(1, 1, 28, 28))[0]


def pruned(model, criterion, macs, steps=60):
    """Torch-Pruning, in small steps over all layers together, until at most `macs` are left."""
    import torch_pruning

    pruner = torch_pruning.pruner.BasePruner(
        model,
        torch.zeros(1, 1, 28, 28),
        importance=importances()[criterion],
        global_pruning=True,
        pruning_ratio=0.95,
        iterative_steps=steps,
        ignored_layers=[model.head],
    )
    for _ in range(steps):
        if operations(model) <= macs:
            break
        pruner.step()
    return model, operations(model)


def main(job, out):
    """Rows by share of MACs and criterion, and the accuracy of the dense network, as JSON."""
    arrays = np.load(job)
    settings = json.loads(str(arrays["settings"]))
    torch.manual_seed(settings["seed"])
    x, y, x_test, y_test = (arrays[name] for name in ("x", "y", "x_test", "y_test"))
    dense = with_weights(arrays, settings["widths"], settings["blocks"])
    found = {"dense": accuracy(dense, x_test, y_test), "rows": {}}
    macs = operations(dense)
    for remaining in settings["remaining"]:
        rows = found["rows"][str(remaining)] = {}
        for criterion in importances():
            start = time.perf_counter()
            small, left = pruned(copy.deepcopy(dense), criterion, remaining * macs)
            row = {"macs": left / macs, "seconds": time.perf_counter() - start}
            row["pruned"] = accuracy(small, x_test, y_test)
            settle(small, x[: settings["calibration"]])
            row["settled"] = accuracy(small, x_test, y_test)
            train(small, x, y, settings["epochs"], settings["batch"], settings["rate"])
            row["trained"] = accuracy(small, x_test, y_test)
            rows[criterion] = row
            print(f"  {remaining:.0%} {criterion}: {row}", file=sys.stderr, flush=True)
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
