"""Models that give an answer a raw number: an adapter on the policy's own trunk, or an encoder of its own.

Decides what the number is read from: the mean of the last hidden states over the answer's tokens (trunk), or over all
tokens of prompt and answer (encoder), and a linear head on it. Never calibrates, never trains: `reward_model.py` does.
An encoder has a tokenizer of its own and reads decoded text, so both kinds take text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn

from ratchet_api.training_run import Lora
from ratchet_jobs.data.base_model import local_digest
from ratchet_jobs.models.batching import pad
from ratchet_jobs.models.classifier import build_classifier
from ratchet_jobs.models.tokenizing import load_tokenizer, tokenize
from ratchet_jobs.rlhf.trunk import Trunk
from ratchet_jobs.rlhf.wording import Format, prompt_tokens, response_tokens

_MAX_TOKENS_FIELD = "stages.rewardModel.baseModel.maxTokens"


class Answer(NamedTuple):
    """What is scored."""

    prompt: str
    response: str


class Scorer(Protocol):
    """A model of what answers are worth, as raw numbers without a scale."""

    kind: str
    """Which class reads its files again."""
    digest: str
    """Of the model that it stands on: its files fit no other."""

    qualities: tuple[str, ...]
    """What it tells of an answer besides its worth."""

    def raw(self, answers: Sequence[Answer]) -> Tensor:
        """(B,) float32, with gradient where autograd is on."""

    def every(self, answers: Sequence[Answer]) -> Tensor:
        """(B, 1 + Q) float32: the same, and a number for each quality."""

    def parameters(self) -> Mapping[str, nn.Parameter]:
        """All that training changes, by name; the head's begin with `head.`."""

    def training(self) -> AbstractContextManager[None]:
        """While it is trained: adapter dropout on."""


class TrunkScorer:
    """The adapter "reward" on the policy's trunk: no second model in memory."""

    kind = "trunk"

    def __init__(self, trunk: Trunk, *, wording: Format = "dialogue", qualities: Sequence[str] = ()) -> None:
        """Put a head beside the trunk's adapter.

        Args:
            trunk: shared with the policy.
            wording: how prompts become tokens, the same as for the policy.
            qualities: of a critic, which tells them besides an answer's worth.
        """
        self.trunk, self.digest, self.qualities = trunk, trunk.digest, tuple(qualities)
        self._wording: Format = wording
        self.head = _new_head(int(trunk.config.hidden_size), 1 + len(self.qualities)).to(trunk.device)

    def raw(self, answers: Sequence[Answer]) -> Tensor:
        """See `Scorer`."""
        return self.every(answers)[:, 0]

    def every(self, answers: Sequence[Answer]) -> Tensor:
        """See `Scorer`."""
        return self.of_tokens(*answer_tokens(self.trunk, answers, self._wording))

    def of_tokens(self, ids: Tensor, mask: Tensor, response_mask: Tensor) -> Tensor:
        """Score token rows.

        Args:
            ids: (B, L) prompt and answer.
            mask: (B, L) bool, True = a real token.
            response_mask: (B, L) bool, True = a token of the answer; each row has one.

        Returns:
            (B, 1 + Q) float32.
        """
        raw: Tensor = self.head(mean_over_answer(self.trunk.reward_hidden(ids, mask), response_mask))
        return raw

    def parameters(self) -> dict[str, nn.Parameter]:
        """See `Scorer`."""
        return self.trunk.reward_parameters() | {f"head.{n}": p for n, p in self.head.named_parameters()}

    @contextmanager
    def training(self) -> Iterator[None]:
        """See `Scorer`."""
        with self.trunk.training("reward"):
            yield


class Built(NamedTuple):
    """How an encoder of a reward model was put together."""

    lora: Lora | None
    """None = it was trained as a whole."""
    max_tokens: int
    uri: str | None
    """Where its folder lies; None = not in a store."""

    @classmethod
    def of_card(cls, card: Mapping[str, Any]) -> Self:
        """Read what `EncoderScorer.as_card` gave.

        Raises:
            KeyError, TypeError, ValueError: it is no such card.
        """
        found = card["encoder"]
        lora = None if found["lora"] is None else Lora.model_validate(found["lora"])
        return cls(lora, int(found["maxTokens"]), found["uri"])


