#!/usr/bin/env bash
# Makes a data set of movie-review sentences, positive or negative, in the folder OUT.
#
#     examples/data/reviews.sh retort-runs/data/reviews
#
# Source: the sentences and mean human scores (-4 to 4) of C. J. Hutto, E. E. Gilbert, VADER, 2014 (MIT), in the source
# package of vaderSentiment 0.5. Sentences of score 0 are left out. Needs python3 with pip and the package index.
#
#   train.jsonl     1,000 sentences with labels
#   test.jsonl      2,000 sentences with labels
#   unlabelled.txt  the others
#   eightfold.txt   the first 4,000 of these: eight times as many as the 500 labels that 500 sentences for validation leave
set -euo pipefail
[ $# = 1 ] || { echo "usage: $0 OUT" >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip download --quiet --no-binary :all: --no-deps --dest "$work" vaderSentiment==0.5

mkdir -p "$1"
python3 - "$work" "$1" <<'PY'
import hashlib, io, json, pathlib, sys, tarfile, zipfile

work, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
package = zipfile.ZipFile(next(work.glob("vaderSentiment-0.5.zip")))
inner = next(name for name in package.namelist() if name.endswith("/hutto_ICWSM_2014.tar.gz"))
archive = tarfile.open(fileobj=io.BytesIO(package.read(inner)))
file = next(name for name in archive.getnames() if name.endswith("/movieReviewSnippets_GroundTruth.txt"))
text = archive.extractfile(file).read().decode("utf-8")

samples = []
for line in text.splitlines():
    if not line.strip():
        continue
    _, score, sentence = line.split("\t", 2)
    if float(score) != 0:
        samples.append({"text": sentence.strip(), "label": "positive" if float(score) > 0 else "negative"})
# The file has the positive ones first.
samples.sort(key=lambda sample: hashlib.sha256(sample["text"].encode()).digest())
test, train, rest = samples[:2000], samples[2000:3000], samples[3000:]
held_out = {sample["text"] for sample in test}
train = [sample for sample in train if sample["text"] not in held_out]
rest = [sample["text"] for sample in rest if sample["text"] not in held_out]
for name, rows in [("train", train), ("test", test)]:
    rows = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (out / f"{name}.jsonl").write_text("".join(rows), encoding="utf-8")
for name, texts in [("unlabelled", rest), ("eightfold", rest[:4000])]:
    (out / f"{name}.txt").write_text("".join(text + "\n" for text in texts), encoding="utf-8")
print(f"{out}: {len(train)} for training, {len(test)} for testing, {len(rest)} without a label")
PY
