"""The plain way to serve a teacher: one gRPC call for each batch, raw float32 there and back, on the CPU."""

import argparse
import json
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import grpc
import numpy as np
import torch
from torch import Tensor

from models import CLASSES, shape_of
from training import Batch, Network, dataset, distillation, shuffled, soften

SERVICE, METHOD = "bench.Teacher", "Logits"
CPU = torch.device("cpu")
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def tensor(message: bytes) -> Tensor:
    """The float32 values of a message; copied, since PyTorch takes no memory that it may not write to."""
    return torch.frombuffer(bytearray(message), dtype=torch.float32)


def teach(args: argparse.Namespace) -> None:
    """Answers batches with logits until it is ended."""
    network, shape = Network(args.model, CPU), shape_of(args.model)

    def logits(request: bytes, _: grpc.ServicerContext) -> bytes:
        return network.infer(tensor(request).view(-1, *shape)).numpy().tobytes()

    # One worker: a forward pass already has all of PyTorch's threads.
    server = grpc.server(ThreadPoolExecutor(max_workers=1), options=UNLIMITED)
    handlers = {METHOD: grpc.unary_unary_rpc_method_handler(logits)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    port = server.add_insecure_port(f"127.0.0.1:{args.port}")
    server.start()
    print("ready", port, flush=True)
    server.wait_for_termination()


def answered(
    batches: Iterator[Batch], ask: grpc.UnaryUnaryMultiCallable, prefetch: int
) -> Iterator[tuple[Batch, Tensor]]:
    """Batches with the teacher's logits, while the next `prefetch` are under way."""
    waiting: deque[tuple[Batch, grpc.Future]] = deque()

    def oldest() -> tuple[Batch, Tensor]:
        batch, answer = waiting.popleft()
        return batch, tensor(answer.result()).view(-1, CLASSES)

    for batch in batches:
        waiting.append((batch, ask.future(batch.inputs.tobytes())))
        if len(waiting) > prefetch:
            yield oldest()
    while waiting:
        yield oldest()


def learn(args: argparse.Namespace) -> None:
    """Trains a student from a teacher's answers and prints the seconds of each epoch."""
    student, data = Network(args.model, CPU), dataset(shape_of(args.model), args.samples)
    rng = np.random.default_rng(0)
    seconds = []
    with grpc.insecure_channel(args.teacher, options=UNLIMITED) as channel:
        grpc.channel_ready_future(channel).result(timeout=60)
        ask = channel.unary_unary(f"/{SERVICE}/{METHOD}")
        for _ in range(args.epochs):
            start = time.perf_counter()
            for batch, logits in answered(shuffled(data, args.batch, rng), ask, args.prefetch):
                loss = partial(
                    distillation,
                    labels=torch.from_numpy(batch.labels),
                    soft=soften(logits, args.temperature),
                    temperature=args.temperature,
                    alpha=args.alpha,
                )
                student.learn(torch.from_numpy(batch.inputs), loss)
            seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds_per_epoch": seconds}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    roles = parser.add_subparsers(required=True)
    teacher = roles.add_parser("teacher")
    teacher.set_defaults(run=teach)
    teacher.add_argument("--port", type=int, default=0)
    student = roles.add_parser("student")
    student.set_defaults(run=learn)
    student.add_argument("--teacher", required=True, metavar="HOST:PORT")
    student.add_argument("--samples", type=int, required=True)
    student.add_argument("--batch", type=int, default=64)
    student.add_argument("--epochs", type=int, default=1)
    student.add_argument("--prefetch", type=int, default=4)
    student.add_argument("--temperature", type=float, default=4.0)
    student.add_argument("--alpha", type=float, default=0.9)
    for role in (teacher, student):
        role.add_argument("--model", required=True)
        role.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_num_interop_threads(1)
    args.run(args)


if __name__ == "__main__":
    main()
