"""The classifier policy: pretrained encoder, LoRA adapters, mean pooling, linear head; and its files.

Decides how a policy is built from a base model's folder and which files it becomes. Never trains, never talks to a
store, never unpickles and never runs code that came with a model. Called by the recipes and the policy server.

Files of a policy: adapter_model.safetensors and adapter_config.json (peft's own format), head.safetensors,
policy.json (`PolicyCard`) and the tokenizer's files.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
from peft import LoraConfig, PeftModel
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from ratchet_api.training_run import Lora
from ratchet_jobs.models.adapter import adapt, plain, put_adapter, read_adapter, write_adapter
from ratchet_jobs.models.card import CARD_FILE, PolicyCard, parse_card
from ratchet_jobs.models.pretrained import read_pretrained
from ratchet_jobs.models.tokenizing import TOKENIZER_FILES, load_tokenizer
from ratchet_jobs.runtime.errors import BadConfigError, BadModelError

HEAD_FILE = "head.safetensors"
MAX_TOKENS_FIELD = "stages.supervised.maxTokens"


class Classifier(nn.Module):
    """Encoder with adapters, mean pooling over real tokens, linear head.

    Notation: B examples, T tokens, D hidden size, C classes.
    """

    def __init__(self, encoder: PeftModel | transformers.PreTrainedModel, *, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.hidden_size, classes)
        self.pad_id = int(encoder.config.pad_token_id or 0)

    def pool(self, input_ids: Tensor, token_mask: Tensor) -> Tensor:
        """Mean of the last hidden states over real tokens.

        Args:
            input_ids: (B, T).
            token_mask: (B, T), 1 = a real token; a row without any gives zeros.

        Returns:
            (B, D) float32.
        """
        hidden = self.encoder(input_ids=input_ids, attention_mask=token_mask).last_hidden_state  # (B, T, D)
        weight = token_mask.to(torch.float32).unsqueeze(-1)  # (B, T, 1)
        return (hidden.float() * weight).sum(1) / weight.sum(1).clamp(min=1.0)

    def forward(self, input_ids: Tensor, token_mask: Tensor) -> Tensor:
        """Logits (B, C) float32."""
        logits: Tensor = self.head(self.pool(input_ids, token_mask))
        return logits

    def trainable(self) -> dict[str, nn.Parameter]:
        """Adapter and head parameters by name, in a fixed order: all that training changes."""
        return {name: parameter for name, parameter in sorted(self.named_parameters()) if parameter.requires_grad}

    def train_mode(self) -> None:
        """Switch on the adapters' dropout and nothing else: the frozen encoder's own dropout stays off."""
        self.eval()
        for name, module in self.named_modules():
            if "lora_dropout" in name:
                module.train()


class LoadedPolicy(NamedTuple):
    """A policy ready to answer."""

    classifier: Classifier
    card: PolicyCard
    tokenizer: Tokenizer


def build_classifier(
    base: Path, *, classes: int, lora: Lora | None, max_tokens: int, seed: int, field: str = MAX_TOKENS_FIELD
) -> Classifier:
    """Make an untrained policy: B of every adapter is 0, so the encoder computes what the base computes.

    Args:
        base: folder with config.json and *.safetensors.
        classes: rows of the head.
        lora: rank, alpha, dropout, layers; None = every weight but the embeddings is trained.
        max_tokens: longest input, checked against the encoder's positions.
        seed: of the adapters' and the head's random start.
        field: that max_tokens comes from, for messages.

    Raises:
        BadModelError: the folder holds no usable encoder.
        BadConfigError: maxTokens, targetModules or lastBlocks do not fit the encoder.
    """
    encoder = load_encoder(base)
    check_positions(encoder, max_tokens=max_tokens, field=field)
    if lora is None:
        encoder.get_input_embeddings().requires_grad_(False)  # words that training never saw keep their places
        return _headed(encoder, classes=classes, seed=seed)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=find_targets(encoder, lora.target_modules, last_blocks=lora.last_blocks),
    )
    return _assemble(encoder, config, classes=classes, seed=seed)


def save_classifier(classifier: Classifier, folder: Path, *, card: PolicyCard, tokenizer_from: Path) -> None:
    """Write the policy's files. Equal weights and card give equal bytes.

    Args:
        classifier: what `build_classifier` or `load_classifier` made.
        folder: exists; files of the same names are replaced.
        card: becomes policy.json.
        tokenizer_from: folder whose tokenizer files are copied.
    """
    write_adapter(classifier.encoder, folder)
    save_file({name: plain(tensor) for name, tensor in classifier.head.state_dict().items()}, folder / HEAD_FILE)
    write_card(folder, card)
    for name in TOKENIZER_FILES:
        if (source := tokenizer_from / name).is_file() and source.resolve() != (folder / name).resolve():
            shutil.copyfile(source, folder / name)


def write_card(folder: Path, card: PolicyCard) -> None:
    """Write policy.json."""
    text = json.dumps(card.to_wire(), indent=2, sort_keys=True, ensure_ascii=False)
    (folder / CARD_FILE).write_text(text + "\n", encoding="utf-8")


def read_card(folder: Path) -> PolicyCard:
    """Read policy.json.

    Raises:
        BadModelError: it is missing or not a policy card.
    """
    try:
        return parse_card((folder / CARD_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise BadModelError(f"policy: {CARD_FILE} cannot be read: {error}; take a committed policy folder") from error


def load_classifier(folder: Path, base: Path) -> LoadedPolicy:
    """Read a policy's files and put them onto their base.

    Args:
        folder: what `save_classifier` wrote.
        base: folder of the base model that the card names.

    Raises:
        BadModelError: a file is missing, malformed, or does not fit the base.
    """
    card = read_card(folder)
    config, adapter = read_adapter(folder)
    try:
        head = load_file(folder / HEAD_FILE)
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise BadModelError(f"policy: its files cannot be read: {error}; take a committed policy folder") from error
    classifier = _assemble(load_encoder(base), config, classes=len(card.labels), seed=0)
    put_adapter(classifier.encoder, adapter)
    try:
        classifier.head.load_state_dict(head)
    except RuntimeError as error:
        raise BadModelError(f"policy: head does not fit {len(card.labels)} labels: {error}") from error
    tokenizer = load_tokenizer(folder, max_tokens=card.max_tokens)
    return LoadedPolicy(classifier.eval(), card, tokenizer)


def load_encoder(base: Path) -> transformers.PreTrainedModel:
    """Read an encoder in float32: safetensors only, local files only, never code from the folder.

    Raises:
        BadModelError: no safetensors, unknown architecture, missing weights, or not an encoder.
    """
    encoder = read_pretrained(
        base, transformers.AutoModel, wanted="a BERT-like encoder", check=_check_encoder, spare="pooler"
    )
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None  # unused: the policy pools by itself, and a checkpoint often lacks it
    return encoder


def _check_encoder(config: transformers.PretrainedConfig) -> None:
    if getattr(config, "is_encoder_decoder", False) or not hasattr(config, "hidden_size"):
        raise BadModelError(f"baseModel: {config.model_type} is no plain encoder; give a BERT-like encoder")


def check_positions(encoder: transformers.PreTrainedModel, *, max_tokens: int, field: str = MAX_TOKENS_FIELD) -> None:
    """Refuse inputs longer than the encoder's position table.

    Raises:
        BadConfigError: max_tokens is above it.
    """
    limit = getattr(encoder.config, "max_position_embeddings", None)
    table = next((m for name, m in encoder.named_modules() if name.endswith("position_embeddings")), None)
    offset = getattr(table, "padding_idx", None)
    if limit is not None and offset is not None:
        limit -= offset + 1  # RoBERTa's family counts positions from padding_idx + 1
    if limit is not None and limit > 0 and max_tokens > limit:
        raise BadConfigError(f"{field}: {max_tokens} is above the {limit} positions of the base model; lower it")


def check_vocabulary(encoder: nn.Module, tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer whose ids do not all have an embedding.

    Raises:
        BadModelError: it has more entries than the embedding has rows.
    """
    rows = encoder.get_input_embeddings().num_embeddings  # type: ignore[operator]  # of PreTrainedModel and PeftModel
    entries = tokenizer.get_vocab_size(with_added_tokens=True)
    if entries > rows:
        raise BadModelError(
            f"baseModel: tokenizer.json has {entries} entries but the embedding only {rows} rows; "
            "take both from the same model"
        )


