"""What the benchmark's processes share: data, the distillation loss, and networks that learn and answer."""

import gzip
import time
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models import CLASSES, Shape, build

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


class Batch(NamedTuple):
    """Arrays on the host, as a data loader hands them over."""

    inputs: np.ndarray
    """`[n, channels, height, width]`, float32 within 0..=1."""
    labels: np.ndarray
    """`[n]`, int64."""
    soft: np.ndarray | None = None
    """`[n, classes]`, float32: a recorded teacher's log-probabilities at the temperature of the loss."""


def random_batch(shape: Shape, samples: int, rng: np.random.Generator) -> Batch:
    """Values that cost what real ones do."""
    logits = torch.from_numpy(rng.standard_normal((samples, CLASSES), dtype=np.float32))
    return Batch(
        inputs=rng.random((samples, *shape), dtype=np.float32),
        labels=rng.integers(CLASSES, size=samples),
        soft=F.log_softmax(logits, 1).numpy(),
    )


def read_idx(name: str, header: int) -> np.ndarray:
    """The bytes of a Fashion-MNIST file behind its header."""
    return np.frombuffer(gzip.decompress((FASHION_MNIST / name).read_bytes()), np.uint8, offset=header)


@cache
def dataset(shape: Shape, samples: int) -> Batch:
    """Fashion-MNIST's training samples where installed and of this shape, again and again if need be; else random."""
    if shape != (1, 28, 28) or not FASHION_MNIST.exists():
        return random_batch(shape, samples, np.random.default_rng(0))
    images = read_idx("train-images-idx3-ubyte.gz", 16).reshape(-1, *shape)
    labels = read_idx("train-labels-idx1-ubyte.gz", 8)
    chosen = np.arange(samples) % len(labels)
    return Batch(images[chosen] / np.float32(255), labels[chosen].astype(np.int64))


def shuffled(data: Batch, size: int, rng: np.random.Generator) -> Iterator[Batch]:
    """One epoch of batches; the last one has what is left over."""
    order = rng.permutation(len(data.labels))
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        yield Batch(data.inputs[chosen], data.labels[chosen])


def soften(logits: Tensor, temperature: float) -> Tensor:
    """Log-probabilities at this temperature."""
    return F.log_softmax(logits / temperature, 1)


def distillation(logits: Tensor, labels: Tensor, soft: Tensor, temperature: float, alpha: float) -> Tensor:
    """`(1 - alpha) CE + alpha T² KL(teacher || student)`, means over the batch."""
    divergence = F.kl_div(soften(logits, temperature), soft, reduction="batchmean", log_target=True)
    return (1 - alpha) * F.cross_entropy(logits, labels) + alpha * temperature**2 * divergence


class Network:
    """A network on a device with an optimizer of its own."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.module = build(name).to(device)
        self.adam = torch.optim.Adam(self.module.parameters(), lr=1e-3)
        self.phases: dict[str, float] = {}
        """Seconds of the parts of the last step; on a GPU only until each was queued."""

    def learn(self, inputs: Tensor, loss: Callable[[Tensor], Tensor]) -> float:
        """One step down the loss of the logits, which is read back."""
        self.module.train()
        times = [time.perf_counter()]
        value = loss(self.module(inputs))
        times.append(time.perf_counter())
        self.adam.zero_grad()
        value.backward()
        times.append(time.perf_counter())
        self.adam.step()
        times.append(time.perf_counter())
        ends = zip(("forward", "backward", "optimizer"), pairwise(times))
        self.phases = {phase: end - start for phase, (start, end) in ends}
        return value.item()

    @torch.no_grad()
    def infer(self, inputs: Tensor) -> Tensor:
        """Logits without a graph."""
        self.module.eval()
        return self.module(inputs)
