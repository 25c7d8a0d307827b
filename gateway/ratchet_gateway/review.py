"""What there is to review: recorded answers that nobody judged, pairs of answers to one input, and counts for plots.

Decides what counts as judged, what comes first (unless asked otherwise, the answers of which the policy was least
sure), and that what its sender took back was never said. Pure but for `recent`, which reads the log. Called by the
review routes.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ratchet_api.review import ReviewDay, ReviewLabel, ReviewOrder, ReviewStats
from ratchet_gateway.recent import Answer, RecentLog, Vote

MAX_DAYS, MAX_LABELS = 30, 20
VERDICTS = frozenset({"thumbs_up", "thumbs_down", "rating", "score", "correction"})


@dataclass(slots=True)
class PolicyReview:
    """What was answered and said lately about one policy.

    Attributes:
        answers: by id, oldest first.
        votes: that still count, oldest first.
    """

    answers: dict[str, Answer] = field(default_factory=dict)
    votes: list[Vote] = field(default_factory=list)

    def waiting(self, order: ReviewOrder = "unsure") -> list[Answer]:
        """Answers that nobody judged, the newest first where the order says nothing else.

        Args:
            order: `unsure`: by confidence, the lowest first, then those without one; `disputed`: by how much people or
                versions disagree about the input, then as `unsure`; `newest`.
        """
        judged = {vote.about for vote in self.votes if vote.type in VERDICTS}
        found = [each for each in reversed(self.answers.values()) if each.id not in judged]
        if order != "newest":
            found.sort(key=lambda each: 2.0 if each.confidence is None else each.confidence)
        if order == "disputed":
            disputes = self.disputes()
            found.sort(key=lambda each: -disputes.get(each.input, 0.0))
        return found

    def disputes(self) -> dict[str, float]:
        """How much people or versions disagree about an input, as data sets measure it: 0 (not listed) to 1.

        Of people twice the standard deviation of their scores of one answer; of versions the entropy of what they
        answered, over that of all answering differently. Events without a subject do not count.
        """
        scores: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        answered: dict[str, set[tuple[int, str]]] = defaultdict(set)
        for vote in self.votes:
            about = self.answers.get(vote.about or "")
            if about is not None and vote.score is not None and vote.subject is not None:
                scores[about.input, about.answer][vote.subject].append(vote.score)
        for each in self.answers.values():
            if each.version is not None:
                answered[each.input].add((each.version, each.answer))
        found: dict[str, float] = defaultdict(float)
        for (asked, _), by_person in scores.items():
            found[asked] = max(found[asked], 2 * statistics.pstdev(map(statistics.fmean, by_person.values())))
        for asked, pairs in answered.items():
            if len({version for version, _ in pairs}) > 1:
                found[asked] = max(found[asked], _entropy([answer for _, answer in pairs]) / math.log2(len(pairs)))
        return {asked: dispute for asked, dispute in found.items() if dispute > 0}

    def pairs(self) -> list[tuple[str, Answer, Answer]]:
        """Two different answers to one input, each with the pair's id, the newest first; compared ones left out."""
        compared = {vote.pair for vote in self.votes if vote.type == "preference"}
        by_input: dict[str, list[Answer]] = defaultdict(list)
        for each in self.answers.values():
            by_input[each.input].append(each)
        found = []
        for answers in by_input.values():
            last = answers[-1]
            other = next((each for each in reversed(answers) if each.answer != last.answer), None)
            if other is not None and (name := pair_id(other, last)) not in compared:
                found.append((name, other, last))
        return sorted(found, key=lambda pair: pair[2].received, reverse=True)

    def labels(self) -> list[tuple[str, int]]:
        """Labels that were answered, with how often, the most frequent first."""
        counts = Counter(each.answer for each in self.answers.values() if each.is_label)
        return sorted(counts.items(), key=lambda item: (-item[1], item[0]))

    def stats(self, policy: str) -> ReviewStats:
        """Return the counts as the API gives them."""
        days: dict[str, Counter[str]] = defaultdict(Counter)
        bands, scores = Counter[int](), defaultdict[str, list[float]](list)
        for vote in self.votes:
            days[vote.received[:10]][_tone(vote.score)] += 1
            if vote.score is None:
                continue
            bands[min(int(vote.score * 5), 4)] += 1
            answer = self.answers.get(vote.about or "")
            if answer is not None and answer.is_label:
                scores[answer.answer].append(vote.score)
        return ReviewStats(
            policy=policy,
            days=tuple(
                ReviewDay(day=day, **{tone: seen[tone] for tone in ("good", "middling", "bad", "unscored")})
                for day, seen in sorted(days.items())[-MAX_DAYS:]
            ),
            bands=(bands[0], bands[1], bands[2], bands[3], bands[4]),
            labels=tuple(_label(name, count, scores[name]) for name, count in self.labels()[:MAX_LABELS]),
        )


def pair_id(one: Answer, other: Answer) -> str:
    """Name a pair of answers: the same for whoever asks, in whichever order."""
    return hashlib.sha256("\0".join(sorted((one.id, other.id))).encode()).hexdigest()[:32]


def by_policy(entries: Iterable[Answer | Vote]) -> dict[str, PolicyReview]:
    """Sort entries by policy, without the votes that were taken back, by whoever gave them."""
    found: dict[str, PolicyReview] = defaultdict(PolicyReview)
    taken_back: set[tuple[str, str]] = set()
    for each in entries:
        if isinstance(each, Answer):
            found[each.policy].answers[each.id] = each
            continue
        if each.supersedes is not None:
            taken_back.add((each.supersedes, each.source))
        if each.type != "undo":
            found[each.policy].votes.append(each)
    for seen in found.values():
        seen.votes = [vote for vote in seen.votes if (vote.id, vote.source) not in taken_back]
    return dict(found)


class ReviewIndex:
    """Every policy's review, made anew when the log has changed."""

    def __init__(self, recent: RecentLog) -> None:
        """Take the part of the log that is looked at."""
        self._recent = recent
        self._made: dict[str, PolicyReview] = {}
        self._generation = -1

    async def policies(self) -> dict[str, PolicyReview]:
        """Return what is known of every policy that the recent log names.

        Raises:
            StoreError: the log cannot be read.
        """
        generation = await self._recent.refresh()
        if generation != self._generation:
            self._made, self._generation = by_policy(self._recent.entries()), generation
        return self._made

    async def of(self, policy: str) -> PolicyReview:
        """Return what is known of a policy.

        Raises:
            StoreError: the log cannot be read.
        """
        return (await self.policies()).get(policy) or PolicyReview()


def _entropy(words: Sequence[str]) -> float:
    shares = [count / len(words) for count in Counter(words).values()]
    return -sum(share * math.log2(share) for share in shares)


def _tone(score: float | None) -> str:
    if score is None:
        return "unscored"
    return "good" if score >= 0.6 else "bad" if score < 0.4 else "middling"


def _label(name: str, answers: int, scores: list[float]) -> ReviewLabel:
    mean = round(sum(scores) / len(scores), 6) if scores else None
    return ReviewLabel(label=name, answers=answers, rated=len(scores), score_mean=mean)
