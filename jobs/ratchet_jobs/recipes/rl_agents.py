"""RL stage of a generator with several agents: each learns by rewards of its own, all on one trunk.

PPO as in `rl_generator`, once per agent. In memory there is one model; an agent adds an adapter, a value head and its
optimizer's state. What they share is frozen: base, reference and reward model. So an agent's numbers are functions of
(seed, its name, its rewards), and leaving out or freezing one changes no bit of another.

 1. Read the prompts, the start policy, its base, and the reward model that all agents share.
 2. Make the trunk with an adapter and a value head for each agent.
 3. Make each agent's rewards and loop; one that is frozen has none.
 4. Resume from the newest checkpoint, if this run was interrupted.
 5. In turn, each agent draws rolloutSize answers, is rewarded and updated; numbers that say that its learning went
    wrong stop the stage, and the message names it. What each agent was at the last step at which nothing was wrong
    with it is then left in `last-good/`, laid out as in 7.
 6. Report after every round; checkpoint every checkpointEverySteps rounds; asked to leave, checkpoint after the turn at
    hand and leave (exit 75).
 7. Write every agent's policy: the first at the root, the others below `agents/NAME`, and agents.json about all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file

from ratchet_api.rlhf import Agent, RlhfStage
from ratchet_api.stage import RlConfig, StageResult
from ratchet_jobs.generators.agents import agent_folder, write_agents
from ratchet_jobs.judging.judge import ScoringJudge, counts_of
from ratchet_jobs.recipes.generator_parts import (
    Opened,
    make_answer_rewards,
    make_judges,
    mentioned_by,
    open_learning,
    watch_reward_model,
)
from ratchet_jobs.recipes.last_good import keep_last_good, save_value_head
from ratchet_jobs.recipes.reward_files import Fetching
from ratchet_jobs.recipes.rl_generator import TOLD, by_fields, settings_of
from ratchet_jobs.recipes.rl_parts import CURVES, LAST_ROLLOUTS, NOTES_FILE, STATE_FILE, part_of, totals_of
from ratchet_jobs.rl.seeds import seed_for
from ratchet_jobs.rlhf.policies import save_policy
from ratchet_jobs.rlhf.ppo import LanguagePPO
from ratchet_jobs.rlhf.rewards import AnswerRewards
from ratchet_jobs.rlhf.trunk import Trunk
from ratchet_jobs.runtime.context import StageContext
from ratchet_jobs.runtime.errors import BadConfigError, DivergedError, NotANumberError, StageError

NUMBERS = {**TOLD, **{name: name for name in CURVES}}
"""Numbers of PPO by the names that they have in a stage."""

COUNTED = ("kl", "mean_tokens")
"""What the stage's result tells of each agent beside its return; status holds few numbers, the history has all."""


class Learner(NamedTuple):
    """An agent that learns."""

    place: int
    """Among the stage's agents."""
    name: str
    rewards: AnswerRewards
    judges: dict[int, ScoringJudge]
    ppo: LanguagePPO


