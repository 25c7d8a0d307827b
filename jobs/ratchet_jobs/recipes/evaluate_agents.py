"""What a run's other agents are worth: each beside the policy that all started from, by rewards of its own.

The first agent is the run's policy, which `evaluate_generator` judges. Of the others this decides nothing: whether an
agent is used is its owner's affair, who sees here what it gained on held-out prompts. Called by `evaluate_generator`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from ratchet_api.comparison import Comparison
from ratchet_api.rlhf import Agent
from ratchet_api.stage import EvaluateConfig
from ratchet_api.training_run import Answers
from ratchet_jobs.data.demonstrations import Demonstration
from ratchet_jobs.generators.agents import AGENTS_FILE, AGENTS_FOLDER, agent_folder, write_agents
from ratchet_jobs.generators.artifact import MERGED_FOLDER, save_merged
from ratchet_jobs.generators.examples import Examples
from ratchet_jobs.generators.measuring import measure_answers
from ratchet_jobs.metrics.breakdown import compare_parts
from ratchet_jobs.recipes.generator_parts import make_judges, reward_answers, stop_texts
from ratchet_jobs.recipes.reward_files import Fetching
from ratchet_jobs.runtime.context import StageContext

SHOWN = ("perplexity", "kl", "mean_tokens", "ended", "distinct2", "repetition")
"""Numbers of an agent that stand in comparison.json beside its rewards."""

log = structlog.get_logger(__name__)


def others_of(config: EvaluateConfig) -> tuple[Agent, ...]:
    """The agents beside the first that learned something."""
    agents = () if config.rlhf is None else config.rlhf.agents or ()
    return tuple(agent for agent in agents[1:] if not agent.frozen)


def measure_agents(
    ctx: StageContext,
    config: EvaluateConfig,
    *,
    trained: Path,
    start: Path,
    digest: str,
    answered: tuple[Examples, Sequence[list[int]]],
    rows: Sequence[Demonstration],
    base: Path,
    judge: Path | None,
    mentioned: frozenset[str],
    told: Callable[[int], None],
) -> dict[str, dict[str, Any]]:
    """Measure each of the other agents, hold it against the start, and write its merged model.

    Args:
        ctx: asked whether the pod must leave; its store has the files that rewards name.
        config: names the agents and how to ask them.
        trained: folder of the rl stage.
        start: folder of the policy that it started from; the reward model stands on it.
        digest: of that policy.
        answered: the start's answers to the prompts.
        rows: of the test split.
        base: folder of the base model.
        judge: folder of the reward model; None = no reward asks one.
        mentioned: items that rows of the train split mention.
        told: called after each batch with its rows.

    Returns:
        By agent: reward (its own, of both policies, with the difference and its interval), components (likewise) and
        metrics (numbers of its answers).

    Raises:
        StageError: an agent's files or rewards cannot be used; or the pod must leave.
    """
    found: dict[str, dict[str, Any]] = {}
    rules = config.evaluation.comparison or Comparison()
    asked = config.hyper.answers or Answers()
    for agent in others_of(config):
        if config.rlhf is None:
            break
        seen = measure_answers(
            agent_folder(trained, agent.name),
            base,
            rows,
            asked=asked,
            batch_size=config.hyper.batch_size,
            field="stages.evaluate.answers.maxNewTokens",
            told=told,
            stop=ctx.should_stop,
            stop_texts=stop_texts(config.rlhf),
        )
        folder = agent_folder(trained, agent.name)
        merged = agent_folder(ctx.output, agent.name) / MERGED_FOLDER
        save_merged(seen.model, merged, wording=seen.wording, tokenizer_from=folder)
        own = config.rlhf.alone(agent)
        theirs, ours = reward_answers(
            own,
            start=start,
            digest=digest,
            base=base,
            judge=judge,
            answered=[answered, (seen.examples, seen.answers)],
            judges=make_judges(own, ctx.store, ctx.namespace),
            mentioned=mentioned,
            fetch=Fetching(ctx.store, namespace=ctx.namespace, into=ctx.folder("rewards")),
            max_new_tokens=asked.max_new_tokens,
            batch_size=config.hyper.batch_size,
            seed=config.seed,
        )
        whole = compare_parts({"reward": ours.total}, {"reward": theirs.total}, rules=rules, seed=config.seed)
        parts = compare_parts(ours.parts, theirs.parts, rules=rules, seed=config.seed)
        found[agent.name] = {
            **whole,
            "components": parts,
            "metrics": {name: seen.metrics[name] for name in SHOWN if name in seen.metrics},
        }
        log.info("agent measured", agent=agent.name, **{k: whole["reward"][k] for k in ("baseline", "candidate")})
    return found


def gains_of(found: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """What each agent gained on its start by its own reward, for status."""
    return {f"diff/agent/{name}/reward": each["reward"]["difference"] for name, each in found.items()}


def copy_alone(folder: Path, output: Path) -> None:
    """Copy a policy without the agents beside it: those of another run are not this run's, even by equal names."""

    def agents(where: str, _: list[str]) -> list[str]:
        return [AGENTS_FOLDER, AGENTS_FILE] if Path(where) == folder else []

    shutil.copytree(folder, output, dirs_exist_ok=True, ignore=agents)


def keep_agents(config: EvaluateConfig, trained: Path, output: Path) -> None:
    """Copy all agents' policies, where there are any: they are kept whichever policy takes the first one's place.

    Args:
        config: names them.
        trained: folder of the rl stage.
        output: has the merged models of those that learned.
    """
    if config.rlhf is not None and config.rlhf.agents is not None:
        shutil.copytree(trained / AGENTS_FOLDER, output / AGENTS_FOLDER, dirs_exist_ok=True)
        write_agents(output, config.rlhf.agents)
