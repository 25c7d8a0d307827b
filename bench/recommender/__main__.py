"""Example 04 on real chats: what RL changes in likeness, variety, empathy and recommendations, with intervals.

    .venv/bin/python -m bench.recommender [--work DIR] [--interactions 1152] [--prompts 128] [--rows 640]
    .venv/bin/python -m bench.recommender --base FOLDER --rows 400 --interactions 96 --prompts 32

Runs the manifests of examples/04-recommender with the digests filled in and the sizes given, prints baseline against RL
with the change in percent, and a verdict on each target; exits 1 when one is missed. Stopped and started again, it goes
on where it was: the stages keep what they have done.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from bench.ppo.prepare import prepare
from bench.recommender.rows import write_rows
from ratchet_cli.demo.carriers import ENCODER, fetch
from ratchet_cli.home import DEFAULT_NAMESPACE, find_home
from ratchet_cli.manifests import Manifest, check, load
from ratchet_cli.results import local_path
from ratchet_cli.run_verb import run_manifests
from ratchet_jobs.data.base_model import local_digest
from ratchet_jobs.metrics.changes import Change, Held, change_of, held_bleu, held_distinct, held_mean
from ratchet_jobs.runtime.store import sha256_file

EXAMPLE = Path(__file__).parents[2] / "examples" / "04-recommender"
TARGETS = {"BLEU-1": 20.0, "BLEU-2": 37.0, "DIST-1": 25.0, "empathy": 20.0, "recommendation": 17.0}
"""Wanted change in percent of the supervised policy's number."""
CONFIDENCE = 0.95


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", type=Path, help="folder of another base model than SmolLM2-135M-Instruct")
    parser.add_argument("--encoder", type=Path, help="folder of another encoder than all-MiniLM-L6-v2")
    parser.add_argument("--rows", type=int, default=640, help="answers in chats, at most")
    parser.add_argument("--epochs", type=float, default=1.0, help="of the supervised stage")
    parser.add_argument("--interactions", type=int, default=1152, help="answers that RL draws, a multiple of 48")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="bfloat16", help="of RL's weights")
    parser.add_argument("--prompts", type=int, default=128, help="held-out prompts")
    parser.add_argument("--work", type=Path, help="state directory; without it, in the cache")
    wanted = parser.parse_args()
    cache = Path(os.environ.get("RATCHET_CACHE") or Path.home() / ".cache" / "ratchet")
    cache.mkdir(parents=True, exist_ok=True)
    place = find_home(str(wanted.work or cache / "recommender"))
    store = (local_path(place.store_uri) or place.path) / DEFAULT_NAMESPACE
    counts = write_rows(store / "recommender", cache, most=wanted.rows)
    print(", ".join(f"{count:,} {name}" for name, count in counts.items()), flush=True)
    base = put(wanted.base or prepare(cache).base, store / "models" / "smollm2")
    encoder = put(
        wanted.encoder or fetch(ENCODER, cache, advance=lambda *_: None), store / "models" / "all-minilm-l6-v2"
    )

    def run(manifests: list[Manifest]) -> dict[str, Any]:
        again = "python -m bench.recommender with the same arguments"
        bodies = run_manifests(manifests, place, namespace=None, level="warning", plain=True, again=again)
        status: dict[str, Any] = next(body for body in bodies if body["kind"] == "RLTrainingRun")["status"]
        if "artifact" not in status:
            raise SystemExit(f"the run did not end well: {json.dumps(status.get('conditions', []), indent=1)}")
        return status

    emotions = [changed(each, {"baseModel": {"sha256": encoder}}) for each in load([str(EXAMPLE / "emotions.yaml")])]
    classifier = run(emotions)
    print(f"emotions: accuracy {classifier['metrics']['accuracy']:.3f} on held-out sentences", flush=True)
    own = f"{place.store_uri}/{DEFAULT_NAMESPACE}/"
    sources = {
        "catalogue": {"sha256": sha256_file(store / "recommender" / "films.txt")},
        "classifier": {
            "uri": "store://" + classifier["artifact"]["uri"].removeprefix(own),
            "sha256": classifier["artifact"]["digest"],
        },
    }
    sizes = {
        "baseModel": {"sha256": base},
        "stages": {
            "supervised": {"epochs": wanted.epochs},
            "rlhf": {"interactions": wanted.interactions, "dtype": wanted.dtype},
            "evaluate": {"answers": {"prompts": wanted.prompts}},
        },
    }
    chats = load([str(EXAMPLE / "chats.yaml")])
    told = run([*chats, *(with_sources(changed(m, sizes), sources) for m in load([str(EXAMPLE / "run.yaml")]))])
    return report(local_path(told["artifact"]["uri"]) or Path(told["artifact"]["uri"]))


