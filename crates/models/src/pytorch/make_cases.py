"""Makes what the tests of with_pytorch read, by PyTorch: networks of bench/pytorch/models.py with their weights, inputs and logits.

    PYTHONPATH=bench/pytorch python crates/models/src/pytorch/make_cases.py crates/models/src/pytorch
"""
import json
import pathlib
import struct
import sys

import models
import torch

NETWORKS = {
    "mlp": ((1, 2, 3), lambda shape: models.mlp(shape, hidden=[5, 4])),
    "cnn": ((2, 4, 4), lambda shape: models.cnn(shape, width=3, depth=2)),
    "resnet": ((1, 4, 4), lambda shape: models.resnet(shape, width=8, depth=8)),
    "transformer": ((1, 4, 3), lambda shape: models.Transformer(shape, width=6, depth=1, heads=2)),
}


def save(path, weights):
    """The format of safetensors: the header's length, the header, the numbers."""
    header, data = {}, b""
    for name, weight in weights.items():
        part = weight.detach().contiguous().numpy().astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(weight.shape), "data_offsets": [len(data), len(data) + len(part)]}
        data += part
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def main(folder):
    cases = {}
    for name, (shape, build) in NETWORKS.items():
        torch.manual_seed(1)
        network = build(shape)
        for weight in network.parameters():  # norms begin with ones and zeros, which hide mistakes
            torch.nn.init.uniform_(weight, -0.5, 0.5)
        inputs = torch.rand(3, *shape)
        save(folder / f"{name}.safetensors", network.state_dict())
        cases[name] = {"shape": shape, "inputs": inputs.flatten().tolist(), "logits": network(inputs).flatten().tolist()}
    (folder / "cases.json").write_text(json.dumps(cases) + "\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
