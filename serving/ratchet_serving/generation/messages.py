"""Requests and answers in the shapes that OpenAI's API gave them, as far as each field acts here.

Decides fields, bounds and names. A field that would be ignored is refused, unless its value asks for nothing: `n` of 1,
penalties of 0. Texts are bounded as the gateway bounds them, which is told what was asked.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from ratchet_api.base import ApiModel
from ratchet_api.feedback import ShortText, Text, Words
from ratchet_jobs.data.turns import Turn

MAX_MESSAGES = 1024
MAX_NEW_TOKENS = 1 << 20
Stop = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class _Wire(ApiModel):
    """Snake case on the wire, as OpenAI has it; otherwise as strict as every model of ours."""

    model_config = ConfigDict(alias_generator=None)


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _joined(value: Any) -> Any:
    """Content in parts is its texts, one after the other; parts of another type are refused by what is left."""
    if not isinstance(value, list) or not value:
        return value
    texts = [
        part["text"]
        for part in value
        if isinstance(part, dict)
        and part.keys() == {"type", "text"}
        and part["type"] == "text"
        and isinstance(part["text"], str)
    ]
    if len(texts) != len(value):
        raise ValueError('has parts that are no text; send a string, or parts {"type": "text", "text": …}')
    return "".join(texts)


class Message(_Wire):
    """What somebody said."""

    role: Annotated[
        Literal["system", "developer", "user", "assistant"],
        Field(description="role: system (or developer, which is the same), user or assistant."),
    ]
    content: Annotated[
        Words,
        BeforeValidator(_joined, json_schema_input_type=Any),
        Field(description="content: text, or parts of type text."),
    ]

    @property
    def turn(self) -> Turn:
        """As the policy's template takes it."""
        return Turn("system" if self.role == "developer" else self.role, self.content)


class StreamOptions(_Wire):
    """What a stream tells besides the answer."""

    include_usage: Annotated[
        bool,
        Field(default=False, description="include_usage: true adds an event with the numbers of tokens at the end."),
    ]


class _Ask(_Wire):
    """What both ways of asking have in common."""

    model: Annotated[
        str | None,
        Field(default=None, max_length=512, description="model: NAME or NAME@VERSION of the policy that is served."),
    ]
    max_tokens: Annotated[
        int | None,
        Field(
            default=None,
            ge=1,
            le=MAX_NEW_TOKENS,
            description="max_tokens: of the answer, which is cut there, or where the model's context ends. If omitted, "
            "as the version is served, else 512.",
        ),
    ]
    temperature: Annotated[
        float | None,
        Field(
            default=None,
            ge=0,
            le=2,
            description="temperature: 0 = always the likeliest token. If omitted, as the version is served, else 1.",
        ),
    ]
    top_p: Annotated[
        float | None,
        Field(
            default=None,
            gt=0,
            le=1,
            description="top_p: mass of the likeliest tokens that draws are limited to. If omitted, as the version is "
            "served, else 1.",
        ),
    ]
    seed: Annotated[
        int | None,
        Field(
            default=None,
            ge=-(2**63),
            lt=2**63,
            description="seed: the same seed gives the same answer. If omitted, by chance.",
        ),
    ]
    stop: Annotated[
        tuple[Stop, ...],
        BeforeValidator(_listed),
        Field(default=(), strict=False, max_length=4, description="stop: up to 4 texts that end the answer."),
    ]
    stream: Annotated[bool, Field(default=False, description="stream: true sends the answer in events as it grows.")]
    stream_options: Annotated[
        StreamOptions | None, Field(default=None, description="stream_options: only together with stream.")
    ]
    user: Annotated[
        ShortText | None,
        Field(
            default=None,
            description="user: who asks, by any stable id; recorded as a keyed hash; or header x-ratchet-subject.",
        ),
    ]
    n: Annotated[Literal[1], Field(default=1, description="n: 1 answer.")]
    presence_penalty: Annotated[float, Field(default=0.0, ge=0, le=0, description="presence_penalty: none.")]
    frequency_penalty: Annotated[float, Field(default=0.0, ge=0, le=0, description="frequency_penalty: none.")]

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: is given without stream; send stream: true, or leave it out")
        return self

    @property
    def limit(self) -> int | None:
        """Tokens that the answer may have, where the request says so."""
        return self.max_tokens


