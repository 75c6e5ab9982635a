#!/usr/bin/env bash
# Spoken digits by espeak-ng: OUT/{train,test}/{0..9}/VOICE.wav. The test voices say nothing in OUT/train.
#
#     examples/data/speech-digits.sh OUT          # 3,600 + 1,080 files of about a second, 150 MB, in about a minute
#     examples/data/speech-digits.sh OUT --few    # one accent, speed and pitch: 200 + 90 files
#
# The same version of espeak-ng makes the same bytes. It is Debian's package espeak-ng (--no-install-recommends).
set -euo pipefail

out=${1:?"usage: speech-digits.sh OUT [--few]"}
few=${2:-}
[ -z "$few" ] || [ "$few" = --few ] || { echo "speech-digits.sh: unknown argument $few, expected --few" >&2; exit 2; }
command -v espeak-ng >/dev/null || {
    echo "speech-digits.sh: espeak-ng is missing: apt-get install --no-install-recommends espeak-ng" >&2
    exit 2
}

words=(zero one two three four five six seven eight nine)
train=(m1 m2 m3 m4 m5 m6 f1 f2 f3 klatt klatt2 klatt3 croak whisper Andy Alex Annie Denis linda norbert)
test=(m7 m8 f4 f5 klatt4 grandpa whisperf Andrea belinda)
accents=(en en-us en-gb-scotland en-gb-x-rp en-gb-x-gbcwmd en-029)
# Words a minute, and pitch from 0 to 99.
train_manners=("130 35" "170 50" "210 65")
test_manners=("150 60" "190 40")
if [ -n "$few" ]; then
    accents=(en-us)
    train_manners=("170 50")
    test_manners=("170 50")
fi

# One line of arguments for each file of a part: voices and manners by the names of their lists.
lines() {
    local part=$1 digit accent voice manner speed pitch
    local -n voices=$2 manners=$3
    for digit in "${!words[@]}"; do
        mkdir -p "$out/$part/$digit"
        for accent in "${accents[@]}"; do
            for voice in "${voices[@]}"; do
                for manner in "${manners[@]}"; do
                    read -r speed pitch <<<"$manner"
                    printf '%s\0' -v "$accent+$voice" -s "$speed" -p "$pitch" \
                        -w "$out/$part/$digit/$accent+$voice-$speed-$pitch.wav" "${words[digit]}"
                done
            done
        done
    done
}

{ lines train train train_manners; lines test test test_manners; } | xargs -0 -n 9 -P "$(nproc)" espeak-ng
for part in train test; do
    echo "$out/$part: $(find "$out/$part" -name '*.wav' | wc -l) files"
done
