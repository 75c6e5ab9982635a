"""Makes minilm.json, what all-MiniLM-L6-v2 puts out by transformers: python3 minilm.py FOLDER

FOLDER has its config.json, model.safetensors and tokenizer.json. Needs torch and transformers; 2.9.1 and 5.24.0 made the file
in the repository. Texts are cut and filled up to 64 tokens; their outputs are means over those that are no padding, as
sentence-transformers takes them before it normalises.
"""

import json
import pathlib
import sys

import torch
from transformers import BertModel, PreTrainedTokenizerFast

TEXTS = [
    "This movie is great!",
    "An utterly tedious, overlong mess of a film; I wanted my money back.",
    "",
    "Café déjà vu — naïve façade, 100% unwatchable…",
    "It's not bad, but it isn't good either. The acting, the script, the camera work: everything about this production is "
    "mediocre at best and, at its worst, it drags on and on and on without any sense of rhythm, purpose, or respect for the "
    "audience's intelligence and time, which is a shame because the premise had real potential to be something.",
]

folder = sys.argv[1]
model = BertModel.from_pretrained(folder).eval()
tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json", pad_token="[PAD]")
batch = tokenizer(TEXTS, truncation=True, max_length=64, padding="max_length", return_tensors="pt")
ids, mask = batch["input_ids"], batch["attention_mask"]
with torch.no_grad():
    outputs = model(input_ids=ids, attention_mask=mask).last_hidden_state
mask = mask.unsqueeze(-1)
pooled = (outputs * mask).sum(1) / mask.sum(1)
samples = [
    {"text": text, "ids": i.tolist(), "pooled": [round(x, 6) for x in p.tolist()]}
    for text, i, p in zip(TEXTS, ids, pooled, strict=True)
]
lines = ",\n".join(json.dumps(sample, ensure_ascii=False) for sample in samples)
(pathlib.Path(__file__).parent / "minilm.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
