#!/usr/bin/env bash
# Smoke test and bench on a CUDA device by LibTorch: says so and ends well where there is none.
#
#   bench/gpu.sh [--quick]
#
# First every device of this build against flex (losses and gradients), then steps beside PyTorch on the same GPU, then a job
# whose teacher and student are on it, with the share of time that its student waited.
#
# RETORT_BINARIES names a folder with `retort` and `pytorch` (the bench), built elsewhere, for a machine without cargo.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v nvidia-smi >/dev/null || ! nvidia-smi -L; then
    echo "no CUDA device on this machine: nothing was run"
    exit 0
fi
export PYTHON=${PYTHON:-python3}
source bench/pytorch/libtorch.sh
if [ -n "${RETORT_BINARIES:-}" ]; then
    retort() { "$RETORT_BINARIES/retort" "$@"; }
    beside_pytorch() { "$RETORT_BINARIES/pytorch" "$@"; }
else
    retort() { cargo run --release --locked --features libtorch -- "$@"; }
    beside_pytorch() { bench/pytorch/run.sh "$@"; }
fi
retort devices
retort devices --json | python3 -c '
import json, sys
rows = {row["device"]: row for row in json.load(sys.stdin)}
gpu = rows["libtorch:cuda:0"]
sys.exit(None if gpu["state"] == "works" and gpu["gradient_difference"] < 1e-2 else f"libtorch:cuda:0: {gpu}")'
# A missed bound is the last exit code, not the end.
missed=0
beside_pytorch --device libtorch:cuda:0 "$@" || missed=1
rm -rf retort-runs/gpu
retort run examples/mnist1d-online.toml --out retort-runs/gpu --json \
    --set 'teachers.0.device="libtorch:cuda:0"' --set 'students.0.device="libtorch:cuda:0"' |
    python3 -c 'import json, sys; print("where the student'"'"'s time went:", json.load(sys.stdin)["students"][0]["time"])'
exit $missed
