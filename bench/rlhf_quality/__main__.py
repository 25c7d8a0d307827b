"""Positive continuation (Ziegler et al. 2019): supervised policy, reward model from ratings, PPO, and a second judge.

    .venv/bin/python -m bench.rlhf_quality [--seeds 5] [--steps N] [--work DIR]
    .venv/bin/python -m bench.rlhf_quality --contenders grpo rloo dpo kto      # these beside PPO, one seed each
    .venv/bin/python -m bench.rlhf_quality --seeds 1 --steps 2 --supervised 16 --ratings 80 --prompts 32 --held-out 8

Prints a row for each seed and a verdict on each target; exits 1 when one is missed. Everything trained lies in the work
folder under a name that follows from all settings: stopped and started again, the command goes on with the next stage.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from bench.ppo.prepare import CSV, REVIEWS, prepare
from bench.rlhf_quality.stages import (
    JUDGE_SEED,
    REWARD_SEED,
    Hyper,
    Parts,
    begin,
    improve,
    once,
    supervise,
    teach,
    watch,
)
from bench.rlhf_quality.task import Sizes, read_task
from ratchet_cli.demo.carriers import ENCODER, fetch

RISE, WINS, MOST_KL = 1.15, 0.60, 10.0
"""Targets of every seed of PPO: mean score beside the supervised policy's, answers that are better, nats per answer."""


def main() -> int:
    usual, settled = Sizes(), Hyper()
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", type=int, help="train this seed alone, for another process beside this one")
    parser.add_argument("--contenders", nargs="*", choices=("grpo", "rloo", "dpo", "kto"), default=[])
    parser.add_argument("--steps", type=int, default=settled.steps, help="of each algorithm")
    parser.add_argument("--batch", type=int, default=settled.batch, help="answers of a step; an even number")
    parser.add_argument("--learning-rate", type=float, default=settled.learning_rate, help="of PPO, GRPO and RLOO")
    parser.add_argument("--supervised", type=int, default=usual.supervised, help="fragments")
    parser.add_argument("--ratings", type=int, default=usual.ratings, help="of the reward model, and of its judge")
    parser.add_argument("--prompts", type=int, default=usual.prompts)
    parser.add_argument("--held-out", type=int, default=usual.held_out, help="prompts")
    parser.add_argument("--base", type=Path, help="folder of another base model than SmolLM2-135M-Instruct")
    parser.add_argument("--work", type=Path, help="folder for what is trained; without it, in the cache")
    wanted = parser.parse_args()
    cache = Path(os.environ.get("RATCHET_CACHE") or Path.home() / ".cache" / "ratchet")
    cache.mkdir(parents=True, exist_ok=True)
    base = wanted.base or prepare(cache).base
    encoder = fetch(ENCODER, cache, advance=lambda *_: None)
    reviews = fetch(REVIEWS, cache, advance=lambda *_: None) / CSV
    sizes = Sizes(wanted.supervised, wanted.ratings, wanted.prompts, wanted.held_out)
    drawn = {"batch": wanted.batch, "mini_batch": wanted.batch // 2, "learning_rate": wanted.learning_rate}
    hyper = Hyper(steps=wanted.steps, **drawn)
    task = read_task(reviews, sizes)
    settings = json.dumps([str(base.resolve()), asdict(sizes), asdict(hyper)])
    home = (wanted.work or cache / "rlhf-quality") / hashlib.sha256(settings.encode()).hexdigest()[:12]
    print(f"{home}: {settings}", flush=True)
    start = once(home / "supervised", partial(supervise, base, task, hyper))
    reward = once(home / "reward", lambda folder: teach(encoder, task.reward, hyper, folder, seed=REWARD_SEED))
    judge = once(home / "judge", lambda folder: teach(encoder, task.judge, hyper, folder, seed=JUDGE_SEED))
    watched = once(home / "watch", partial(watch, start, task.reward, hyper))
    begun = once(home / "begun", partial(begin, start, task, hyper))
    for name, folder in (("reward model", reward), ("judge", judge)):
        print(f"{name}: {(folder / 'quality.json').read_text().strip()}")
    parts = Parts(start, encoder, reward, judge, watched, begun)

    def learned(algorithm: Any, seed: int) -> dict[str, Any]:
        made = once(home / f"{algorithm}-{seed}", partial(improve, parts, task, hyper, algorithm=algorithm, seed=seed))
        told: dict[str, Any] = json.loads((made / "result.json").read_text())
        return told

    seeds = range(wanted.seeds) if wanted.only is None else [wanted.only]
    ours = [learned("ppo", seed) for seed in seeds]
    return report(ours, [learned(algorithm, 0) for algorithm in wanted.contenders])


def report(results: list[dict[str, Any]], contenders: list[dict[str, Any]]) -> int:
    """Print the table and the verdict on each target; 1 if one is missed by any seed."""
    print(
        "\n| algorithm | seed | score before | after | wins | KL | judge before | after | wins | CPU s | load | ended |"
    )
    print(f"|{' --- |' * 12}")
    names = ("score_before", "score", "score_wins", "kl", "judge_before", "judge", "judge_wins")
    for each in [*results, *contenders]:
        cells = " | ".join(f"{each[name]:.3f}" for name in names)
        spent = f"{each['cpu_seconds']:.0f} | {each['load']:.1f}"
        print(f"| {each['algorithm']} | {each['seed']} | {cells} | {spent} | {each['stopped'] or 'whole'} |")

    def worst(values: list[float], pick: Any) -> str:
        return f"mean {statistics.mean(values):.3f}, worst {pick(values):.3f}"

    rises = [each["score"] / each["score_before"] for each in results]
    wins, kls = ([each[name] for each in results] for name in ("score_wins", "kl"))
    gains = [each["judge"] - each["judge_before"] for each in results]
    verdicts = {
        f"mean score x {worst(rises, min)} of the supervised policy's ({RISE} wanted)": min(rises) >= RISE,
        f"share of answers that are better: {worst(wins, min)} ({WINS} wanted)": min(wins) >= WINS,
        f"KL in nats per answer: {worst(kls, max)} (below {MOST_KL} wanted)": max(kls) < MOST_KL,
        f"gain in the second judge's eyes: {worst(gains, min)} (above 0 wanted)": min(gains) > 0,
        "no breaker fired": not any(each["stopped"] for each in results),
    }
    for each in contenders:
        gains_both = each["score"] > each["score_before"] and each["score_wins"] > 0.5
        verdicts[f"{each['algorithm']} beats the supervised policy: mean score and share of answers"] = gains_both
    print()
    for sentence, holds in verdicts.items():
        print(f"{'holds ' if holds else 'MISSED'} {sentence}")
    return 0 if all(verdicts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
