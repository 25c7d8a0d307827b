"""Positive continuation (Ziegler et al. 2019): supervised policy, reward model from ratings, PPO, and a second judge.

    .venv/bin/python -m bench.rlhf_quality [--seeds 5] [--steps 100] [--work DIR]
    .venv/bin/python -m bench.rlhf_quality --seeds 1 --steps 2 --supervised 16 --ratings 40 --prompts 32 --held-out 8

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
from bench.rlhf_quality.stages import Hyper, improve, once, supervise, teach
from bench.rlhf_quality.task import Sizes, read_task
from ratchet_cli.demo.carriers import fetch

RISE, WINS, MOST_KL = 1.15, 0.60, 10.0
"""Targets of every seed: mean score beside the supervised policy's, answers that are better, nats per answer."""


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=Hyper.ppo_steps, help="of PPO")
    parser.add_argument("--supervised", type=int, default=Sizes.supervised, help="fragments")
    parser.add_argument("--ratings", type=int, default=Sizes.ratings, help="of the reward model, and of its judge")
    parser.add_argument("--prompts", type=int, default=Sizes.prompts)
    parser.add_argument("--held-out", type=int, default=Sizes.held_out, help="prompts")
    parser.add_argument("--base", type=Path, help="folder of another base model than SmolLM2-135M-Instruct")
    parser.add_argument("--work", type=Path, help="folder for what is trained; without it, in the cache")
    wanted = parser.parse_args()
    cache = Path(os.environ.get("RATCHET_CACHE") or Path.home() / ".cache" / "ratchet")
    cache.mkdir(parents=True, exist_ok=True)
    base = wanted.base or prepare(cache).base
    reviews = fetch(REVIEWS, cache, advance=lambda *_: None) / CSV
    sizes = Sizes(wanted.supervised, wanted.ratings, wanted.prompts, wanted.held_out)
    hyper = Hyper(ppo_steps=wanted.steps)
    task = read_task(reviews, sizes)
    settings = json.dumps([str(base.resolve()), asdict(sizes), asdict(hyper)])
    home = (wanted.work or cache / "rlhf-quality") / hashlib.sha256(settings.encode()).hexdigest()[:12]
    print(f"{home}: {settings}", flush=True)
    start = once(home / "supervised", partial(supervise, base, task, hyper))
    reward = once(home / "reward", lambda folder: teach(start, task.reward, hyper, folder, seed=1))
    judge = once(home / "judge", lambda folder: teach(start, task.judge, hyper, folder, seed=2))
    for name, folder in (("reward model", reward), ("judge", judge)):
        print(f"{name}: {(folder / 'quality.json').read_text().strip()}")
    results = []
    for seed in range(wanted.seeds):
        made = once(home / f"ppo-{seed}", partial(improve, start, reward, judge, task, hyper, seed=seed))
        results.append(json.loads((made / "result.json").read_text()))
    return report(results)


def report(results: list[dict[str, Any]]) -> int:
    """Print the table and the verdict on each target; 1 if one is missed by any seed."""
    print("\n| seed | score before | after | wins | KL | judge before | after | wins | tokens | stopped |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    names = ("score_before", "score", "score_wins", "kl", "judge_before", "judge", "judge_wins", "tokens")
    for each in results:
        cells = " | ".join(f"{each[name]:.3f}" for name in names)
        print(f"| {each['seed']} | {cells} | {each['stopped'] or 'no'} |")

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
    print()
    for sentence, holds in verdicts.items():
        print(f"{'holds ' if holds else 'MISSED'} {sentence}")
    return 0 if all(verdicts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
