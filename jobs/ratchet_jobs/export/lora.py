"""`lora`: the adapters as PEFT reads them, and the head as one safetensors file beside them.

PEFT adapts the encoder only; mean pooling and the head are three lines of the reader's own, which the README shows.
"""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from textwrap import indent

import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn

from ratchet_jobs.export.layout import Source, Written, ask, by_torch, save_tokenizer
from ratchet_jobs.export.merging import Merged
from ratchet_jobs.export.several_tasks import softmax_by_torch
from ratchet_jobs.models.adapter import ADAPTER_CONFIG_FILE, ADAPTER_FILE
from ratchet_jobs.models.classifier import HEAD_FILE, load_encoder

USAGE = """\
```python
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

encoder = PeftModel.from_pretrained(AutoModel.from_pretrained(BASE), FOLDER).eval()
head = load_file(f"{{FOLDER}}/head.safetensors")
batch = AutoTokenizer.from_pretrained(FOLDER)(texts, padding=True, truncation=True, return_tensors="pt")
with torch.no_grad():
    hidden = encoder(**{{name: batch[name] for name in ("input_ids", "attention_mask")}}).last_hidden_state
    weight = batch["attention_mask"].unsqueeze(-1)
    logits = (hidden * weight).sum(1) / weight.sum(1) @ head["weight"].T + head["bias"]
{softmax}
```

BASE is the folder of the base model named below; its digest is what `ratchet digest BASE` prints.
"""


def write_lora(source: Source, folder: Path) -> Written:
    """Write the layout."""
    card, pad_id = source.policy.card, source.policy.classifier.pad_id
    for name in (ADAPTER_FILE, ADAPTER_CONFIG_FILE, HEAD_FILE):
        shutil.copyfile(source.folder / name, folder / name)
    save_tokenizer(source.policy, folder)
    given = by_torch(read_lora(folder, source.base))
    return Written(
        loader="peft.PeftModel on the base model; the head by safetensors",
        computed_by="peft and torch",
        logits=ask(given, source.tokens, pad_id=pad_id, classes=len(card.labels)),
        temperature_folded=False,
        usage=USAGE.format(softmax=indent(softmax_by_torch(card), "    ")),
    )


def read_lora(folder: Path, base: Path) -> nn.Module:
    """Read the layout's files back onto their base, as PEFT does."""
    with warnings.catch_warnings():
        # peft asks the encoder for a property that transformers has renamed; nothing of ours is deprecated
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        encoder = PeftModel.from_pretrained(load_encoder(base), str(folder))
    tensors = load_file(folder / HEAD_FILE)
    head = nn.Linear(tensors["weight"].shape[1], tensors["weight"].shape[0])
    with torch.no_grad():
        head.weight.copy_(tensors["weight"])
        head.bias.copy_(tensors["bias"])
    return Merged(encoder, head).eval()