class EncoderScorer:
    """A small encoder of its own, with adapters as the classifier policy has them or trained as a whole."""

    kind = "encoder"

    def __init__(
        self,
        base: Path,
        *,
        lora: Lora | None,
        max_tokens: int,
        seed: int,
        device: torch.device | str,
        qualities: Sequence[str] = (),
        uri: str | None = None,
    ) -> None:
        """Read an encoder from its folder.

        Args:
            base: with config.json, tokenizer.json and *.safetensors.
            lora: rank, dropout and layers; None = every weight but the embeddings is trained.
            max_tokens: longest prompt and answer together; of longer ones the prompt's beginning is cut.
            seed: of the adapters' random start.
            device: to compute on.
            qualities: of a critic, which tells them besides an answer's worth.
            uri: where the folder may be fetched again; None = only its owner knows.

        Raises:
            BadModelError: the folder holds no usable encoder.
            BadConfigError: max_tokens or lora do not fit it.
        """
        self.digest, self.qualities = local_digest(base), tuple(qualities)
        self._built = Built(lora, max_tokens, uri)
        outputs = 1 + len(self.qualities)
        self.model = build_classifier(
            base, classes=outputs, lora=lora, max_tokens=max_tokens, seed=seed, field=_MAX_TOKENS_FIELD
        ).to(device)
        nn.init.zeros_(self.model.head.weight)
        nn.init.zeros_(self.model.head.bias)
        self._tokenizer = load_tokenizer(base, max_tokens=max_tokens, keep="end")
        self._device = torch.device(device)

    def raw(self, answers: Sequence[Answer]) -> Tensor:
        """See `Scorer`."""
        return self.every(answers)[:, 0]

    def every(self, answers: Sequence[Answer]) -> Tensor:
        """See `Scorer`."""
        tokens = tokenize(self._tokenizer, [_text(answer) for answer in answers])
        ids, mask = (part.to(self._device) for part in pad(tokens.rows, pad_id=self.model.pad_id))
        raw: Tensor = self.model(ids, mask)
        return raw

    def as_card(self) -> dict[str, object]:
        """What `Built.of_card` makes of it: a whole scorer is read again from this and its weights."""
        lora, max_tokens, uri = self._built
        return {"encoder": {"lora": None if lora is None else lora.to_wire(), "maxTokens": max_tokens, "uri": uri}}

    def lengths(self, answers: Sequence[Answer]) -> list[int]:
        """Tokens of each: those of like length cost least together."""
        return tokenize(self._tokenizer, [_text(answer) for answer in answers]).lengths.tolist()

    def parameters(self) -> dict[str, nn.Parameter]:
        """See `Scorer`."""
        return self.model.trainable()

    @contextmanager
    def training(self) -> Iterator[None]:
        """See `Scorer`."""
        self.model.train_mode()
        try:
            yield
        finally:
            self.model.eval()


def _text(answer: Answer) -> str:
    return f"{answer.prompt}\n{answer.response}"


def answer_tokens(trunk: Trunk, answers: Sequence[Answer], form: Format) -> tuple[Tensor, Tensor, Tensor]:
    """Answers in text as rows of the trunk's tokens, padded on the right.

    Args:
        trunk: whose tokenizer and device are used.
        answers: B of them.
        form: how prompts become tokens.

    Returns:
        Tokens, which of them are real, and which are the answer's, (B, L) each.
    """
    words = trunk.wording
    prompts = [prompt_tokens(words, answer.prompt, form) for answer in answers]
    responses = [response_tokens(words, answer.response, form) for answer in answers]
    rows = [np.array([*p, *r], dtype=np.int32) for p, r in zip(prompts, responses, strict=True)]
    ids, mask = (part.to(trunk.device) for part in pad(rows, pad_id=words.pad_id))
    starts = torch.tensor([len(p) for p in prompts], device=trunk.device)
    answered = mask.bool() & (torch.arange(ids.shape[1], device=trunk.device) >= starts.unsqueeze(1))
    return ids, mask.bool(), answered


def mean_over_answer(hidden: Tensor, response_mask: Tensor) -> Tensor:
    """Mean of hidden states over an answer's tokens: (B, L, D) and (B, L) -> (B, D) float32."""
    weight = response_mask.unsqueeze(-1).float()
    return (hidden.float() * weight).sum(1) / weight.sum(1)


def _new_head(width: int, outputs: int) -> nn.Linear:
    """At zero: before training every answer is worth the same."""
    head = nn.Linear(width, outputs)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head