def put(folder: Path, target: Path) -> str:
    """Copy a model into the store, unless it is there; returns its digest."""
    if not target.is_dir():
        fresh = target.with_name(f"{target.name}.new")
        shutil.copytree(folder, fresh)
        fresh.rename(target)
    return local_digest(target)


def changed(manifest: Manifest, changes: dict[str, Any]) -> Manifest:
    """A run with some fields changed; other kinds as they are."""
    if manifest.kind.kind != "RLTrainingRun":
        return manifest
    body = json.loads(json.dumps(manifest.body))
    merge(body["spec"], changes)
    return check(manifest.source, body)


def merge(into: dict[str, Any], changes: dict[str, Any]) -> None:
    """Set fields; those of nested objects one by one."""
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            merge(into[name], value)
        else:
            into[name] = value


def with_sources(manifest: Manifest, sources: dict[str, dict[str, str]]) -> Manifest:
    """The run with the files that its rewards name."""
    body = json.loads(json.dumps(manifest.body))
    for reward in body["spec"]["stages"]["rlhf"]["rewards"]:
        for name, value in sources.items():
            if name in reward:
                reward[name] |= value
    return check(manifest.source, body)


def report(folder: Path) -> int:
    """Print the table and the verdict on each target; 1 if one is missed."""
    answers = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["answers"]
    compared = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    other = compared["choice"]["baseline"]
    before, after = (numbers(answers, role) for role in (other, "rl"))
    words = sum(len(answer["reference"].split()) for answer in answers) / len(answers)
    print(f"\n{len(answers)} held-out prompts, which people answered in {words:.1f} words")
    print(f"kept: {compared['choice']['chosen']}")
    print("\n| number | supervised | RL | change | 95 % interval | wanted |")
    print("| --- | --- | --- | --- | --- | --- |")
    missed = []
    for name, start in before.items():
        change = change_of(start, after[name], confidence=CONFIDENCE)
        target = f"+{TARGETS[name]:g} %" if name in TARGETS else ""
        print(f"| {name} | {start.value:.4f} | {after[name].value:.4f} | {shown(change)} | {target} |")
        if name in TARGETS and (change is None or 100 * change.change < TARGETS[name]):
            missed.append(name)
    print()
    for name in TARGETS:
        print(f"{'MISSED' if name in missed else 'holds '} {name}")
    for answer in answers[:5]:
        print(f"\n  {answer['prompt'][-200:]!r}\n    {other}: {answer[other]!r}\n    rl: {answer['rl']!r}")
    return 1 if missed else 0


def numbers(answers: list[dict[str, Any]], role: str) -> dict[str, Held]:
    """Every number of one policy's answers."""
    texts, references = [answer[role] for answer in answers], [answer["reference"] for answer in answers]
    parts = {"empathy": "empathy", "recommendation": "recommendation", "item ratio": "itemRatio"}
    return {
        **{f"BLEU-{order}": held_bleu(texts, references, order=order) for order in (1, 2)},
        **{f"DIST-{order}": held_distinct(texts, order=order) for order in (1, 2)},
        **{name: held_mean([answer["worth"][role][part] for answer in answers]) for name, part in parts.items()},
        "words": held_mean([len(text.split()) for text in texts]),
    }


def shown(change: Change | None) -> str:
    """The change in percent and its interval."""
    if change is None:
        return "from nothing | "
    return f"{100 * change.change:+.1f} % | {100 * change.low:+.1f} to {100 * change.high:+.1f} %"


if __name__ == "__main__":
    sys.exit(main())
