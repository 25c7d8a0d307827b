"""RL stage of a classifier from a log: learn from answers given earlier, how likely they were, and what people said.

Implements off-policy learning of the contextual bandit: inverse propensity scoring and doubly robust rewards (Dudik et
al. 2011, arXiv:1103.4601) with bounded weights (Bottou et al. 2013, section 4.2), under the algorithms of
`rl_classifier`. No label is read: a log does not say which class was right. Of several tasks each row answers one, with
whose name its class begins; classes of other tasks do not exist then.

 1. Read the log's answers and the start policy; leave out the texts on which `evaluate` will judge the policy.
 2. Tokenise every text once.
 3. Build the actor-critic and let every text pass the encoder once.
 4. Refuse a log that says too little: no exploration, or an effective sample size below minEffectiveSamples.
 5. Estimate the verdict on the answers nobody gave (`models.reward_model`), each row's without its own verdict.
 6. Make optimizer, algorithm and rewards.
 7. Resume from the newest checkpoint, if this run was interrupted.
 8. For each rollout: the next rolloutSize rows of the log, and a reward for one answer to each:
      ips, doublyRobust  the policy draws an answer of its own; the log and the estimate tell its reward
      direct             the logged answer and its verdict, weighed by min(pi / propensity, maxWeight)
 9. One update of the algorithm; stop on numbers that say that learning went wrong.
10. Report; checkpoint every checkpointEverySteps rollouts and when asked to leave; then, in the latter case, leave.
11. Refuse a policy that went where the log says nothing; estimate its value on the log's held-out rows, which taught
    neither it nor the estimate; write policy and value head (uncalibrated; `evaluate` calibrates).

Deviations from the textbook, and why:
 a. With `direct` the surrogate is taken against the policy at the start of each update, not against the log's, and the
    propensity stands in the samples' weights: else all learning would end one clip range away from the log's policy.
 b. With `direct` and no other reward PPO also learns by the cross-entropy of verdicts (verdictCoef), which needs no
    propensity; set it to 0 for the policy gradient alone.
 c. As in `rl_classifier`: dropout is off, the start policy's temperature is folded into its head, and without
    learningRate the encoder stays as it is.

The order of rows and every draw are functions of (seed, rollout), steps 1 to 5 of their inputs alone; the state of
everything else is in the checkpoint; so a resumed run repeats the curves bit for bit on one kind of CPU.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from ratchet_api.feedback_dataset import SplitName
from ratchet_api.rl import RlStage
from ratchet_api.stage import RlConfig, StageResult
from ratchet_jobs.data.base_model import fetch_model
from ratchet_jobs.data.ratings import Log, read_log
from ratchet_jobs.data.snapshots import SPLITS, open_snapshot
from ratchet_jobs.data.splitting import normalised
from ratchet_jobs.data.traffic import Traffic
from ratchet_jobs.models.actor_critic import ActorCritic, QueryTable, load_value_head, save_value_head
from ratchet_jobs.models.card import PolicyCard
from ratchet_jobs.models.classifier import load_classifier, read_card, save_classifier
from ratchet_jobs.models.queries import Queries, reward_by_task, task_of_class
from ratchet_jobs.models.reward_model import estimate_rewards
from ratchet_jobs.models.rl_settings import algorithm_settings, make_rewards, needs_latency, rewarded_tasks
from ratchet_jobs.models.timing import ms_by_length
from ratchet_jobs.models.tokenizing import TokenRows, tokenize
from ratchet_jobs.recipes.rl_parts import (
    ADAM_EPS,
    CURVES,
    NOTES_FILE,
    STATE_FILE,
    TINY,
    check_finite,
    check_probabilities,
    check_sizes,
    encode,
    newest_of,
    open_start,
    parameter_groups,
    part_of,
    totals_of,
)
from ratchet_jobs.rewards.batch import Logged, RewardBatch
from ratchet_jobs.rl.algorithms import make_algorithm
from ratchet_jobs.rl.breakers import BreakerState, Limits, check_update
from ratchet_jobs.rl.categorical import log_prob_of
from ratchet_jobs.rl.learner import Learner
from ratchet_jobs.rl.off_policy import doubly_robust_values, effective_sample_size, importance_weights
from ratchet_jobs.rl.rollout import Rollout
from ratchet_jobs.rl.seeds import generator_for
from ratchet_jobs.rl.sharing import in_shares, of_first
from ratchet_jobs.runtime.context import StageContext
from ratchet_jobs.runtime.errors import BadDataError, NoSupportError

JUDGED_ON: tuple[SplitName, ...] = ("validation", "test")
"""Splits of the labelled dataset that `evaluate` calibrates and judges on."""
FOLDS = 2
"""Parts of the log whose verdicts estimate each other's."""
CERTAIN = 1.0 - 1e-6
"""A propensity from here up means that no other answer was possible."""
HELD_OUT = -1
"""Fold of the rows that teach nothing."""
LEAST_HELD_OUT = 2
"""Held-out rows below which no value is estimated: one has no spread."""
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Answers:
    """The log as the loop uses it: N rows that teach, behind them M that are held out."""

    actions: Tensor
    """(N + M,) int64, by the policy's label map."""
    scores: Tensor
    """(N + M,) 0..1."""
    propensities: Tensor
    """(N + M,) above 0, at most 1."""
    folds: Tensor
    """(N + M,) int64; HELD_OUT for the last M."""

    @classmethod
    def of(cls, parts: Sequence[Log]) -> Self:
        """Join splits of a log, the one that teaches first."""
        folds = [parts[0].components % FOLDS, *(np.full(len(part.texts), HELD_OUT) for part in parts[1:])]
        return cls(
            actions=torch.from_numpy(np.concatenate([part.actions for part in parts])),
            scores=torch.from_numpy(np.concatenate([part.scores for part in parts])).float(),
            propensities=torch.from_numpy(np.concatenate([part.propensities for part in parts])).float(),
            folds=torch.from_numpy(np.concatenate([fold.astype(np.int64) for fold in folds])),
        )

    def at(self, rows: Tensor) -> Self:
        """The answers at these rows: (B,) int64."""
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        return type(self)(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    @property
    def taught(self) -> int:
        """N."""
        return int((self.folds != HELD_OUT).sum())


def run(ctx: StageContext, config: RlConfig) -> StageResult:
    """Train and write the policy's files into the stage's output folder.

    Args:
        ctx: store, checkpoints, progress and stop signal of this pod.
        config: log, start policy and hyper-parameters.

    Returns:
        Metrics: those of `rl_classifier`, rows_left_out (texts on which the policy will be judged),
        effective_sample_size (of the policy learned, over the log's train split), and by the log's held-out rows
        logged_value (mean verdict), start_value, policy_value and policy_value_se.

    Raises:
        StageError: log, settings or policy cannot be used; a circuit breaker fired; or the pod must leave.
    """
    hyper = config.hyper
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(ctx.threads)

    # 1. log and start policy
    start = open_start(ctx, config.start, config.start_artifact)
    card = read_card(start).with_base_at(config.base_model)
    texts, answers, left_out = _read(ctx, config, card)
    base = fetch_model(ctx.store, card.base_model, namespace=ctx.namespace, into=ctx.folder("base"))
    policy = load_classifier(start, base)

    # 2. tokenise once
    tokens = tokenize(policy.tokenizer, texts)
    # as in production, a text without a token gets no answer worth rewarding
    kept = np.flatnonzero(tokens.has_words & _rewarded(answers, card, hyper))
    rows = [tokens.rows[i] for i in kept]
    tasks = task_of_class(card.heads)[answers.actions.numpy()[kept]]
    task_of = torch.from_numpy(tasks).to(device)  # (N + M,)
    answers = answers.at(torch.from_numpy(kept)).to(device)
    taught = answers.taught
    check_sizes(hyper, rows=taught, of="the log's train split")
    traffic = Traffic(np.arange(taught), seed=config.seed)
    everything = np.arange(len(rows))

    # 3. actor-critic
    with torch.no_grad():
        for head in card.heads:
            for part in policy.classifier.head.parameters():
                part[head.task.start : head.task.stop].div_(head.fit.temperature)
    model = ActorCritic(policy.classifier, [head.task for head in card.heads]).to(device).eval()
    load_value_head(model, start)
    table = QueryTable(model, rows, queries=Queries(everything, tasks) if card.tasks is not None else None)
    features = encode(ctx, table, everything)  # (N + M, D)
    if hyper.learning_rate is None:
        table.keep(features)
    all_rows = torch.from_numpy(everything).to(device)
    look = in_shares(table.forward, ctx.team, actions=len(card.labels))
    with torch.no_grad():
        first = look(all_rows)
        check_finite(first, 0)
        started = first.logits.log_softmax(-1)  # (N + M, C)

    # 4. support
    support = _effective(started, answers, hyper)
    _check_support(answers, support, hyper)

    # 5. what people would have said
    estimates = estimate_rewards(
        features, started.exp(), actions=answers.actions, scores=answers.scores, folds=answers.folds
    )
    estimates = of_first(ctx.team, estimates)

    # 6. optimizer, algorithm, rewards
    parameters = model.trainable(adapters=hyper.learning_rate is not None)
    optimizer = torch.optim.Adam(parameter_groups(parameters, hyper), eps=ADAM_EPS)
    forward = table.q_values if hyper.algorithm == "dqn" else table.forward
    learner = Learner(parameters, optimizer, forward=forward, max_grad_norm=hyper.max_grad_norm, team=ctx.team)
    answer = in_shares(forward, ctx.team, actions=len(card.labels))
    algorithm = make_algorithm(hyper.algorithm, algorithm_settings(hyper), learner=learner, seed=config.seed)
    rewards = make_rewards(hyper.rewards, labels=card.labels, tasks=card.task_names)
    limits = Limits(max_kl=hyper.max_kl, min_entropy_ratio=hyper.min_entropy_ratio)
    rollouts = math.ceil(hyper.interactions / hyper.rollout_size)
    is_direct = hyper.estimator == "direct"

    # 7. resume: the length of the curve is the rollout to go on from
    curve: list[dict[str, float]] = []
    breakers = BreakerState()
    latency = torch.zeros(len(rows), device=device)  # milliseconds per query, measured once
    if needs_latency(hyper.rewards):
        asks = TokenRows(rows, tokens.lengths[kept], tokens.has_words[kept])
        latency = of_first(ctx.team, torch.from_numpy(ms_by_length(model.classifier, asks)).to(device))
    if (checkpoint := ctx.checkpoints.latest()) is not None:
        notes = json.loads((checkpoint.folder / NOTES_FILE).read_text())
        curve, breakers = notes["curve"], BreakerState(**notes["breakers"])
        state = load_file(checkpoint.folder / STATE_FILE, device=str(device))
        latency = state["latency"]
        learner.load_state(part_of(state, "learner/"))
        algorithm.load_state(part_of(state, "algorithm/"))

    def save_state(folder: Path) -> None:
        parts = {"learner": learner.state(), "algorithm": algorithm.state()}
        tensors = {f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()}
        tensors["latency"] = latency
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / STATE_FILE)
        (folder / NOTES_FILE).write_text(json.dumps({"curve": curve, "breakers": asdict(breakers)}))

    for number in range(len(curve), rollouts):
        # 8. rollout
        before = number * hyper.rollout_size
        size = min(hyper.rollout_size, hyper.interactions - before)
        progress = before / hyper.interactions
        obs = torch.from_numpy(traffic.take(before, size).rows).to(device)  # (B,)
        asked = answers.at(obs)
        with torch.no_grad():
            output = answer(obs)
            check_finite(output, number)
            # dqn's logits are probabilities, but for the classes of other tasks, which are at minus infinity
            probs = output.logits.clamp_min(0) if hyper.algorithm == "dqn" else output.logits.softmax(-1)  # (B, C)
            given = log_prob_of(probs.clamp_min(TINY).log(), asked.actions)  # (B,)
            weights = importance_weights(given, asked.propensities, max_weight=hyper.max_weight)  # (B,)
            if is_direct:
                actions, logprobs = asked.actions, given
            else:
                draws = generator_for(config.seed, "act", number, device=device)
                action = algorithm.act(output, progress=progress, generator=draws)
                actions, logprobs = action.actions, action.logprobs
            guessed = estimates[obs].gather(1, actions.unsqueeze(1)).squeeze(1)  # (B,)
            scored = rewards.score(
                RewardBatch(
                    actions,
                    probs,
                    step=before,
                    correct=asked.scores if is_direct else None,
                    latency_ms=latency[obs],
                    logged=Logged(asked.actions, asked.scores, asked.propensities, guessed),
                    tasks=task_of[obs],
                )
            )
            total = of_first(ctx.team, scored.total)  # (B,)
            if hyper.kl_coef > 0:
                total = total - hyper.kl_coef * (logprobs - log_prob_of(started[obs], actions))
            if hyper.algorithm == "dqn":
                check_probabilities(total)
            rollout = Rollout.of_single_steps(
                obs,
                actions=actions,
                logprobs=logprobs,
                values=output.values,
                rewards=total,
                weights=weights if is_direct else None,
            )

        # 9. update
        stats = algorithm.learn(rollout, progress=progress)
        breakers = check_update(stats, breakers, limits=limits, reward_constant=scored.constant, update=number + 1)

        # 10. report, checkpoint, leave
        done, average = number + 1, float(total.mean())
        told = {"avg_return": average, "best_return": max(average, curve[-1]["best_return"]) if curve else average}
        told["effective_sample_size"] = effective_sample_size(weights)
        told |= {f"reward/{name}": part.mean for name, part in scored.parts.items()}
        told |= reward_by_task(total, task_of[obs], card.task_names)
        curve.append({"interactions": float(before + size)} | told | stats.as_metrics())
        shown = {name: value for name, value in stats.as_metrics().items() if name in CURVES}
        ctx.progress.report(done, rollouts, examples=size, **told, **shown)
        leaving = ctx.should_stop()
        if leaving or (done % hyper.checkpoint_every_steps == 0 and done < rollouts):
            ctx.checkpoints.save(done, save_state)
        if leaving:
            raise ctx.preempted(done)

    # 11. support and value of what was learned; policy and value head
    with torch.no_grad():
        last = look(all_rows)
        check_finite(last, rollouts - 1)
        learned = last.logits.log_softmax(-1)
    support = _effective(learned, answers, hyper)
    if support < hyper.min_effective_samples:
        raise NoSupportError(
            f"stages.rl.minEffectiveSamples: the policy learned went where the log says little: its {taught} answers "
            f"are worth {support:.1f} of the policy's own, at least {hyper.min_effective_samples} are wanted; lower "
            "interactions or raise klCoef or entropyCoef, or log more answers"
        )
    asked_tasks = rewarded_tasks(hyper.rewards, [head.task.name for head in card.heads])
    askable = [i for task, _ in card.heads if task.name in asked_tasks for i in range(task.start, task.stop)]
    unseen = [card.labels[i] for i in sorted(set(askable) - set(answers.actions[:taught].tolist()))]
    if unseen:
        log.warning("classes stand in no row of the log, so nothing was learned about them", classes=unseen[:20])
    save_classifier(model.classifier, ctx.output, card=card.fitted({}), tokenizer_from=start)
    save_value_head(model, ctx.output)
    return StageResult(
        metrics={
            **totals_of(curve),
            "classes_never_answered": float(len(unseen)),
            "rows_left_out": float(left_out),
            "effective_sample_size": support,
            **_values(started, learned, estimates, answers, hyper),
            **newest_of(curve),
        }
    )


