"""From logits to answers and records: calibrated probabilities, whether the policy abstains, who was told what.

Decides nothing that the policy's card does not say, but for the threshold where the version has one of its own;
temperature and labels are the card's, the formulas those of the evaluate stage. Signs an interaction id for every
answer where there are keys.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ratchet_api.signing import Exposure, KeyRing, sign_interaction
from ratchet_jobs.metrics.classification import predict
from ratchet_jobs.models.card import Head, PolicyCard
from ratchet_serving.messages import Ask, AskMany
from ratchet_serving.metrics import ServingMetrics
from ratchet_serving.pairing import Pairing, paired
from ratchet_web.errors import Malformed

Arm = Literal["champion", "canary", "control"]


class Assignment(NamedTuple):
    """How a request came to this version, as the router says."""

    subject: str | None = None
    arm: Arm | None = None
    propensity: float | None = None
    experiment: str | None = None
    pairing: Pairing | None = None
    """Where another version is asked the same."""
    explore: float = 0.0
    """Probability with which an answer is drawn instead of being the likeliest."""

    @property
    def draws(self) -> float:
        """The same for this request: where two versions are compared, each gives its likeliest."""
        return 0.0 if self.pairing is not None else self.explore


@dataclass(frozen=True, slots=True)
class Signer:
    """Makes interaction ids.

    Attributes:
        ring: the newest key signs.
        lifetime: how long they may be cited.
        now: the clock.
    """

    ring: KeyRing
    lifetime: timedelta
    now: Callable[[], datetime]

    def sign(self, policy: str, version: int | None, who: Assignment) -> str:
        """Return a new signed id."""
        now = self.now()
        exposure = Exposure(
            id=f"{int(now.timestamp() * 1000):012x}{secrets.token_hex(10)}",
            policy=policy,
            version=version,
            arm=who.arm,
            propensity=who.propensity,
            experiment=who.experiment,
            issued=int(now.timestamp()),
            expires=int((now + self.lifetime).timestamp()),
        )
        return sign_interaction(exposure, self.ring)


class Answers(NamedTuple):
    """What one request is answered."""

    body: dict[str, Any]
    """As `messages.OneAnswer` or `messages.ManyAnswers` have it."""
    records: list[dict[str, Any]]
    """For the gateway, one for each text and task."""
    interactions: list[str]
    """Signed ids, likewise; empty without keys."""


@dataclass(frozen=True, slots=True)
class Answerer:
    """Turns logits into answers of one policy.

    Attributes:
        card: of the policy.
        policy: its name.
        version: of it.
        signer: None = answers carry no interaction id and are not recorded.
        metrics: where answers are counted.
        chance: a number from 0 to below 1, drawn anew at each call.
        abstain_threshold: confidence below which it abstains; None = as the card has it for each task.
    """

    card: PolicyCard
    policy: str
    version: int | None
    signer: Signer | None
    metrics: ServingMetrics
    chance: Callable[[], float] = secrets.SystemRandom().random
    abstain_threshold: float | None = None

    def heads(self, task: str | None) -> tuple[Head, ...]:
        """Return the tasks that are asked for.

        Raises:
            Malformed: the policy has no such task.
        """
        if task is None:
            return self.card.heads
        found = tuple(head for head in self.card.heads if head.task.name == task)
        if not found:
            there = ", ".join(map(repr, self.card.task_names or ())) or "one without a name; leave task out"
            raise Malformed(f"task: {task!r} is none of the policy's, which has {there}")
        return found

    def answer(self, ask: Ask, logits: NDArray[np.float64], who: Assignment) -> Answers:
        """Answer a request.

        Args:
            ask: what was asked.
            logits: (N, C) of its texts.
            who: whom, in which arm.

        Raises:
            Malformed: the policy has no such task.
        """
        texts: Sequence[str] = ask.texts if isinstance(ask, AskMany) else (ask.text,)
        by_task = {
            head.task.name: self._read(head, logits, probabilities=ask.probabilities, explore=who.draws)
            for head in self.heads(ask.task)
        }
        found = Answers({"policy": self.policy} | ({} if self.version is None else {"version": self.version}), [], [])
        results = []
        for place, text in enumerate(texts):
            said = {task: answers[place] for task, answers in by_task.items()}
            for task, (answer, propensity) in said.items():
                self._record(found, text, task, answer, who, propensity)
            shown = {task: answer for task, (answer, _) in said.items()}
            results.append(shown[""] if "" in shown else {"tasks": shown})
        found.body.update({"results": results} if isinstance(ask, AskMany) else results[0])
        return found

    def _read(
        self, head: Head, logits: NDArray[np.float64], *, probabilities: bool, explore: float
    ) -> list[tuple[dict[str, Any], float]]:
        """Return each text's answer in a task, and the probability with which it was given."""
        task, fit = head
        labels = task.plain_labels
        threshold = (fit.threshold or 0.0) if self.abstain_threshold is None else self.abstain_threshold
        said = predict(logits[:, task.start : task.stop], temperature=fit.temperature)
        answers = []
        for place in range(len(logits)):
            likeliest, probs = int(said.classes[place]), said.probs[place]
            abstain = min(1.0, float(said.confidence[place])) < threshold
            # who abstains asks nobody to act on its guess, so that another guess would teach nothing
            chosen, propensity = (likeliest, 1.0) if abstain else self._choose(likeliest, probs, explore)
            self.metrics.answers.labels(task.name, str(abstain).lower()).inc()
            answer: dict[str, Any] = {
                "label": labels[chosen],
                "confidence": min(1.0, float(probs[chosen])),
                "abstain": abstain,
            }
            if probabilities:
                answer["probabilities"] = dict(zip(labels, probs.tolist(), strict=True))
            answers.append((answer, propensity))
        return answers

    def _choose(self, likeliest: int, probs: NDArray[np.float64], explore: float) -> tuple[int, float]:
        """Return a class, and how likely it was to be chosen.

        Args:
            likeliest: class that is answered with probability 1 - explore.
            probs: (C,) by which it is drawn else.
            explore: 0 to 1.
        """
        if explore == 0:
            return likeliest, 1.0
        chosen = likeliest
        if self.chance() < explore:
            above = np.searchsorted(np.cumsum(probs), self.chance(), side="right")
            chosen = min(int(above), len(probs) - 1)  # rounding may leave the sum a little below 1
        propensity = explore * float(probs[chosen]) + (1 - explore if chosen == likeliest else 0.0)
        return chosen, min(1.0, propensity)

    def _record(
        self, found: Answers, text: str, task: str, answer: dict[str, Any], who: Assignment, propensity: float
    ) -> None:
        """Sign an answer and note what the gateway is told of it."""
        if self.signer is None:
            return
        signed = self.signer.sign(self.policy, self.version, who)
        answer["interactionId"] = signed
        found.interactions.append(signed)
        label = f"{task}/{answer['label']}" if task else answer["label"]
        record = {
            "interactionId": signed,
            "idempotencyKey": signed.rpartition(".")[2],
            "subject": who.subject,
            "input": text,
            "label": label,
            "actionPropensity": propensity,
            "tags": {"abstain": str(answer["abstain"]).lower()},
            "experiment": who.experiment,
            "abstained": answer["abstain"],
        }
        found.records.append({name: value for name, value in record.items() if value is not None})

    def told(self, answers: Answers, who: Assignment, *, seconds: float) -> list[dict[str, Any]]:
        """Return what the gateway is told of an answer that took so long: one that nobody gets is only compared."""
        for record in answers.records:
            record["milliseconds"] = 1000 * seconds
        if who.pairing is None or self.signer is None:
            return answers.records
        aside = paired(answers.records, who.pairing, policy=self.policy, version=self.version, seconds=seconds)
        return aside if self._is_shadow(who) else [*answers.records, *aside]

    def failure(self, ask: Ask, who: Assignment, *, seconds: float) -> list[dict[str, Any]]:
        """Return the records of a request that got no answer; none where nobody compares, or nothing is signed."""
        if self.signer is None:
            return []
        records: list[dict[str, Any]] = []
        if who.experiment is not None and not self._is_shadow(who):
            signed = self.signer.sign(self.policy, self.version, who)
            records.append(failed(signed, who, ask.texts[0] if isinstance(ask, AskMany) else ask.text))
        if who.pairing is not None:
            texts = len(ask.texts) if isinstance(ask, AskMany) else 1
            none = [{"failed": True}] * (texts * len(self.heads(ask.task)))
            records += paired(none, who.pairing, policy=self.policy, version=self.version, seconds=seconds)
        return records

    def _is_shadow(self, who: Assignment) -> bool:
        return who.pairing is not None and who.pairing.version == self.version


def failed(signed: str, who: Assignment, asked: str) -> dict[str, Any]:
    """Return the record of a request of a trial that got no answer."""
    record = {
        "interactionId": signed,
        "idempotencyKey": signed.rpartition(".")[2],
        "subject": who.subject,
        "input": asked,
        "experiment": who.experiment,
        "failed": True,
    }
    return {name: value for name, value in record.items() if value is not None}
