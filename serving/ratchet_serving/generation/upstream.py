"""Answers whose tokens another engine makes: vLLM's server beside this one, asked by token ids and read token by token.

Decides how many answers grow at once, what the engine is told about each, and when one is over: at the model's own end,
at a stop of the request, or at its last token, by the same rules as `streams`. The engine draws, says with which
probability it did, and never sees a text, a subject or a trial. Before anybody is answered it must prove that its
probabilities are those of the draws. Knows no shape of an answer; `answers` asks, `upstream_wire` reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

import httpx2

from ratchet_jobs.runtime.errors import BadModelError
from ratchet_serving.errors import Broken, NoEngine
from ratchet_serving.generation.limits import StreamSettings
from ratchet_serving.generation.metrics import GenerationMetrics
from ratchet_serving.generation.streams import Piece, Stream
from ratchet_serving.generation.upstream_wire import longest_of, said_of, tokens_of

log = logging.getLogger(__name__)

MODEL = "policy"
"""How the engine calls what it serves; its container is started with this name."""
_CONNECT_SECONDS = 5.0
_SURE = 1e-3
"""How far from 0 the logarithm of a certain draw's probability may lie, which float32 makes of it."""


@dataclass(frozen=True, slots=True)
class Remote:
    """An engine in a process of its own.

    Attributes:
        url: of its server, such as http://127.0.0.1:8081.
        context: tokens that prompt and answer may have together.
        vocabulary: ids below are tokens.
        quiet_seconds: silence after which an answer is given up.
        pause_seconds: between two looks whether it has started.
    """

    url: str
    context: int
    vocabulary: int
    quiet_seconds: float = 60.0
    pause_seconds: float = 1.0


