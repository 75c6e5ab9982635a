"""Retort's networks in PyTorch, layer for layer (crates/models/src/net), by the names that the benchmark uses."""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 10
CHANNELS_PER_GROUP = 8
EXPANSION = 4

Shape = tuple[int, int, int]


class Input(NamedTuple):
    """Channels, height and width of a sample, and what preprocessing subtracts from and divides each channel by."""

    shape: Shape
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Preprocessing(nn.Module):
    """`(x - mean) / std` by channel. It is part of the network, so that a step's time has it."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def mlp(shape: Shape, hidden: list[int]) -> nn.Module:
    """Linear layers with ReLU between them."""
    sizes = [math.prod(shape), *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], CLASSES))


def pooled_classifier(channels: int) -> list[nn.Module]:
    """A mean over positions, then a linear classifier."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]


def cnn(shape: Shape, width: int, depth: int) -> nn.Module:
    """Convolutions of `width`, 2 `width`, 4 `width`, ... channels with ReLU, and max pooling between them."""
    channels = [shape[0], *(width << layer for layer in range(depth))]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(channels):
        if layers:
            layers.append(nn.MaxPool2d(2))
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, *pooled_classifier(channels[-1]))


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution without bias, which the group norm behind it would cancel."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.GroupNorm(outputs // CHANNELS_PER_GROUP, outputs))


class ResidualBlock(nn.Module):
    """Two convolutions added to their input, which a 1 x 1 convolution fits where the number of channels changes."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = outputs // inputs
        self.first = conv_norm(inputs, outputs, 3, stride)
        self.second = conv_norm(outputs, outputs, 3)
        self.shortcut = nn.Identity() if stride == 1 else conv_norm(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(F.relu(self.first(x), inplace=True))
        return F.relu(self.shortcut(x) + y, inplace=True)


def resnet(shape: Shape, width: int, depth: int) -> nn.Module:
    """The CIFAR form with 6n + 2 layers and group norms: three stages, each later one wider and at half the extent."""
    blocks = (depth - 2) // 6
    channels = [width, *(width << stage for stage in range(3) for _ in range(blocks))]
    residual = [ResidualBlock(inputs, outputs) for inputs, outputs in pairwise(channels)]
    stem = [conv_norm(shape[0], width, 3), nn.ReLU(inplace=True)]
    return nn.Sequential(*stem, *residual, *pooled_classifier(channels[-1]))


class EncoderBlock(nn.Module):
    """Attention and a perceptron with GELU, each behind a layer norm and added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, EXPANSION * width)
        self.down = nn.Linear(EXPANSION * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))

    def attend(self, x: Tensor) -> Tensor:
        by_head = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        queries, keys, values = by_head.unbind(0)
        mixed = F.scaled_dot_product_attention(queries, keys, values)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """An encoder whose tokens are the rows of an image, all channels of one side by side."""

    def __init__(self, shape: Shape, width: int, depth: int, heads: int) -> None:
        super().__init__()
        channels, rows, columns = shape
        self.embedding = nn.Linear(channels * columns, width)
        self.positions = nn.Parameter(torch.empty(rows, width).uniform_(-1, 1) / math.sqrt(width))
        self.blocks = nn.Sequential(*(EncoderBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.transpose(1, 2).flatten(2)
        x = self.blocks(self.embedding(rows) + self.positions)
        return self.classifier(self.norm(x).mean(1))


GREY = Input((1, 28, 28), (0.286,), (0.353,))
COLOUR = Input((3, 32, 32), (0.491, 0.482, 0.447), (0.247, 0.243, 0.262))

MODELS: dict[str, tuple[Input, Callable[[Shape], nn.Module]]] = {
    "mlp-800": (GREY, partial(mlp, hidden=[800, 800])),
    "mlp-1200": (GREY, partial(mlp, hidden=[1200, 1200])),
    "mlp-teacher": (GREY, partial(mlp, hidden=[2160, 2160])),
    "cnn": (GREY, partial(cnn, width=16, depth=3)),
    "cnn-32": (COLOUR, partial(cnn, width=16, depth=3)),
    "resnet20": (GREY, partial(resnet, width=16, depth=20)),
    "resnet20-32": (COLOUR, partial(resnet, width=16, depth=20)),
    "resnet20-wide-32": (COLOUR, partial(resnet, width=128, depth=20)),
    "transformer": (GREY, partial(Transformer, width=64, depth=2, heads=4)),
}


class UnknownModel(Exception):
    """A name that is not in `MODELS`."""

    def __init__(self, name: object) -> None:
        super().__init__(f"unknown model {name!r}, expected one of {', '.join(MODELS)}")


def shape_of(name: str) -> Shape:
    """Channels, height and width of what the network takes."""
    if name not in MODELS:
        raise UnknownModel(name)
    return MODELS[name][0].shape


def build(name: str) -> nn.Module:
    """A network with initial weights, from inputs before preprocessing to logits."""
    shape = shape_of(name)
    (_, mean, std), constructor = MODELS[name]
    return nn.Sequential(Preprocessing(mean, std), constructor(shape))


def parameters(name: str) -> int:
    """How many weights the network has."""
    return sum(weight.numel() for weight in build(name).parameters())