def find_targets(encoder: nn.Module, wanted: Sequence[str] | None, *, last_blocks: int | None = None) -> list[str]:
    """Full names of the linear layers to adapt.

    Args:
        encoder: the bare encoder.
        wanted: last parts of names (`query`) or longer endings (`attention.self.query`); None = every linear layer
            inside the encoder's stacked blocks.
        last_blocks: take only the layers of this many blocks, counted from the output; None = of all.

    Raises:
        BadConfigError: a wanted name matches no linear layer there, or the encoder has fewer blocks.
        BadModelError: the encoder has no stacked blocks, but they are asked for.
    """
    linear = [name for name, module in encoder.named_modules() if isinstance(module, nn.Linear)]
    if wanted is None or last_blocks is not None:
        linear = _inside_blocks(encoder, linear, last_blocks)
    for ending in wanted or ():
        if not any(name == ending or name.endswith(f".{ending}") for name in linear):
            exist = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in linear})[:12])
            raise BadConfigError(f"lora.targetModules: {ending!r} is no linear layer of the base; there are: {exist}")
    return [
        name
        for name in linear
        if wanted is None or any(name == ending or name.endswith(f".{ending}") for ending in wanted)
    ]


def _inside_blocks(encoder: nn.Module, names: Sequence[str], last_blocks: int | None) -> list[str]:
    """Keep the layers inside the encoder's stacked blocks; with `last_blocks`, inside that many of the last ones."""
    stacks = {name: module for name, module in encoder.named_modules() if isinstance(module, nn.ModuleList)}
    kept = []
    for name in names:
        # the outermost list: a block may hold lists of its own
        stack = next((stack for stack in stacks if name.startswith(f"{stack}.")), None)
        if stack is None:
            continue
        blocks = len(stacks[stack])
        if last_blocks is not None and last_blocks > blocks:
            raise BadConfigError(f"lora.lastBlocks: {last_blocks}, but the base model has {blocks} blocks; lower it")
        place = int(name[len(stack) + 1 :].split(".", 1)[0])
        if last_blocks is None or place >= blocks - last_blocks:
            kept.append(name)
    if not kept:
        raise BadModelError(
            "baseModel: the encoder has no blocks of linear layers; set lora.targetModules and no lora.lastBlocks"
        )
    return kept


def _assemble(encoder: transformers.PreTrainedModel, config: LoraConfig, *, classes: int, seed: int) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Classifier(adapt(encoder, config), classes=classes).eval()


def _headed(encoder: transformers.PreTrainedModel, *, classes: int, seed: int) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Classifier(encoder, classes=classes).eval()
