"""A BERT small enough to make in a test: two blocks, random weights, a WordPiece vocabulary of a few words.

No download: the recipes' tiers run anywhere. Learnable tasks come from `reviews`, whose class is the company a
text keeps, so a mean over tokens can tell it.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, ModernBertConfig, ModernBertModel

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
THEMES = {
    "card": ("card", "visa", "limit", "credit", "charge"),
    "loan": ("loan", "lender", "payoff", "monthly", "rate"),
    "mortgage": ("house", "escrow", "deed", "refinance", "roof"),
}
FILLERS = ("the", "a", "my", "was", "and", "bank", "they", "said", "never", "called", "about", "it", "to", "of")
WORDS = (*SPECIAL, *FILLERS, *(word for words in THEMES.values() for word in words), "##s", "##ed")


def write_tiny_bert(folder: Path, *, positions: int = 64, seed: int = 0, layers: int = 2) -> Path:
    """Write config.json, model.safetensors and tokenizer.json as a model hub's folder has them."""
    folder.mkdir(parents=True, exist_ok=True)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=positions,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def write_tiny_modernbert(folder: Path, *, seed: int = 0, **settings: Any) -> Path:
    """Write a ModernBERT of four layers: the first and the last see the whole text, the others 4 tokens around."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 48}
    special = {"pad_token_id": 0, "bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
    config = ModernBertConfig(
        **{"vocab_size": len(WORDS), "max_position_embeddings": 512, "local_attention": 8} | sizes | special | settings
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        ModernBertModel(config).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """Write a lower-casing WordPiece tokenizer over WORDS that frames a text by [CLS] and [SEP]."""
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def reviews(rows: int, *, seed: int, noise: float = 0.0) -> list[tuple[str, str]]:
    """Make (text, label) rows: fillers with two or three words of the label's theme among them.

    Args:
        rows: how many.
        seed: equal seeds give equal rows.
        noise: share of rows whose label is drawn anew, so that no model can be perfect.
    """
    rng = random.Random(seed)
    made = []
    for _ in range(rows):
        label = rng.choice(sorted(THEMES))
        words = rng.choices(FILLERS, k=rng.randint(3, 20)) + rng.choices(THEMES[label], k=rng.randint(2, 3))
        rng.shuffle(words)
        if rng.random() < noise:
            label = rng.choice(sorted(THEMES))
        made.append((" ".join(words), label))
    return made


def log_of(
    texts: int, *, seed: int, favour: float = 0.4, policy: str | None = "router@3"
) -> list[tuple[str, str, float, float, str | None]]:
    """What a policy left behind that loves one class, whatever is asked, and explores; people say right or wrong.

    Args:
        texts: how many were asked.
        seed: of texts and answers.
        favour: how often it answers the first class without a look; else it draws any.
        policy: whose answers they are.

    Returns:
        Text, class answered, score, propensity and policy of each.
    """
    draws, labels, rows = random.Random(seed), sorted(THEMES), []
    for text, label in reviews(texts, seed=seed):
        answer = labels[0] if draws.random() < favour else draws.choice(labels)
        chance = (1 - favour) / len(labels) + (favour if answer == labels[0] else 0)
        rows.append((text, answer, float(answer == label), chance, policy))
    return rows
