#!/usr/bin/env bash
# Smoke test and bench on a CUDA device by LibTorch: says so and ends well where there is none.
#
#   bench/gpu.sh [--quick]
#
# First every device of this build against flex (losses and gradients), then steps beside PyTorch on the same GPU, then a job
# whose teacher and student are on it, with the share of time that its student waited.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v nvidia-smi >/dev/null || ! nvidia-smi -L; then
    echo "no CUDA device on this machine: nothing was run"
    exit 0
fi
source bench/pytorch/libtorch.sh
cargo run --release --locked --features libtorch -- devices
cargo run --release --locked --features libtorch -- devices --json | python3 -c '
import json, sys
rows = {row["device"]: row for row in json.load(sys.stdin)}
gpu = rows["libtorch:cuda:0"]
sys.exit(None if gpu["state"] == "works" and gpu["gradient_difference"] < 1e-2 else f"libtorch:cuda:0: {gpu}")'
bench/pytorch/run.sh --device libtorch:cuda:0 "$@"
rm -rf retort-runs/gpu
cargo run --release --locked --features libtorch -- run examples/mnist1d-online.toml --out retort-runs/gpu --json \
    --set 'teachers.0.device="libtorch:cuda:0"' --set 'students.0.device="libtorch:cuda:0"' |
    python3 -c 'import json, sys; print("where the student'"'"'s time went:", json.load(sys.stdin)["students"][0]["time"])'
