"""Answers of the policy to prompts, drawn token by token, with all that PPO must know of each draw.

 1. Prompts are padded on the left, so that every answer begins in the same column; positions count real tokens only.
 2. One pass over the prompts fills the cache; each further pass adds one token.
 3. A token is drawn from softmax(logits / temperature), cut to the likeliest tokens of mass top_p. Noted are its
    log-probability under the policy *before* that cut, the value of the state it was drawn in, and the entropy.
 4. A row ends with its first stop token, or the token by which it has said a stop text; that one belongs to the answer,
    and from there on the row is masked out.

Decides nothing about rewards. Called by `ppo.py`, by training on answers that are given, and by the door.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor
from transformers import DynamicCache

from ratchet_jobs.rl.categorical import entropy, log_prob_of
from ratchet_jobs.rl.picked import draw, picked_log_probs
from ratchet_jobs.rlhf.trunk import Trunk
from ratchet_jobs.runtime.errors import BadConfigError, BadDataError

_MARGIN = 8
"""Tokens before the tail that could hold a stop text: what begins a decoded text may lose its blank."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are drawn.

    Raises:
        BadConfigError: a setting is out of range.
    """

    max_new_tokens: int = 32
    """An answer that has not ended by then is cut."""
    temperature: float = 1.0
    top_p: float = 1.0
    """Mass of the likeliest tokens that a draw is limited to; 1 = all tokens."""
    stop_ids: tuple[int, ...] = ()
    """Tokens that end an answer, beside the end of sequence."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer, too; what it says from the first of them on nobody but the update sees."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise BadConfigError(f"max_new_tokens: {self.max_new_tokens}; give a whole number from 1 up")
        if not self.temperature > 0:
            raise BadConfigError(f"temperature: {self.temperature}; give a number above 0, 1 = as the model says")
        if not 0 < self.top_p <= 1:
            raise BadConfigError(f"top_p: {self.top_p}; give a number above 0 up to 1")


class Prompts(NamedTuple):
    """B prompts, padded on the left."""

    ids: Tensor
    """(B, P) int64."""
    mask: Tensor
    """(B, P) bool, True = a real token."""


@dataclass(frozen=True, slots=True)
class Episodes:
    """B prompts with the policy's answers."""

    prompt_ids: Tensor
    """(B, P) int64, padded on the left."""
    prompt_mask: Tensor
    """(B, P) bool, True = a real token."""
    response_ids: Tensor
    """(B, T) int64, padded on the right."""
    response_mask: Tensor
    """(B, T) bool, True = counts: every token drawn, the one that ended the answer included."""
    logprobs: Tensor
    """(B, T) of each token when it was drawn; 0 where masked out."""
    values: Tensor
    """(B, T) of the state in which it was drawn; 0 where masked out."""
    entropies: Tensor
    """(B, T) of the distribution it was drawn from, before top_p, in nats; 0 where masked out."""
    stopped: Tensor
    """(B,) bool: the answer ended by itself and was not cut."""

    def __len__(self) -> int:
        return len(self.response_ids)

    @property
    def lengths(self) -> Tensor:
        """(B,) int64, tokens of each answer."""
        return self.response_mask.sum(1)

    def whole(self) -> tuple[Tensor, Tensor, Tensor]:
        """Prompts and answers as one: tokens, which of them are real, and which are the answer's, (B, P + T) each."""
        ids = torch.cat([self.prompt_ids, self.response_ids], 1)
        mask = torch.cat([self.prompt_mask, self.response_mask], 1)
        return ids, mask, torch.cat([torch.zeros_like(self.prompt_mask), self.response_mask], 1)

    def take(self, rows: Tensor) -> Self:
        """Some rows, without the columns in which none of them has a token.

        Args:
            rows: (M,) int64.
        """
        picked = replace(self, **{f.name: getattr(self, f.name)[rows] for f in fields(self)})
        left = int(picked.prompt_mask.any(0).long().argmax())  # padding is all on the left
        width = int(picked.lengths.max())
        prompt = {name: getattr(picked, name)[:, left:] for name in ("prompt_ids", "prompt_mask")}
        names = ("response_ids", "response_mask", "logprobs", "values", "entropies")
        return replace(picked, **prompt, **{name: getattr(picked, name)[:, :width] for name in names})


