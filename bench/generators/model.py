"""A language model of SmolLM2-135M's shape with random weights: how fast it answers does not depend on what it says.

Nothing is downloaded. The tokenizer has a word for each token, so that both contenders' texts can be compared.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

WORDS, END = 49_152, 2


def write(folder: Path, *, layers: int) -> Path:
    """Write a model folder as a hub has it."""
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=576,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=END,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({f"w{number}": number for number in range(WORDS)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": f"w{END}", "unk_token": "w0"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def prompt(number: int, *, tokens: int) -> str:
    """A prompt of so many tokens; no two are alike."""
    return " ".join(f"w{3 + (number * 7919 + place * 104_729) % (WORDS - 3)}" for place in range(tokens))
