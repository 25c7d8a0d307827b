"""A Llama small enough to make in a test: two blocks, tied embeddings, random weights, a word for each token.

No download: the recipes' tiers run anywhere. Learnable demonstrations come from `dialogues`, whose answer follows from
one word of the prompt.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>")
ANSWERS = {
    "card": "please block your card at once",
    "loan": "we send you the loan offer today",
    "house": "a person calls you about the house",
}
FILLERS = ("the", "my", "was", "bank", "they", "said", "never", "called", "it", "to", "of")
FRAME = ("System", "User", "Assistant", ":")
WORDS = tuple(dict.fromkeys([*SPECIAL, *FRAME, *FILLERS, *ANSWERS, *" ".join(ANSWERS.values()).split()]))
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|> {{ message.content }} {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)


def write_tiny_llama(
    folder: Path, *, positions: int = 64, seed: int = 0, chat: bool = True, eos: bool = True, tied: bool = True
) -> Path:
    """Write config.json, model.safetensors and the tokenizer's files as a model hub's folder has them.

    Args:
        folder: made if missing.
        positions: longest sequence.
        seed: of the weights.
        chat: whether the tokenizer has a chat template.
        eos: whether tokenizer and config name an end of sequence.
        tied: whether the head shares the embedding's weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=positions,
        pad_token_id=None,
        bos_token_id=2,
        eos_token_id=3 if eos else None,
        tie_word_embeddings=tied,
        initializer_range=0.2,  # wide enough for a frozen head to tell its words apart
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "unk_token": "<unk>"}
    settings |= {"eos_token": "</s>"} if eos else {}
    settings |= {"chat_template": CHAT_TEMPLATE} if chat else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def dialogues(rows: int, *, seed: int) -> list[tuple[str, str]]:
    """Make (prompt, response) rows: fillers with one word of ANSWERS among them, and the answer to it."""
    rng = random.Random(seed)
    made = []
    for _ in range(rows):
        word = rng.choice(sorted(ANSWERS))
        words = [*rng.choices(FILLERS, k=rng.randint(2, 8)), word]
        rng.shuffle(words)
        made.append((" ".join(words), ANSWERS[word]))
    return made
