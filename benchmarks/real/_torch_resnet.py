"""The small ResNet of `fashion_resnet.py` in torch, with the weights of the Keras model."""

import numpy as np
import torch
from torch import nn


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


def with_weights(model, widths, blocks):
    """The torch model that computes what a Keras model does, whose layers have the same names."""
    made = ResNet(widths, blocks)
    for name, module in made.named_modules():
        layer_name = name.replace("blocks.", "block_").replace(".", "_")
        if isinstance(module, nn.Conv2d):
            kernel = np.array(model.get_layer(layer_name).kernel)
            module.weight.data = torch.tensor(kernel.transpose(3, 2, 0, 1))
        elif isinstance(module, nn.Linear):
            layer = model.get_layer(layer_name)
            module.weight.data = torch.tensor(np.array(layer.kernel).T)
            module.bias.data = torch.tensor(np.array(layer.bias))
        elif isinstance(module, nn.BatchNorm2d):
            layer = model.get_layer(layer_name)
            module.weight.data = torch.tensor(np.array(layer.gamma))
            module.bias.data = torch.tensor(np.array(layer.beta))
            module.running_mean.data = torch.tensor(np.array(layer.moving_mean))
            module.running_var.data = torch.tensor(np.array(layer.moving_variance))
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


def pruned(model, criterion, x, y, macs, steps=60):
    """Torch-Pruning, in small steps over all layers together, until at most `macs` are left."""
    import torch_pruning

    example = torch.zeros(1, 1, 28, 28)
    importance = {
        "l2": lambda: torch_pruning.importance.MagnitudeImportance(p=2),
        "bn_scale": lambda: torch_pruning.importance.BNScaleImportance(),
        "lamp": lambda: torch_pruning.importance.LAMPImportance(),
        "taylor": lambda: torch_pruning.importance.TaylorImportance(),
    }[criterion]()
    pruner = torch_pruning.pruner.BasePruner(
        model,
        example,
        importance=importance,
        global_pruning=True,
        pruning_ratio=0.95,
        iterative_steps=steps,
        ignored_layers=[model.head],
    )
    images, labels = tensors(x, y)
    for _ in range(steps):
        if torch_pruning.utils.count_ops_and_params(model, example)[0] <= macs:
            break
        if criterion == "taylor":
            model.zero_grad()
            for part in torch.arange(len(x)).split(500):
                nn.functional.cross_entropy(model(images[part]), labels[part]).backward()
        pruner.step()
    return model, torch_pruning.utils.count_ops_and_params(model, example)[0]


CRITERIA = ("l2", "bn_scale", "lamp", "taylor")