def _read(ctx: StageContext, config: RlConfig, card: PolicyCard) -> tuple[list[str], Answers, int]:
    """Read the log's train split and behind it the rows that are held out.

    Returns:
        Texts, answers, and how many rows were left out because the labelled dataset holds their text out.
    """
    if config.log is None:
        raise BadDataError("rl stage: no log is given; name a dataset of type ratings in spec.stages.rl.datasetRef")
    judged = open_snapshot(ctx.store, config.dataset, into=ctx.folder("snapshot"))
    reserved = {normalised(text) for split in JUDGED_ON for text in judged.table(split).column("text").to_pylist()}
    snapshot = open_snapshot(ctx.store, config.log, into=ctx.folder("log"))
    parts = [
        read_log(snapshot, split, labels=card.labels, tasks=card.task_names, policy=config.log_policy)
        for split in SPLITS
    ]
    texts = [text for part in parts for text in part.texts]
    free = [place for place, text in enumerate(texts) if normalised(text) not in reserved]
    return (
        [texts[place] for place in free],
        Answers.of(parts).at(torch.tensor(free, dtype=torch.int64)),
        len(texts) - len(free),
    )


def _rewarded(answers: Answers, card: PolicyCard, hyper: RlStage) -> NDArray[np.bool_]:
    """(N + M,) True = the row answers a task that some component rewards.

    Raises:
        BadDataError: no row that teaches does.
    """
    names = [head.task.name for head in card.heads]
    wanted = rewarded_tasks(hyper.rewards, names)
    rewarded = np.isin(task_of_class(card.heads)[answers.actions.numpy()], [names.index(name) for name in wanted])
    if answers.taught and not rewarded[: answers.taught].any():
        raise BadDataError(
            f"log: no row of its train split answers the tasks that stages.rl.rewards name, "
            f"{', '.join(map(repr, wanted))}; reward a task that was answered, or log answers to these"
        )
    return rewarded


