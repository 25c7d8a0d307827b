"""Numbers of a generator's answers: likeness to the reference, variety, repetition, echo, length.

Pure functions of texts, but for BLEU, which is sacrebleu's. Called by the evaluate recipe of generators.

Notation: an n-gram is n words that follow each other; words are what blanks part, in lower case.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

from sacrebleu.metrics.bleu import BLEU

from ratchet_jobs.data.demonstrations import Demonstration
from ratchet_jobs.generators.answering import Scored

LOOP = 3
"""Words whose coming back counts as repetition."""
LONG = 4
"""Letters of a word that says something; most shorter ones hold a sentence together."""
_MOST_NATS = 700.0
"""exp of more is no float."""


def bleu(answers: Sequence[str], references: Sequence[str], *, order: int) -> float:
    """Corpus BLEU up to n-grams of an order (Papineni et al. 2002), in [0, 1], with brevity penalty.

    Args:
        answers: N texts.
        references: N texts, one for each.
        order: 1 or 2.
    """
    score = float(BLEU(max_ngram_order=order).corpus_score(list(answers), [list(references)]).score)
    return min(1.0, score / 100)  # rounding may make it a hair more


def answer_bleu(answer: str, references: Sequence[str], *, order: int) -> float:
    """BLEU of one answer against all that are right for its prompt, in [0, 1]; n-grams longer than it do not count.

    Args:
        answer: a text.
        references: at least one.
        order: 1 or 2.
    """
    scorer = BLEU(max_ngram_order=order, effective_order=True)
    return min(1.0, float(scorer.sentence_score(answer, list(references)).score) / 100)


def distinct(answers: Sequence[str], *, order: int) -> float:
    """Share of different n-grams among all n-grams of all answers (Li et al. 2016, arXiv:1510.03055), in [0, 1].

    0 where no answer has n words.
    """
    said = [gram for answer in answers for gram in grams(answer, order)]
    return len(set(said)) / len(said) if said else 0.0


def repetition(answers: Sequence[str]) -> float:
    """Mean over answers of the share of an answer's 3-grams that it has had already, in [0, 1).

    An answer of fewer than three words repeats nothing.
    """
    shares = []
    for answer in answers:
        said = list(grams(answer, LOOP))
        shares.append(1 - len(set(said)) / len(said) if said else 0.0)
    return sum(shares) / len(shares)


def taken_up(answer: str, asked: str) -> float:
    """Share of an answer's different words of four letters and more that what it answers says, too; 0 without any."""
    words, theirs = ({word for word in spoken(text) if len(word) >= LONG} for text in (answer, asked))
    return len(words & theirs) / len(words) if words else 0.0


def answer_metrics(answers: Sequence[str], rows: Sequence[Demonstration], lengths: Sequence[int]) -> dict[str, float]:
    """Every number of a set of answers.

    Args:
        answers: N texts, N at least 1.
        rows: N, what was asked, and the answers that were given to it.
        lengths: tokens of each answer, its end not counted.
    """
    references = [row.response for row in rows]
    overlaps = [taken_up(answer, row.turns[-1].content) for answer, row in zip(answers, rows, strict=True)]
    return {
        "bleu1": bleu(answers, references, order=1),
        "bleu2": bleu(answers, references, order=2),
        "distinct1": distinct(answers, order=1),
        "distinct2": distinct(answers, order=2),
        "repetition": repetition(answers),
        "overlap": sum(overlaps) / len(answers),
        "empty": sum(not answer for answer in answers) / len(answers),
        "mean_tokens": sum(lengths) / len(lengths),
    }


def score_metrics(scores: Sequence[Scored]) -> dict[str, float]:
    """Perplexity of given responses, of the policy and of its base, and how far the two are apart.

    Args:
        scores: of batches.

    Returns:
        perplexity, base_perplexity: exp of the mean negative log-likelihood per token; kl: mean per token, nats.
    """
    tokens = sum(each.tokens for each in scores)
    nll, base_nll = (sum(getattr(each, name) for each in scores) / tokens for name in ("nll", "base_nll"))
    return {
        "perplexity": math.exp(min(nll, _MOST_NATS)),
        "base_perplexity": math.exp(min(base_nll, _MOST_NATS)),
        "kl": max(0.0, sum(each.kl for each in scores) / tokens),  # rounding may make it a hair negative
    }


def grams(text: str, order: int) -> Iterator[tuple[str, ...]]:
    """Every run of `order` words of a text; none where it has fewer."""
    words = text.lower().split()
    return zip(*(words[start:] for start in range(order)), strict=False)


def spoken(text: str) -> list[str]:
    """The words of a text, whatever their case and what stands around them."""
    return re.findall(r"\w+", text.casefold())