class Upstream:
    """The queue before another engine; the methods are those of `streams.Streams`.

    Args:
        remote: the engine.
        eos_id: token that ends an answer.
        settings: how many answers grow and wait; the engine is started for as many.
        metrics: where they are counted.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        remote: Remote,
        *,
        eos_id: int,
        settings: StreamSettings,
        metrics: GenerationMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._remote, self._eos_id, self._settings, self._metrics, self._clock = (
            remote, eos_id, settings, metrics, clock
        )  # fmt: skip
        self._waiting: deque[Stream] = deque()
        self._growing: dict[Stream, asyncio.Task[Piece]] = {}
        self._ending = False
        self._client: httpx2.AsyncClient | None = None
        self.missing = ""
        """What the engine lacks so that it can be asked; empty = nothing that is known."""
        metrics.queued.set_function(lambda: len(self._waiting))
        metrics.streams.set_function(lambda: len(self._growing))

    def start(self) -> None:
        """Open the way to the engine; answers are given in the running event loop."""
        many = self._settings.max_streams + 1
        self._client = httpx2.AsyncClient(
            base_url=self._remote.url,
            timeout=httpx2.Timeout(self._remote.quiet_seconds, connect=_CONNECT_SECONDS, pool=None),
            limits=httpx2.Limits(max_connections=many, max_keepalive_connections=many),
            trust_env=False,  # a proxy of the environment has no business between two containers of a pod
        )

    @property
    def alive(self) -> bool:
        """Whether answers can be had: the event loop makes them, so that whoever gets to ask this is told so."""
        return self._client is not None and not self._client.is_closed

    async def warm_up(self) -> None:
        """Wait until the engine has started, and return when it has proved that it can be asked like this.

        How long it may take to start is for whoever watches both to decide.

        Raises:
            BadModelError: it has less context than the policy, or its probabilities are not those of its draws.
            Broken: it says what it cannot mean.
        """
        while True:
            try:
                await self._prove()
            except NoEngine as error:
                self.missing = str(error)
                log.info("waiting for the engine", extra={"seen": self.missing})
                await asyncio.sleep(self._remote.pause_seconds)
            else:
                self.missing = ""
                return

    async def _prove(self) -> None:
        """Compare the engine's context and one answer of it with what is relied on."""
        longest = await self._longest()
        if longest < self._remote.context:
            raise BadModelError(
                f"policy: its context has {self._remote.context} tokens, the engine takes {longest}; start it without "
                "--max-model-len"
            )
        room = max(1, min(8, self._remote.context - 8))
        prompt = [7 * place % self._remote.vocabulary for place in range(min(8, self._remote.context - room))]
        # of so little mass only the likeliest token is left to draw, whose probability is then 1
        body = self._body(prompt, room=room, temperature=1.0, top_p=1e-6, seed=1)
        async with contextlib.aclosing(self._tokens(body)) as tokens:
            said = sorted([logprob async for _, logprob in tokens])
        if not said:
            raise BadModelError("policy: the engine answered without a token; look into its log")
        # not the lowest: now and then two tokens are exactly as likely, of which some samplers keep both
        if (middle := said[(len(said) - 1) // 2]) < -_SURE:
            raise BadModelError(
                f"policy: the engine says {middle:.3g} for the logarithm of a certain draw's probability, not 0: its "
                "probabilities are not those of its draws; start it with --logprobs-mode processed_logprobs"
            )

    def ask(self, stream: Stream) -> None:
        """Have an answer made.

        Raises:
            Busy: too many requests wait.
            Leaving: the server ends.
        """
        self._settings.admit(len(self._waiting), ending=self._ending)
        stream.since = self._clock()
        self._waiting.append(stream)
        self._begin()

    def leave(self, stream: Stream) -> None:
        """Make no more of an answer; one that is finished stays so."""
        stream.left = True
        if stream in self._waiting:
            self._waiting.remove(stream)
            self._metrics.generations.labels("cancelled").inc()
        elif (task := self._growing.get(stream)) is not None:
            task.cancel()  # which ends the request, by which the engine stops, too

    async def close(self) -> None:
        """Finish what was accepted, take nothing more, leave the engine."""
        self._ending = True
        while self._growing:  # one that ends lets the next one that waits begin
            await asyncio.wait(self._growing.values())
        if self._client is not None:
            await self._client.aclose()

    def _begin(self) -> None:
        """Begin with the oldest that wait, as many as may grow at once."""
        while self._waiting and len(self._growing) < self._settings.max_streams:
            stream = self._waiting.popleft()
            task = self._growing[stream] = asyncio.create_task(self._grow(stream))
            task.add_done_callback(functools.partial(self._ended, stream))

    def _ended(self, stream: Stream, task: asyncio.Task[Piece]) -> None:
        """Tell the last of an answer and how it ended; a task that was cancelled before it began ends here, too."""
        del self._growing[stream]
        finish = "cancelled"
        if not task.cancelled():
            last = _told(task)
            finish = "failed" if isinstance(last, Exception) else last.finish or "failed"
            stream.pieces.put_nowait(last)
        self._metrics.generations.labels(finish).inc()
        self._begin()

    async def _grow(self, stream: Stream) -> Piece:
        """Hand out the pieces of one answer but the last, which is returned.

        Raises:
            Refused: the engine failed.
        """
        manner = stream.manner
        body = self._body(
            list(stream.prompt), room=stream.room, temperature=manner.temperature, top_p=manner.top_p, seed=stream.seed
        )
        async with contextlib.aclosing(self._tokens(body)) as tokens:
            async for token, logprob in tokens:
                if stream.tokens == 0:
                    self._metrics.prompt_tokens.inc(len(stream.prompt))
                    self._metrics.first_token_seconds.observe(self._clock() - stream.since)
                self._metrics.tokens.inc()
                # without temperature nothing is drawn: the likeliest comes, however likely it was
                piece = stream.take(token, logprob if manner.temperature > 0 else 0.0, eos_id=self._eos_id)
                if piece.finish is not None:
                    return piece  # what the engine may still make of it ends with the request
                stream.pieces.put_nowait(piece)
        raise Broken(
            f"the engine ended after {stream.tokens} of {stream.room} tokens without the model's own end; ask again"
        )

    def _body(self, prompt: list[int], *, room: int, temperature: float, top_p: float, seed: int) -> dict[str, Any]:
        """What the engine is asked: to end at our end of a sequence alone, whatever the model's files say of others."""
        return {
            "model": MODEL,
            "prompt": prompt,
            "max_tokens": room,
            "temperature": temperature,
            "top_p": top_p,
            "seed": seed & (1 << 63) - 1,  # to vLLM -1 is no seed
            "stream": True,
            "logprobs": 1,
            "return_tokens_as_token_ids": True,
            "ignore_eos": True,
            "stop_token_ids": [self._eos_id],
        }

    async def _tokens(self, body: dict[str, Any]) -> AsyncGenerator[tuple[int, float]]:
        """Ask, and hand out tokens with the logarithm of each one's probability as they come.

        Raises:
            NoEngine: it cannot be reached, is silent for too long, or refuses.
            Broken: it says what it cannot mean.
        """
        assert self._client is not None, "start() comes first"
        try:
            async with self._client.stream("POST", "/v1/completions", json=body) as response:
                if response.status_code != httpx2.codes.OK:
                    said = said_of(await response.aread())
                    log.error("the engine refused", extra={"status": response.status_code, "said": said})
                    raise NoEngine(
                        f"the engine answered {response.status_code} (see the server's log); ask again", retry_after=1
                    )
                async for line in response.aiter_lines():
                    for pair in tokens_of(line, vocabulary=self._remote.vocabulary):
                        yield pair
        except httpx2.TimeoutException as error:
            raise NoEngine(
                f"the engine said nothing for {self._remote.quiet_seconds:g} seconds; ask again", retry_after=1
            ) from error
        except httpx2.HTTPError as error:
            raise NoEngine(f"the engine is gone ({type(error).__name__}); ask again", retry_after=1) from error

    async def _longest(self) -> int:
        """Tokens that the engine takes."""
        assert self._client is not None, "start() comes first"
        try:
            response = await self._client.get("/v1/models")
        except httpx2.HTTPError as error:
            raise NoEngine(f"the engine does not answer ({type(error).__name__})") from error
        if response.status_code != httpx2.codes.OK:
            raise NoEngine(f"the engine answers {response.status_code}")
        return longest_of(response.content, MODEL)


def _told(task: asyncio.Task[Piece]) -> Piece | Exception:
    """The last that is said of an answer whose task ended."""
    error = task.exception()
    if error is None:
        return task.result()
    if isinstance(error, (Broken, NoEngine)):
        return error
    log.error("answer failed", exc_info=error)
    return Broken(f"the answer could not go on ({type(error).__name__}, see the server's log); ask again")
