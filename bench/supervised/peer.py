"""The peer: transformers.Trainer teaching the same encoder with the same LoRA, pooling, head and hyper-parameters.

Written as its users write it: fast tokenizer, DataCollatorWithPadding, peft's model in train mode, every argument of
TrainingArguments left alone that does not set a hyper-parameter. `grouped` adds train_sampling_strategy, its own way
of putting like lengths together. Run by `measure.py`, in a process of its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from bench.supervised.task import BLOCK_LINEARS, Hyper


class MeanPooled(nn.Module):
    """Encoder, mean over real tokens, linear head, loss: the idiom that Trainer expects."""

    def __init__(self, encoder: nn.Module, hidden: int, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(hidden, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
        logits = self.head((hidden * weight).sum(1) / weight.sum(1))
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class Peer:
    """A model trained by Trainer."""

    def __init__(self, base: Path, classes: int, hyper: Hyper, *, grouped: bool) -> None:
        self._base, self._classes, self._hyper, self._grouped = base, classes, hyper, grouped
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(str(base))

    def train(self, texts: Sequence[str], labels: Sequence[int], work: Path) -> None:
        hyper = self._hyper
        torch.manual_seed(hyper.seed)
        encoder = transformers.AutoModel.from_pretrained(str(self._base), add_pooling_layer=False)
        warnings.filterwarnings("ignore", category=FutureWarning)
        lora = LoraConfig(r=hyper.rank, lora_alpha=hyper.alpha, target_modules=list(BLOCK_LINEARS))
        self._model = MeanPooled(get_peft_model(encoder, lora), encoder.config.hidden_size, self._classes)
        encoded = self._tokenizer(list(texts), truncation=True, max_length=hyper.max_tokens)
        data = [
            {"input_ids": ids, "attention_mask": mask, "labels": label}
            for ids, mask, label in zip(encoded["input_ids"], encoded["attention_mask"], labels, strict=True)
        ]
        arguments = transformers.TrainingArguments(
            output_dir=str(work),
            num_train_epochs=hyper.epochs,
            per_device_train_batch_size=hyper.batch_size,
            learning_rate=hyper.learning_rate,
            weight_decay=hyper.weight_decay,
            warmup_steps=hyper.warmup_ratio,
            max_grad_norm=hyper.max_grad_norm,
            seed=hyper.seed,
            use_cpu=True,
            save_strategy="no",
            disable_tqdm=True,
            **({"train_sampling_strategy": "group_by_length"} if self._grouped else {}),
        )
        collator = transformers.DataCollatorWithPadding(self._tokenizer)
        transformers.Trainer(model=self._model, args=arguments, train_dataset=data, data_collator=collator).train()

    def predict(self, texts: Sequence[str]) -> np.ndarray:
        self._model.eval()
        predicted = np.zeros(len(texts), dtype=np.int64)
        order = np.argsort([len(text) for text in texts], kind="stable")
        with torch.inference_mode():
            for start in range(0, len(order), 64):
                part = order[start : start + 64]
                encoded = self._tokenizer(
                    [texts[i] for i in part],
                    truncation=True,
                    max_length=self._hyper.max_tokens,
                    padding=True,
                    return_tensors="pt",
                )
                logits = self._model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"])["logits"]
                predicted[part] = logits.argmax(1).numpy()
        return predicted
