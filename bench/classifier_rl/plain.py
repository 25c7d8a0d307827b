"""The straightforward PPO for a text classifier, as one writes it in an afternoon; the reference that ours races.

    .venv/bin/python -m bench.classifier_rl.plain --data FILE --base FOLDER [--per-class 5] [--interactions 10240]

FILE holds `train` and `test` lists of [text, label] as JSON, or is left out: then it is the demo's complaints. A head
and LoRA are fitted to a few labelled examples per class; then PPO learns from right or wrong on the rest of the
traffic, each text's label unknown to it. Prints one JSON line per measurement.

Plain on purpose: it tokenises every batch each time it sees it, pads in the order of arrival, runs the encoder once
for the policy and once for the value, and keeps gradients on in rollouts. None of its code is shared with ours.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from peft import LoraConfig, get_peft_model
from sklearn.metrics import f1_score
from torch import Tensor, nn
from torch.distributions import Categorical


@dataclass(frozen=True)
class Settings:
    """Everything the loop is set to; AdamW's other settings are torch's own."""

    max_tokens: int = 64
    lora_rank: int = 16
    lora_alpha: int = 32
    rollout: int = 64
    """Texts per rollout."""
    passes: int = 4
    minibatch: int = 16
    clip: float = 0.2
    value_coef: float = 0.25
    entropy_coef: float = 0.01
    max_grad_norm: float = 0.5
    learning_rate: float = 3e-4


PLAIN = Settings()
BATCH = PLAIN.rollout


class Plain(nn.Module):
    """Encoder with LoRA, mean pooling, two heads, each with a forward of its own."""

    def __init__(self, base: Path, classes: int) -> None:
        super().__init__()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(str(base))
        encoder = transformers.AutoModel.from_pretrained(str(base), add_pooling_layer=False)
        lora = LoraConfig(
            r=PLAIN.lora_rank, lora_alpha=PLAIN.lora_alpha, target_modules=["query", "key", "value", "dense"]
        )
        self.encoder = get_peft_model(encoder, lora)
        self.policy_head = nn.Linear(encoder.config.hidden_size, classes)
        self.value_head = nn.Linear(encoder.config.hidden_size, 1)

    def pool(self, texts: list[str]) -> Tensor:
        batch = self.tokenizer(texts, padding=True, truncation=True, max_length=PLAIN.max_tokens, return_tensors="pt")
        hidden = self.encoder(**batch).last_hidden_state
        weight = batch["attention_mask"].unsqueeze(-1).float()
        return (hidden * weight).sum(1) / weight.sum(1)

    def logits(self, texts: list[str]) -> Tensor:
        logits: Tensor = self.policy_head(self.pool(texts))
        return logits

    def value(self, texts: list[str]) -> Tensor:
        values: Tensor = self.value_head(self.pool(texts))
        return values.squeeze(-1)


def ppo(model: Plain, texts: list[str], wanted: Tensor, optimizer: torch.optim.Optimizer) -> float:
    """One rollout and its update, `passes` times over it in minibatches; returns the mean reward."""
    distribution = Categorical(logits=model.logits(texts))
    actions = distribution.sample()
    old_logprobs = distribution.log_prob(actions).detach()
    old_values = model.value(texts).detach()
    rewards = (actions == wanted).float()
    advantages, returns = rewards - old_values, rewards
    for _ in range(PLAIN.passes):
        for rows in torch.randperm(len(texts)).split(PLAIN.minibatch):
            some = [texts[i] for i in rows]
            distribution = Categorical(logits=model.logits(some))
            values = model.value(some)
            ratio = (distribution.log_prob(actions[rows]) - old_logprobs[rows]).exp()
            a = advantages[rows]
            a = (a - a.mean()) / (a.std() + 1e-8)
            policy_loss = -torch.min(ratio * a, ratio.clamp(1 - PLAIN.clip, 1 + PLAIN.clip) * a).mean()
            value_loss = (values - returns[rows]).pow(2).mean()
            loss = policy_loss + PLAIN.value_coef * value_loss - PLAIN.entropy_coef * distribution.entropy().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), PLAIN.max_grad_norm)
            optimizer.step()
    return float(rewards.mean())


def supervise(model: Plain, rows: list[tuple[str, int]], *, epochs: int, rate: float) -> None:
    """Cross-entropy on the labelled examples."""
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=rate)
    model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(rows)).split(16):
            texts, labels = [rows[i][0] for i in chosen], torch.tensor([rows[i][1] for i in chosen])
            loss = nn.functional.cross_entropy(model.logits(texts), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def measure(model: Plain, rows: list[tuple[str, int]]) -> dict[str, float]:
    """Accuracy, macro-F1 and ECE (15 bins of equal width) on raw softmax."""
    model.eval()
    with torch.no_grad():
        parts = [model.logits([text for text, _ in rows[i : i + 128]]).softmax(-1) for i in range(0, len(rows), 128)]
    probs, labels = torch.cat(parts).numpy(), np.array([label for _, label in rows])
    predicted, confidence = probs.argmax(1), probs.max(1)
    right = predicted == labels
    bins = np.minimum((confidence * 15).astype(int), 14)
    gaps = [abs(right[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean() for b in set(bins)]
    return {
        "accuracy": round(float(right.mean()), 4),
        "macro_f1": round(float(f1_score(labels, predicted, average="macro")), 4),
        "ece": round(float(sum(gaps)), 4),
    }


def read_task(data: Path | None) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Rows (text, label) of train and test."""
    if data is not None:
        task = json.loads(data.read_text())
        return [(t, y) for t, y in task["train"]], [(t, y) for t, y in task["test"]]
    from ratchet_cli.demo.carriers import COMPLAINTS, fetch
    from ratchet_cli.demo.dataset import choose_rows

    rows = choose_rows(fetch(COMPLAINTS, Path.home() / ".cache" / "ratchet", advance=lambda *_: None), full=True)
    return [(row.text, row.label) for row in rows.train], [(row.text, row.label) for row in rows.test]


