"""Trains the network of tests/tests/pytorch.rs on the embedded digits, by PyTorch, and saves its `state_dict()`.

    PYTHONPATH=crates/models/src/pytorch:bench/pytorch python tests/tests/pytorch/make.py tests/tests/pytorch/digits.safetensors
"""
import gzip
import pathlib
import sys

import torch
from make_cases import save
from torch import nn

rows = gzip.open("crates/data/assets/digits.csv.gz", "rt").read().split()
table = torch.tensor([[float(cell) for cell in row.split(",")] for row in rows])
inputs, labels = table[:, :-1].view(-1, 1, 8, 8) / 16, table[:, -1].long()
torch.manual_seed(1)
network = nn.Sequential(
    nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 10)
)
optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
for _ in range(200):
    optimizer.zero_grad()
    nn.functional.cross_entropy(network(inputs), labels).backward()
    optimizer.step()
print("accuracy", (network(inputs).argmax(1) == labels).float().mean().item())
save(pathlib.Path(sys.argv[1]), network.state_dict())
