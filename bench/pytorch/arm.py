"""PyTorch's side of the benchmark: reads a command as a line of JSON, answers with a line of JSON.

The benchmark gives its own side and this one turns. What a command needs is therefore kept, so that every turn but the
first finds it warm.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models import MODELS, UnknownModel, parameters, shape_of
from training import Batch, Network, dataset, distillation, random_batch, shuffled, soften

WARM_UP = 3
POOL = 8
"""Different batches that the steps of a call take in turn."""

Json = dict[str, Any]
Step = Callable[[Batch], object]


def put(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
    """Inputs and labels on the device. Every timed step begins with this."""
    return torch.from_numpy(batch.inputs).to(device), torch.from_numpy(batch.labels).to(device)


def alone(device: torch.device, model: str) -> Step:
    """A student that learns from labels."""
    student = Network(model, device)

    def step(batch: Batch) -> None:
        inputs, labels = put(batch, device)
        student.learn(inputs, partial(F.cross_entropy, target=labels))

    return step


def taught(
    device: torch.device, model: str, teacher: str, temperature: float, alpha: float, online: bool = False
) -> Step:
    """A student and the teacher that answers it. If `online`, the teacher first learns from the labels itself."""
    student, master = Network(model, device), Network(teacher, device)

    def step(batch: Batch) -> None:
        inputs, labels = put(batch, device)
        if online:
            master.learn(inputs, partial(F.cross_entropy, target=labels))
        soft = soften(master.infer(inputs), temperature)
        loss = partial(distillation, labels=labels, soft=soft, temperature=temperature, alpha=alpha)
        student.learn(inputs, loss)

    return step


def replayed(device: torch.device, model: str, temperature: float, alpha: float) -> Step:
    """A student whose teacher answered earlier. Each step returns the seconds of its parts."""
    student = Network(model, device)

    def step(batch: Batch) -> dict[str, float]:
        inputs, labels = put(batch, device)
        soft = torch.from_numpy(batch.soft).to(device)
        loss = partial(distillation, labels=labels, soft=soft, temperature=temperature, alpha=alpha)
        student.learn(inputs, loss)
        return student.phases

    return step


def evaluated(device: torch.device, model: str) -> Step:
    """A network that answers, with its predictions and its loss read back."""
    network = Network(model, device)

    def step(batch: Batch) -> tuple[Tensor, float]:
        inputs, labels = put(batch, device)
        logits = network.infer(inputs)
        return logits.argmax(1).cpu(), F.cross_entropy(logits, labels).item()

    return step


STEPS: dict[str, Callable[..., Step]] = {
    "step": alone,
    "kd": taught,
    "replayed": replayed,
    "evaluate": evaluated,
    "epoch": taught,
}


class Arm:
    """Answers commands on one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.kept: dict[tuple, Step] = {}

    def answer(self, command: Json) -> Json:
        """Whatever is asked for, by the field `do`."""
        match command.pop("do", None):
            case "hello":
                return self.hello()
            case "step" | "kd" | "replayed" as do:
                return self.steps(do, **command)
            case "evaluate" as do:
                return self.steps(do, steps=command.pop("batches"), **command)
            case "phases":
                return self.phases(**command)
            case "epoch":
                return self.epoch(**command)
            case unknown:
                return {"error": f"unknown command {unknown!r}"}

    def hello(self) -> Json:
        """What runs here."""
        on_gpu = self.device.type == "cuda"
        return {
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name(self.device) if on_gpu else "cpu",
            "parameters": {name: parameters(name) for name in MODELS},
        }

    def steps(self, do: str, model: str, batch: int, steps: int, **options: Any) -> Json:
        """Seconds of each step over random samples."""
        rng = np.random.default_rng(0)
        pool = [random_batch(shape_of(model), batch, rng) for _ in range(POOL)]
        step = self.warm(do, pool, model=model, **options)
        return {"seconds": [self.seconds(partial(step, batch)) for batch in islice(cycle(pool), steps)]}

    def phases(self, model: str, batch: int, steps: int, **options: Any) -> Json:
        """Seconds of the parts of each step of a student whose teacher answered earlier."""
        rng = np.random.default_rng(0)
        pool = [random_batch(shape_of(model), batch, rng) for _ in range(POOL)]
        step = self.warm("replayed", pool, model=model, **options)
        return {"phases": [step(batch) for batch in islice(cycle(pool), steps)]}

    def epoch(self, student: str, samples: int, batch: int, **options: Any) -> Json:
        """Seconds of one epoch, with the shuffling and gathering of its samples."""
        data = dataset(shape_of(student), samples)
        rng = np.random.default_rng()
        step = self.warm("epoch", list(islice(shuffled(data, batch, rng), WARM_UP)), model=student, **options)

        def run() -> None:
            for part in shuffled(data, batch, rng):
                step(part)

        return {"seconds": self.seconds(run)}

    def warm(self, do: str, batches: list[Batch], **options: Any) -> Step:
        """The step of an earlier call with these options and batches as large, or else a new one that has warmed up."""
        key = (do, len(batches[0].labels), *sorted(options.items()))
        if key not in self.kept:
            self.kept[key] = STEPS[do](self.device, **options)
            for batch in islice(cycle(batches), WARM_UP):
                self.kept[key](batch)
        return self.kept[key]

    def seconds(self, work: Callable[[], object]) -> float:
        """How long the work takes until the device has done it."""
        self.synchronise()
        start = time.perf_counter()
        work()
        self.synchronise()
        return time.perf_counter() - start

    def synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_num_interop_threads(1)
    arm = Arm(torch.device(args.device))
    for line in sys.stdin:
        command = json.loads(line)
        if command.get("do") == "quit":
            break
        try:
            answer = arm.answer(command)
        except UnknownModel as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
