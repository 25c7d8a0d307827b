"""The live version of a generator beside the policy that a run keeps: measured on the same rows, asked the same.

Decides which champion can be held against it, and what is said of one that cannot: it stands on the run's base, since
the pod has room for that one. The champion itself decides nothing: neither its absence nor its answers, nor a judge
that fails at these, change what is committed. Called by the evaluate recipe of generators, where a judge is named,
since nothing else compares answers of policies that RL did not start from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import structlog

from ratchet_api.stage import EvaluateConfig
from ratchet_api.training_run import Answers
from ratchet_jobs.data.demonstrations import Demonstration
from ratchet_jobs.data.policy_folder import fetch_policy, read_generator_base
from ratchet_jobs.generators.measuring import measure_answers
from ratchet_jobs.judging.pairs import Preferences
from ratchet_jobs.metrics.choosing_answers import DECIMALS
from ratchet_jobs.recipes.generator_parts import stop_texts
from ratchet_jobs.runtime.context import StageContext
from ratchet_jobs.runtime.errors import (
    BadConfigError,
    BadDataError,
    BadModelError,
    NotANumberError,
    StoreCorrupt,
    StoreNotFound,
)

CHAMPION = "champion"
FIELD = "the champion"
"""How messages call it."""
_WORTH_A_WORD = (BadConfigError, BadDataError, BadModelError, NotANumberError, StoreCorrupt, StoreNotFound)
"""What is wrong with the champion alone, and so ends no stage."""

log = structlog.get_logger(__name__)


class Live(NamedTuple):
    """The champion's numbers and answers."""

    digest: str
    metrics: dict[str, float]
    rows: list[Demonstration]
    """That fit, in the order of the test split."""
    texts: list[str]
    """Its answers to the first of them."""
    max_tokens: int
    """Of its card: decides which rows fit."""


def measure_champion(
    ctx: StageContext,
    config: EvaluateConfig,
    rows: Sequence[Demonstration],
    *,
    base: Path,
    base_sha256: str,
    told: Callable[[int], None],
) -> tuple[Live | None, str]:
    """Measure the live version; one that cannot be measured is left out, with the reason.

    Args:
        ctx: its store has the champion.
        config: names the champion, and how answers are asked for.
        rows: of the test split.
        base: folder of the base model that the run's policies stand on.
        base_sha256: its digest; a champion on another base is left out before anything of it is downloaded.
        told: called after each batch with its rows; may raise Preempted.
    """
    if config.champion is None:
        return None, ""
    try:
        theirs = read_generator_base(ctx.store, config.champion, namespace=ctx.namespace, field=FIELD)
        if theirs.sha256 != base_sha256:
            raise BadModelError(
                f"{FIELD} {config.champion.uri}: stands on base model {theirs.sha256[:12]}… ({theirs.uri}), this run's "
                f"policies on {base_sha256[:12]}…, and the pod has room for one; `ratchet compare` compares them"
            )
        folder = fetch_policy(
            ctx.store, config.champion, namespace=ctx.namespace, into=ctx.folder(CHAMPION), field=FIELD
        )
        seen = measure_answers(
            folder,
            base,
            rows,
            asked=config.hyper.answers or Answers(),
            batch_size=config.hyper.batch_size,
            field="stages.evaluate.answers.maxNewTokens",
            told=told,
            stop=ctx.should_stop,
            stop_texts=stop_texts(config.rlhf),
        )
    except _WORTH_A_WORD as error:
        log.warning("the champion cannot be measured and is not compared", error=str(error))
        return None, str(error)
    return Live(config.champion.digest, seen.metrics, seen.examples.rows, seen.texts, seen.card.max_tokens), ""


def unlike(live: Live, rows: Sequence[Demonstration], texts: Sequence[str], *, max_tokens: int) -> str:
    """Say why the champion's answers cannot be held against others; empty = both answered the same prompts.

    Args:
        live: the champion.
        rows: that fit the other policy, in the order of the test split.
        texts: its answers to the first of them.
        max_tokens: of the other policy's card.
    """
    if len(texts) == len(live.texts) and list(rows[: len(texts)]) == live.rows[: len(texts)]:
        return ""
    return (
        f"it was trained with maxTokens {live.max_tokens}, this run's policy with {max_tokens}, so that other prompts "
        "of the test split fit it"
    )


def told_of(live: Live, preferred: Preferences) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the number for status, and what comparison.json says of the champion.

    Args:
        live: the champion.
        preferred: of the kept policy's answers over the champion's.
    """
    won = round(preferred.win_rate, DECIMALS)
    return {"champion/judge_win_rate": won}, {
        "champion": {"digest": live.digest, "metrics": live.metrics},
        "chosen_against_champion": {"judge_win_rate": won, "changed_with_the_order": preferred.changed},
    }
