"""A base language model read from its folder, and adapters put onto it.

Decides what counts as a usable base and which layers are adapted. Reads safetensors only, and never runs code that came
with a model. Called by the recipes of generators.
"""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from peft import LoraConfig, PeftModel
from torch import nn

from ratchet_api.training_run import Lora
from ratchet_jobs.generators.card import GeneratorCard, read_generator_card
from ratchet_jobs.generators.templates import Wording, load_wording
from ratchet_jobs.models.adapter import adapt, put_adapter, read_adapter
from ratchet_jobs.models.classifier import check_vocabulary, find_targets
from ratchet_jobs.models.pretrained import read_pretrained
from ratchet_jobs.runtime.errors import BadConfigError, BadModelError

_CAUSAL = ("ForCausalLM", "LMHeadModel")


def load_base(folder: Path) -> transformers.PreTrainedModel:
    """Read a causal language model in float32: safetensors only, local files only, never code from the folder.

    Raises:
        BadModelError: no safetensors, no language model, unknown architecture, or missing weights.
    """
    wanted = "a causal language model"
    return read_pretrained(folder, transformers.AutoModelForCausalLM, wanted=wanted, check=_check_causal).eval()


def build_generator(folder: Path, *, lora: Lora, max_tokens: int, seed: int) -> tuple[PeftModel, Wording]:
    """Make an untrained policy: B of every adapter is 0, so it says what the base says.

    Args:
        folder: of the base model.
        lora: rank, alpha, dropout, layers.
        max_tokens: longest prompt and response together, checked against the model's positions.
        seed: of the adapters' random start.

    Raises:
        BadModelError: the folder holds no usable language model or tokenizer.
        BadConfigError: maxTokens, targetModules or lastBlocks do not fit the model.
    """
    model = load_base(folder)
    check_context(model, max_tokens=max_tokens)
    wording = load_wording(folder, eos_id=eos_of(model))
    check_vocabulary(model, wording.tokenizer.backend_tokenizer)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=find_targets(model, lora.target_modules, last_blocks=lora.last_blocks),
    )
    return add_adapter(model, config, seed=seed), wording


def load_generator(folder: Path, base: Path) -> tuple[PeftModel, Wording, GeneratorCard]:
    """Read a policy's adapter and put it onto its base, which stays reachable by `model.disable_adapter()`.

    Args:
        folder: what `save_adapter` wrote.
        base: folder of the base model that the card names.

    Raises:
        BadModelError: a file is missing, malformed, or does not fit the base.
    """
    card = read_generator_card(folder)
    config, adapter = read_adapter(folder)
    found = load_base(base)
    wording = load_wording(folder, eos_id=eos_of(found), template=card.template)
    model = add_adapter(found, config, seed=0)
    put_adapter(model, adapter)
    return model.eval(), wording, card


def add_adapter(model: transformers.PreTrainedModel, config: LoraConfig, *, seed: int) -> PeftModel:
    """Put adapters onto a model, drawn by the seed whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return adapt(model, config).eval()


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """All that training changes, by name, in a fixed order."""
    return {name: parameter for name, parameter in sorted(model.named_parameters()) if parameter.requires_grad}


def train_mode(model: nn.Module) -> None:
    """Switch on the adapters' dropout and nothing else: the frozen model's own dropout stays off."""
    model.eval()
    for name, module in model.named_modules():
        if "lora_dropout" in name:
            module.train()


def eos_of(model: transformers.PreTrainedModel) -> int | None:
    """Token that ends a sequence, as config.json has it; the first of several."""
    return eos_in(model.config)


def eos_in(config: transformers.PretrainedConfig) -> int | None:
    """Likewise, of a model that is not loaded."""
    found = config.eos_token_id
    return found[0] if isinstance(found, list | tuple) else found


def check_context(model: transformers.PreTrainedModel, *, max_tokens: int, field: str = "") -> None:
    """Refuse sequences longer than the model's context.

    Raises:
        BadConfigError: max_tokens is above it.
    """
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and max_tokens > limit:
        raise BadConfigError(
            f"{field or 'stages.supervised.maxTokens'}: {max_tokens} is above the {limit} positions of the base model; "
            "lower it"
        )


def _check_causal(config: transformers.PretrainedConfig) -> None:
    names = list(config.architectures or ())
    if any(name.endswith(_CAUSAL) for name in names) and not getattr(config, "is_encoder_decoder", False):
        return
    seen = ", ".join(names) or "no architecture"
    raise BadModelError(
        f"baseModel: config.json names {seen}, which is no causal language model; give one such as "
        "LlamaForCausalLM, or set policyType: classifier for an encoder"
    )