def _effective(logprobs: Tensor, answers: Answers, hyper: RlStage) -> float:
    """How many answers of a policy's own the rows that teach are worth; logprobs (N + M, C) are the policy's."""
    taught = answers.taught
    given = log_prob_of(logprobs[:taught], answers.actions[:taught])
    return effective_sample_size(importance_weights(given, answers.propensities[:taught], max_weight=hyper.max_weight))


def _check_support(answers: Answers, support: float, hyper: RlStage) -> None:
    """Refuse a log from which nothing could be concluded.

    Raises:
        NoSupportError: nobody explored, or the start policy answers quite otherwise.
    """
    taught = answers.taught
    if bool((answers.propensities[:taught] >= CERTAIN).all()):
        raise NoSupportError(
            f"log: each of its {taught} answers has propensity 1, so no other answer was ever tried and none can be "
            "judged; log with a policy that explores, and the probability with which it chose"
        )
    if support < hyper.min_effective_samples:
        raise NoSupportError(
            f"stages.rl.minEffectiveSamples: the log's {taught} answers are worth {support:.1f} of the start policy's "
            f"own, at least {hyper.min_effective_samples} are wanted; log more answers, by a policy nearer to the one "
            "that learns, or start from the one that was logged"
        )


def _values(started: Tensor, learned: Tensor, estimates: Tensor, answers: Answers, hyper: RlStage) -> dict[str, float]:
    """What the log's, the start and the learned policy are worth on the held-out rows; nothing without such rows.

    Args:
        started: (N + M, C) log-probabilities of the start policy.
        learned: (N + M, C) of the one that learned.
        estimates: (N + M, C) of the verdicts.
        answers: the log.
        hyper: for the bound on weights.
    """
    held = slice(answers.taught, None)
    scores = answers.scores[held]
    if len(scores) < LEAST_HELD_OUT:
        return {}
    worth = [
        doubly_robust_values(
            logprobs[held].exp(),
            estimates[held],
            answers.actions[held],
            scores,
            answers.propensities[held],
            max_weight=hyper.max_weight,
        )
        for logprobs in (started, learned)
    ]
    return {
        "logged_value": float(scores.mean()),
        "start_value": float(worth[0].mean()),
        "policy_value": float(worth[1].mean()),
        "policy_value_se": float(worth[1].std() / len(scores) ** 0.5),
    }
