"""What a trained adapter's answers to held-out prompts are worth, whoever trained it.

    python -m bench.ppo.judge BASE TASK ADAPTER        (one JSON line: score, judge, kl, tokens, before and after)

The same draws for base and policy: common random numbers, so that what differs is the policy.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from bench.ppo.task import Hyper, read_task, score
from ratchet_jobs.rl.seeds import generator_for
from ratchet_jobs.rlhf.generate import Episodes, Sampling, answer_pass, generate, pad_prompts, token_logprobs
from ratchet_jobs.rlhf.trunk import Trunk, load_trunk

BATCH = 32


def put_adapter(trunk: Trunk, file: Path) -> None:
    """Load what `ours.save_adapter` or the peer wrote."""
    given = load_file(file)
    wanted = {n: p for n, p in trunk.policy_parameters().items() if ".policy." in n}
    names = {name: name.replace(".policy.", ".") for name in wanted}
    if sorted(names.values()) != sorted(given):
        odd = sorted(set(names.values()) ^ set(given))[0]
        raise SystemExit(f"{file}: its layers are not the trunk's, first at {odd}")
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(given[names[name]])


def answered(trunk: Trunk, prompts: torch.Tensor) -> list[Episodes]:
    """Answers to all prompts, drawn by a fixed seed."""
    sampling, made = Sampling(max_new_tokens=Hyper().new_tokens), []
    for start in range(0, len(prompts), BATCH):
        batch = pad_prompts(prompts[start : start + BATCH].tolist(), pad_id=trunk.wording.pad_id)
        made.append(generate(trunk, batch, sampling, generator=generator_for(0, "judge", start)))
    return made


def divergence(trunk: Trunk, episodes: Episodes) -> float:
    """Mean KL of these answers from the reference, in nats per answer."""
    with torch.no_grad():
        logits, _ = answer_pass(trunk, episodes, reference=True)
        return float((episodes.logprobs - token_logprobs(logits, episodes, temperature=1.0)).sum(1).mean())


def main() -> None:
    base, task_file, adapter = (Path(argument) for argument in sys.argv[1:])
    hyper, task = Hyper(), read_task(task_file)
    trunk = load_trunk(base, rank=hyper.rank)
    before = answered(trunk, task.held_out)
    put_adapter(trunk, adapter)
    after = answered(trunk, task.held_out)

    def values(weights: torch.Tensor, made: list[Episodes]) -> torch.Tensor:
        return torch.cat([score(weights, each.response_ids, each.response_mask) for each in made])

    start, end = values(task.reward, before), values(task.reward, after)
    result = {
        "score_before": float(start.mean()),
        "score": float(end.mean()),
        "judge_before": float(values(task.judge, before).mean()),
        "judge": float(values(task.judge, after).mean()),
        "win_rate": float(((end > start).double() + 0.5 * (end == start).double()).mean()),
        "kl": sum(divergence(trunk, each) for each in after) / len(after),
        "tokens": float(torch.cat([each.lengths for each in after]).double().mean()),
    }
    print(json.dumps({name: round(value, 4) for name, value in result.items()}), flush=True)


if __name__ == "__main__":
    main()