def few(rows: list[tuple[str, int]], per_class: int) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """The first rows of each class, and all the others."""
    taken: dict[int, int] = defaultdict(int)
    labelled, traffic = [], []
    for text, label in rows:
        taken[label] += 1
        (labelled if taken[label] <= per_class else traffic).append((text, label))
    return labelled, traffic


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--per-class", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--interactions", type=int, default=10240)
    parser.add_argument("--every", type=int, default=2560)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, default=PLAIN.learning_rate)
    wanted = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(wanted.seed)
    print(json.dumps(asdict(replace(PLAIN, learning_rate=wanted.learning_rate))), flush=True)
    train, test = read_task(wanted.data)
    names = sorted({label for _, label in train})
    numbered = [[(text, names.index(label)) for text, label in rows] for rows in (train, test)]
    order = torch.randperm(len(numbered[0])).tolist()
    labelled, traffic = few([numbered[0][i] for i in order], wanted.per_class)
    model = Plain(wanted.base, len(names))
    start = time.perf_counter()
    supervise(model, labelled, epochs=wanted.epochs, rate=1e-3)
    note: dict[str, Any] = {"interactions": 0, "seconds": round(time.perf_counter() - start, 1)}
    print(json.dumps(note | measure(model, numbered[1])), flush=True)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=wanted.learning_rate)
    start, paused, rewards = time.perf_counter(), 0.0, []
    for done in range(BATCH, wanted.interactions + 1, BATCH):
        chosen = [traffic[i % len(traffic)] for i in range(done - BATCH, done)]
        rewards.append(ppo(model, [t for t, _ in chosen], torch.tensor([y for _, y in chosen]), optimizer))
        if done % wanted.every == 0:
            began = time.perf_counter()
            seconds = began - start - paused
            note = {"interactions": done, "seconds": round(seconds, 1), "per_second": round(done / seconds, 2)}
            note["reward"] = round(sum(rewards[-10:]) / len(rewards[-10:]), 4)
            print(json.dumps(note | measure(model, numbered[1])), flush=True)
            model.eval()  # PPO's ratio needs the policy without dropout, as when acting
            paused += time.perf_counter() - began


if __name__ == "__main__":
    main()
