#!/usr/bin/env python3
"""Which classes does a student take for one another, where its teacher names one of them? Pairs, most frequent first.

    python3 experiments/confused.py RUN...     # folders with report.json and predictions.json: runs, or trials of an experiment
"""
import json
import sys
from collections import Counter
from pathlib import Path

MOST = 8


def main(folders):
    pairs, targets, named = Counter(), 0, Counter()
    for folder in map(Path, folders):
        report = json.loads((folder / "report.json").read_text())
        said = json.loads((folder / "predictions.json").read_text())
        names = [row["class"] for row in report["students"][0]["per_class"]]
        student, teacher = report["students"][0]["name"], report["teachers"][0]["name"]
        for ours, theirs in zip(said[student], said[teacher]):
            for mine, other in zip(ours, theirs):
                targets += 1
                named[names[other]] += 1
                if mine != other:
                    pairs[tuple(sorted((names[mine], names[other])))] += 1
    apart = sum(pairs.values())
    print(f"{targets} answers of {len(folders)} runs, {apart} of them not the teacher's ({apart / targets:.1%})")
    for (one, other), count in pairs.most_common(MOST):
        both = named[one] + named[other]
        print(f"{one} / {other}: {count} of the {both} where the teacher names one of them ({count / both:.0%})")


if __name__ == "__main__":
    main(sys.argv[1:])
