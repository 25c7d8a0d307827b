"""What the stages of generators that learn from rewards share: their start, their rewards. No loop stands here.

Called by `reward_model`, `rl_generator`, `rl_agents` and `evaluate_generator`, and by `ratchet evaluate` and
`ratchet compare`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from peft import PeftModel

from ratchet_api.answer_reward import REWARD_MODEL
from ratchet_api.attempts import Artifact
from ratchet_api.rlhf import RlhfStage
from ratchet_api.stage import EvaluateConfig, RlConfig, StageRef
from ratchet_jobs.data.base_model import fetch_model
from ratchet_jobs.data.demonstrations import Demonstration, read_demonstrations
from ratchet_jobs.data.judged import read_judged
from ratchet_jobs.data.policy_folder import fetch_policy
from ratchet_jobs.data.snapshots import open_snapshot
from ratchet_jobs.generators.answering import log_likelihoods
from ratchet_jobs.generators.card import GeneratorCard, read_generator_card
from ratchet_jobs.generators.examples import Examples
from ratchet_jobs.generators.loading import check_context
from ratchet_jobs.generators.templates import Wording
from ratchet_jobs.judging.judge import ScoringJudge
from ratchet_jobs.recipes.reward_files import FIELD as REWARDS_FIELD
from ratchet_jobs.recipes.reward_files import Fetching
from ratchet_jobs.rlhf.generate import Episodes, episodes_of
from ratchet_jobs.rlhf.held_out_judge import HeldOutJudge
from ratchet_jobs.rlhf.policies import open_trunk
from ratchet_jobs.rlhf.preference_rows import FIELD, Liked, deal
from ratchet_jobs.rlhf.reward_model import RewardModel, read_saved, saved_rank
from ratchet_jobs.rlhf.rewards import AnswerRewards
from ratchet_jobs.rlhf.said import Rows, Sources
from ratchet_jobs.rlhf.scorers import EncoderScorer, TrunkScorer
from ratchet_jobs.rlhf.trunk import Trunk
from ratchet_jobs.runtime.context import StageContext
from ratchet_jobs.runtime.errors import BadConfigError, BadDataError
from ratchet_jobs.runtime.store import Store


def fetch_start(ctx: StageContext, stage: StageRef | None, artifact: Artifact | None) -> tuple[Path, str]:
    """Download the policy to start from; returns its folder and digest."""
    if stage is not None:
        folder, commit = ctx.open_stage(stage)
        return folder, commit.digest
    if artifact is None:
        raise BadConfigError("neither start nor startArtifact is given; the operator sets one of them")
    folder = fetch_policy(ctx.store, artifact, namespace=ctx.namespace, into=ctx.folder("start"))
    return folder, artifact.digest


log = structlog.get_logger(__name__)


def fetch_reward_model(ctx: StageContext, stage: StageRef | None, hyper: RlhfStage | None) -> Path | None:
    """Download the reward model that rewards ask: what the run's own stage made, or the one that they name.

    Args:
        ctx: store of both.
        stage: that made one.
        hyper: of the rl stage, which may name one.

    Returns:
        Its folder; None = no reward asks one.

    Raises:
        BadConfigError: the URI leaves the namespace's part of the store.
        BadModelError: nothing is there, or not what the digest says.
    """
    if stage is not None:
        return ctx.open_stage(stage)[0]
    shared = None if hyper is None else hyper.shared_reward_model
    if shared is None:
        return None
    artifact = Artifact(uri=shared.uri, digest=shared.sha256)
    into = ctx.folder("reward-model")
    return fetch_policy(ctx.store, artifact, namespace=ctx.namespace, into=into, field=f"{REWARDS_FIELD}: model")


class Opened(NamedTuple):
    """What a rl stage that draws answers learns with."""

    start: Path
    """Folder of the policy that it starts from."""
    card: GeneratorCard
    trunk: Trunk
    rows: list[Demonstration]
    known: dict[tuple[int, ...], list[Demonstration]]
    """Rows by the tokens of their prompt, each prompt once."""
    skipped: int
    """Rows whose prompt left no room."""
    judge: Path | None
    """Folder of the reward model; None = no component asks one."""


def open_learning(ctx: StageContext, config: RlConfig, hyper: RlhfStage, *, agents: Sequence[str] = ()) -> Opened:
    """Read prompts, start policy, base and reward model, and make the trunk of them.

    Args:
        ctx: store of all of them.
        config: names them.
        hyper: of the stage.
        agents: names of policies that share the trunk; empty = there is one.

    Raises:
        StageError: something is missing, not what its digest says, or does not fit the rest.
    """
    snapshot = open_snapshot(ctx.store, config.dataset, into=ctx.folder("snapshot"))
    rows = read_demonstrations(snapshot, "train")
    start, digest = fetch_start(ctx, config.start, config.start_artifact)
    card = read_generator_card(start).with_base_at(config.base_model)
    base = fetch_model(ctx.store, card.base_model, namespace=ctx.namespace, into=ctx.folder("base"))
    judge = fetch_reward_model(ctx, config.reward_model, hyper)
    trunk, _ = open_trunk(
        start,
        base,
        digest=digest,
        rank=hyper.lora_rank,
        reward_rank=None if judge is None else saved_rank(judge),
        seed=config.seed,
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        dtype=hyper.dtype,
        agents=agents,
    )
    known, skipped = prompts_of(rows, trunk.wording, max_tokens=card.max_tokens)
    longest = max(len(prompt) for prompt in known)
    field = f"stages.rlhf.maxNewTokens {hyper.max_new_tokens} after the longest prompt of {longest} tokens"
    check_context(trunk.base, max_tokens=longest + hyper.max_new_tokens, field=field)
    return Opened(start, card, trunk, rows, known, skipped, judge)


def make_judges(hyper: RlhfStage, store: Store, namespace: str) -> dict[int, ScoringJudge]:
    """The judges of a rl stage, by the place of their component.

    Args:
        hyper: of the stage.
        store: that has what they said before.
        namespace: whose part of it.

    Raises:
        BadConfigError: a judge's key is not there.
    """
    return {
        place: ScoringJudge(each.judge, store, namespace, field=f"stages.rlhf.rewards[{place}].judge")
        for place, each in enumerate(hyper.rewards)
        if each.judge is not None
    }


def _load_reward_model(folder: Path, trunk: Trunk, fetch: Fetching) -> RewardModel:
    saved, scorer = read_saved(folder), None
    if saved.built is not None:
        base, (lora, max_tokens, uri) = fetch.encoder(saved), saved.built
        scorer = EncoderScorer(
            base, lora=lora, max_tokens=max_tokens, seed=0, device=trunk.device, qualities=saved.qualities, uri=uri
        )
    return RewardModel.load(folder, scorer or TrunkScorer(trunk, qualities=saved.qualities))


def make_answer_rewards(
    trunk: Trunk,
    hyper: RlhfStage,
    reward_model: Path | None,
    *,
    rows: Rows,
    mentioned: frozenset[str],
    judges: Mapping[int, ScoringJudge],
    max_new_tokens: int,
    fetch: Fetching,
) -> AnswerRewards:
    """The reward of answers as the settings name it.

    Args:
        trunk: that answers stand on, with the reward model's rank.
        hyper: of the rl stage.
        reward_model: folder of the reward model; None = no component asks it.
        rows: of the dataset, by the tokens of their prompt.
        mentioned: items that rows of the train split mention.
        judges: of `make_judges`.
        max_new_tokens: that an answer may have.
        fetch: brings the files that components name.

    Raises:
        StageError: what a component needs is missing, malformed, or does not fit the trunk.
    """
    model = None if reward_model is None else _load_reward_model(reward_model, trunk, fetch)
    rewards = AnswerRewards(
        hyper.rewards,
        texts=lambda episodes: answer_texts(trunk.wording, episodes),
        max_new_tokens=max_new_tokens,
        sources=Sources(
            model,
            rows,
            mentioned,
            fetch.catalogue,
            fetch.classifier,
            judge=lambda wanted: judges[hyper.rewards.index(wanted)],
        ),
    )
    rewards.interactions = hyper.rollouts * hyper.rollout_size  # what training ends with; while it lasts, it says where
    return rewards


class Watched(NamedTuple):
    """What a loop of RL holds a reward model against; both None = nothing."""

    judge: HeldOutJudge | None
    """Made of labels that the reward model did not learn from."""
    claimed: Callable[[], float] | None
    """Mean of the reward model's score over the answers that were rewarded last."""


