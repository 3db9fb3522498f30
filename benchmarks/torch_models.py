"""ResNet-50 and DenseNet-121 in plain torch, layer by layer those of `keras.applications`."""

import torch
from torch import nn


def resnet50(classes=1000):
    layers = [*_convolved(3, 64, 7, stride=2, bias=True), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for number in range(blocks):
            layers.append(_Bottleneck(channels, width, stride if number == 0 else 1))
            channels = 4 * width
    return nn.Sequential(*layers, *_head(channels, classes))


def densenet121(classes=1000):
    layers = [*_convolved(3, 64, 7, stride=2, bias=False), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for blocks in (6, 12, 24, 16):
        for _ in range(blocks):
            layers.append(_DenseBlock(channels))
            channels += 32
        if blocks != 16:
            layers += [*_activated(channels), nn.Conv2d(channels, channels // 2, 1, bias=False)]
            layers.append(nn.AvgPool2d(2))
            channels //= 2
    return nn.Sequential(*layers, *_activated(channels), *_head(channels, classes))


class _Bottleneck(nn.Module):
    def __init__(self, channels, width, stride):
        super().__init__()
        self.body = nn.Sequential(
            *_convolved(channels, width, 1, stride=stride),
            *_convolved(width, width, 3),
            *_convolved(width, 4 * width, 1)[:-1],
        )
        is_first = channels != 4 * width
        skip = _convolved(channels, 4 * width, 1, stride=stride)[:-1] if is_first else []
        self.skip = nn.Sequential(*skip)

    def forward(self, x):
        return torch.relu(self.body(x) + self.skip(x))


class _DenseBlock(nn.Module):
    def __init__(self, channels, growth=32):
        super().__init__()
        self.body = nn.Sequential(
            *_activated(channels),
            nn.Conv2d(channels, 4 * growth, 1, bias=False),
            *_activated(4 * growth),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x):
        return torch.cat([x, self.body(x)], 1)


def _convolved(channels, filters, size, stride=1, bias=True):
    conv = nn.Conv2d(channels, filters, size, stride, size // 2, bias=bias)
    return [conv, nn.BatchNorm2d(filters, 1.001e-5), nn.ReLU()]


def _activated(channels):
    return [nn.BatchNorm2d(channels, 1.001e-5), nn.ReLU()]


def _head(channels, classes):
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
