"""Component `expression`: arithmetic over an answer. Decides what an expression may name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from ratchet_api.answer_reward import AnswerReward
from ratchet_jobs.metrics.generation import answer_bleu, distinct, grams, repetition, taken_up
from ratchet_jobs.rewards.expression import evaluated, parse
from ratchet_jobs.rlhf.said import Component, Said, Sources, numbers


def _bleu(order: int) -> Callable[[Said], Tensor]:
    def likeness(said: Said) -> Tensor:
        known = [[row.response for row in rows] for rows in said.rows]
        pairs = zip(said.texts, known, strict=True)
        return numbers(answer_bleu(text, right, order=order) if right else 0.0 for text, right in pairs)

    return likeness


def _different(text: str) -> float:
    words = text.split()
    return len(set(words)) / len(words) if words else 0.0


def _overlap(said: Said) -> Tensor:
    pairs = zip(said.texts, said.rows, strict=True)
    return numbers(taken_up(text, rows[0].turns[-1].content) if rows else 0.0 for text, rows in pairs)


def _distinct_together(said: Said) -> Tensor:
    prompts = zip(said.episodes.prompt_ids.tolist(), said.episodes.prompt_mask.tolist(), strict=True)
    return numbers(unlike_others(said.texts, [(tuple(ids), tuple(real)) for ids, real in prompts]))


def unlike_others(texts: Sequence[str], prompts: Sequence[Hashable]) -> list[float]:
    """Each answer's part in the share of different words among all of them, which rewards variety of a whole policy.

    Of an answer's words each counts 1 / how often it is said, by the answer itself and by those to other prompts; the
    mean over its words. Answers to one prompt are not held against each other, for they may well say the same: of
    several only the mean counts. With one answer to each prompt the mean of the parts, weighed by words, is distinct-1
    (Li et al. 2016, arXiv:1510.03055).

    Args:
        texts: N answers.
        prompts: what each answers.

    Returns:
        N numbers in [0, 1]; 0 of an answer without words.
    """
    counts = [Counter(word for (word,) in grams(text, 1)) for text in texts]
    answers = Counter(prompts)
    means: dict[Hashable, dict[str, float]] = {prompt: {} for prompt in answers}
    everywhere: dict[str, float] = {}
    for prompt, count in zip(prompts, counts, strict=True):
        for word, times in count.items():
            for place in (means[prompt], everywhere):
                place[word] = place.get(word, 0.0) + times / answers[prompt]

    def part(prompt: Hashable, count: Counter[str]) -> float:
        # a word that nobody else says may have less than nothing left by rounding
        others = {word: max(0.0, everywhere[word] - means[prompt][word]) for word in count}
        worth = sum(times / (times + others[word]) for word, times in count.items())
        return worth / count.total() if count else 0.0

    return [part(prompt, count) for prompt, count in zip(prompts, counts, strict=True)]


NAMES: Mapping[str, Callable[[Said], Tensor]] = MappingProxyType(
    {
        "tokens": lambda said: said.episodes.lengths.double(),
        "max_tokens": lambda said: torch.full((len(said.texts),), float(said.max_new_tokens)),
        "ended": lambda said: said.episodes.stopped.double(),
        "characters": lambda said: said.each(len),
        "words": lambda said: said.each(lambda text: len(text.split())),
        "distinct": lambda said: said.each(_different),
        "distinct2": lambda said: said.each(lambda text: distinct([text], order=2)),
        "distinct_together": _distinct_together,
        "overlap": _overlap,
        "repetition": lambda said: said.each(lambda text: repetition([text])),
        "bleu1": _bleu(1),
        "bleu2": _bleu(2),
    }
)
"""What an expression may name, one number per answer each."""


def make(wanted: AnswerReward, sources: Sources) -> Component:
    """The component.

    Raises:
        BadConfigError: the expression is malformed.
    """
    text = str(wanted.expression)
    tree = parse(text, names=NAMES)
    return lambda said: evaluated(text, tree, lambda name: NAMES[name](said), rows=len(said.texts))
