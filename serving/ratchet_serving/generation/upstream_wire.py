"""What vLLM's OpenAI server says on the wire, read as strictly as the records of answers need it.

Decides which lines carry tokens and that a token without a number that can be a probability is refused. Reads only
what is used, so that fields which another release adds change nothing. Pure; called by `upstream`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from pydantic import BaseModel, ValidationError

from ratchet_jobs.runtime.errors import BadModelError
from ratchet_serving.errors import Broken

_TOKEN = re.compile(r"token_id:([0-9]{1,9})")
_ABOVE = 1e-4
"""How far above 0 float32 may carry the logarithm of a probability."""
_MOST = 300
"""Characters of a refusal that are logged."""


class _Logprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float | None]


class _Choice(BaseModel):
    logprobs: _Logprobs | None = None


class _Event(BaseModel):
    choices: list[_Choice] = []
    error: object = None


class _Served(BaseModel):
    id: str
    max_model_len: int | None = None


class _Models(BaseModel):
    data: list[_Served]


def tokens_of(line: str, *, vocabulary: int) -> Iterator[tuple[int, float]]:
    """Read the tokens of one line of a stream, each with the logarithm of the probability with which it was drawn.

    Args:
        line: of server-sent events; those without data, and the end, have no tokens.
        vocabulary: ids below are tokens.

    Raises:
        Broken: the engine reports an error, or says what cannot be.
    """
    name, _, text = line.partition(":")
    if name != "data" or text.strip() == "[DONE]":
        return
    try:
        event = _Event.model_validate_json(text)
    except ValidationError as error:
        raise Broken(f"the engine's stream cannot be read ({error.errors()[0]['type']}); ask again") from error
    if event.error is not None:
        raise Broken("the engine broke off (see its log); ask again")
    for choice in event.choices:
        if choice.logprobs is None:
            continue
        said = choice.logprobs
        if len(said.tokens) != len(said.token_logprobs):
            raise Broken(
                f"the engine said {len(said.tokens)} tokens with {len(said.token_logprobs)} probabilities; ask again"
            )
        for token, logprob in zip(said.tokens, said.token_logprobs, strict=True):
            yield _id_of(token, vocabulary), _checked(logprob)


def _id_of(token: str, vocabulary: int) -> int:
    found = _TOKEN.fullmatch(token)
    if found is None:
        raise Broken("the engine said a token in words, not token_id:N; run a release of vLLM that knows ids")
    if (token_id := int(found[1])) >= vocabulary:
        raise Broken(
            f"the engine said token {token_id}, but the policy has {vocabulary}; have it serve the policy's own files"
        )
    return token_id


def _checked(logprob: float | None) -> float:
    if logprob is None or not math.isfinite(logprob) or logprob > _ABOVE:
        raise Broken(f"the engine said {logprob} for the logarithm of a probability; ask again, or look into its log")
    return min(0.0, logprob)


def longest_of(body: bytes, model: str) -> int:
    """Return how many tokens of prompt and answer an engine takes.

    Args:
        body: of its answer to GET /v1/models.
        model: how it calls what it shall serve.

    Raises:
        BadModelError: it serves something else, or does not say.
    """
    try:
        served = {each.id: each.max_model_len for each in _Models.model_validate_json(body).data}
    except ValidationError as error:
        raise BadModelError(
            f"policy: the engine's list of models cannot be read ({error.errors()[0]['type']}); is it vLLM's server?"
        ) from error
    if (longest := served.get(model)) is None:
        names = ", ".join(sorted(served)) or "nothing"
        raise BadModelError(
            f"policy: the engine serves {names[:_MOST]}, and says no max_model_len of {model!r}; start vLLM with "
            f"--served-model-name {model}"
        )
    return longest


def said_of(body: bytes) -> str:
    """The beginning of a refusal, for the log alone."""
    return body[:_MOST].decode(errors="replace")
