#!/usr/bin/env bash
# Pictures of pages of text, each turned clockwise by 0, 90, 180 or 270 degrees:
#
#     examples/data/pages.sh retort-runs/data/pages      # 800 + 200 PNG files of 224 x 224, 30 MB, in about 20 s
#
# OUT/{train,test}/{000,090,180,270}/NUMBER.png (classes stand in the order of their names); no page is there twice. Each has
# one or two columns of English words in lines of some size, perhaps a heading and a grey figure, and is a little crooked, blurred
# and noisy, as if it had been scanned.
#
# Needs python3 with pip, and its registry for Pillow 13.0.0 (MIT-CMU), whose own font it writes with. The same version makes
# the same bytes.
set -euo pipefail
[ $# = 1 ] || { echo "usage: $0 OUT" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m pip install --quiet --target "$work" pillow==13.0.0
rm -rf "$1/train" "$1/test"
PYTHONPATH="$work" python3 - "$1" <<'PY'
import pathlib, random, sys
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SIDE = 224
TURNS = {0: None, 90: Image.Transpose.ROTATE_270, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_90}
WORDS = """the of and to in that is was for it with as his on be at by had not are but from or have an they which one you were
all her she there would their we him been has when who will no more if out so up said what its about than into them can only
other time new some could these two may first then do any like my now over such our man me even most made after also well
before must through years where much your way down should because long each just state those people too mr how little good
world make very year still see own work men day get here between both being under three never know same last another while
us off might great go come since against right came take used himself few house use place during high without again home
around small however found part school Monday Boston figure Peter quality hydrogen Yes justify quickly typography""".split()


def lines(draw, rng, left, right, top, bottom, size):
    """Ragged lines of words between two margins, in paragraphs."""
    font = ImageFont.load_default(size)
    y = top
    while y < bottom:
        width = right - left if rng.random() > 0.15 else (right - left) * rng.uniform(0.3, 0.9)
        text = ""
        while draw.textlength(text, font) < width:
            text += rng.choice(WORDS) + rng.choice(["", "", "", "", ",", "."]) + " "
        draw.text((left, y), text.rsplit(" ", 2)[0], fill=rng.randrange(30, 90), font=font)
        y += size * (1.4 if rng.random() > 0.12 else 2.4)


def page(rng):
    """Twice as large as it will be."""
    side = 2 * SIDE
    image = Image.new("L", (side, side), rng.randrange(225, 256))
    draw = ImageDraw.Draw(image)
    margin, top = rng.randrange(20, 60), rng.randrange(10, 60)
    if rng.random() < 0.5:
        size = rng.randrange(30, 46)
        draw.text((margin, top), " ".join(rng.choices(WORDS, k=3)).title(), fill=20, font=ImageFont.load_default(size))
        top += 2 * size
    size = rng.randrange(16, 27)
    columns = 1 if size > 20 or rng.random() < 0.6 else 2
    width = (side - 2 * margin + 20) / columns
    for column in range(columns):
        left = margin + column * width
        lines(draw, rng, left, left + width - 20, top, side - rng.randrange(10, 50), size)
    if rng.random() < 0.3:
        x, y = rng.randrange(margin, side // 2), rng.randrange(side // 3, side - 160)
        draw.rectangle((x, y, x + rng.randrange(80, 200), y + rng.randrange(60, 140)), fill=rng.randrange(120, 220))
    image = image.rotate(rng.uniform(-3, 3), Image.Resampling.BICUBIC, fillcolor=image.getpixel((0, 0)))
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.0, 1.0))).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    noise = Image.frombytes("L", (SIDE, SIDE), rng.randbytes(SIDE * SIDE))
    return Image.blend(image, noise, rng.uniform(0.0, 0.06))


out = pathlib.Path(sys.argv[1])
for part, count in [("train", 800), ("test", 200)]:
    for number in range(count):
        turn = list(TURNS)[number % len(TURNS)]
        image = page(random.Random(f"{part} {number}"))
        if TURNS[turn] is not None:
            image = image.transpose(TURNS[turn])
        folder = out / part / f"{turn:03}"
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{number:04}.png")
    print(f"{out / part}: {count} files")
PY
