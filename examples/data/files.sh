#!/usr/bin/env bash
# Makes a data set of files in the folder OUT: train.jsonl and test.jsonl, which list files with their type, and classes.txt,
# the 214 types that Magika knows.
#
#     examples/data/files.sh retort-runs/data/files
#
# The files are those of the packages that this repository's Cargo.lock pins, and of ten pinned Python packages. A file's
# type is what the name's ending says, where Magika's own list gives the ending to one type alone; all other files have no
# label. Of each type at most 300 files are taken; of each package's files all go to the same side, a fifth of the packages
# to the test. Needs cargo, python3 with pip and both registries.
set -euo pipefail
[ $# = 1 ] || { echo "usage: $0 OUT" >&2; exit 2; }
root=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cargo metadata --locked --format-version 1 --all-features --manifest-path "$root/Cargo.toml" >"$work/metadata.json"
mkdir "$work/src" && touch "$work/src/lib.rs"
printf '[package]\nname = "teacher"\nversion = "0.0.0"\nedition = "2021"\n[dependencies]\nmagika = "=1.1.0"\n' >"$work/Cargo.toml"
cargo metadata --manifest-path "$work/Cargo.toml" --format-version 1 >"$work/magika.json"
for package in babel==2.17.0 bokeh==3.7.3 django==5.2.3 jupyterlab==4.4.3 notebook==7.4.3 plotly==6.1.2 \
    scikit-image==0.25.2 sphinx==8.2.3 matplotlib==3.10.3 pandas==2.3.0; do
    python3 -m pip download --quiet --no-deps --only-binary :all: --python-version 3.11 --platform manylinux2014_x86_64 \
        --platform manylinux_2_17_x86_64 --dest "$work/python" "$package"
done
for wheel in "$work"/python/*.whl; do python3 -m zipfile -e "$wheel" "$out/python/$(basename "$wheel" .whl)"; done
python3 - "$work" "$out" <<'PY'
import hashlib, json, pathlib, re, shutil, sys
from collections import Counter

work, out = map(pathlib.Path, sys.argv[1:])
packages = lambda name: json.load(open(work / name))["packages"]
magika = next(pathlib.Path(p["manifest_path"]).parent / "src" for p in packages("magika.json") if p["name"] == "magika")
model, content = ((magika / name).read_text() for name in ("model.rs", "content.rs"))
order = re.search(r"enum Label \{(.*?)\n\}", model, re.S).group(1)
types = dict(re.findall(r"Label::(\w+) => ContentType::(\w+),", model))
infos = dict(re.findall(r"ContentType::(\w+) => &(\w+),", content))
label = dict(re.findall(r"static (\w+): TypeInfo = TypeInfo \{\s*label: \"([^\"]+)\"", content))
endings = dict(re.findall(r"static (\w+): TypeInfo = TypeInfo \{.*?extensions: &\[(.*?)\]", content, re.S))
names, by_ending = [], {}
for variant in re.findall(r"^ {4}(\w+)", order, re.M):
    info = infos[types[variant]]
    names.append(label[info])
    for ending in re.findall(r'"([^"]+)"', endings.get(info, "")):
        by_ending.setdefault(ending, []).append(label[info])
(out / "classes.txt").write_text("".join(name + "\n" for name in names))

key = lambda text: int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
roots = [(p["name"] + "-" + p["version"], pathlib.Path(p["manifest_path"]).parent) for p in packages("metadata.json") if p["source"]]
roots += [(folder.name, folder) for folder in sorted((out / "python").iterdir())]
files = []
for name, root in roots:
    side = "test" if key(name) % 5 == 0 else "train"
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_size >= 16:
            ending = path.suffix[1:].lower()
            known = by_ending.get(ending, [])
            files.append((key(f"{name}/{path.relative_to(root)}"), side, known[0] if len(known) == 1 else None, path))
files.sort(key=lambda file: file[0])
taken, lists = Counter(), {"train": [], "test": []}
shutil.rmtree(out / "files", ignore_errors=True)
for number, side, kind, path in files:
    most = 300 if kind else 1500
    if (side == "test" and not kind) or taken[side, kind] >= (most if side == "train" else 60):
        continue
    taken[side, kind] += 1
    copy = f"files/{side}/{number:016x}"
    (out / copy).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, out / copy)
    lists[side].append({"text": copy} | ({"label": kind} if kind else {}))
shutil.rmtree(out / "python")
known = {row["label"] for row in lists["train"] if "label" in row}
lists["test"] = [row for row in lists["test"] if row["label"] in known]
for side, rows in lists.items():
    (out / f"{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
kinds = Counter(row.get("label", "(none)") for row in lists["train"])
print(f"{out}: {len(lists['train'])} files for training, {len(lists['test'])} for testing, {len(known)} types:",
      ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()))
PY
