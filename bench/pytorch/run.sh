#!/usr/bin/env bash
# Our steps and epochs beside PyTorch's, on the same cores, in one table; the last line is `RESULT {json}`.
#
#   bench/pytorch/run.sh [--quick] [--device libtorch:cuda:0] [--part steps|phases|epochs|service]
#
# PYTHON names the interpreter that has PyTorch (`pip install -r bench/pytorch/requirements.txt`); python3 by default. Where
# it has the version that burn-tch wants, our side runs on LibTorch too; without it on flex alone, and says so. A program
# with LibTorch loads it whatever its device, so the first step and the memory on flex are of one without, and come first.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PYTHON=${PYTHON:-python3}
# A missed bound is the last exit code, not the end.
missed=0
bench() { cargo bench --locked -p retort-tests --bench pytorch "$@"; }
if ! (source bench/pytorch/libtorch.sh); then
    bench -- "$@"
    exit
fi
case " $* " in
    *" --device "* | *" --part steps "* | *" --part phases "* | *" --part epochs "*) ;;
    *" --quick "*) bench -- --quick --part service || missed=1 ;;
    *) bench -- --part service || missed=1 ;;
esac
source bench/pytorch/libtorch.sh
bench --features libtorch -- "$@" || missed=1
exit $missed