def pad_prompts(rows: Sequence[Sequence[int]], *, pad_id: int, device: torch.device | str = "cpu") -> Prompts:
    """Stack token rows, padded on the left.

    Raises:
        BadDataError: a row is empty.
    """
    for number, row in enumerate(rows):
        if not row:
            raise BadDataError(f"prompt {number}: no tokens; give a text that is not empty")
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), pad_id)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for number, row in enumerate(rows):
        ids[number, longest - len(row) :] = torch.tensor(row)
        mask[number, longest - len(row) :] = True
    return Prompts(ids.to(device), mask.to(device))


def nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Logits with -inf outside the smallest set of likeliest tokens whose mass is at least top_p.

    Args:
        logits: (B, V).
        top_p: in (0, 1]; the likeliest token always stays.
    """
    if top_p >= 1.0:
        return logits
    ordered, places = logits.sort(-1, descending=True)
    mass = ordered.softmax(-1)
    outside = mass.cumsum(-1) - mass >= top_p  # the mass before a token suffices
    return logits.masked_fill(outside.gather(-1, places.argsort(-1)), float("-inf"))


@torch.no_grad()
def generate(trunk: Trunk, prompts: Prompts, sampling: Sampling, *, generator: torch.Generator) -> Episodes:
    """Answer a batch of prompts; see the module's text for the steps.

    Args:
        trunk: whose policy answers.
        prompts: B of them.
        sampling: lengths, temperature, stops.
        generator: of the draws, on the trunk's device.
    """
    with trunk.drawing(rows=len(prompts.ids)):
        return _generate(trunk, prompts, sampling, generator=generator)


def _generate(trunk: Trunk, prompts: Prompts, sampling: Sampling, *, generator: torch.Generator) -> Episodes:
    stops = torch.tensor([trunk.wording.eos_id, *sampling.stop_ids], device=trunk.device)
    alive = torch.ones(len(prompts.ids), dtype=torch.bool, device=trunk.device)
    mask, cache = prompts.mask, DynamicCache(config=trunk.config)
    columns: list[tuple[Tensor, ...]] = []
    seen = trunk.policy(prompts.ids, mask, keep=1, cache=cache)
    while True:
        logits = seen.logits[:, -1].float() / sampling.temperature  # (B, V)
        drawn = draw(nucleus(logits, sampling.top_p), generator=generator)
        token = torch.where(alive, drawn, trunk.wording.pad_id)
        noted = (log_prob_of(logits, token), trunk.values(seen.hidden)[:, -1], entropy(logits))
        columns.append((token, alive, *(torch.where(alive, number, 0.0) for number in noted)))
        mask = torch.cat([mask, alive.unsqueeze(1)], 1)
        alive = alive & ~torch.isin(token, stops)
        if sampling.stop:
            alive = alive & ~_said(trunk, columns, alive, sampling.stop)
        if len(columns) == sampling.max_new_tokens or not bool(alive.any()):
            break
        seen = trunk.policy(token.unsqueeze(1), mask, keep=1, cache=cache)
    ids, counts, logprobs, values, entropies = (torch.stack(column, 1) for column in zip(*columns, strict=True))
    return Episodes(*prompts, ids, counts, logprobs, values, entropies, stopped=~alive)


def _said(trunk: Trunk, columns: Sequence[tuple[Tensor, ...]], alive: Tensor, stop: Sequence[str]) -> Tensor:
    """Which of B rows have said a stop text by their last token, (B,) bool; rows that ended before count as not.

    Only the tail is read: every token but a special one has a byte at least.
    """
    tail = max(len(each.encode()) for each in stop) + _MARGIN
    rows = torch.stack([column[0] for column in columns[-tail:]], 1).tolist()
    wording = trunk.wording
    said = [live and wording.stops_at(row, stop) is not None for row, live in zip(rows, alive.tolist(), strict=True)]
    return torch.tensor(said, device=trunk.device)


def as_heard(trunk: Trunk, episodes: Episodes, *, stop: Sequence[str]) -> Episodes:
    """Episodes as rewards hear them: an answer that says a stop text ends just before it, as one that ends by itself.

    Args:
        trunk: whose tokens they are.
        episodes: B of them.
        stop: see `Sampling`; empty = the episodes themselves.

    Returns:
        B episodes. Where a text was said, answers are tokenised anew, and what only training needs of any is 0.
    """
    if not stop:
        return episodes
    prompts, answers = (
        [[token for token, real in zip(*row, strict=True) if real] for row in zip(*parts, strict=True)]
        for parts in (
            (episodes.prompt_ids.tolist(), episodes.prompt_mask.tolist()),
            (episodes.response_ids.tolist(), episodes.response_mask.tolist()),
        )
    )
    heard = [trunk.wording.settled(ids, stop=stop) for ids in answers]
    if heard == answers:
        return episodes
    again = episodes_of(list(zip(prompts, heard, strict=True)), trunk)
    return replace(again, stopped=episodes.stopped)


def episodes_of(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], trunk: Trunk) -> Episodes:
    """Given answers as rewards see those that were drawn; what only training needs of them is 0.

    Args:
        pairs: tokens of B prompts and their answers, each at least one token.
        trunk: for its device and the token that fills up.
    """
    prompts = pad_prompts([prompt for prompt, _ in pairs], pad_id=trunk.wording.pad_id, device=trunk.device)
    lengths = torch.tensor([len(answer) for _, answer in pairs])
    ids = torch.full((len(pairs), int(lengths.max())), trunk.wording.pad_id)
    for row, (_, answer) in enumerate(pairs):
        ids[row, : len(answer)] = torch.tensor(answer)
    mask = torch.arange(ids.shape[1]) < lengths.unsqueeze(1)
    ended = torch.tensor([answer[-1] == trunk.wording.eos_id for _, answer in pairs])
    unknown = torch.zeros(ids.shape, device=trunk.device)
    return Episodes(
        *prompts, ids.to(trunk.device), mask.to(trunk.device), unknown, unknown, unknown, stopped=ended.to(trunk.device)
    )


def answer_pass(trunk: Trunk, episodes: Episodes, *, reference: bool = False) -> tuple[Tensor, Tensor]:
    """One pass over whole episodes, as training makes it.

    Args:
        trunk: asked.
        episodes: B of them.
        reference: ask the reference instead of the policy, without gradient.

    Returns:
        (B, T, V) logits that each response token was drawn from, at temperature 1, and (B, T, D) what the model's head
        saw there. At masked places both are of no meaning.
    """
    # the last token is never asked what follows it
    ids = torch.cat([episodes.prompt_ids, episodes.response_ids[:, :-1]], 1)
    mask = torch.cat([episodes.prompt_mask, episodes.response_mask[:, :-1]], 1)
    ask = trunk.reference if reference else trunk.policy
    seen = ask(ids, mask, keep=episodes.response_ids.shape[1])
    return seen.logits, seen.hidden


def token_logprobs(logits: Tensor, episodes: Episodes, *, temperature: float) -> Tensor:
    """Log-probability of every response token at a temperature: logits (B, T, V) -> (B, T), 0 where masked out."""
    flat = picked_log_probs(logits.flatten(0, 1), episodes.response_ids.flatten(), temperature=temperature)
    return torch.where(episodes.response_mask, flat.view_as(episodes.response_ids), 0.0)
