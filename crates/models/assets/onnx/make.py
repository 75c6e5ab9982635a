"""Makes the ONNX files of the tests: python3 make.py (needs numpy and onnx; 1.23.2 made those in the repository)."""

import gzip
import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HERE = pathlib.Path(__file__).parent
FLOAT, INT32 = TensorProto.FLOAT, TensorProto.INT32


def save(name, nodes, inputs, outputs, constants):
    inputs, outputs = ([helper.make_tensor_value_info(*port) for port in ports] for ports in (inputs, outputs))
    constants = [numpy_helper.from_array(value, key) for key, value in constants.items()]
    graph = helper.make_graph(nodes, name, inputs, outputs, constants)
    opsets = [helper.make_opsetid("", 15), helper.make_opsetid("elsewhere", 1)]
    model = helper.make_model(graph, producer_name="retort tests", ir_version=8, opset_imports=opsets)
    (HERE / f"{name}.onnx").write_bytes(model.SerializeToString())


def perceptron(name, weights):
    """x -> hidden = relu(x a + b) -> logits = hidden c + d -> probabilities."""
    a, b, c, d = (np.asarray(w, np.float32) for w in weights)
    nodes = [
        helper.make_node("Gemm", ["x", "a", "b"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "c", "d"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    inputs = [("x", FLOAT, ["n", a.shape[0]])]
    outputs = [("probabilities", FLOAT, ["n", c.shape[1]])]
    save(name, nodes, inputs, outputs, {"a": a, "b": b, "c": c, "d": d})


# Small whole numbers, for results by hand.
perceptron(
    "tiny",
    [
        [[1, 0, -1], [0, 2, 0], [1, 1, 1], [-1, 0, 2]],
        [0, -1, 1],
        [[1, -1], [2, 0], [0, 3]],
        [0.5, -0.5],
    ],
)

# Gives back its input of a fixed batch, [3, 2, 1, 2], channels last, whole numbers; a second output needs a second input.
nodes = [
    helper.make_node("Cast", ["x"], ["numbers"], to=FLOAT),
    helper.make_node("Reshape", ["numbers", "shape"], ["y"]),
    helper.make_node("Add", ["y", "bias"], ["z"]),
]
inputs = [("x", INT32, [3, 2, 1, 2]), ("bias", FLOAT, [4])]
outputs = [("y", FLOAT, None), ("z", FLOAT, None)]
save("echo", nodes, inputs, outputs, {"shape": np.array([3, 4], np.int64)})

# An operator that nobody has, on the way to one output and not to the other.
nodes = [
    helper.make_node("Relu", ["x"], ["y"]),
    helper.make_node("Frobnicate", ["y"], ["z"], domain="elsewhere"),
]
outputs = [("y", FLOAT, ["n", 2]), ("z", FLOAT, ["n", 2])]
save("strange", nodes, [("x", FLOAT, ["n", 2])], outputs, {})

# A teacher of the digits as they are stored, 0 to 16, trained on the first 1,000 of the file (some are test samples of
# Retort's split: it is there to be run, not to be measured).
table = gzip.decompress((HERE / "../../../data/assets/digits.csv.gz").read_bytes())
table = np.loadtxt(table.decode().splitlines(), delimiter=",")[:1000]
inputs, labels = table[:, :64], np.eye(10)[table[:, 64].astype(int)]
random = np.random.default_rng(1)
weights = [random.normal(0, 0.02, (64, 24)), np.zeros(24), random.normal(0, 0.2, (24, 10)), np.zeros(10)]
momentum = [np.zeros_like(w) for w in weights]
for _ in range(400):
    a, b, c, d = weights
    hidden = np.maximum(inputs @ a + b, 0)
    logits = hidden @ c + d
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    error = (probabilities - labels) / len(labels)
    back = (error @ c.T) * (hidden > 0)
    gradients = [inputs.T @ back, back.sum(0), hidden.T @ error, error.sum(0)]
    momentum = [0.9 * m + g for m, g in zip(momentum, gradients)]
    weights = [w - 0.01 * m for w, m in zip(weights, momentum)]
print("digits: training accuracy", (probabilities.argmax(1) == labels.argmax(1)).mean())
perceptron("digits", weights)
