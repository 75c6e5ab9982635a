"""Makes the small BERT of the tests and what it puts out: python3 make.py (needs nothing else).

The weights are random. The reference is computed here, in double precision, by the formulas of Devlin et al. 2018 and of
transformers' BertModel, whose names they follow; a mean over the tokens that are no padding ends it.
"""

import json
import math
import pathlib
import random
import struct

HERE = pathlib.Path(__file__).parent
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "film", "is", "good", "bad", "not", "a", "##s"]
WIDTH, HEADS, LAYERS, UNITS, POSITIONS = 8, 2, 2, 12, 10
# [CLS] the film is good [SEP], [CLS] [SEP], and one as long as a sample.
SAMPLES = [[2, 4, 5, 6, 7, 3, 0, 0], [2, 3, 0, 0, 0, 0, 0, 0], [2, 4, 5, 11, 9, 8, 1, 3]]

random.seed(8)
weights = {}


def f32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def tensor(name, shape, around=0.0, spread=0.3):
    numbers = [f32(random.gauss(around, spread)) for _ in range(math.prod(shape))]
    weights[name] = (shape, numbers)


def dense(name, inputs, outputs):
    tensor(f"{name}.weight", [outputs, inputs])
    tensor(f"{name}.bias", [outputs])


def norm(name):
    tensor(f"{name}.weight", [WIDTH], around=1.0)
    tensor(f"{name}.bias", [WIDTH])


tensor("embeddings.word_embeddings.weight", [len(WORDS), WIDTH], spread=1.0)
tensor("embeddings.position_embeddings.weight", [POSITIONS, WIDTH], spread=1.0)
tensor("embeddings.token_type_embeddings.weight", [2, WIDTH], spread=1.0)
norm("embeddings.LayerNorm")
for layer in range(LAYERS):
    at = f"encoder.layer.{layer}"
    for part in ["query", "key", "value"]:
        dense(f"{at}.attention.self.{part}", WIDTH, WIDTH)
    dense(f"{at}.attention.output.dense", WIDTH, WIDTH)
    norm(f"{at}.attention.output.LayerNorm")
    dense(f"{at}.intermediate.dense", WIDTH, UNITS)
    dense(f"{at}.output.dense", UNITS, WIDTH)
    norm(f"{at}.output.LayerNorm")
dense("pooler.dense", WIDTH, WIDTH)


def rows(name):
    (count, width), numbers = weights[name]
    return [numbers[i * width : (i + 1) * width] for i in range(count)]


def apply_dense(name, x):
    weight, bias = rows(f"{name}.weight"), weights[f"{name}.bias"][1]
    return [[sum(w * v for w, v in zip(row, token)) + b for row, b in zip(weight, bias)] for token in x]


def apply_norm(name, x):
    scale, shift = weights[f"{name}.weight"][1], weights[f"{name}.bias"][1]
    out = []
    for token in x:
        mean = sum(token) / WIDTH
        variance = sum((v - mean) ** 2 for v in token) / WIDTH
        out.append([(v - mean) / math.sqrt(variance + 1e-12) * g + b for v, g, b in zip(token, scale, shift)])
    return out


def add(x, y):
    return [[a + b for a, b in zip(u, v)] for u, v in zip(x, y)]


def attention(at, x, mask):
    query, key, value = (apply_dense(f"{at}.{part}", x) for part in ["query", "key", "value"])
    size = WIDTH // HEADS
    out = [[0.0] * WIDTH for _ in x]
    for head in range(HEADS):
        part = range(head * size, (head + 1) * size)
        for q, target in zip(query, out):
            scores = [sum(q[i] * k[i] for i in part) / math.sqrt(size) for k in key]
            parts = [math.exp(s) if seen else 0.0 for s, seen in zip(scores, mask)]
            for share, v in zip(parts, value):
                for i in part:
                    target[i] += share / sum(parts) * v[i]
    return out


def gelu(x):
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


def layers(ids):
    """What each layer puts out, token by token, and the mean of the last."""
    mask = [i != 0 for i in ids]
    words, places = rows("embeddings.word_embeddings.weight"), rows("embeddings.position_embeddings.weight")
    kind = rows("embeddings.token_type_embeddings.weight")[0]
    x = [[a + b + c for a, b, c in zip(words[i], kind, place)] for i, place in zip(ids, places)]
    x = apply_norm("embeddings.LayerNorm", x)
    out = []
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}"
        attended = apply_dense(f"{at}.attention.output.dense", attention(f"{at}.attention.self", x, mask))
        x = apply_norm(f"{at}.attention.output.LayerNorm", add(attended, x))
        up = [[gelu(v) for v in token] for token in apply_dense(f"{at}.intermediate.dense", x)]
        x = apply_norm(f"{at}.output.LayerNorm", add(apply_dense(f"{at}.output.dense", up), x))
        out.append([token for token, seen in zip(x, mask) if seen])
    return out, [sum(column) / sum(mask) for column in zip(*out[-1])]


def safetensors():
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, (shape, numbers) in sorted(weights.items()):
        bytes_ = struct.pack(f"<{len(numbers)}f", *numbers)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(bytes_)]}
        data += bytes_
    header = json.dumps(header).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data


def tokenizer():
    def special(name):
        return {"SpecialToken": {"id": name, "type_id": 0}}

    def added(name):
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        return {"id": WORDS.index(name), "content": name, **flags}

    whole = {"Sequence": {"id": "A", "type_id": 0}}
    ends = {name: {"id": name, "ids": [WORDS.index(name)], "tokens": [name]} for name in ["[CLS]", "[SEP]"]}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added(name) for name in WORDS[:4]],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special("[CLS]"), whole, special("[SEP]")],
            "pair": [special("[CLS]"), whole, special("[SEP]"), {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": ends,
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {word: i for i, word in enumerate(WORDS)},
        },
    }


config = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_size": WIDTH,
    "intermediate_size": UNITS,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": POSITIONS,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "pad_token_id": 0,
    "type_vocab_size": 2,
    "vocab_size": len(WORDS),
}
reference = []
for ids in SAMPLES:
    blocks, pooled = layers(ids)
    reference.append({"ids": ids, "layers": blocks, "pooled": pooled})
(HERE / "config.json").write_text(json.dumps(config, indent=2) + "\n")
(HERE / "model.safetensors").write_bytes(safetensors())
(HERE / "tokenizer.json").write_text(json.dumps(tokenizer(), indent=1) + "\n")
(HERE / "reference.json").write_text(json.dumps(reference) + "\n")
