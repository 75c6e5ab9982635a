#!/usr/bin/env bash
# Our steps and epochs beside PyTorch's, on the same cores, in one table; the last line is `RESULT {json}`.
#
#   bench/pytorch/run.sh [--quick] [--device libtorch:cuda:0] [--part steps|phases|epochs|service]
#
# PYTHON names the interpreter that has PyTorch (`pip install -r bench/pytorch/requirements.txt`); python3 by default. Where
# it has the version that burn-tch wants, our side runs on LibTorch too; without it on flex alone, and says so.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PYTHON=${PYTHON:-python3}
features=()
if source bench/pytorch/libtorch.sh; then
    features=(--features libtorch)
fi
exec cargo bench --locked -p retort-tests "${features[@]}" --bench pytorch -- "$@"