def watch_reward_model(reward_model: Path | None, trunk: Trunk, rewards: AnswerRewards) -> Watched:
    """The judge that lies beside the reward model, where one was made and a component asks the model.

    A reward model with an encoder of its own may reward any policy; its judge reads the one that it was made on.

    Args:
        reward_model: its folder; None = no component asks it.
        trunk: that answers stand on.
        rewards: of the policy that learns; of several agents each has its own.

    Raises:
        BadModelError: the judge's file cannot be read, or belongs to another base.
    """
    if reward_model is None or not rewards.asks(REWARD_MODEL):
        return Watched(None, None)
    if read_saved(reward_model).built is not None and not HeldOutJudge.reads(reward_model, trunk):
        log.warning("the reward model's labels are judged on another policy; nothing is held against it")
        return Watched(None, None)
    judge = HeldOutJudge.load(reward_model, trunk)
    return Watched(judge, None if judge is None else lambda: rewards.latest_of(REWARD_MODEL))


class Rewarded(NamedTuple):
    """What a policy's N answers are worth."""

    total: NDArray[np.float64]
    """(N,) the reward."""
    parts: dict[str, NDArray[np.float64]]
    """(N,) each component, before its weight."""
    item_ratio: float | None = None
    """Share of the answers that name an item; None = no component knows items."""