class ChatAsk(_Ask):
    """Body of POST /v1/chat/completions."""

    messages: Annotated[
        tuple[Message, ...],
        Field(strict=False, min_length=1, max_length=MAX_MESSAGES, description="messages: the conversation so far."),
    ]
    max_completion_tokens: Annotated[
        int | None,
        Field(
            default=None, ge=1, le=MAX_NEW_TOKENS, description="max_completion_tokens: the newer name of max_tokens."
        ),
    ]

    @model_validator(mode="after")
    def _somebody_asks(self) -> Self:
        if self.messages[-1].role == "assistant":
            raise ValueError("messages: the last is the assistant's own; end with what it shall answer")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError(
                f"max_completion_tokens: is {self.max_completion_tokens}, but max_tokens {self.max_tokens}; send one"
            )
        return self

    @property
    def limit(self) -> int | None:
        """Tokens that the answer may have, where the request says so."""
        return self.max_completion_tokens or self.max_tokens


class TextAsk(_Ask):
    """Body of POST /v1/completions."""

    prompt: Annotated[Text, Field(description="prompt: the text that is gone on with, as it is.")]


class Usage(_Wire):
    """How many tokens there were."""

    prompt_tokens: Annotated[int, Field(ge=0, description="prompt_tokens: of the prompt, the template's included.")]
    completion_tokens: Annotated[int, Field(ge=0, description="completion_tokens: of the answer, its end included.")]
    total_tokens: Annotated[int, Field(ge=0, description="total_tokens: of both.")]


class Said(_Wire):
    """The answer of a conversation."""

    role: Annotated[Literal["assistant"], Field(default="assistant", description="role: assistant.")]
    content: Annotated[str, Field(description="content: what the policy says.")]


FinishReason = Annotated[
    Literal["stop", "length"],
    Field(description="finish_reason: stop = it ended by itself or by a stop, length = it was cut."),
]


class ChatChoice(_Wire):
    """One answer."""

    index: Annotated[int, Field(ge=0, description="index: 0.")]
    message: Annotated[Said, Field(description="message: the answer.")]
    finish_reason: FinishReason


class TextChoice(_Wire):
    """One continuation."""

    index: Annotated[int, Field(ge=0, description="index: 0.")]
    text: Annotated[str, Field(description="text: of the answer.")]
    finish_reason: FinishReason


class _Completion(_Wire):
    id: Annotated[str, Field(description="id: of this answer.")]
    created: Annotated[int, Field(description="created: when, in seconds since 1970.")]
    model: Annotated[str, Field(description="model: NAME@VERSION that answered.")]
    system_fingerprint: Annotated[
        str | None, Field(default=None, description="system_fingerprint: of the policy's files.")
    ]
    interaction_id: Annotated[
        str | None,
        Field(
            default=None,
            description="interaction_id: signed, where the server has keys; hand it to whoever may rate the answer.",
        ),
    ]
    usage: Annotated[Usage, Field(description="usage: numbers of tokens.")]


class ChatCompletion(_Completion):
    """Answer of POST /v1/chat/completions."""

    object: Annotated[Literal["chat.completion"], Field(description="object: chat.completion.")]
    choices: Annotated[tuple[ChatChoice, ...], Field(description="choices: one.")]


class TextCompletion(_Completion):
    """Answer of POST /v1/completions."""

    object: Annotated[Literal["text_completion"], Field(description="object: text_completion.")]
    choices: Annotated[tuple[TextChoice, ...], Field(description="choices: one.")]


class Model(_Wire):
    """What is served."""

    id: Annotated[str, Field(description="id: NAME@VERSION, or NAME where it is not published.")]
    object: Annotated[Literal["model"], Field(default="model", description="object: model.")]
    created: Annotated[int, Field(description="created: when this server started, in seconds since 1970.")]
    owned_by: Annotated[str, Field(default="ratchet", description="owned_by: ratchet.")]
    max_model_len: Annotated[int, Field(description="max_model_len: tokens that prompt and answer may have together.")]


class Models(_Wire):
    """Answer of GET /v1/models."""

    object: Annotated[Literal["list"], Field(default="list", description="object: list.")]
    data: Annotated[tuple[Model, ...], Field(description="data: the one policy of this server.")]


class ErrorBody(_Wire):
    """What was wrong."""

    message: Annotated[str, Field(description="message: what was wrong and what to do.")]
    type: Annotated[str, Field(description="type: invalid_request_error or server_error.")]
    param: Annotated[str | None, Field(default=None, description="param: the field, where one is to blame.")]
    code: Annotated[str | None, Field(default=None, description="code: one word, where there is one.")]


class ErrorAnswer(_Wire):
    """Answer to a request that was refused."""

    error: Annotated[ErrorBody, Field(description="error: what was wrong.")]
