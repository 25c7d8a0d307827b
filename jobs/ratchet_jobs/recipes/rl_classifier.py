"""RL stage of a classifier: learn from rewards on the classes that the policy itself chose.

Implements the contextual bandit (Langford and Zhang 2007) on PPO (Schulman et al. 2017, arXiv:1707.06347), A2C
(Mnih et al. 2016, arXiv:1602.01783), REINFORCE with a baseline (Williams 1992) or one-step DQN (Mnih et al. 2015): a
query is asked, a class is drawn from the policy, the class chosen is rewarded. (Learning from a log of answers given
elsewhere is `rl_from_log`.) The label of a row decides the reward and nothing else: with the accuracy reward the
learner sees right or wrong, as live feedback would tell it. A policy of several tasks is asked about a text once per
task that the row has a label of; classes of other tasks do not exist then.

 1. Read the traffic (a split's texts, whose labels the simulated feedback knows) and the start policy.
 2. Tokenise every text once.
 3. Build the actor-critic: the start policy and a value head on the same pooled features, one forward for both.
 4. Make optimizer, algorithm and rewards.
 5. Resume from the newest checkpoint, if this run was interrupted.
 6. For each rollout: answer the next rolloutSize queries, score the answers, stop on rewards that teach nothing.
 7. One update of the algorithm; stop on numbers that say that learning went wrong.
 8. Report; checkpoint every checkpointEverySteps rollouts and when asked to leave; then, in the latter case, leave
    (exit 75).
 9. Write the policy (uncalibrated; `evaluate` adds temperature and threshold) and the value head.

Deviations from a plain PPO loop, and why (measured in bench/classifier_rl):
 a. Without learningRate the adapters stay as labels taught them, and each query passes the encoder once: what the heads
    learn from some thousand verdicts costs a fraction of the time, and no verdict can harm the encoder.
 b. PPO with the accuracy reward also learns by the cross-entropy of verdicts (`rl.losses.verdict_loss`).
 c. Rollouts run without gradient, queries batched by like length; a query is known by its row, so buffers hold numbers.
 d. Dropout is off throughout: the ratio of an answer just given is 1, not 1 give or take the dropout.
 e. A start policy with a temperature has it folded into its head: answers are drawn as confidently as it speaks. At
    the end, the newest verdicts, taken before they were learned from, cool the head down if it is too sure.

Several nodes answer and learn as one: each computes its share of every rollout and minibatch, and all know all numbers
(`rl.sharing`); the result is one node's up to the order of additions.

The order of queries and every draw are functions of (seed, rollout); the state of everything else is in the checkpoint;
so a resumed run repeats the curves of an undisturbed one bit for bit on one kind of CPU and number of threads.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from ratchet_api.policy_types import GENERATOR
from ratchet_api.stage import RlConfig, StageResult
from ratchet_jobs.data.base_model import fetch_model
from ratchet_jobs.data.snapshots import open_snapshot
from ratchet_jobs.data.traffic import Traffic
from ratchet_jobs.models.actor_critic import ActorCritic, QueryTable, load_value_head, parameters_as, save_value_head
from ratchet_jobs.models.classifier import load_classifier, read_card, save_classifier
from ratchet_jobs.models.examples import read_examples
from ratchet_jobs.models.queries import ask, in_the_policys_order, reward_by_task
from ratchet_jobs.models.rl_settings import (
    algorithm_settings,
    make_rewards,
    needs_latency,
    rewarded_tasks,
    rewards_are_verdicts,
)
from ratchet_jobs.models.timing import ms_by_length
from ratchet_jobs.models.tokenizing import TokenRows, tokenize
from ratchet_jobs.models.verdicts import Verdicts
from ratchet_jobs.recipes import rl_agents, rl_from_log, rl_generator, rl_preference
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
from ratchet_jobs.rewards.batch import RewardBatch
from ratchet_jobs.rl.algorithms import make_algorithm
from ratchet_jobs.rl.breakers import BreakerState, Limits, check_update
from ratchet_jobs.rl.categorical import log_prob_of
from ratchet_jobs.rl.learner import Learner
from ratchet_jobs.rl.rollout import Action, Rollout
from ratchet_jobs.rl.seeds import generator_for
from ratchet_jobs.rl.sharing import in_shares, of_first
from ratchet_jobs.runtime.context import StageContext

VERDICTS_KEPT = 1024
"""The newest verdicts, from which the temperature of the answers is fitted at the end."""

log = structlog.get_logger(__name__)


def run(ctx: StageContext, config: RlConfig) -> StageResult:
    """Train and write the policy's files into the stage's output folder.

    Args:
        ctx: store, checkpoints, progress and stop signal of this pod.
        config: traffic, start policy and hyper-parameters.

    Returns:
        Metrics: avg_return (mean of the last rollouts), best_return, interactions, steps, and the last rollout's
        policy_loss, value_loss, entropy, approx_kl, explained_variance, where the algorithm has them.

    Raises:
        StageError: data, labels, settings or policy cannot be used; a circuit breaker fired; or the pod must leave.
    """
    if config.policy_type == GENERATOR:
        if config.rlhf is not None and config.rlhf.agents is not None:
            return rl_agents.run(ctx, config)
        return (rl_generator if config.preference is None else rl_preference).run(ctx, config)
    if config.log is not None:
        return rl_from_log.run(ctx, config)
    hyper = config.hyper
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(ctx.threads)

    # 1. traffic and start policy
    snapshot = open_snapshot(ctx.store, config.traffic or config.dataset, into=ctx.folder("snapshot"))
    examples = read_examples(snapshot, "train")
    groups = snapshot.table("train").column("component").to_numpy()
    start = open_start(ctx, config.start, config.start_artifact)
    card = read_card(start).with_base_at(config.base_model)
    base = fetch_model(ctx.store, card.base_model, namespace=ctx.namespace, into=ctx.folder("base"))
    policy = load_classifier(start, base)

    # 2. tokenise once
    tokens = tokenize(policy.tokenizer, examples.texts)
    kept = np.flatnonzero(tokens.has_words)  # as in production, a text without a token gets no answer worth rewarding
    rows = [tokens.rows[i] for i in kept]
    said = in_the_policys_order(examples.labels[kept], snapshot.tasks, card.heads)
    asked_tasks = rewarded_tasks(hyper.rewards, [task.name for task in snapshot.tasks])
    queries, answers = ask(said, card.heads, asked_tasks)
    check_sizes(hyper, rows=len(answers), of="the train split")
    labels = torch.from_numpy(answers).to(device)
    turns = np.unique(groups[kept], return_inverse=True)[1][queries.texts] * len(card.heads) + queries.tasks
    traffic = Traffic(np.arange(len(answers)) if hyper.episodes == "query" else turns, seed=config.seed)

    # 3. actor-critic
    with torch.no_grad():
        for head in card.heads:
            for part in policy.classifier.head.parameters():
                part[head.task.start : head.task.stop].div_(head.fit.temperature)
    model = ActorCritic(policy.classifier, [head.task for head in card.heads]).to(device).eval()
    load_value_head(model, start)
    table = QueryTable(model, rows, queries=queries if card.tasks is not None else None)
    text_of, task_of = (torch.from_numpy(each).to(device) for each in queries)  # (Q,), Q queries
    reference = {name: parameter.detach().clone() for name, parameter in model.trainable(adapters=True).items()}
    if hyper.learning_rate is None:
        table.keep(encode(ctx, table, np.unique(traffic.take(0, hyper.interactions).rows)))

    # 4. optimizer, algorithm, rewards
    parameters = model.trainable(adapters=hyper.learning_rate is not None)
    optimizer = torch.optim.Adam(parameter_groups(parameters, hyper), eps=ADAM_EPS)
    forward = table.q_values if hyper.algorithm == "dqn" else table.forward
    learner = Learner(parameters, optimizer, forward=forward, max_grad_norm=hyper.max_grad_norm, team=ctx.team)
    answer = in_shares(forward, ctx.team, actions=len(card.labels))
    algorithm = make_algorithm(hyper.algorithm, algorithm_settings(hyper), learner=learner, seed=config.seed)
    rewards = make_rewards(hyper.rewards, labels=card.labels, tasks=card.task_names)
    limits = Limits(max_kl=hyper.max_kl, min_entropy_ratio=hyper.min_entropy_ratio)
    rollouts = math.ceil(hyper.interactions / hyper.rollout_size)

    # 5. resume: the length of the curve is the rollout to go on from
    curve: list[dict[str, float]] = []
    breakers = BreakerState()
    chosen = torch.zeros(len(card.labels), dtype=torch.int64, device=device)  # how often each class was answered
    latest = Verdicts.none(classes=len(card.labels), device=device)
    latency = torch.zeros(len(rows), device=device)  # milliseconds per query, measured once
    if needs_latency(hyper.rewards):
        asks = TokenRows(rows, tokens.lengths[kept], tokens.has_words[kept])
        latency = of_first(ctx.team, torch.from_numpy(ms_by_length(model.classifier, asks)).to(device))
    if (checkpoint := ctx.checkpoints.latest()) is not None:
        notes = json.loads((checkpoint.folder / NOTES_FILE).read_text())
        curve, breakers = notes["curve"], BreakerState(**notes["breakers"])
        state = load_file(checkpoint.folder / STATE_FILE, device=str(device))
        chosen, latency, latest = state["chosen"], state["latency"], Verdicts(**part_of(state, "verdicts/"))
        learner.load_state(part_of(state, "learner/"))
        algorithm.load_state(part_of(state, "algorithm/"))

    def save_state(folder: Path) -> None:
        parts = {"learner": learner.state(), "algorithm": algorithm.state(), "verdicts": latest._asdict()}
        tensors = {f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()}
        tensors |= {"chosen": chosen, "latency": latency}
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / STATE_FILE)
        (folder / NOTES_FILE).write_text(json.dumps({"curve": curve, "breakers": asdict(breakers)}))

    for number in range(len(curve), rollouts):
        # 6. rollout
        before = number * hyper.rollout_size
        size = min(hyper.rollout_size, hyper.interactions - before)
        progress = before / hyper.interactions
        asked = traffic.take(before, size + 1)  # and the query after them, whose value an episode cut here goes on with
        obs = torch.from_numpy(asked.rows[:size]).to(device)  # (B,)
        with torch.no_grad():
            output = answer(obs)
            check_finite(output, number)
            action = algorithm.act(
                output, progress=progress, generator=generator_for(config.seed, "act", number, device=device)
            )
            # dqn's logits are probabilities, but for the classes of other tasks, which are at minus infinity
            probs = output.logits.clamp_min(0) if hyper.algorithm == "dqn" else output.logits.softmax(-1)  # (B, C)
            batch = RewardBatch.with_labels(
                action.actions,
                probs,
                labels[obs],
                step=before,
                latency_ms=latency[text_of[obs]],
                tasks=task_of[obs],
            )
            scored = rewards.score(batch)
            total = of_first(ctx.team, scored.total)  # (B,)
            if hyper.kl_coef > 0:
                with parameters_as(parameters, {name: reference[name] for name in parameters}):
                    started = log_prob_of(answer(obs).logits, action.actions)
                total = total - hyper.kl_coef * (action.logprobs - started)
            if hyper.algorithm == "dqn":
                check_probabilities(total)
            if hyper.episodes == "query":
                rollout = Rollout.of_single_steps(
                    obs, actions=action.actions, logprobs=action.logprobs, values=output.values, rewards=total
                )
            else:
                following = torch.from_numpy(asked.rows[1:]).to(device)
                last = answer(following[-1:]).values
                rollout = _in_turns(action, total, ends=asked.ends[:size], obs=obs, following=following, last=last)

        # 7. update
        right = action.actions == labels[obs]
        stats = algorithm.learn(rollout, progress=progress)
        constant = scored.constant and not bool(right.all())  # a policy that is always right has nothing left to learn
        breakers = check_update(stats, breakers, limits=limits, reward_constant=constant, update=number + 1)
        chosen += torch.bincount(action.actions, minlength=len(chosen))
        answered = Verdicts(probs.clamp_min(TINY).log(), action.actions, total)
        latest = latest.followed_by(answered, limit=VERDICTS_KEPT * len(card.heads))

        # 8. report, checkpoint, leave
        done, interactions = number + 1, before + size
        average = float(total.sum()) / max(1, int(asked.ends[:size].sum()))
        best = max(average, curve[-1]["best_return"]) if curve else average
        told = {"avg_return": average, "best_return": best, "accuracy": float(right.float().mean())}
        told |= {f"reward/{name}": part.mean for name, part in scored.parts.items()}
        told |= reward_by_task(total, task_of[obs], card.task_names)
        curve.append({"interactions": float(interactions)} | told | stats.as_metrics())
        shown = {name: value for name, value in stats.as_metrics().items() if name in CURVES}
        ctx.progress.report(done, rollouts, examples=size, **told, **shown)
        leaving = ctx.should_stop()
        if leaving or (done % hyper.checkpoint_every_steps == 0 and done < rollouts):
            ctx.checkpoints.save(done, save_state)
        if leaving:
            raise ctx.preempted(done)

    # 9. policy and value head
    if rewards_are_verdicts(hyper) and hyper.interactions <= traffic.rows:  # else they are on queries learned from
        # never below 1: where labels taught the queries too, the policy does better on them than elsewhere
        for task, _ in card.heads:
            temperature = max(1.0, latest.of_classes(task.start, task.stop).temperature())
            with torch.no_grad():
                for part in model.classifier.head.parameters():
                    part[task.start : task.stop].div_(temperature)
    askable = [label for task, _ in card.heads if task.name in asked_tasks for label in task.labels]
    answered_never = {card.labels[i] for i in np.flatnonzero(chosen.cpu().numpy() == 0)}
    unanswered = [label for label in askable if label in answered_never]
    if unanswered:
        log.warning("classes were never answered, so nothing was learned about them", classes=unanswered[:20])
    save_classifier(model.classifier, ctx.output, card=card.fitted({}), tokenizer_from=start)
    save_value_head(model, ctx.output)
    return StageResult(
        metrics={
            **totals_of(curve),
            "classes_never_answered": float(len(unanswered)),
            **newest_of(curve),
        }
    )


def _in_turns(
    action: Action, rewards: Tensor, *, ends: NDArray[np.bool_], obs: Tensor, following: Tensor, last: Tensor
) -> Rollout:
    """One column of turns: episodes one after the other, the last one perhaps cut by the rollout's end."""
    terminated = torch.from_numpy(ends).to(obs.device)
    values = action.output.values
    column = {
        "obs": obs,
        "actions": action.actions,
        "logprobs": action.logprobs,
        "values": values,
        "rewards": rewards,
        "terminated": terminated,
        "truncated": torch.zeros_like(terminated),
        "next_obs": following,
        "next_values": torch.cat([values[1:], last]),
    }
    return Rollout(**{name: tensor.unsqueeze(1) for name, tensor in column.items()})