def reward_answers(
    hyper: RlhfStage,
    *,
    start: Path,
    digest: str,
    base: Path,
    judge: Path | None,
    answered: Sequence[tuple[Examples, Sequence[list[int]]]],
    judges: Mapping[int, ScoringJudge],
    mentioned: frozenset[str],
    fetch: Fetching,
    max_new_tokens: int,
    batch_size: int,
    seed: int,
) -> list[Rewarded]:
    """What policies' answers are worth by the rewards of a rl stage, for each of them.

    Args:
        hyper: of that stage.
        start: folder of the policy that it started from; a reward model stands on it.
        digest: of that policy.
        base: folder of the base model.
        judge: folder of the reward model; None = no reward asks one.
        answered: rows and the tokens of N answers to the first of their prompts, of each policy.
        judges: of `make_judges`.
        mentioned: items that rows of the train split mention.
        fetch: brings the files that components name.
        max_new_tokens: that an answer was given.
        batch_size: answers per pass.
        seed: of the run.

    Raises:
        BadModelError: policy, base or reward model cannot be used together.
        BadConfigError: an expression is malformed.
    """
    trunk, _ = open_trunk(
        start,
        base,
        digest=digest,
        rank=1,  # the policy's adapter says nothing here
        reward_rank=None if judge is None else saved_rank(judge),
        seed=seed,
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
    )
    known: dict[tuple[int, ...], list[Demonstration]] = {}
    for pair, row in zip(answered[0][0].pairs, answered[0][0].rows, strict=True):
        known.setdefault(tuple(pair.prompt), []).append(row)
    rewards = make_answer_rewards(
        trunk,
        hyper,
        judge,
        rows=known,
        mentioned=mentioned,
        judges=judges,
        max_new_tokens=max_new_tokens,
        fetch=fetch,
    )
    worth = []
    for examples, answers in answered:
        pairs = list(zip((pair.prompt for pair in examples.pairs), answers, strict=False))
        starts = range(0, len(pairs), batch_size)
        batches = [rewards.worths(episodes_of(pairs[at : at + batch_size], trunk)) for at in starts]
        parts = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
        total = rewards.weighed(parts).double().cpu().numpy()
        named = rewards.items_named(episodes_of(pairs, trunk))
        ratio = None if named is None else float(named.mean())
        worth.append(Rewarded(total, {name: part.numpy() for name, part in parts.items()}, ratio))
    return worth


def answer_texts(wording: Wording, episodes: Episodes) -> list[str]:
    """The words of each answer, its end left out."""
    rows = zip(episodes.response_ids.tolist(), episodes.lengths.tolist(), strict=True)
    return [wording.text([token for token in ids[:length] if token != wording.eos_id]) for ids, length in rows]


def prompts_of(
    rows: Sequence[Demonstration], wording: Wording, *, max_tokens: int
) -> tuple[dict[tuple[int, ...], list[Demonstration]], int]:
    """Different prompts as tokens with their rows, and how many rows' prompts alone take max_tokens.

    Raises:
        BadDataError: none is left, or the chat template refuses a row's turns.
    """
    found: dict[tuple[int, ...], list[Demonstration]] = {}
    skipped = 0
    for row in rows:
        prompt = tuple(wording.prompt(row.turns))
        if len(prompt) < max_tokens:
            found.setdefault(prompt, []).append(row)
        else:
            skipped += 1
    if not found:
        raise BadDataError(
            f"train split: the prompts of all {len(rows)} rows have {max_tokens} tokens or more; raise "
            "stages.supervised.maxTokens, or lower spec.filters.maxTextChars of the dataset"
        )
    return found, skipped


def stop_texts(hyper: RlhfStage | None) -> tuple[str, ...]:
    """Texts that end an answer by the settings of a rl stage; evaluation asks as that stage drew."""
    return () if hyper is None else hyper.stop or ()


def mentioned_by(rows: Sequence[Demonstration]) -> frozenset[str]:
    """The items that rows say their responses mention."""
    return frozenset(item for row in rows for item in row.items or ())


def held_out_pairs(ctx: StageContext, config: EvaluateConfig, *, wording: Wording, max_tokens: int) -> list[Liked]:
    """The judged answers that the rl stage held out, as it dealt them.

    Args:
        ctx: store of their snapshot.
        config: names snapshot and settings.
        wording: of the model.
        max_tokens: of the policy's card.
    """
    if config.preference is None or config.log is None:
        raise BadConfigError("evaluate stage: preference or log is missing; the operator sets both")
    rows = read_judged(open_snapshot(ctx.store, config.log, into=ctx.folder("judged")), field=FIELD)
    return deal(rows, config.preference, wording=wording, max_tokens=max_tokens, seed=config.seed).held_out


def judge_pairs(model: PeftModel, pairs: Sequence[Liked], *, pad_id: int, batch_size: int) -> NDArray[np.float64]:
    """Log-probabilities of the better and the worse answer of N pairs, (2, N).

    Args:
        model: that is asked.
        pairs: at least one.
        pad_id: fills up.
        batch_size: answers per pass.
    """
    answers = [pair.better for pair in pairs] + [pair.worse for pair in pairs]
    found: list[float] = []
    for start in range(0, len(answers), batch_size):
        found += log_likelihoods(model, answers[start : start + batch_size], pad_id=pad_id)
    return np.asarray(found, dtype=np.float64).reshape(2, len(pairs))
