"""From a request to a growing answer, and from a finished one to its record.

Decides that a prompt leaves room for an answer or is refused, what answers are called, and what the gateway is told:
the conversation, what was said, and the probability with which it was. Never decides a token. Called by `routes`.
"""

from __future__ import annotations

import math
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ratchet_api.environment import SettingsError
from ratchet_api.feedback import MAX_TEXT
from ratchet_api.generation import KeptGeneration
from ratchet_jobs.data.turns import Turn, as_text
from ratchet_jobs.runtime.errors import BadDataError
from ratchet_serving.answers import Assignment, Signer, failed
from ratchet_serving.errors import TooLong, Unknown
from ratchet_serving.generation.drawing import Manner
from ratchet_serving.generation.messages import ChatAsk, TextAsk, Usage
from ratchet_serving.generation.streams import Maker, Piece, Stream
from ratchet_serving.generation.writing import Writer
from ratchet_web.errors import Malformed, Refused

if TYPE_CHECKING:
    from ratchet_jobs.generators.templates import Wording

_UNPRINTABLE = re.compile(r"[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\ud800-\udfff]")
LEAST_PROPENSITY = 1e-300
"""Below, a probability is no number any more, and the record goes without."""


@dataclass(eq=False, slots=True)
class Answer:
    """An answer that grows.

    Attributes:
        stream: its tokens to come.
        streams: who makes them.
        id: of the answer.
        asked: what the record says was asked.
        who: whom it is for.
        seed: of its draws.
        temperature: of its draws.
        interaction: signed id; None = it is not recorded.
        tell: takes its record for the gateway.
    """

    stream: Stream
    streams: Maker
    id: str
    asked: str
    who: Assignment
    seed: int
    temperature: float
    interaction: str | None
    tell: Callable[[dict[str, Any]], None]
    said: list[str] = field(default_factory=list)
    last: Piece | None = None
    broken: bool = False
    """Whether the model could not go on."""
    began: float = field(default_factory=time.perf_counter)
    waited: float | None = None
    """Seconds until the first token."""

    async def grow(self) -> AsyncIterator[Piece]:
        """Hand out the pieces as they come, the last with a finish.

        Raises:
            Broken: the model gives no number.
        """
        while self.last is None or self.last.finish is None:
            piece = await self.stream.pieces.get()
            if isinstance(piece, Exception):
                self.broken = True
                raise piece
            if self.waited is None:
                self.waited = time.perf_counter() - self.began
            self.said.append(piece.text)
            self.last = piece
            yield piece

    @property
    def text(self) -> str:
        """What was said so far."""
        return "".join(self.said)

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        prompt, answer = len(self.stream.prompt), 0 if self.last is None else self.last.tokens
        return Usage(prompt_tokens=prompt, completion_tokens=answer, total_tokens=prompt + answer)

    def close(self, *, read: bool) -> None:
        """Make no more of it, and have the gateway told; called once, whatever happened.

        Args:
            read: whether somebody was sent what was said.
        """
        self.streams.leave(self.stream)
        if (record := self._record(read=read)) is not None:
            self.tell(record)

    def _record(self, *, read: bool) -> dict[str, Any] | None:
        """What the gateway is told; None without a signed id, or where nobody was told anything and nobody compares."""
        if self.interaction is None:
            return None
        if self.broken and self.who.experiment is not None:
            return failed(self.interaction, self.who, self.asked[-MAX_TEXT:])
        if self.last is None or not read:
            return None
        tags = {
            "finish": self.last.finish or ("failed" if self.broken else "cancelled"),
            "tokens": str(self.last.tokens),
            "temperature": f"{self.temperature:g}",
            "seed": str(self.seed),
        }
        if max(len(self.asked), len(self.text)) > MAX_TEXT:
            tags["cut"] = "true"
        propensity = math.exp(self.last.logprob)
        record = {
            "interactionId": self.interaction,
            "idempotencyKey": self.interaction.rpartition(".")[2],
            "subject": self.who.subject,
            "input": self.asked[-MAX_TEXT:],
            # the log takes no empty text, and none with control characters
            "response": _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", self.text)[:MAX_TEXT] or " ",
            "actionPropensity": min(1.0, propensity) if propensity > LEAST_PROPENSITY else None,
            "tags": tags,
            "experiment": self.who.experiment,
            "milliseconds": None if self.waited is None else 1000 * self.waited,
        }
        return {name: value for name, value in record.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Generating:
    """Makes answers of one policy.

    Attributes:
        streams: makes tokens.
        wording: turns to tokens and back.
        context: tokens that prompt and answer may have together.
        max_new_tokens: of an answer for which neither the request nor `defaults` names a number.
        defaults: how a request is answered that does not say so itself.
        policy: its name.
        version: of it.
        digest: of its files; empty for a plain folder.
        signer: None = answers carry no interaction id and are not recorded.
        tell: takes records for the gateway.
        now: the clock.
        began: when the server started, in seconds since 1970.
    """

    streams: Maker
    wording: Wording
    context: int
    max_new_tokens: int
    defaults: KeptGeneration
    policy: str
    version: int | None
    digest: str
    signer: Signer | None
    tell: Callable[[dict[str, Any]], None]
    now: Callable[[], datetime]
    began: int

    @property
    def model(self) -> str:
        """How answers call the policy."""
        return self.policy if self.version is None else f"{self.policy}@{self.version}"

    @property
    def fingerprint(self) -> str | None:
        """Of the policy's files, short."""
        return f"fp_{self.digest[:12]}" if self.digest else None

    def check_name(self, name: str | None) -> None:
        """Refuse a name that is not the served policy's.

        Raises:
            Unknown: it is another's.
        """
        if name not in (None, self.policy, self.model):
            raise Unknown(f"model: {name[:128]!r} is not served here; ask for {self.model!r}, or leave model out")

    def chat(self, ask: ChatAsk, who: Assignment) -> Answer:
        """Begin to answer a conversation.

        Raises:
            Refused: its model is another, its turns are refused or too long, or the server is full or ending.
        """
        self.check_name(ask.model)
        turns = prompted([message.turn for message in ask.messages], self.defaults.system_prompt)
        try:
            prompt = self.wording.prompt(turns)
        except BadDataError as error:
            raise Malformed(f"messages: {error}") from error
        return self._begin(prompt, ask, who, asked=as_text(turns), trimmed=True, prefix="chatcmpl-", field="messages")

    def text(self, ask: TextAsk, who: Assignment) -> Answer:
        """Begin to go on with a text.

        Raises:
            Refused: likewise.
        """
        self.check_name(ask.model)
        prompt = self.wording.plain(ask.prompt)
        return self._begin(prompt, ask, who, asked=ask.prompt, trimmed=False, prefix="cmpl-", field="prompt")

    def _begin(
        self,
        prompt: Sequence[int],
        ask: ChatAsk | TextAsk,
        who: Assignment,
        *,
        asked: str,
        trimmed: bool,
        prefix: str,
        field: str,
    ) -> Answer:
        room = self.context - len(prompt)
        if not prompt:
            raise Malformed(f"{field}: has no tokens; send some words")
        if room < 1:
            raise TooLong(
                f"{field}: has {len(prompt)} tokens and the policy's context {self.context}, so no answer fits; "
                "send less"
            )
        seed = secrets.randbits(53) if ask.seed is None else ask.seed
        manner = manner_of(ask, self.defaults)
        stream = Stream(
            prompt=prompt,
            room=min(room, ask.limit or self.defaults.max_tokens or self.max_new_tokens),
            manner=manner,
            seed=seed,
            writer=Writer(self.wording.tokenizer.backend_tokenizer, stops=ask.stop, trimmed=trimmed),
        )
        signed = None if self.signer is None else self.signer.sign(self.policy, self.version, who)
        try:
            self.streams.ask(stream)
        except Refused:
            # whoever got no answer stays in the comparison: leaving them out would make a version that fails look good
            if signed is not None and who.experiment is not None:
                self.tell(failed(signed, who, asked[-MAX_TEXT:]))
            raise
        name = prefix + secrets.token_hex(16)
        return Answer(stream, self.streams, name, asked, who, seed, manner.temperature, signed, self.tell)


def prompted(turns: list[Turn], system: str | None) -> list[Turn]:
    """Return a conversation that begins with what the version is told, unless it has a system message of its own."""
    if not system or any(turn.role == "system" for turn in turns):
        return turns
    return [Turn("system", system), *turns]


def manner_of(ask: ChatAsk | TextAsk, defaults: KeptGeneration) -> Manner:
    """Return how tokens are chosen: as the request says, else as the version has it, else from all by chance."""
    temperature = defaults.temperature if ask.temperature is None else ask.temperature
    top_p = defaults.top_p if ask.top_p is None else ask.top_p
    return Manner(1.0 if temperature is None else temperature, 1.0 if top_p is None else top_p)


def check_defaults(wording: Wording, context: int, defaults: KeptGeneration) -> None:
    """Refuse what the policy cannot be told, before a request comes to grief on it.

    Raises:
        SettingsError: its template knows no system message, or the prompt leaves no room in its context.
    """
    if not defaults.system_prompt:
        return
    try:
        tokens = len(wording.prompt(prompted([Turn("user", "?")], defaults.system_prompt)))
    except BadDataError as error:
        raise SettingsError(
            f"RATCHET_SERVING_GENERATION: systemPrompt: {error}; take it out of the version's generation config"
        ) from error
    if tokens >= context:
        raise SettingsError(
            f"RATCHET_SERVING_GENERATION: systemPrompt has about {tokens} tokens and the policy's context {context}, "
            "so that no answer fits; make it shorter"
        )
