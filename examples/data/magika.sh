#!/usr/bin/env bash
# Makes a teacher of Magika in the folder OUT: which of 214 types a file is, by its bytes.
#
#     examples/data/magika.sh retort-runs/data/magika
#
# Source: src/model.onnx of the crate magika 1.1.0 (Google, Apache-2.0). Needs cargo, python3 and the crates' registry, and
# builds retort with the cargo feature `onnx`, unless RETORT names such a program.
#
# A sample is 1 x 1 x 2048 bytes of both ends of a file: tokens.kind = "file-bytes" (docs/data.md).
set -euo pipefail
[ $# = 1 ] || { echo "usage: $0 OUT" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
retort() { if [ "${RETORT:-}" ]; then "$RETORT" "$@"; else cargo run --release --quiet --features onnx -- "$@"; fi; }

mkdir "$work/src"
touch "$work/src/lib.rs"
printf '[package]\nname = "teacher"\nversion = "0.0.0"\nedition = "2021"\n[dependencies]\nmagika = "=1.1.0"\n' >"$work/Cargo.toml"
cargo metadata --manifest-path "$work/Cargo.toml" --format-version 1 >"$work/metadata.json"
python3 - "$work" <<'PY'
import json, pathlib, re, shutil, sys

work = pathlib.Path(sys.argv[1])
packages = json.load(open(work / "metadata.json"))["packages"]
source = next(pathlib.Path(p["manifest_path"]).parent / "src" for p in packages if p["name"] == "magika")
shutil.copy(source / "model.onnx", work / "magika.onnx")
# `Label` lists the outputs in order; each names a content type, whose label is in content.rs.
model, content = ((source / name).read_text() for name in ("model.rs", "content.rs"))
order = re.search(r"enum Label \{(.*?)\n\}", model, re.S).group(1)
types = dict(re.findall(r"Label::(\w+) => ContentType::(\w+),", model))
infos = dict(re.findall(r"ContentType::(\w+) => &(\w+),", content))
labels = dict(re.findall(r"static (\w+): TypeInfo = TypeInfo \{\s*label: \"([^\"]+)\"", content))
names = [labels[infos[types[variant]]] for variant in re.findall(r"^ {4}(\w+)", order, re.M)]
(work / "classes.txt").write_text("".join(name + "\n" for name in names))
PY
cat >"$work/magika.toml" <<'TOML'
shape = [1, 1, 2048]
layout = "flat"
output = "jax2tf_get_logits_/pjit_get_logits_/MagikaV2/Dense_1/AddV2:0"   # before its softmax
gives = "logits"
tokens = { kind = "file-bytes" }
padding = 256
classes = "classes.txt"
TOML
retort import "$work/magika.onnx" --out "$1"
