#!/usr/bin/env bash
# Makes a data set for language identification in the folder OUT: pairs of words, eight languages.
#
#     examples/data/languages.sh retort-runs/data/languages
#
# Source: the test data of Lingua (P. M. Stahl, Apache-2.0), which its crates lingua-LANGUAGE-language-model 1.3.0 hold
# for each language: 1,000 pairs of words and 1,000 sentences. Needs cargo, python3 and the crates' registry.
#
#   train.jsonl     150 pairs of each language, with labels
#   test.jsonl      250 pairs of each language, with labels
#   unlabelled.txt  the other 600 pairs of each language, and the first pairs of words of its sentences
set -euo pipefail
[ $# = 1 ] || { echo "usage: $0 OUT" >&2; exit 2; }

languages="dutch english french german italian portuguese spanish swedish"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mkdir "$work/src"
touch "$work/src/lib.rs"
{
    printf '[package]\nname = "languages"\nversion = "0.0.0"\nedition = "2021"\n[dependencies]\n'
    for language in $languages; do echo "lingua-$language-language-model = \"=1.3.0\""; done
} >"$work/Cargo.toml"
cargo metadata --manifest-path "$work/Cargo.toml" --format-version 1 >"$work/metadata.json"

mkdir -p "$1"
python3 - "$work/metadata.json" "$1" $languages <<'PY'
import json, pathlib, sys

metadata, out, languages = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3:]
packages = json.load(open(metadata))["packages"]
folder = {p["name"]: pathlib.Path(p["manifest_path"]).parent / "testdata" for p in packages}
PAIRS_OF_A_SENTENCE = 2


def lines(language, name):
    path = folder[f"lingua-{language}-language-model"] / name
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


train, test, rest = [], [], []
for language in languages:
    pairs = lines(language, "word-pairs.txt")
    of = [{"text": pair, "label": language} for pair in pairs]
    train += of[:150]
    test += of[-250:]
    rest += pairs[150:-250]
    for sentence in lines(language, "sentences.txt"):
        words = [word for word in sentence.lower().split() if word.isalpha()]
        rest += [" ".join(words[i : i + 2]) for i in range(0, 2 * PAIRS_OF_A_SENTENCE, 2) if i + 1 < len(words)]
held_out = {sample["text"] for sample in test}
rest = [text for text in rest if text not in held_out]
for name, samples in [("train", train), ("test", test)]:
    rows = (json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
    (out / f"{name}.jsonl").write_text("".join(rows), encoding="utf-8")
(out / "unlabelled.txt").write_text("".join(text + "\n" for text in rest), encoding="utf-8")
print(f"{out}: {len(train)} for training, {len(test)} for testing, {len(rest)} without a label")
PY