def run(ctx: StageContext, config: RlConfig) -> StageResult:
    """Train and write the agents' policies into the stage's output folder.

    Args:
        ctx: store, checkpoints, progress and stop signal of this pod.
        config: prompts, start policy, reward model and hyper-parameters with agents.

    Returns:
        Metrics: avg_return (mean over the agents that learn and the last rollouts) and best_return; interactions and
        optimizer_steps of all agents; rollouts (of each), prompts, skipped_rows; of each agent that learns
        agent/NAME/avg_return (over the last rollouts) and the last rollout's agent/NAME/kl and agent/NAME/mean_tokens;
        with judges what this pod asked them: judge_asked, judge_cached, judge_failed.

    Raises:
        StageError: inputs cannot be used; an agent's numbers went wrong; or the pod must leave.
    """
    hyper = config.rlhf
    if hyper is None or hyper.agents is None:
        raise BadConfigError("rl stage of agents: rlhf or its agents are missing; the operator sets both")
    torch.set_num_threads(ctx.threads)

    # 1. and 2. prompts, start policy, base, reward model and trunk
    agents = hyper.agents
    given = open_learning(ctx, config, hyper, agents=[agent.name for agent in agents])

    # 3. rewards and loops
    learners = list(_learners(ctx, hyper, agents, given, seed=config.seed))
    steps = hyper.rollouts

    # 4. resume: every turn that was taken is in the loops' own counts
    curve: list[dict[str, float]] = []
    told: dict[str, float] = {}
    if (checkpoint := ctx.checkpoints.latest()) is not None:
        notes = json.loads((checkpoint.folder / NOTES_FILE).read_text())
        curve, told = notes["curve"], notes["round"]
        tensors = load_file(checkpoint.folder / STATE_FILE)
        for each in learners:
            each.ppo.load_state(part_of(tensors, f"{each.name}/"), notes["agents"][each.name])

    def save_state(folder: Path) -> None:
        tensors: dict[str, torch.Tensor] = {}
        numbers = {}
        for each in learners:
            state, numbers[each.name] = each.ppo.state()
            tensors |= {f"{each.name}/{key}": tensor.cpu().contiguous() for key, tensor in state.items()}
        save_file(tensors, folder / STATE_FILE)
        (folder / NOTES_FILE).write_text(json.dumps({"curve": curve, "round": told, "agents": numbers}))

    def save_good(folder: Path) -> None:
        for each in learners:
            each.ppo.restore_good()
        _write(folder, agents, given, heads={each.name: each.ppo.trunk for each in learners})

    first, count = sum(each.ppo.done for each in learners), len(learners)
    for turn in range(first, steps * count):
        # 5. one agent's rollout and update
        learner = learners[turn % count]
        learner.rewards.interactions = learner.ppo.done * hyper.rollout_size
        with _named(learner.place, learner.name):
            try:
                seen = learner.ppo.step()
            except (DivergedError, NotANumberError) as error:
                kept = keep_last_good(ctx, save_good, steps={each.name: each.ppo.good_step for each in learners})
                raise type(error)(f"{error}; {kept}") from error
        told |= {f"agent/{learner.name}/{name}": seen[ours] for ours, name in NUMBERS.items()}
        if learner.ppo.judge is not None:
            told[f"agent/{learner.name}/judged"] = seen["judge_mean"]
        told |= {f"agent/{learner.name}/reward/{name}": mean for name, mean in learner.rewards.latest.items()}
        told["optimizer_steps"] = told.get("optimizer_steps", 0.0) + seen["optimizer_steps"]

        # 6. report, checkpoint, leave
        done, rest = divmod(turn + 1, count)
        if rest == 0:
            told["avg_return"] = sum(told[f"agent/{each.name}/avg_return"] for each in learners) / count
            told["best_return"] = max(told["avg_return"], curve[-1]["best_return"] if curve else told["avg_return"])
            curve.append(told | {"interactions": float((turn + 1) * hyper.rollout_size)})
            shown = {name: value for name, value in told.items() if name != "optimizer_steps"}
            ctx.progress.report(done, steps, examples=count * hyper.rollout_size, **shown)
            told = {}
        leaving = ctx.should_stop()
        if leaving or (rest == 0 and done % hyper.checkpoint_every_steps == 0 and done < steps):
            ctx.checkpoints.save(turn + 1, save_state)
        if leaving:
            raise ctx.preempted(turn + 1)

    # 7. policies
    _write(ctx.output, agents, given)
    return StageResult(
        metrics={
            **totals_of(curve),
            "best_return": curve[-1]["best_return"],
            "prompts": float(len(given.known)),
            "skipped_rows": float(given.skipped),
            **{key: curve[-1][key] for each in learners for key in (f"agent/{each.name}/{n}" for n in COUNTED)},
            **{f"agent/{each.name}/avg_return": _late(curve, each.name) for each in learners},
            **dict(counts_of([judge.asked for each in learners for judge in each.judges.values()])),
        }
    )


def _learners(
    ctx: StageContext, hyper: RlhfStage, agents: Sequence[Agent], given: Opened, *, seed: int
) -> Iterator[Learner]:
    """The agents that learn, each with its rewards and its loop.

    Args:
        ctx: its store has the files that rewards name.
        hyper: of the stage.
        agents: of the stage.
        given: trunk, prompts and reward model.
        seed: of the run.

    Raises:
        StageError: what a component of a reward needs is missing or malformed; names the agent.
    """
    fetch = Fetching(ctx.store, namespace=ctx.namespace, into=ctx.folder("rewards"))
    for place, agent in enumerate(agents):
        if agent.frozen:
            continue
        own, trunk = hyper.alone(agent), given.trunk.of_agent(agent.name)
        with _named(place, agent.name):
            judges = make_judges(own, ctx.store, ctx.namespace)
            rewards = make_answer_rewards(
                trunk,
                own,
                given.judge,
                rows=given.known,
                mentioned=mentioned_by(given.rows),
                judges=judges,
                max_new_tokens=hyper.max_new_tokens,
                fetch=fetch,
            )
            watched = watch_reward_model(given.judge, trunk, rewards)
            ppo = LanguagePPO(
                settings_of(own),
                trunk=trunk,
                prompts=list(given.known),
                score=rewards,
                steps=hyper.rollouts,
                seed=seed_for(seed, "agent", agent.name),
                judge=watched.judge,
                claimed=watched.claimed,
            )
        yield Learner(place, agent.name, rewards, judges, ppo)


def _write(
    root: Path, agents: Sequence[Agent], given: Opened, *, heads: Mapping[str, Trunk] = MappingProxyType({})
) -> None:
    """Write the agents' policies as they are now, the first at the root.

    Args:
        root: of the artifact.
        agents: of the stage.
        given: start and trunk of them.
        heads: trunks by the names of the agents whose value heads are wanted, too.
    """
    for place, agent in enumerate(agents):
        folder = root if place == 0 else agent_folder(root, agent.name)
        folder.mkdir(parents=True, exist_ok=True)
        save_policy(given.trunk.of_agent(agent.name), folder, start=given.start, card=given.card)
        if agent.name in heads:
            save_value_head(heads[agent.name], folder)
    write_agents(root, agents)


@contextmanager
def _named(place: int, name: str) -> Iterator[None]:
    """Let what goes wrong say whose reward or learning it was."""
    try:
        yield
    except StageError as error:
        field = f"stages.rlhf.agents[{place}]"
        text = by_fields(str(error)).replace("stages.rlhf.rewards", f"{field}.rewards")
        raise type(error)(f"{field}, agent {name}: {text}") from error


def _late(curve: Sequence[dict[str, float]], name: str) -> float:
    """An agent's mean return over the last rollouts."""
    tail = curve[-LAST_ROLLOUTS:]
    return sum(point[f"agent/{name}/avg_return"] for point in tail) / len(tail)
