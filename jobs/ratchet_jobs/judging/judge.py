"""A judge that is asked about many answers: each once, several at a time, with a budget for those that fail.

 1. What is known from the cache is not asked.
 2. The rest is asked, `concurrency` questions at a time, and kept as it comes.
 3. A question without a usable answer counts. More of them than maxFailurePercent allows end the stage: as an outage,
    which is tried again, if mostly the service did not answer; else as wrong settings.

Never decides what a failed question is worth; whoever asks does. Used by rewards, by `evaluate` and by `snapshot`.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed

import structlog

from ratchet_api.judge import SECRET_KEY, Judge, JudgeEndpoint, filled
from ratchet_jobs.judging.cache import Entry, JudgeCache
from ratchet_jobs.judging.client import ChatClient, Unanswered
from ratchet_jobs.judging.reading import read_scores
from ratchet_jobs.runtime.errors import BadConfigError, JudgeUnavailable
from ratchet_jobs.runtime.store import Store

FIRST_QUESTIONS = 100
"""Count as so many, so that one failure among the first few ends nothing."""
_AT_ONCE = 32
"""Answers that one object of the cache holds; so many may be lost to a kill."""

Said = Mapping[str, float]
log = structlog.get_logger(__name__)


class _NotBegun(Exception):
    """A question that is not asked any more."""


class AskedJudge:
    """One judge of one stage: its counts are the stage's."""

    def __init__(
        self,
        settings: JudgeEndpoint,
        *,
        template: str,
        read: Callable[[str], Said],
        cache: JudgeCache,
        field: str,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """Prepare; nothing is asked yet.

        Args:
            settings: endpoint, model, patience and budget.
            template: the question, with names in braces.
            read: what a judge's text says; raises Unanswered.
            cache: of this judge.
            field: path of the judge in the spec, for messages.
            environment: holds the key.

        Raises:
            BadConfigError: the key is not there.
        """
        self.asked = self.cached = 0
        """Questions until now, and how many of them were answered before."""
        self.failures: Counter[str] = Counter()
        """Questions without a usable answer, by kind."""
        self._away = 0
        self._settings, self._template, self._read, self._cache, self._field = settings, template, read, cache, field
        key = None
        if (ref := settings.api_key_secret_ref) is not None and not (key := environment.get(ref.variable, "").strip()):
            raise BadConfigError(
                f"{field}.apiKeySecretRef {ref.name!r}: environment variable {ref.variable} is empty; give the Secret "
                f"a key {SECRET_KEY}, or with `ratchet run` set the variable"
            )
        self._client = ChatClient(settings, key=key, field=field)

    @property
    def failed(self) -> int:
        """Questions without a usable answer."""
        return self.failures.total()

    def ask(
        self, questions: Sequence[Mapping[str, str]], *, stop: Callable[[], bool] = lambda: False
    ) -> list[Said | None]:
        """Return what the judge says to each question, None where it gave no usable answer.

        Args:
            questions: what stands for each name of the prompt.
            stop: asked between questions; once it is true no more are begun, and what is missing is None.

        Raises:
            JudgeUnavailable: more questions failed than may, mostly since the service is away.
            BadConfigError: the judge refuses the settings, or more answers than may were of no use.
        """
        wanted = [Entry(question, {}).key for question in questions]
        known = {
            key: said for key, question in zip(wanted, questions, strict=True) if (said := self._cache.get(question))
        }
        missing = {key: question for key, question in zip(wanted, questions, strict=True) if key not in known}
        self.asked += len(questions)
        self.cached += len(questions) - len(missing)
        keys = list(missing)
        for start in range(0, len(keys), _AT_ONCE):
            if stop():
                break
            self._ask_some({key: missing[key] for key in keys[start : start + _AT_ONCE]}, known)
        return [known.get(key) for key in wanted]

    def _ask_some(self, missing: Mapping[str, Mapping[str, str]], known: dict[str, Said]) -> None:
        """Ask and keep; what was answered before a failure ended it is kept, too."""
        workers = ThreadPoolExecutor(self._settings.concurrency, thread_name_prefix="judge")
        refused = threading.Event()
        futures = {workers.submit(self._one, words, refused): key for key, words in missing.items()}
        try:
            for future in as_completed(futures):
                if (said := self._counted(future)) is not None:
                    known[futures[future]] = said
        finally:
            workers.shutdown(cancel_futures=True)
            self._cache.add([Entry(words, known[key]) for key, words in missing.items() if key in known])

    def _one(self, words: Mapping[str, str], refused: threading.Event) -> Said:
        """Ask, unless the settings were refused: what waits is cancelled only when the stage comes to it."""
        if refused.is_set():
            raise _NotBegun
        try:
            return self._read(self._client.ask(filled(self._template, **words)))
        except Unanswered:
            raise
        except BaseException:
            refused.set()
            raise

    def _counted(self, future: Future[Said]) -> Said | None:
        try:
            return future.result()
        except _NotBegun:  # whoever was refused comes, too, and ends it
            return None
        except Unanswered as error:
            self.failures[str(error)] += 1
            self._away += error.away
            log.warning("the judge gave no usable answer", judge=self._field, why=str(error), failed=self.failed)
        if self.failed > self._settings.max_failure_percent / 100 * max(self.asked, FIRST_QUESTIONS):
            raise self.gave_up(f"more than maxFailurePercent {self._settings.max_failure_percent:g} allows")
        return None

    def gave_up(self, why: str) -> JudgeUnavailable | BadConfigError:
        """The error that ends the stage, of the kind that most failures were.

        Args:
            why: what was too much.
        """
        kinds = ", ".join(f"{count} times {kind}" for kind, count in self.failures.most_common(4))
        text = (
            f"{self._field}: {self._settings.endpoint}, model {self._settings.model!r}: {self.failed} of {self.asked} "
        )
        text += f"questions have no usable answer, {why} ({kinds})"
        if 2 * self._away > self.failed:
            return JudgeUnavailable(
                f"{text}; see the server, its limits, the network policy, lower concurrency, or raise timeoutSeconds "
                "or retries. What was answered is kept"
            )
        return BadConfigError(
            f"{text}; let the prompt ask for the number alone or for the JSON object, within the range, or take "
            "another model"
        )


def scoring_judge(
    settings: Judge, store: Store, namespace: str, *, field: str, qualities: Sequence[str] = ()
) -> AskedJudge:
    """Read the cache of a judge that gives answers numbers; nothing is asked yet.

    Args:
        settings: of the judge.
        store: that holds the cache.
        namespace: whose part of it.
        field: path of the judge in the spec, for messages.
        qualities: further numbers that it is asked for; without any, a reward and a data set share what it said.

    Raises:
        BadConfigError: the key is not there.
    """
    low, high = settings.min_score, settings.max_score
    identity = settings.to_wire()
    decides = {name: identity[name] for name in ("endpoint", "model", "prompt", "minScore", "maxScore")}
    return AskedJudge(
        settings,
        template=settings.prompt,
        read=lambda text: read_scores(text, low=low, high=high, qualities=qualities),
        cache=JudgeCache(store, namespace, judge=decides | ({"qualities": list(qualities)} if qualities else {})),
        field=field,
    )


class ScoringJudge:
    """A judge as a reward: the worth of each answer, from 0 to 1."""

    def __init__(self, settings: Judge, store: Store, namespace: str, *, field: str) -> None:
        """Read the cache; nothing is asked yet.

        Args:
            settings: of the judge.
            store: that holds the cache.
            namespace: whose part of it.
            field: path of the judge in the spec, for messages.

        Raises:
            BadConfigError: the key is not there.
        """
        self.asked = scoring_judge(settings, store, namespace, field=field)

    def worths(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        """Return what each answer is worth; one that the judge gave no usable number is worth the mean of the others.

        Args:
            prompts: what was answered.
            answers: as many.

        Raises:
            JudgeUnavailable: the judge is away.
            BadConfigError: its settings or its answers are of no use.
        """
        rows = zip(prompts, answers, strict=True)
        said = self.asked.ask([{"prompt": prompt, "response": answer} for prompt, answer in rows])
        found = [each["score"] for each in said if each is not None]
        if not found:
            raise self.asked.gave_up(f"and none of this batch of {len(said)} has one")
        mean = sum(found) / len(found)
        return [mean if each is None else each["score"] for each in said]


def counts_of(judges: Sequence[AskedJudge]) -> Iterator[tuple[str, float]]:
    """Numbers of a stage that asks judges; none without any."""
    if judges:
        yield "judge_asked", float(sum(judge.asked for judge in judges))
        yield "judge_cached", float(sum(judge.cached for judge in judges))
        yield "judge_failed", float(sum(judge.failed for judge in judges))
