"""A judge: a language model behind an OpenAI-compatible endpoint that says how good an answer is.

Decides the fields and bounds of every place that may ask one: a reward of a generator's rl stage, its evaluation, the
scoring of a data set. Knows nothing of HTTP; `ratchet_jobs.judging` asks. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field, model_validator

from ratchet_api.base import ApiModel

SECRET_KEY = "judge-api-key"
"""Key of a judge's Secret. It is fixed: could a spec choose it, whoever may write one could send any Secret anywhere."""

KNOWN_FIELDS = ("prompt", "response")
"""What the text of a scoring judge's prompt may name in braces."""
PAIR_FIELDS = ("prompt", "first", "second")
"""And that of a judge of two answers."""

PATIENCE_FIELDS = ("apiKeySecretRef", "timeoutSeconds", "retries", "concurrency")
"""How a judge is reached; it changes nothing of what the judge says."""

_FIELD = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


class SecretRef(ApiModel):
    """Name of a Secret in the same namespace."""

    name: Annotated[
        str,
        Field(
            min_length=1,
            max_length=63,
            pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
            description=f"name: the Secret's name; what is sent is its key {SECRET_KEY}, and no other.",
        ),
    ]

    @property
    def variable(self) -> str:
        """Environment variable in which a stage finds the key, on a cluster and with `ratchet run`."""
        return f"RATCHET_JUDGE_KEY_{self.name.upper().replace('-', '_')}"


class JudgeEndpoint(ApiModel):
    """Where a judge is asked, and how patiently."""

    endpoint: Annotated[
        str,
        Field(
            min_length=8,
            max_length=512,
            pattern=r"^https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?$",
            description="endpoint: URL of an OpenAI-compatible server up to and with its version, as in https://host/v1; /chat/completions below it is asked. Neither a user nor a query may stand in it.",
        ),
    ]
    model: Annotated[
        str, Field(min_length=1, max_length=256, description="model: the judge's name, as the server knows it.")
    ]
    api_key_secret_ref: Annotated[
        SecretRef | None,
        Field(
            default=None,
            description=f"apiKeySecretRef: a Secret whose key {SECRET_KEY} is sent as the bearer token. With `ratchet run` the environment variable RATCHET_JUDGE_KEY_NAME stands for it, NAME in capitals and with _ for -. If omitted, none is sent.",
        ),
    ]
    timeout_seconds: Annotated[
        float,
        Field(default=60.0, gt=0, le=3600, description="timeoutSeconds: how long one question may take."),
    ]
    retries: Annotated[
        int,
        Field(
            default=4,
            ge=0,
            le=20,
            description="retries: how often a question is asked again, with growing pauses, where the judge did not answer or asked to come back.",
        ),
    ]
    concurrency: Annotated[
        int, Field(default=4, ge=1, le=64, description="concurrency: questions that are open at once.")
    ]
    max_failure_percent: Annotated[
        float,
        Field(
            default=5.0,
            ge=0,
            le=100,
            description="maxFailurePercent: of the questions of a stage, of which the first hundred count as a hundred; the stage fails once more of them stay without a usable answer. Below it an answer that is not judged counts as the mean of its batch.",
        ),
    ]


class Judge(JudgeEndpoint):
    """A judge that gives an answer a number."""

    prompt: Annotated[
        str,
        Field(
            min_length=10,
            max_length=8000,
            description="prompt: what the judge is asked; {response} stands for the answer and {prompt} for what it answers, other braces for themselves. It should ask for the number alone, or for a JSON object with the field score: any other text counts as a failure.",
        ),
    ]
    min_score: Annotated[
        float,
        Field(default=0.0, ge=-1e6, le=1e6, description="minScore: the worst number; it becomes 0."),
    ]
    max_score: Annotated[
        float,
        Field(default=10.0, ge=-1e6, le=1e6, description="maxScore: the best number; it becomes 1."),
    ]

    @model_validator(mode="after")
    def _asks_about_the_answer(self) -> Self:
        check_template(self.prompt, needed=("response",), known=KNOWN_FIELDS)
        if self.min_score >= self.max_score:
            raise ValueError(
                f"minScore {self.min_score:g} must be below maxScore {self.max_score:g}; change one of them"
            )
        return self


class PairJudge(JudgeEndpoint):
    """A judge that says which of two answers is better."""

    prompt: Annotated[
        str,
        Field(
            min_length=10,
            max_length=8000,
            description="prompt: what the judge is asked; {first} and {second} stand for two answers and {prompt} for what they answer, other braces for themselves. It should ask for 1 or 2 alone, or for a JSON object with 1 or 2 in the field better: any other text counts as a failure. Each pair is asked in both orders.",
        ),
    ]

    @model_validator(mode="after")
    def _asks_about_both(self) -> Self:
        check_template(self.prompt, needed=("first", "second"), known=PAIR_FIELDS)
        return self


def check_template(text: str, *, needed: Sequence[str], known: Sequence[str]) -> None:
    """Refuse a prompt that leaves out what it is about, or names what there is not.

    Raises:
        ValueError: says what to write instead.
    """
    named = _FIELD.findall(text)
    for name in needed:
        if name not in named:
            raise ValueError(f"prompt must name {{{name}}}, or the judge never sees it; add it")
    for name in named:
        if name not in known:
            there = ", ".join(f"{{{each}}}" for each in known)
            raise ValueError(f"prompt names {{{name}}}; there are {there}: correct it")


def filled(template: str, **words: str) -> str:
    """Return a checked prompt with its names replaced, once: braces in the words stay as they are."""
    return _FIELD.sub(lambda found: words[found.group(1)], template)
