"""The model that both contenders serve: an encoder of MiniLM's size with random weights, and texts of known length.

Weights do not change how long a forward pass takes, so nothing is downloaded.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizerFast

from ratchet_api.training_run import BaseModelRef, Lora
from ratchet_jobs.data.base_model import local_digest
from ratchet_jobs.models.card import PolicyCard
from ratchet_jobs.models.classifier import build_classifier, save_classifier

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = tuple(f"word{number}" for number in range(20_000))
LABELS = tuple(f"class{number}" for number in range(10))


def write(folder: Path) -> tuple[Path, Path, Path]:
    """Write the base model, our policy on it, and the peer's classifier; return the three folders."""
    config = BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        max_position_embeddings=512,
        pad_token_id=0,
        num_labels=len(LABELS),
    )
    base, policy, peer = folder / "base", folder / "policy", folder / "peer"
    torch.manual_seed(0)
    BertModel(config).save_pretrained(base)
    BertForSequenceClassification(config).save_pretrained(peer)
    tokenizer = _tokenizer()
    tokenizer.save(str(base / "tokenizer.json"))
    BertTokenizerFast(tokenizer_object=tokenizer).save_pretrained(peer)
    policy.mkdir()
    card = PolicyCard(
        labels=LABELS, max_tokens=512, base_model=BaseModelRef(uri="store://models/base", sha256=local_digest(base))
    )
    classifier = build_classifier(base, classes=len(LABELS), lora=Lora(), max_tokens=512, seed=0)
    save_classifier(classifier, policy, card=card, tokenizer_from=base)
    return base, policy, peer


def texts(count: int, *, tokens: int) -> list[str]:
    """Make texts of so many tokens, [CLS] and [SEP] included; short ones of 4 up to as many."""
    rng = random.Random(0)
    lengths = [tokens if tokens > 16 else rng.randint(4, tokens) for _ in range(count)]
    return [" ".join(rng.choices(WORDS, k=length - 2)) for length in lengths]


def _tokenizer() -> Tokenizer:
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer
