"""Answers that grow together: a bounded queue before one thread, which gives every answer a token in each turn.

Decides who gets a row when, how many prompt tokens are read between two turns, and what becomes of requests whose
client left, whose numbers are none, or that are here at the end. A request joins and leaves between any two turns; the
oldest that waits is never overtaken. Knows no HTTP; `routes` asks, `decoder` computes.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from ratchet_serving.errors import Broken
from ratchet_serving.generation.drawing import Choice, Manner, choose
from ratchet_serving.generation.limits import StreamSettings
from ratchet_serving.generation.metrics import GenerationMetrics
from ratchet_serving.generation.writing import Writer

log = logging.getLogger(__name__)

Finish = Literal["stop", "length"]


class Model(Protocol):
    """What is asked for tokens; `decoder.Decoder` says what each method does."""

    context: int

    def reset(self) -> None: ...  # noqa: D102
    def check(self) -> None: ...  # noqa: D102
    def fits(self, *, count: int, length: int) -> bool: ...  # noqa: D102
    def reserve(self, *, count: int, length: int) -> None: ...  # noqa: D102
    def move(self, source: int, target: int, *, length: int) -> None: ...  # noqa: D102
    def fill(self, row: int, ids: Sequence[int], *, start: int) -> Tensor: ...  # noqa: D102
    def step(self, tokens: Sequence[int], lengths: Sequence[int]) -> Tensor: ...  # noqa: D102


class Piece(NamedTuple):
    """What one turn adds to an answer."""

    text: str
    tokens: int
    """Of the answer so far, the one that ended it included."""
    finish: Finish | None
    logprob: float
    """Of the answer so far: log of the probability with which its tokens were chosen."""


@dataclass(eq=False, slots=True)
class Stream:
    """One answer: asked for by a request, made by the thread.

    Attributes:
        prompt: tokens.
        room: tokens that the answer may have.
        manner: how tokens are chosen.
        seed: of the draws.
        writer: makes text of the tokens.
        pieces: what the thread hands out: the pieces, or why there are no more.
    """

    prompt: Sequence[int]
    room: int
    manner: Manner
    seed: int
    writer: Writer
    left: bool = False
    """Whether the client is gone; set from any thread."""
    filled: int = 0
    """Tokens in the cache."""
    last: int = 0
    """Token that was chosen last and is not in the cache yet."""
    tokens: int = 0
    logprob: float = 0.0
    since: float = 0.0
    pieces: asyncio.Queue[Piece | Exception] = field(default_factory=asyncio.Queue)
    draws: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.draws = random.Random(str(self.seed))  # as text, since -1 and 1 would draw the same

    @property
    def length(self) -> int:
        """Tokens that prompt and answer may come to."""
        return len(self.prompt) + self.room

    def take(self, token: int, logprob: float, *, eos_id: int) -> Piece:
        """Add a token to the answer, and return what that says.

        Args:
            token: that was chosen.
            logprob: logarithm of the probability with which it was.
            eos_id: token that ends an answer.
        """
        self.last, self.tokens = token, self.tokens + 1
        self.logprob += logprob
        ended = token == eos_id
        text = "" if ended else self.writer.push(token)
        ended = ended or self.writer.stopped
        finish: Finish | None = "stop" if ended else "length" if self.tokens == self.room else None
        return Piece(text if finish is None else text + self.writer.end(), self.tokens, finish, self.logprob)


class Maker(Protocol):
    """Whoever makes the tokens of answers: `Streams` here, `upstream.Upstream` by another engine."""

    @property
    def alive(self) -> bool: ...  # noqa: D102
    def start(self) -> None: ...  # noqa: D102
    async def warm_up(self) -> None: ...  # noqa: D102
    def ask(self, stream: Stream) -> None: ...  # noqa: D102
    def leave(self, stream: Stream) -> None: ...  # noqa: D102
    async def close(self) -> None: ...  # noqa: D102


class Streams:
    """The queue, the rows and their thread.

    Args:
        model: asked by the thread alone.
        eos_id: token that ends an answer.
        settings: how answers grow together.
        metrics: where they are counted.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        model: Model,
        *,
        eos_id: int,
        settings: StreamSettings,
        metrics: GenerationMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model, self._eos_id, self._settings, self._metrics, self._clock = model, eos_id, settings, metrics, clock
        self._waiting: deque[Stream] = deque()
        self._rows: list[Stream] = []
        """Answers that grow; the row of each is its place."""
        self._filling: Stream | None = None
        """Whose prompt is being read, in the row behind the others."""
        self._changed = threading.Condition()
        self._ending = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._checked: asyncio.Future[None] | None = None
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        metrics.queued.set_function(lambda: len(self._waiting))
        metrics.streams.set_function(lambda: len(self._rows) + (self._filling is not None))

    def start(self) -> None:
        """Start the thread; answers are given in the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._checked = self._loop.create_future()
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs; once started it ends only by `close`, or by a defect."""
        return self._thread.is_alive()

    async def warm_up(self) -> None:
        """Return when the model has proved that it can be asked like this.

        Raises:
            BadModelError: it cannot.
        """
        assert self._checked is not None, "start() comes first"
        await asyncio.shield(self._checked)

    def ask(self, stream: Stream) -> None:
        """Have an answer made.

        Raises:
            Busy: too many requests wait.
            Leaving: the server ends.
        """
        with self._changed:
            self._settings.admit(len(self._waiting), ending=self._ending)
            stream.since = self._clock()
            self._waiting.append(stream)
            self._changed.notify()

    def leave(self, stream: Stream) -> None:
        """Make no more of an answer; one that is finished stays so."""
        stream.left = True
        with self._changed:
            if stream in self._waiting:
                self._waiting.remove(stream)
                self._metrics.generations.labels("cancelled").inc()
            self._changed.notify()

    async def close(self) -> None:
        """Finish what was accepted, take nothing more, end the thread."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        with torch.inference_mode():
            self._tell(self._check())
            while self._wait():
                try:
                    self._turn()
                except Exception as error:  # the outermost loop of the thread: one bad turn must not end all others
                    log.exception("turn failed", extra={"streams": len(self._rows)})
                    self._fail_all(error)

    def _check(self) -> Exception | None:
        try:
            self._model.check()
        except Exception as error:  # told by warm_up; the server stays and says why it is not ready
            return error
        return None

    def _tell(self, problem: Exception | None) -> None:
        def set_it() -> None:
            assert self._checked is not None
            if not self._checked.done():
                self._checked.set_result(None) if problem is None else self._checked.set_exception(problem)

        assert self._loop is not None
        self._loop.call_soon_threadsafe(set_it)

    def _wait(self) -> bool:
        """Wait until there is something to do; false at the end."""
        with self._changed:
            while not (self._waiting or self._rows or self._filling):
                if self._ending:
                    return False
                self._changed.wait()
        return True

    def _turn(self) -> None:
        """Drop who left, read prompts for a while, then give every answer a token."""
        self._drop_left()
        budget = self._settings.prompt_tokens
        while budget > 0 and (stream := self._next()) is not None:
            budget -= self._fill(stream, budget)
        if self._rows:
            began, count = self._clock(), len(self._rows)
            tokens, lengths = [row.last for row in self._rows], [row.filled for row in self._rows]
            logits = self._model.step(tokens, lengths)
            for row in self._rows:
                row.filled += 1
            self._choose(list(self._rows), logits)
            self._metrics.step_streams.observe(count)
            self._metrics.step_seconds.observe(self._clock() - began)

    def _next(self) -> Stream | None:
        """Whose prompt is to be read: the one begun, else the oldest that waits, if there is room for it."""
        if self._filling is not None:
            return self._filling
        with self._changed:
            if not self._waiting or len(self._rows) >= self._settings.max_streams:
                return None
            count = len(self._rows) + 1
            length = max(stream.length for stream in (*self._rows, self._waiting[0]))
            if not self._model.fits(count=count, length=length):
                return None
            self._filling = self._waiting.popleft()
        self._model.reserve(count=count, length=length)
        return self._filling

    def _fill(self, stream: Stream, budget: int) -> int:
        """Read the next tokens of a prompt; after its last, the answer has its first token. Returns how many."""
        part = stream.prompt[stream.filled : stream.filled + budget]
        logits = self._model.fill(len(self._rows), part, start=stream.filled)
        stream.filled += len(part)
        self._metrics.prompt_tokens.inc(len(part))
        if stream.filled == len(stream.prompt):
            self._filling = None
            self._rows.append(stream)
            self._choose([stream], logits.unsqueeze(0))
            self._metrics.first_token_seconds.observe(self._clock() - stream.since)
        return len(part)

    def _choose(self, streams: list[Stream], logits: Tensor) -> None:
        """Give each of some answers a token, and hand out what that says."""
        good = torch.isfinite(logits.amax(-1)).tolist()  # -inf beside numbers is a token that never comes
        draws = [stream.draws.random() for stream in streams]
        numbers = logits if all(good) else logits.nan_to_num()
        chosen = choose(numbers, [stream.manner for stream in streams], draws)
        told: list[tuple[Stream, Piece | Exception]] = []
        for stream, fine, choice in zip(streams, good, chosen, strict=True):
            piece = (
                self._said(stream, choice)
                if fine
                else Broken(
                    "the policy's logits are not all finite; serve a version that was trained with a lower rate"
                )
            )
            told.append((stream, piece))
            if isinstance(piece, Exception) or piece.finish is not None:
                self._remove(stream)
                self._metrics.generations.labels("failed" if isinstance(piece, Exception) else piece.finish).inc()
        self._hand_out(told)

    def _said(self, stream: Stream, choice: Choice) -> Piece:
        self._metrics.tokens.inc()
        return stream.take(choice.token, math.log(choice.propensity), eos_id=self._eos_id)

    def _drop_left(self) -> None:
        if self._filling is not None and self._filling.left:
            self._filling = None
            self._metrics.generations.labels("cancelled").inc()
        for stream in [row for row in self._rows if row.left]:
            self._remove(stream)
            self._metrics.generations.labels("cancelled").inc()

    def _remove(self, stream: Stream) -> None:
        """Give the row of an answer to the last one, and close the gap before the one whose prompt is being read."""
        row, last = self._rows.index(stream), len(self._rows) - 1
        if row != last:
            self._model.move(last, row, length=self._rows[last].filled)
            self._rows[row] = self._rows[last]
        self._rows.pop()
        if self._filling is not None and self._filling.filled:
            self._model.move(last + 1, last, length=self._filling.filled)

    def _fail_all(self, error: Exception) -> None:
        """Tell everybody who has a row that there will be no answer, and begin anew."""
        told = Broken(f"the model could not go on ({type(error).__name__}, see the server's log); ask again")
        failed = [*self._rows, *([self._filling] if self._filling is not None else [])]
        self._rows, self._filling = [], None
        self._model.reset()
        self._metrics.generations.labels("failed").inc(len(failed))
        self._hand_out([(stream, told) for stream in failed])

    def _hand_out(self, told: list[tuple[Stream, Piece | Exception]]) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(_deliver, told)


def _deliver(told: list[tuple[Stream, Piece | Exception]]) -> None:
    for stream, piece in told:
        stream.pieces.put_nowait(piece)
