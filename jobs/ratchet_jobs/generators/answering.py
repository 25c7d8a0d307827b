"""Answers of a language model to prompts, and what it thinks of answers that are given.

Decides how batches are made: left padding for generating, so that every answer begins where its prompt ends; right
padding for scoring. Called by the evaluate recipe and by `ratchet chat`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from ratchet_jobs.generators.templates import Wording

IGNORED = -100
"""Label of a token that takes no part in the loss."""


class Pair(NamedTuple):
    """A prompt and a response as tokens."""

    prompt: list[int]
    response: list[int]

    @property
    def length(self) -> int:
        """Tokens of both."""
        return len(self.prompt) + len(self.response)


class Batch(NamedTuple):
    """B sequences of prompt and response, filled up on the right to T tokens."""

    input_ids: Tensor
    """(B, T)."""
    token_mask: Tensor
    """(B, T), 1 = a real token."""
    labels: Tensor
    """(B, T): the token where it is the response's, else IGNORED."""


def stacked(pairs: Sequence[Pair], *, pad_id: int) -> Batch:
    """Stack pairs for scoring or training."""
    longest = max(pair.length for pair in pairs)
    shape = (len(pairs), longest)
    batch = Batch(
        torch.full(shape, pad_id), torch.zeros(shape, dtype=torch.long), torch.full(shape, IGNORED, dtype=torch.long)
    )
    for row, pair in enumerate(pairs):
        start, stop = len(pair.prompt), pair.length
        batch.input_ids[row, :stop] = torch.tensor([*pair.prompt, *pair.response])
        batch.token_mask[row, :stop] = 1
        batch.labels[row, start:stop] = batch.input_ids[row, start:stop]
    return batch


def response_logits(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits of every response token, and the tokens: the logits before a token are those that foretell it.

    Args:
        model: any causal language model.
        batch: on the model's device.

    Returns:
        (N, V) float32 logits and (N,) tokens of the N response tokens of all rows, row after row.
    """
    logits = model(input_ids=batch.input_ids, attention_mask=batch.token_mask).logits  # (B, T, V)
    counts = batch.labels[:, 1:] != IGNORED  # (B, T - 1)
    return logits[:, :-1][counts].float(), batch.labels[:, 1:][counts]


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move a batch."""
    return Batch(*(tensor.to(device) for tensor in batch))


class Scored(NamedTuple):
    """What a policy and its base think of given responses, summed over N response tokens."""

    tokens: int
    nll: float
    """Negative log-likelihood by the policy, nats."""
    base_nll: float
    """By the base."""
    kl: float
    """Kullback-Leibler divergence KL(policy || base) over the whole vocabulary at each token, nats."""


def score(model: Any, pairs: Sequence[Pair], *, pad_id: int) -> Scored:
    """Score one batch of responses by a policy and, its adapter switched off, by its base.

    Args:
        model: a peft model in eval mode.
        pairs: of the batch.
        pad_id: fills up.
    """
    device = next(model.parameters()).device
    batch = to_device(stacked(pairs, pad_id=pad_id), device)
    autocast = torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()
    with torch.inference_mode(), autocast:
        logits, tokens = response_logits(model, batch)
        with model.disable_adapter():
            base_logits, _ = response_logits(model, batch)
    logprobs, base = logits.log_softmax(-1), base_logits.log_softmax(-1)  # (N, V)
    chosen = tokens.unsqueeze(-1)
    return Scored(
        len(tokens),
        -float(logprobs.gather(-1, chosen).double().sum()),
        -float(base.gather(-1, chosen).double().sum()),
        float((logprobs.exp() * (logprobs - base)).sum(-1).double().sum()),
    )


def log_likelihoods(model: Any, pairs: Sequence[Pair], *, pad_id: int) -> list[float]:
    """Log-probability of each whole response of a batch, in nats, as `score` takes it of a batch.

    Args:
        model: a causal language model in eval mode, with or without adapters.
        pairs: of the batch, each with at least one token of a response.
        pad_id: fills up.
    """
    device = next(model.parameters()).device
    batch = to_device(stacked(pairs, pad_id=pad_id), device)
    autocast = torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()
    with torch.inference_mode(), autocast:
        logits, tokens = response_logits(model, batch)
    each = logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1).double()  # (N,)
    return [float(part.sum()) for part in each.split([len(pair.response) for pair in pairs])]


def generate(
    model: Any,
    prompts: Sequence[list[int]],
    *,
    wording: Wording,
    max_new_tokens: int,
    temperature: float = 0.0,
    stop: Callable[[], bool] = lambda: False,
    stop_texts: Sequence[str] = (),
) -> list[list[int]]:
    """Answer a batch of prompts.

    Args:
        model: a causal language model in eval mode, with or without adapters.
        prompts: tokens of B prompts.
        wording: of the model.
        max_new_tokens: an answer that has not ended by then is cut.
        temperature: 0 = always the likeliest token; above, tokens are drawn by torch's generator.
        stop: asked after each token; true ends all answers where they are.
        stop_texts: an answer that says one of them has ended by itself just before.

    Returns:
        Tokens of each answer, the end of sequence among them if it ended by itself.
    """
    device = next(model.parameters()).device
    longest = max(len(prompt) for prompt in prompts)
    input_ids = torch.full((len(prompts), longest), wording.pad_id)
    token_mask = torch.zeros((len(prompts), longest), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        input_ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        token_mask[row, longest - len(prompt) :] = 1
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature > 0 else {"do_sample": False}
    config = GenerationConfig(
        max_new_tokens=max_new_tokens, eos_token_id=wording.eos_id, pad_token_id=wording.pad_id, **sampling
    )

    def ended(ids: Tensor, _scores: Any, **_: Any) -> Tensor:
        if (leaving := stop()) or not stop_texts:
            return torch.full((len(ids),), leaving, device=ids.device)
        said = [wording.stops_at(row, stop_texts) is not None for row in ids[:, longest:].tolist()]
        return torch.tensor(said, device=ids.device)

    with torch.inference_mode():
        made = model.generate(
            input_ids=input_ids.to(device),
            attention_mask=token_mask.to(device),
            generation_config=config,
            stopping_criteria=[ended],
        )
    answers = (wording.settled(ids, stop=stop_texts) for ids in made[:, longest:].tolist())
    return [ids[: ids.index(wording.eos_id) + 1] if wording.eos_id in ids else ids for ids in answers]
