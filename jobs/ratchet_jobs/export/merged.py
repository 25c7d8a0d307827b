"""`merged`: the encoder as a Hugging Face folder, pooling and head as sentence-transformers modules beside it.

No class of transformers pools by mean and has nothing but a linear layer behind it, so there is no
AutoModelForSequenceClassification that would compute this policy, and config.json names the bare encoder. The three
modules of sentence-transformers (encoder, Pooling, Dense) do compute it: `encode` returns the logits, of several
tasks side by side.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from ratchet_jobs.export.config import CONFIG_FILE, encoder_config, write_json
from ratchet_jobs.export.layout import Source, Written, ask, by_torch, save_tokenizer
from ratchet_jobs.export.merging import WEIGHTS_FILE, Merged, merge, save_tensors
from ratchet_jobs.export.several_tasks import softmax_by_numpy
from ratchet_jobs.models.classifier import load_encoder

POOLING, DENSE = "1_Pooling", "2_Dense"
_MODULES = (("", "Transformer"), (POOLING, "Pooling"), (DENSE, "Dense"))

USAGE = """\
```python
import numpy as np
from sentence_transformers import SentenceTransformer

logits = SentenceTransformer(FOLDER).encode(texts)            # (texts, classes)
{softmax}
```

`AutoModel.from_pretrained(FOLDER)` loads the encoder alone. `AutoModelForSequenceClassification` must not be used:
every such class of transformers pools otherwise or has further layers, and would answer from a random head.
"""


def write_merged(source: Source, folder: Path) -> Written:
    """Write the layout."""
    classes = len(source.policy.card.labels)
    pad_id = source.policy.classifier.pad_id
    merged = merge(source.policy, fold_temperature=False)
    write_json(folder / CONFIG_FILE, encoder_config(merged.encoder))
    save_tensors(merged.encoder.state_dict(), folder / WEIGHTS_FILE)
    save_tokenizer(source.policy, folder)
    modules = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for place, (path, kind) in enumerate(_MODULES)
    ]
    write_json(folder / "modules.json", modules)
    limits = {"max_seq_length": source.policy.card.max_tokens, "do_lower_case": False}
    write_json(folder / "sentence_bert_config.json", limits)
    (folder / POOLING).mkdir()
    pooling = {"word_embedding_dimension": merged.head.in_features, "pooling_mode_mean_tokens": True}
    write_json(folder / POOLING / CONFIG_FILE, {**pooling, "pooling_mode_cls_token": False})
    (folder / DENSE).mkdir()
    dense = {"in_features": merged.head.in_features, "out_features": classes, "bias": True}
    write_json(folder / DENSE / CONFIG_FILE, dense | {"activation_function": "torch.nn.modules.linear.Identity"})
    save_tensors({"linear.weight": merged.head.weight, "linear.bias": merged.head.bias}, folder / DENSE / WEIGHTS_FILE)
    logits = ask(by_torch(read_merged(folder)), source.tokens, pad_id=pad_id, classes=classes)
    return Written(
        loader="sentence-transformers; the encoder alone: transformers.AutoModel",
        computed_by="transformers and torch",
        logits=logits,
        temperature_folded=False,
        usage=USAGE.format(softmax=softmax_by_numpy(source.policy.card)),
    )


def read_merged(folder: Path) -> Merged:
    """Read the layout's files back, as its loader does."""
    dense = load_file(folder / DENSE / WEIGHTS_FILE)
    head = nn.Linear(dense["linear.weight"].shape[1], dense["linear.weight"].shape[0])
    with torch.no_grad():
        head.weight.copy_(dense["linear.weight"])
        head.bias.copy_(dense["linear.bias"])
    return Merged(load_encoder(folder), head).eval()
