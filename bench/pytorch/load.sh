#!/usr/bin/env bash
# What loading LibTorch costs before a program's first line: a program that links what the cargo feature `libtorch` links and
# does nothing, alone, and four at once as a local run has them (coordinator, teacher server, two or three workers).
#
#   bench/pytorch/load.sh            # PYTHON names the interpreter that has PyTorch
set -euo pipefail
cd "$(dirname "$0")/../.."
source bench/pytorch/libtorch.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo 'int main() { return 0; }' >"$work/nothing.cpp"
cuda=$([ -e "$LIBTORCH/lib/libtorch_cuda.so" ] && echo "-ltorch_cuda" || true)
# shellcheck disable=SC2086
g++ "$work/nothing.cpp" -o "$work/nothing" -L"$LIBTORCH/lib" -Wl,--no-as-needed -ltorch -ltorch_cpu $cuda -lc10 -Wl,--allow-shlib-undefined
"$work/nothing" # Reads the files once.
LD_DEBUG=statistics "$work/nothing" 2>&1 | sed -n '1,/number of relocations from cache/p'
python3 - "$work/nothing" <<'PY'
import json, os, statistics, subprocess, sys, time
program, cores = sys.argv[1], os.cpu_count()
def seconds(at_once):
    began = time.perf_counter()
    for process in [subprocess.Popen([program]) for _ in range(at_once)]:
        assert process.wait() == 0
    return time.perf_counter() - began
alone, four = ([seconds(n) for _ in range(7)] for n in (1, 4))
row = {"seconds_alone": statistics.median(alone), "seconds_four_at_once": statistics.median(four), "cores": cores}
for name, turns in (("alone", alone), ("four at once", four)):
    print(f"{name}: {statistics.median(turns):.2f} s ({min(turns):.2f}..{max(turns):.2f})")
print("RESULT", json.dumps(row))
PY
