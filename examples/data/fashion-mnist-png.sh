#!/usr/bin/env bash
# A part of Fashion-MNIST as a folder of pictures: OUT/{train,test}/CLASS/NUMBER.png, 28 x 28, grey.
#
#     examples/data/fashion-mnist-png.sh retort-runs/data/fashion-mnist-png           # 3,000 + 1,000 files, 16 MB, 1 s
#     examples/data/fashion-mnist-png.sh OUT FOLDER                                   # of the four IDX files in FOLDER
#
# The files are the first 300 and 100 of each class. Source: Debian's package dataset-fashion-mnist (Zalando, MIT). Needs
# python3.
set -euo pipefail
{ [ $# = 1 ] || [ $# = 2 ]; } || { echo "usage: $0 OUT [FOLDER]" >&2; exit 2; }
folder=${2:-/usr/share/datasets/fashion-mnist}
[ -e "$folder/train-images-idx3-ubyte.gz" ] || {
    echo "$0: no $folder/train-images-idx3-ubyte.gz: apt-get install dataset-fashion-mnist" >&2
    exit 2
}
rm -rf "$1/train" "$1/test"
python3 - "$1" "$folder" <<'PY'
import gzip, pathlib, struct, sys, zlib

NAMES = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
SIDE = 28


def png(pixels):
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">2I5B", SIDE, SIDE, 8, 0, 0, 0, 0)
    rows = b"".join(b"\0" + pixels[at : at + SIDE] for at in range(0, len(pixels), SIDE))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


out, folder = map(pathlib.Path, sys.argv[1:])
for part, prefix, most in [("train", "train", 300), ("test", "t10k", 100)]:
    images = gzip.open(folder / f"{prefix}-images-idx3-ubyte.gz").read()[16:]
    labels = gzip.open(folder / f"{prefix}-labels-idx1-ubyte.gz").read()[8:]
    taken = [0] * len(NAMES)
    for number, label in enumerate(labels):
        if taken[label] < most:
            taken[label] += 1
            file = out / part / NAMES[label] / f"{number:05}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(images[number * SIDE**2 : (number + 1) * SIDE**2]))
    print(f"{out / part}: {sum(taken)} files")
PY
