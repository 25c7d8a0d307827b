"""The files of a trained generator.

    policy.json                                      the card
    adapter_model.safetensors, adapter_config.json   what was learned, in peft's own format
    tokenizer.json, tokenizer_config.json, …         copies of the base model's
    policy/                                          the whole model with the adapter merged in and its tokenizer:
                                                     `AutoModelForCausalLM.from_pretrained` loads it as it is

`supervised` writes all but the last, `evaluate` adds it. Weights are float32: what is loaded is what was measured.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from peft import PeftModel
from transformers import GenerationConfig

from ratchet_jobs.generators.card import GeneratorCard, write_generator_card
from ratchet_jobs.generators.templates import Wording
from ratchet_jobs.models.adapter import write_adapter
from ratchet_jobs.models.tokenizing import TOKENIZER_FILES

MERGED_FOLDER = "policy"
WORDING_FILES = (*TOKENIZER_FILES, "chat_template.jinja")


def save_adapter(model: PeftModel, folder: Path, *, card: GeneratorCard, tokenizer_from: Path) -> None:
    """Write card, adapter and tokenizer. Equal weights and card give equal bytes.

    Args:
        model: the base with its adapter.
        folder: exists; files of the same names are replaced.
        card: becomes policy.json.
        tokenizer_from: folder whose tokenizer files are copied.
    """
    write_adapter(model, folder)
    write_generator_card(folder, card)
    copy_wording(tokenizer_from, folder)


def save_merged(model: PeftModel, folder: Path, *, wording: Wording, tokenizer_from: Path) -> None:
    """Merge the adapter into the model and write it whole; the model is of no further use as an adapted one.

    Weights that two places share, as embedding and head often do, are written once and shared again when loaded.
    """
    merged = model.merge_and_unload()
    # of the base's own settings for answers only what ends and fills a sequence is taken over
    merged.generation_config = GenerationConfig(eos_token_id=wording.eos_id, pad_token_id=wording.pad_id)
    folder.mkdir(parents=True, exist_ok=True)
    merged.to("cpu", torch.float32).save_pretrained(str(folder))
    copy_wording(tokenizer_from, folder)


def copy_wording(source: Path, target: Path) -> None:
    """Copy the tokenizer's files."""
    for name in WORDING_FILES:
        if (source / name).is_file() and (source / name).resolve() != (target / name).resolve():
            shutil.copyfile(source / name, target / name)
