# To be sourced: points the build and the loader at the LibTorch of $PYTHON's PyTorch. Fails where there is none that fits.
# burn-tch is made for 2.9; LIBTORCH_BYPASS_VERSION_CHECK=1 takes another one (2.11 was run: docs/benchmarks.md).
found=$("${PYTHON:-python3}" - <<'PY'
import os, pathlib, sys
try:
    import torch
except ImportError:
    sys.exit("PyTorch is not installed (pip install -r bench/pytorch/requirements.txt): no LibTorch")
if not torch.__version__.startswith("2.9.") and not os.environ.get("LIBTORCH_BYPASS_VERSION_CHECK"):
    sys.exit(f"PyTorch {torch.__version__} is not the 2.9 that burn-tch is made for: no LibTorch")
root = pathlib.Path(torch.__file__).parent
libraries = [root / "lib", *sorted(root.parent.glob("nvidia/*/lib"))]
print(root, ":".join(map(str, libraries)))
PY
) || return 1
export LIBTORCH=${found%% *} LD_LIBRARY_PATH=${found#* }${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
